//! Why a row is no record, in words that name the column, the value and what was expected.

use std::fmt;

use csv::StringRecord;
use serde::de::Error;

/// Characters of a value or row that a message quotes.
const QUOTED_CHARS_MAX: usize = 100;

/// Why a row is no record.
#[derive(Debug)]
pub(super) struct RowError {
    /// Index of the column, when one is to blame.
    column: Option<usize>,
    kind: Kind,
    /// Whether an empty field would have been a value too.
    pub(super) or_empty: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// The value is not this.
    Not(&'static str),
    /// The value is an integer, but not of this type.
    Range { min: String, max: String },
    /// What the field's own type says.
    Says(String),
    /// The file has no such column.
    Missing(&'static str),
    /// The fault of the header or of the record type: the same in every row.
    Shape(String),
}

impl RowError {
    pub(super) fn of(kind: Kind) -> Self {
        Self { column: None, kind, or_empty: false }
    }

    pub(super) fn at(mut self, column: usize) -> Self {
        self.column.get_or_insert(column);
        self
    }

    /// Whether every row of the file has this error, so that skipping rows is no help.
    pub(super) fn concerns_all_rows(&self) -> bool {
        matches!(self.kind, Kind::Missing(_) | Kind::Shape(_))
    }

    /// The message behind the file and the line.
    pub(super) fn describe(&self, header: &StringRecord, row: &StringRecord) -> String {
        let mut text = String::new();
        if let Some(column) = self.column {
            text = format!("column {} ({}): ", header.get(column).unwrap_or("?"), column + 1);
        }
        let value = self.column.and_then(|c| row.get(c)).map(quoted).unwrap_or_default();
        let or_empty = if self.or_empty { " or empty" } else { "" };
        match &self.kind {
            Kind::Not(expected) => format!("{text}{value} is not {expected}{or_empty}"),
            Kind::Range { min, max } => {
                format!("{text}{value} is not an integer from {min} to {max}{or_empty}")
            }
            // Most types quote the value themselves.
            Kind::Says(message) if message.contains(&value) => format!("{text}{message}"),
            Kind::Says(message) => format!("{text}{value}: {message}"),
            Kind::Missing(name) => format!("there is no column `{name}`; the file has {}", names(header)),
            Kind::Shape(message) => format!("{text}{message}; the file has {}", names(header)),
        }
    }
}

/// A value as messages write it, cut to a length that can be read.
pub(super) fn quoted(value: &str) -> String {
    match value.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("`{}…`", value.get(..end).unwrap_or_default().escape_debug()),
        None => format!("`{}`", value.escape_debug()),
    }
}

/// The columns of a file as messages write them.
pub(super) fn names(header: &StringRecord) -> String {
    let names: Vec<_> = header.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for RowError {}

impl Error for RowError {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Self::of(Kind::Says(message.to_string()))
    }
    fn missing_field(field: &'static str) -> Self {
        Self::of(Kind::Missing(field))
    }
    fn duplicate_field(field: &'static str) -> Self {
        Self::of(Kind::Shape(format!("the column `{field}` is there twice")))
    }
    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self::of(Kind::Shape(format!("the record has no field `{field}`")))
    }
}
