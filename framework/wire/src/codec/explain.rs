//! Why a value was refused, in words that name the place.
//!
//! `rmp-serde` says `wrong msgpack marker FixStr(3)`. Decoding the same data a second time, from a JSON value and with
//! the path tracked, says `order.qty: invalid type: string "abc", expected u32`. This runs after a failure only.

use std::fmt;

use rmp_serde::Deserializer;
use serde::de::{Deserialize, DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::RMP_DEPTH;
use crate::status::Status;
use crate::text;

/// Inputs above this are explained from `rmp-serde`'s own words: a JSON value takes up to 32 times the memory.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Longest text taken over from a failed decoding: it may quote the input.
const TEXT_BYTES_MAX: usize = 512;

#[cold]
#[inline(never)]
pub(super) fn explain<T: DeserializeOwned>(input: &[u8], error: &rmp_serde::decode::Error) -> Status {
    let (path, text) = from_value::<T>(input)
        .or_else(|| from_rmp::<T>(input))
        .unwrap_or_else(|| (String::new(), error.to_string()));
    let text = shorten(&text);
    Status::invalid(if path.is_empty() || path == "." { text } else { format!("{path}: {text}") })
}

fn from_value<T: DeserializeOwned>(input: &[u8]) -> Option<(String, String)> {
    if input.len() > VALUE_BYTES_MAX {
        return None;
    }
    let mut deserializer = Deserializer::from_read_ref(input).with_human_readable();
    deserializer.set_max_depth(RMP_DEPTH);
    let Loose(value) = Loose::deserialize(&mut deserializer).ok()?;
    let error = serde_path_to_error::deserialize::<_, T>(value).err()?;
    Some((error.path().to_string(), reword(&error.inner().to_string())))
}

fn from_rmp<T: DeserializeOwned>(input: &[u8]) -> Option<(String, String)> {
    let mut deserializer = Deserializer::from_read_ref(input).with_human_readable();
    deserializer.set_max_depth(RMP_DEPTH);
    let error = serde_path_to_error::deserialize::<_, T>(&mut deserializer).err()?;
    Some((error.path().to_string(), reword(&error.inner().to_string())))
}

/// `invalid type: string "abc", expected u32` becomes `expected u32, got str`; other texts stay.
fn reword(text: &str) -> String {
    if let Some((found, expected)) =
        text.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected "))
    {
        let got = match found.split([' ', '`']).next().unwrap_or_default() {
            "string" => "str",
            "sequence" => "array",
            "map" => "map",
            "null" => "nil",
            "boolean" => "bool",
            "integer" => "an integer",
            "floating" => "a float",
            _ => found,
        };
        return format!("expected {expected}, got {got}");
    }
    if let Some((found, expected)) =
        text.strip_prefix("invalid value: ").and_then(|rest| rest.rsplit_once(", expected "))
    {
        let got = found.strip_prefix("integer `").and_then(|rest| rest.strip_suffix('`')).unwrap_or(found);
        return format!("expected {expected}, got {got}");
    }
    text.to_owned()
}

fn shorten(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    format!("{}…", text::shorten(text, TEXT_BYTES_MAX))
}

/// Any MessagePack value as JSON: bytes as an array of numbers, scalar keys of other types as text.
struct Loose(Value);

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor).map(Loose)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(Value::Array(value.iter().map(|byte| Value::from(*byte)).collect()))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Loose(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((Loose(key), Loose(value))) = map.next_entry()? {
            let key = match key {
                Value::String(key) => key,
                // As text inside text inside text, every level would double the quotes of the one within.
                Value::Array(_) | Value::Object(_) => {
                    return Err(A::Error::custom("a key is an array or a map"));
                }
                scalar => scalar.to_string(),
            };
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serdes_words_become_ours() {
        assert_eq!(reword("invalid type: string \"a, expected b\", expected u32"), "expected u32, got str");
        assert_eq!(reword("invalid type: null, expected a map"), "expected a map, got nil");
        assert_eq!(
            reword("invalid type: integer `5`, expected a string"),
            "expected a string, got an integer"
        );
        assert_eq!(reword("invalid value: integer `300`, expected u8"), "expected u8, got 300");
        assert_eq!(reword("missing field `x`"), "missing field `x`");
    }

    #[test]
    fn maps_as_keys_of_maps_cost_no_more_than_their_bytes() {
        // Refused as a number, so that an explanation is looked for.
        let nested = [vec![0x81; 60], vec![0xc0; 61]].concat();
        let status = super::super::from_slice::<u8>(&nested).unwrap_err();
        assert!(status.message.len() < 600, "{} bytes of text", status.message.len());
        let mut deserializer = Deserializer::from_read_ref(&nested);
        assert!(Loose::deserialize(&mut deserializer).is_err());
    }

    #[test]
    fn a_text_that_quotes_a_long_input_is_cut() {
        assert!(shorten(&"é".repeat(10_000)).len() < 600);
    }
}
