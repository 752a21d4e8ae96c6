//! What a setting can hold, and how text becomes it.

use std::fmt;

/// The type of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A file, or nothing; in a settings file it is relative to that file's directory.
    Path,
    /// Letters, digits, `-`, `_` and `.`, at least one.
    Name,
    /// `HOST:PORT`.
    Address,
    /// `HOST:PORT`, or nothing.
    OptionalAddress,
    /// A whole number within bounds, both included.
    Integer {
        /// The least value.
        min: u64,
        /// The greatest value.
        max: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Texts; a list in TOML, commas between them elsewhere.
    List,
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Integer(u64),
    /// Texts.
    List(Vec<String>),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Text => f.write_str("a text"),
            Kind::Path => f.write_str("a path"),
            Kind::Name => f.write_str("a name of letters, digits, `-`, `_` and `.`"),
            Kind::Address => f.write_str("an address HOST:PORT"),
            Kind::OptionalAddress => f.write_str("an address HOST:PORT, or an empty text"),
            Kind::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Kind::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Kind::List => f.write_str("a list of texts"),
        }
    }
}

impl Kind {
    /// The value that this text stands for.
    ///
    /// # Errors
    /// What was expected and what came instead.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let wrong = || format!("expected {self}, got `{text}`");
        match self {
            Kind::Text | Kind::Path => Ok(Value::Text(text.to_owned())),
            Kind::Name => {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                (!text.is_empty() && text.chars().all(legal))
                    .then(|| Value::Text(text.to_owned()))
                    .ok_or_else(wrong)
            }
            Kind::OptionalAddress if text.is_empty() => Ok(Value::Text(String::new())),
            Kind::Address | Kind::OptionalAddress => match text.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                    Ok(Value::Text(text.to_owned()))
                }
                _ => Err(wrong()),
            },
            Kind::Integer { min, max } => match text.replace('_', "").parse::<u64>() {
                Ok(number) if (*min..=*max).contains(&number) => Ok(Value::Integer(number)),
                _ => Err(wrong()),
            },
            Kind::Choice(words) => {
                words.contains(&text).then(|| Value::Text(text.to_owned())).ok_or_else(|| {
                    match crate::error::nearest(text, words.iter().copied()) {
                        Some(near) => format!("{}; did you mean `{near}`?", wrong()),
                        None => wrong(),
                    }
                })
            }
            Kind::List => Ok(Value::List(
                text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect(),
            )),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Integer(number) => write!(f, "{number}"),
            Value::List(texts) => f.write_str(&texts.join(",")),
        }
    }
}

impl From<Value> for String {
    fn from(value: Value) -> Self {
        value.to_string()
    }
}

// The table's kind of such a field is `Integer`: a test holds that no other value comes here.
impl From<Value> for u64 {
    fn from(value: Value) -> Self {
        match value {
            Value::Integer(number) => number,
            Value::Text(_) | Value::List(_) => 0,
        }
    }
}

impl From<Value> for Vec<String> {
    fn from(value: Value) -> Self {
        match value {
            Value::List(texts) => texts,
            other => vec![other.to_string()],
        }
    }
}

impl From<Value> for serde_json::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) => text.into(),
            Value::Integer(number) => number.into(),
            Value::List(texts) => texts.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_bounds_is_told_the_bounds() {
        let kind = Kind::Integer { min: 1, max: 64 };
        assert_eq!(kind.parse("64"), Ok(Value::Integer(64)));
        for wrong in ["0", "65", "-1", "many", "1.5", "99999999999999999999999"] {
            let why = kind.parse(wrong).unwrap_err();
            assert_eq!(why, format!("expected a whole number from 1 to 64, got `{wrong}`"));
        }
    }

    #[test]
    fn a_misspelt_choice_is_told_the_nearest_word() {
        let why = Kind::Choice(&["human", "json"]).parse("jsn").unwrap_err();
        assert_eq!(why, "expected one of human, json, got `jsn`; did you mean `json`?");
    }

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        assert!(Kind::Address.parse("[::1]:7000").is_ok());
        for wrong in ["", "localhost", ":80", "a:b", "a:70000"] {
            assert!(Kind::Address.parse(wrong).is_err(), "{wrong}");
        }
        assert!(Kind::OptionalAddress.parse("").is_ok());
    }

    #[test]
    fn a_list_is_cut_at_commas() {
        assert_eq!(Kind::List.parse("a:1, b:2,"), Ok(Value::List(vec!["a:1".into(), "b:2".into()])));
    }
}
