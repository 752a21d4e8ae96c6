//! What a task was doing when it panicked, where that is of no single record: a timer, a window, a question, a
//! batch of a sink.
//!
//! Nothing is put into words before a panic unwinds: a guard borrows what there is to tell.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::{Shown, show};
use crate::errors::{RECORD_TEXT_BYTES_MAX, bounded};

/// Records of a batch that a message shows.
const BATCH_RECORDS_SHOWN_MAX: usize = 3;

thread_local! {
    /// What was being done when the panic that is being unwound arose.
    static DOING: RefCell<Option<Doing>> = const { RefCell::new(None) };
}

/// What a task does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doing {
    /// For people, such as `the timer 2013-01-01T00:00:00Z of key`.
    what: String,
    /// The key or the record that it is about, as JSON.
    about: Option<String>,
}

impl Doing {
    /// Of no record or key that is known.
    pub(crate) fn what(what: impl Into<String>) -> Self {
        Self { what: what.into(), about: None }
    }

    /// About a record or a key.
    pub(crate) fn of<T: Serialize>(what: impl Into<String>, about: &T) -> Self {
        let Shown { json, .. } = show(about);
        Self { what: what.into(), about: Some(json) }
    }

    /// About some records.
    pub(crate) fn batch<T: Serialize>(what: &str, rows: &[T]) -> Self {
        Self { what: format!("{what} {}", records(rows.len())), about: Some(batch_text(rows, show)) }
    }

    /// The same where the records may be gone: how many they were, and what [`batch_text`] made of them before.
    pub(crate) fn shown_batch(what: &str, rows: usize, shown: Option<&str>) -> Self {
        Self { what: format!("{what} {}", records(rows)), about: shown.map(str::to_owned) }
    }

    /// For a message; records and keys are hidden unless they are to be shown.
    pub(crate) fn text(&self, shows: bool) -> String {
        match &self.about {
            None => self.what.clone(),
            Some(about) if shows => {
                let about = bounded(format_args!("{about}"), RECORD_TEXT_BYTES_MAX);
                format!("{} {about}", self.what)
            }
            Some(about) => format!("{} (digest {:016x})", self.what, xxh3_64(about.as_bytes())),
        }
    }
}

fn records(rows: usize) -> String {
    if rows == 1 { "1 record".to_owned() } else { format!("{rows} records") }
}

/// The first records of a batch, as JSON.
pub(crate) fn batch_text<T>(rows: &[T], show: fn(&T) -> Shown) -> String {
    let mut text = String::from("(");
    for (index, row) in rows.iter().take(BATCH_RECORDS_SHOWN_MAX).enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        let most = RECORD_TEXT_BYTES_MAX / BATCH_RECORDS_SHOWN_MAX - 8;
        text.push_str(&bounded(format_args!("{}", show(row).json), most));
    }
    if rows.len() > BATCH_RECORDS_SHOWN_MAX {
        text.push_str(", …");
    }
    text.push(')');
    text
}

/// Tells, while a panic unwinds, what was being done: of several around each other the innermost.
#[must_use = "what is done ends when this is dropped"]
pub(crate) struct Telling<F: Fn() -> Doing>(F);

/// From here until what it returns is dropped, this is being done.
pub(crate) fn while_doing<F: Fn() -> Doing>(tell: F) -> Telling<F> {
    Telling(tell)
}

impl<F: Fn() -> Doing> Drop for Telling<F> {
    #[inline]
    fn drop(&mut self) {
        if std::thread::panicking() {
            note(&self.0);
        }
    }
}

#[cold]
fn note(tell: &dyn Fn() -> Doing) {
    if DOING.with(|doing| doing.borrow().is_some()) {
        return;
    }
    // Records are shown by code of users, and a second panic that got out of here would end the process.
    if let Ok(told) = catch_unwind(AssertUnwindSafe(tell)) {
        DOING.with(|doing| doing.replace(Some(told)));
    }
}

/// What was being done when the panic arose that was just caught.
pub(crate) fn taken() -> Option<Doing> {
    DOING.with(RefCell::take)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caught(work: impl FnOnce()) -> Option<Doing> {
        assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
        taken()
    }

    #[test]
    fn the_innermost_of_what_was_being_done_is_told_once_and_nothing_without_a_panic() {
        drop(while_doing(|| Doing::what("nothing")));
        assert_eq!(taken(), None);
        let told = caught(|| {
            let _outer = while_doing(|| Doing::what("the window"));
            drop(while_doing(|| Doing::what("what is over")));
            let key = "a".to_owned();
            let _inner = while_doing(|| Doing::of("the timer of key", &key));
            panic!("it cannot be");
        });
        assert_eq!(told.unwrap().text(true), "the timer of key \"a\"");
        assert_eq!(taken(), None);
    }

    #[test]
    fn a_key_that_panics_when_it_is_shown_does_not_end_the_process() {
        struct Bad;
        impl Serialize for Bad {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                panic!("not even that")
            }
        }
        let told = caught(|| {
            let _outer = while_doing(|| Doing::what("a batch"));
            let _inner = while_doing(|| Doing::of("the timer of key", &Bad));
            panic!("it cannot be");
        });
        assert_eq!(told, Some(Doing::what("a batch")), "what is around it is told instead");
    }

    #[test]
    fn a_batch_is_told_by_its_first_records_and_by_a_digest_where_none_are_shown() {
        let doing = Doing::batch("a batch of", &[1, 2, 3, 4]);
        assert_eq!(doing.text(true), "a batch of 4 records (1, 2, 3, …)");
        let hidden = doing.text(false);
        assert!(hidden.starts_with("a batch of 4 records (digest ") && !hidden.contains("1, 2"), "{hidden}");
        assert_eq!(Doing::shown_batch("a batch of", 1, None).text(true), "a batch of 1 record");
        let long = Doing::batch("a batch of", &["x".repeat(10_000), "y".repeat(10_000), "z".into()]);
        let text = long.text(true);
        assert!(text.len() < 400 && text.contains("yyy") && text.contains("\"z\""), "{text}");
    }
}
