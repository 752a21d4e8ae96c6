//! Records that kill their operator: who is looked for, who is named, who is set aside.
//!
//! Nothing is done about them before something panics. The attempt behind a panic looks at the records of
//! the chain in which it arose one by one, as far as the attempt that died had come and further, so that a
//! second panic names its record. What is known travels with the deployment of each attempt, as a
//! [`Ledger`]; the decision is the coordinator's alone, so every attempt, and every coordinator, leaves out
//! the same records.
//!
//! What is of no single record (a timer, a window that fires, a batch of a sink) is named as well, by what
//! it is about ([`Kill::doing`]), and nothing of it is ever left out: a window's result is made of all its records,
//! so to go on without one of them would be another result, which nobody asked for.
//!
//! Not here: operators that give an error for a record (`errors`), and processes that die without a panic
//! (out of memory, a stack that overflows): nobody is left who could say what they were doing.

mod doing;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::BATCH_ROWS_MAX;
use crate::errors::{RECORD_TEXT_BYTES_MAX, bounded};

pub(crate) use doing::{Doing, batch_text, while_doing};

/// Bytes of a source's position in a message.
pub const POSITION_TEXT_BYTES_MAX: usize = 64;
/// Bytes of what a panic said in the record of an attempt.
const PANIC_TEXT_BYTES_MAX: usize = 1024;
/// Rows that are looked at one by one beside twice those that the attempt that died had taken: they come
/// in another order where several tasks send them.
const SPAN_ROWS_MIN: u64 = 2 * BATCH_ROWS_MAX as u64;

/// Records whose panics are counted at a time: tasks beside each other may die over different ones in turn.
const STREAKS_MAX: usize = 64;

/// What becomes of a job when one record has killed its operator again and again: setting
/// `pipeline.on_poison`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnPoison {
    /// It fails; the error names the record and says what to do.
    #[default]
    Fail,
    /// The record goes to the [dead letters](crate::Flow::dead_letters) of the pipeline, and the job goes on
    /// without it.
    SetAside,
}

/// What a job does about records that kill their operator: part of its settings.
///
/// ```
/// use afflux_stream::{OnPoison, PoisonSettings};
/// let settings = PoisonSettings::default();
/// assert_eq!((settings.policy, settings.failures, settings.records_max), (OnPoison::Fail, 3, 100));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoisonSettings {
    /// What becomes of the job.
    pub policy: OnPoison,
    /// Attempts that die over the same record, within `restart.window_ms`, until it is a poison; at least 2,
    /// since the first is what lets records be looked at one by one.
    pub failures: u64,
    /// Records that one job sets aside; with one more it fails.
    pub records_max: u64,
    /// Whether messages show the record. Off: only where it was read, and a digest.
    pub show: bool,
}

impl Default for PoisonSettings {
    fn default() -> Self {
        Self { policy: OnPoison::Fail, failures: 3, records_max: 100, show: true }
    }
}

/// The record that a task was at work on when it died.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Suspect {
    /// XXH3-64 of where it was read, where that is known, and of what it is as JSON.
    pub id: u64,
    /// The split it was read from; none behind an exchange.
    pub split: Option<String>,
    /// The reader's position in front of it, as text or in hexadecimal digits, cut at
    /// [`POSITION_TEXT_BYTES_MAX`].
    pub position: Option<String>,
    /// The record as JSON, cut at [`RECORD_TEXT_BYTES_MAX`]; none where the source cannot show it, or
    /// messages are not to.
    pub text: Option<String>,
}

impl Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text)?,
            None => write!(f, "digest {:016x}", self.id)?,
        }
        if let Some(split) = &self.split {
            let position = self.position.as_deref().unwrap_or_default();
            write!(f, " (split {split}, position {position})")?;
        }
        Ok(())
    }
}

/// A panic in a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kill {
    /// The operator in which it arose, or those of the task, with commas, where that is not known.
    pub operator: String,
    /// Whether the operator is that of the panic.
    pub certain: bool,
    /// What the panic said.
    pub message: String,
    /// Records that the task had taken.
    pub rows: u64,
    /// The record it was at work on, where records are looked at one by one.
    pub record: Option<Suspect>,
    /// Why that cannot be set aside.
    pub bound: Option<String>,
    /// What it was doing, where no record is known: the timer or the window and its key, the question of an
    /// `async_map`, the batch of a sink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
}

/// Stands in front of what a task was doing when it panicked.
const AT_WORK_ON: &str = "; at work on ";

/// The panic in a failure that says what a task was doing, and so no record that could be set aside: without the
/// task, the node and what it was doing, which may be others each time.
pub(crate) fn of_no_record(failure: &str) -> Option<&str> {
    let (panic, _) = failure.rsplit_once(AT_WORK_ON)?;
    Some(panic.split_once(": operator ").map_or(panic, |(_, panic)| panic))
}

impl Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.certain {
            write!(f, "operator {} panicked: {}", self.operator, self.message)?;
        } else {
            write!(f, "a task of the operators {} panicked: {}", self.operator, self.message)?;
        }
        match (&self.record, &self.doing) {
            (Some(record), _) => write!(f, "; the record: {record}"),
            (None, Some(doing)) => write!(f, "{AT_WORK_ON}{doing}"),
            (None, None) => Ok(()),
        }
    }
}

/// Panics over one record, as they were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Streak {
    /// The operator.
    pub operator: String,
    /// The record, once it is known.
    pub record: Option<Suspect>,
    /// How often.
    pub times: u64,
}

/// A record that the job goes on without.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Aside {
    /// The operator that it killed.
    pub operator: String,
    /// The record.
    pub record: Suspect,
    /// What the panic said.
    pub error: String,
    /// How often it was tried.
    pub times: u64,
}

impl Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operator, record, error, times } = self;
        write!(f, "{record}, which killed operator {operator} {times} times: {error}")
    }
}

/// What a job knows of its poison. It is part of every [deployment](crate::job::Deployment), so that it
/// outlives the attempt and the coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Operators that have panicked, and how many records of their chain are looked at one by one at the
    /// beginning of an attempt.
    pub watched: BTreeMap<String, u64>,
    /// What was counted of each record, the last panic last.
    pub streaks: Vec<Streak>,
    /// What is left out: at most [`PoisonSettings::records_max`].
    pub aside: Vec<Aside>,
}

impl Ledger {
    /// Takes in a panic; returns the streak when it has reached `failures`, and forgets it then.
    pub(crate) fn struck(&mut self, kill: &Kill, failures: u64) -> Option<Streak> {
        let span = kill.rows.saturating_mul(2).saturating_add(SPAN_ROWS_MIN);
        let watched = self.watched.entry(kill.operator.clone()).or_default();
        *watched = span.max(*watched);
        let Some(record) = &kill.record else {
            // The first of an operator lets the record be looked for. Later ones came beyond what was looked
            // at, or from a timer, and say nothing of any record.
            if !self.streaks.iter().any(|streak| streak.operator == kill.operator) {
                self.keep(Streak { operator: kill.operator.clone(), record: None, times: 1 });
            }
            return None;
        };
        let of = |known: &Streak, id: Option<u64>| {
            known.operator == kill.operator && known.record.as_ref().map(|record| record.id) == id
        };
        let known = self.streaks.iter().position(|known| of(known, Some(record.id)));
        let known = known.or_else(|| self.streaks.iter().position(|known| of(known, None)));
        let before = known.map_or(0, |index| self.streaks.remove(index).times);
        let operator = kill.operator.clone();
        let streak = Streak { operator, record: Some(record.clone()), times: before + 1 };
        if streak.times >= failures {
            return Some(streak);
        }
        self.keep(streak);
        None
    }

    fn keep(&mut self, streak: Streak) {
        if self.streaks.len() == STREAKS_MAX {
            self.streaks.remove(0);
        }
        self.streaks.push(streak);
    }

    /// The last failure is long ago: what was seen then was no poison.
    pub(crate) fn forget(&mut self) {
        self.streaks.clear();
        let aside = &self.aside;
        self.watched.retain(|operator, _| aside.iter().any(|record| record.operator == *operator));
    }

    /// What the tasks of a chain are to look at.
    pub(crate) fn watch(&self, operators: &[String], show: bool) -> Watch {
        let here = |name: &str| operators.iter().any(|operator| is_of(name, operator));
        let rows = self.watched.iter().filter(|(name, _)| here(name)).map(|(_, rows)| *rows);
        let aside = self.aside.iter().filter(|record| here(&record.operator));
        Watch {
            rows: rows.max().unwrap_or(0),
            aside: aside.map(|aside| (aside.record.id, aside.clone())).collect(),
            show,
        }
    }
}

/// Whether what panicked is this operator: one, or, where that is not known, all of a task.
pub(crate) fn is_of(panicked: &str, operator: &str) -> bool {
    panicked == operator || panicked.split(", ").any(|one| one == operator)
}

/// What a task looks at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    /// Its first records, one by one; 0: none.
    pub(crate) rows: u64,
    /// By [`Suspect::id`]: what it leaves out of these.
    pub(crate) aside: BTreeMap<u64, Aside>,
    /// Messages show the record.
    pub(crate) show: bool,
}

/// Where a record was read: the split, and the reader's position in front of it.
pub(crate) type Origin = (String, Vec<u8>);

/// A record that is being worked on.
pub(crate) struct Looked {
    pub(crate) id: u64,
    pub(crate) origin: Option<Origin>,
    /// As JSON, where it can be shown.
    pub(crate) json: Option<String>,
    pub(crate) show: bool,
    /// Why it cannot be set aside.
    pub(crate) bound: Option<Arc<str>>,
}

impl Looked {
    pub(crate) fn new(origin: Option<Origin>, shown: Option<Shown>, watch: &Watch) -> Self {
        let mut identity = Vec::new();
        if let Some((split, position)) = &origin {
            identity.extend_from_slice(&(split.len() as u64).to_le_bytes());
            identity.extend_from_slice(split.as_bytes());
            identity.extend_from_slice(&(position.len() as u64).to_le_bytes());
            identity.extend_from_slice(position);
        }
        if let Some(shown) = &shown {
            identity.extend_from_slice(shown.canonical.as_bytes());
        }
        let json = shown.map(|shown| shown.json);
        Self { id: xxh3_64(&identity), origin, json, show: watch.show, bound: None }
    }

    fn suspect(&self) -> Suspect {
        let text = self.json.as_ref().filter(|_| self.show);
        Suspect {
            id: self.id,
            split: self.origin.as_ref().map(|(split, _)| split.clone()),
            position: self.origin.as_ref().map(|(_, position)| position_text(position)),
            text: text.map(|json| bounded(format_args!("{json}"), RECORD_TEXT_BYTES_MAX)),
        }
    }
}

/// A position for people: text where it is text, else hexadecimal digits.
fn position_text(position: &[u8]) -> String {
    match std::str::from_utf8(position) {
        Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => {
            bounded(format_args!("{text}"), POSITION_TEXT_BYTES_MAX)
        }
        _ => {
            let mut digits = String::from("0x");
            for byte in position {
                let _ = write!(digits, "{byte:02x}");
            }
            bounded(format_args!("{digits}"), POSITION_TEXT_BYTES_MAX)
        }
    }
}

/// A record as JSON.
pub(crate) struct Shown {
    json: String,
    /// With the keys of its maps in order: the same for the same record.
    canonical: String,
}

/// How records of a stream are shown.
pub(crate) type Show<T> = fn(&T) -> Shown;

/// A record as JSON; what JSON cannot say is in MessagePack, as hexadecimal digits in a string.
pub(crate) fn show<T: Serialize>(row: &T) -> Shown {
    if let (Ok(json), Ok(mut value)) = (serde_json::to_string(row), serde_json::to_value(row)) {
        value.sort_all_objects();
        return Shown { json, canonical: value.to_string() };
    }
    let bytes = rmp_serde::to_vec_named(row).unwrap_or_default();
    let mut json = String::from("\"msgpack:");
    for byte in bytes {
        let _ = write!(json, "{byte:02x}");
    }
    json.push('"');
    Shown { canonical: json.clone(), json }
}

thread_local! {
    /// What the task that has this thread is at work on.
    static LOOKED: RefCell<Option<Looked>> = const { RefCell::new(None) };
}

/// Says which record is being worked on from here on; `None`: no certain one.
pub(crate) fn at_work_on(looked: Option<Looked>) -> Option<Looked> {
    LOOKED.with(|known| known.replace(looked))
}

/// What is done now may be about any record that came before.
pub(crate) fn at_work_on_any() {
    LOOKED.with(|known| drop(known.take()));
}

/// A panic as it is told: takes the record that was being worked on, or what was being done. `shows`: messages show
/// records and keys.
pub(crate) fn killed(
    operator: Option<String>,
    operators: String,
    message: &str,
    rows: u64,
    shows: bool,
) -> Kill {
    let looked = at_work_on(None);
    let doing = doing::taken().filter(|_| looked.is_none());
    Kill {
        certain: operator.is_some(),
        operator: operator.unwrap_or(operators),
        message: bounded(format_args!("{message}"), PANIC_TEXT_BYTES_MAX),
        rows,
        record: looked.as_ref().map(Looked::suspect),
        bound: looked.and_then(|looked| looked.bound).map(|bound| bound.to_string()),
        doing: doing.map(|doing| doing.text(shows)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(operator: &str, record: Option<u64>) -> Kill {
        let record = record.map(|id| Suspect { id, ..Suspect::default() });
        Kill { operator: operator.into(), record, rows: 5, ..Kill::default() }
    }

    #[test]
    fn the_same_record_three_times_is_a_poison_and_the_first_panic_counts() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.struck(&kill("a", None), 3), None);
        assert_eq!(ledger.struck(&kill("a", Some(7)), 3), None);
        let streak = ledger.struck(&kill("a", Some(7)), 3).unwrap();
        assert_eq!((streak.times, streak.record.unwrap().id), (3, 7));
        assert_eq!(ledger.watched["a"], 10 + SPAN_ROWS_MIN);
        assert_eq!(ledger.struck(&kill("a", Some(7)), 3), None, "it is forgotten once it was told");
    }

    #[test]
    fn other_records_other_operators_and_panics_of_no_record_are_no_streak() {
        let mut ledger = Ledger::default();
        for _ in 0..9 {
            assert_eq!(ledger.struck(&kill("a", None), 3), None);
        }
        for id in 0..9 {
            assert_eq!(ledger.struck(&kill("a", Some(id)), 3), None);
        }
        ledger.forget();
        for _ in 0..2 {
            for operator in ["a", "b"] {
                assert_eq!(ledger.struck(&kill(operator, Some(1)), 3), None);
            }
        }
        assert_eq!(ledger.struck(&kill("b", Some(1)), 3).unwrap().times, 3);
        for id in 0..100 {
            ledger.struck(&kill("a", Some(id)), 3);
        }
        assert_eq!(ledger.streaks.len(), STREAKS_MAX);
    }

    #[test]
    fn what_was_long_ago_is_forgotten_but_for_what_is_left_out() {
        let mut ledger = Ledger::default();
        ledger.struck(&kill("a", Some(1)), 3);
        ledger.struck(&kill("b", Some(2)), 3);
        let record = Suspect { id: 2, ..Suspect::default() };
        ledger.aside.push(Aside { operator: "b".into(), record, ..Aside::default() });
        ledger.forget();
        assert_eq!(ledger.streaks, []);
        assert!(ledger.watched.keys().eq(["b"]));
        assert_eq!(ledger.watch(&["x".into(), "b".into()], true).aside.len(), 1);
        assert_eq!(ledger.watch(&["a".into()], true).rows, 0);
        ledger.struck(&kill("x, y", None), 3);
        assert!(ledger.watch(&["y".into()], true).rows > 0, "one of them was it");
    }

    #[test]
    fn a_record_is_the_same_by_what_it_is_and_by_where_it_was_read() {
        let watch = Watch { show: true, ..Watch::default() };
        let at = |position: &[u8]| Some(("s".to_owned(), position.to_vec()));
        let looked = |origin, row: &[u32]| Looked::new(origin, Some(show(&row)), &watch);
        assert_eq!(looked(at(b"1"), &[1, 2]).id, looked(at(b"1"), &[1, 2]).id);
        assert_ne!(looked(at(b"1"), &[1, 2]).id, looked(at(b"2"), &[1, 2]).id);
        assert_ne!(looked(None, &[1, 2]).id, looked(None, &[1, 3]).id);
        let suspect = looked(at(&[1, 0]), &[1, 2]).suspect();
        assert_eq!(suspect.to_string(), "[1,2] (split s, position 0x0100)");
        let hidden = Looked { show: false, ..looked(at(b"17"), &[1, 2]) }.suspect();
        assert!(hidden.to_string().starts_with("digest "), "{hidden}");
        assert!(hidden.to_string().ends_with("(split s, position 17)"), "{hidden}");
    }

    #[test]
    fn what_json_cannot_say_is_shown_all_the_same_and_maps_are_the_same_in_any_order() {
        let odd = BTreeMap::from([((1, 2), 3)]);
        assert!(show(&odd).json.starts_with("\"msgpack:81"), "{}", show(&odd).json);
        let ab = serde_json::from_str::<serde_json::Value>("{\"a\":1,\"b\":2}").unwrap();
        let ba = serde_json::from_str::<serde_json::Value>("{\"b\":2,\"a\":1}").unwrap();
        assert_eq!(show(&ab).canonical, show(&ba).canonical);
    }
}
