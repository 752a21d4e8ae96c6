//! `[pipelines.NAME]` of `afflux.toml`: a table for each pipeline that the cluster starts by itself. They are another
//! way to write `pipeline.start`:
//!
//! ```toml
//! [pipelines.revenue]
//! start = true            # the default; false: the table is kept, and nothing is started
//! parallelism = "auto"    # the default: one task a slot, and those of nodes that join; or a number that stays
//! ```

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::Kind;
use crate::error::{Error, Result, nearest};

/// The table of tables.
pub(super) const TABLE: &str = "pipelines";
/// Most tasks, as of `pipeline.parallelism`.
const TASKS_MAX: u32 = 32_768;
const KEYS: [&str; 2] = ["start", "parallelism"];

/// A pipeline that is to be started.
#[derive(Debug)]
pub(super) struct Declared {
    /// Its name.
    pub(super) name: String,
    /// What `pipeline.start` would say of it.
    pub(super) word: String,
    /// Where its table begins, in bytes.
    pub(super) offset: usize,
}

/// Reads the tables; `at` says in which line an offset is.
///
/// # Errors
/// What is no table, a key that there is not, a value of another kind.
pub(super) fn read(pipelines: &Spanned<DeValue<'_>>, at: impl Fn(usize) -> String) -> Result<Vec<Declared>> {
    let wrong =
        |offset: usize, name: &str, why: String| Error::usage(format!("{}: {name}: {why}", at(offset)));
    let tables = table(pipelines).map_err(|got| {
        wrong(pipelines.span().start, TABLE, format!("expected tables [pipelines.NAME], got {got}"))
    })?;
    let mut declared = Vec::new();
    for (key, value) in tables {
        let (name, offset) = (key.get_ref().to_string(), key.span().start);
        let full = format!("{TABLE}.{name}");
        if let Err(why) = Kind::Name.parse(&name) {
            return Err(wrong(offset, TABLE, why));
        }
        let table = table(value).map_err(|got| {
            wrong(
                value.span().start,
                &full,
                format!("expected a table with {}, got {got}", KEYS.join(" and ")),
            )
        })?;
        let (mut start, mut tasks) = (true, "auto".to_owned());
        for (key, value) in table {
            let full = format!("{full}.{}", key.get_ref());
            let wrong = |why: String| wrong(value.span().start, &full, why);
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("start", DeValue::Boolean(flag)) => start = *flag,
                ("start", DeValue::String(word)) if word == "on" || word == "off" => start = word == "on",
                ("start", other) => {
                    return Err(wrong(format!(
                        "expected true or false, got {}",
                        super::file::describe(other)
                    )));
                }
                ("parallelism", DeValue::String(word)) if word == "auto" => tasks = "auto".to_owned(),
                ("parallelism", other) => {
                    let number = match other {
                        DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
                        _ => None,
                    };
                    tasks = number
                        .filter(|n| (1..=TASKS_MAX).contains(n))
                        .map(|n| n.to_string())
                        .ok_or_else(|| {
                            wrong(format!(
                                "expected \"auto\" or a whole number from 1 to {TASKS_MAX}, got {}",
                                super::file::describe(other)
                            ))
                        })?;
                }
                (unknown, _) => {
                    let error = Error::usage(format!("{}: unknown setting `{full}`", at(key.span().start)));
                    return Err(match nearest(unknown, KEYS) {
                        Some(near) => error.hint(format!("did you mean `{near}`?")),
                        None => error.hint(format!("a pipeline has {}", KEYS.join(" and "))),
                    });
                }
            }
        }
        if start {
            declared.push(Declared { word: format!("{name}={tasks}"), name, offset });
        }
    }
    Ok(declared)
}

fn table<'t, 'i>(value: &'t Spanned<DeValue<'i>>) -> Result<&'t DeTable<'i>, String> {
    match value.get_ref() {
        DeValue::Table(table) => Ok(table),
        other => Err(super::file::describe(other)),
    }
}
