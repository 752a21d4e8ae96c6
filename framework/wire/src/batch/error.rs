//! Why rows could not be encoded or decoded. One word wide: the hot path returns it by value.

use std::fmt;

use crate::limits::DEPTH_MAX;

#[derive(Debug)]
pub(super) struct BatchError(Box<Reason>);

#[derive(Debug)]
enum Reason {
    /// Of a type's own `Serialize` or `Deserialize`.
    Custom(String),
    Short {
        wanted: u64,
        left: u64,
    },
    Count {
        claimed: u64,
    },
    ZeroSized,
    Deep,
    Tag {
        what: &'static str,
        got: u32,
    },
    Utf8,
    Long {
        what: &'static str,
    },
    Skipped {
        field: &'static str,
    },
    SelfDescribing {
        asked: &'static str,
    },
}

impl BatchError {
    #[cold]
    fn new(reason: Reason) -> Self {
        Self(Box::new(reason))
    }

    #[cold]
    pub(super) fn short(wanted: u64, left: usize) -> Self {
        Self::new(Reason::Short { wanted, left: left as u64 })
    }

    #[cold]
    pub(super) fn count(claimed: u64) -> Self {
        Self::new(Reason::Count { claimed })
    }

    #[cold]
    pub(super) fn zero_sized() -> Self {
        Self::new(Reason::ZeroSized)
    }

    #[cold]
    pub(super) fn deep() -> Self {
        Self::new(Reason::Deep)
    }

    #[cold]
    pub(super) fn tag(what: &'static str, got: u32) -> Self {
        Self::new(Reason::Tag { what, got })
    }

    #[cold]
    pub(super) fn utf8() -> Self {
        Self::new(Reason::Utf8)
    }

    #[cold]
    pub(super) fn long(what: &'static str) -> Self {
        Self::new(Reason::Long { what })
    }

    #[cold]
    pub(super) fn skipped(field: &'static str) -> Self {
        Self::new(Reason::Skipped { field })
    }

    #[cold]
    pub(super) fn self_describing(asked: &'static str) -> Self {
        Self::new(Reason::SelfDescribing { asked })
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Reason::Custom(text) => f.write_str(text),
            Reason::Short { wanted, left } => {
                write!(f, "{wanted} bytes are needed and {left} are left: do both ends run the same build?")
            }
            Reason::Count { claimed } => {
                write!(f, "{claimed} elements are claimed, which no batch can hold")
            }
            Reason::ZeroSized => {
                write!(f, "more than {} elements without bytes in one batch", super::ZERO_SIZED_ELEMENTS_MAX)
            }
            Reason::Deep => {
                write!(f, "values nest deeper than depth_max = {DEPTH_MAX}: carry a flat list instead")
            }
            Reason::Tag { what, got } => write!(f, "{got} is no {what}"),
            Reason::Utf8 => f.write_str("a str is not UTF-8"),
            Reason::Long { what } => write!(f, "a {what} is longer than {}", u32::MAX),
            Reason::Skipped { field } => write!(
                f,
                "field `{field}` is left out by `skip_serializing_if`, but batches have no field names: remove the attribute"
            ),
            Reason::SelfDescribing { asked } => write!(
                f,
                "`{asked}` needs a self-describing format, but batches are none: `flatten`, `untagged`, `tag = …` and free-form values cannot be rows"
            ),
        }
    }
}

impl std::error::Error for BatchError {}

impl serde::ser::Error for BatchError {
    #[cold]
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::new(Reason::Custom(text.to_string()))
    }
}

impl serde::de::Error for BatchError {
    #[cold]
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::new(Reason::Custom(text.to_string()))
    }
}
