//! Why a value of state cannot be written or read.

use std::fmt;

/// What is wrong with a value, and in which field of it.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The fields on the way to the value, the innermost first.
    path: Vec<String>,
    message: String,
    /// A field is missing: whoever knows the fields that there are may say so.
    pub(crate) missing: bool,
}

impl Fault {
    /// The same, seen from the struct around it.
    pub(crate) fn at(mut self, field: impl Into<String>) -> Self {
        self.path.push(field.into());
        self
    }

    /// The same with more to say.
    pub(crate) fn and(mut self, more: &str) -> Self {
        self.message.push_str(more);
        self.missing = false;
        self
    }

    fn new(message: String) -> Self {
        Self { path: Vec::new(), message, missing: false }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            let path: Vec<&str> = self.path.iter().rev().map(String::as_str).collect();
            write!(f, "field {}: ", path.join(" → "))?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl serde::ser::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }
}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }
    fn missing_field(field: &'static str) -> Self {
        Self { missing: true, ..Self::new(format!("field `{field}` is missing in what was saved")) }
    }
}
