//! What a posted body means.

use afflux_wire::codec;
use serde::de::DeserializeOwned;

use crate::lines::decode_json;

/// How a body is written, which its `Content-Type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `application/json`: an object, or an array of them.
    Json,
    /// `application/x-ndjson` and its other names: a value a line.
    Lines,
    /// `application/msgpack` and its other names: a map, or an array of them.
    MessagePack,
}

/// What can be posted, for messages.
pub(super) const FORMS: &str = "application/json, application/x-ndjson or application/msgpack";

impl Form {
    /// By content type. No type that a web page may send without being asked is among them.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" => Some(Form::Json),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/json-lines" => Some(Form::Lines),
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => {
                Some(Form::MessagePack)
            }
            _ => None,
        }
    }

    /// The records of a body; the error names the record and what is wrong with it.
    pub(super) fn decode<T: DeserializeOwned>(self, body: &[u8]) -> Result<Vec<T>, String> {
        match self {
            Form::Json => match body.iter().find(|b| !b.is_ascii_whitespace()) {
                None => Err("the body is empty".to_owned()),
                Some(b'[') => array(body),
                Some(_) => Ok(decode_json(body)?.into_iter().collect()),
            },
            Form::Lines => {
                let mut rows = Vec::new();
                for (line, number) in body.split(|b| *b == b'\n').zip(1_u64..) {
                    rows.extend(decode_json(line).map_err(|what| format!("line {number}, {what}"))?);
                }
                Ok(rows)
            }
            Form::MessagePack => match body.first() {
                None => Err("the body is empty".to_owned()),
                // fixarray, array 16, array 32.
                Some(0x90..=0x9f | 0xdc | 0xdd) => codec::from_slice(body).map_err(|s| s.message),
                Some(_) => codec::from_slice(body).map(|row| vec![row]).map_err(|s| s.message),
            },
        }
    }
}

fn array<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, String> {
    if let Ok(rows) = serde_json::from_slice(body) {
        return Ok(rows);
    }
    // Once more, slowly, for the message.
    decode_json::<Vec<T>>(body).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u64,
    }

    fn ids(rows: Vec<Order>) -> Vec<u64> {
        rows.into_iter().map(|o| o.id).collect()
    }

    #[test]
    fn a_body_is_one_record_or_several() {
        for (form, body, expected) in [
            (Form::Json, &br#" {"id":7}"#[..], &[7][..]),
            (Form::Json, br#"[{"id":1},{"id":2}]"#, &[1, 2]),
            (Form::Json, b"[]", &[]),
            (Form::Lines, b"{\"id\":1}\n\n{\"id\":2}\r\n", &[1, 2]),
            (Form::MessagePack, b"\x81\xa2id\x07", &[7]),
            (Form::MessagePack, b"\x92\x81\xa2id\x01\x81\xa2id\x02", &[1, 2]),
        ] {
            assert_eq!(ids(form.decode(body).unwrap()), expected, "{form:?} {body:?}");
        }
    }

    #[test]
    fn a_wrong_record_is_named_with_its_place() {
        for (form, body, expected) in [
            (Form::Json, &br#"[{"id":1},{"id":"x"}]"#[..], "field `[1].id`, invalid type: string \"x\""),
            (Form::Lines, b"{\"id\":1}\n{\"id\":-2}", "line 2, column 8: field `id`, invalid value"),
            (Form::Json, b" ", "the body is empty"),
            (Form::Json, b"{\"id\":1} {\"id\":2}", "there is more behind the first value"),
            (Form::MessagePack, b"\x81\xa2id\xa1x", "id"),
            (Form::MessagePack, b"", "the body is empty"),
        ] {
            let message = form.decode::<Order>(body).unwrap_err();
            assert!(message.contains(expected), "{form:?}: {message}");
        }
    }

    #[test]
    fn what_a_form_of_a_web_page_may_send_is_not_taken() {
        assert_eq!(Form::of("application/json; charset=utf-8"), Some(Form::Json));
        assert_eq!(Form::of("Application/MsgPack"), Some(Form::MessagePack));
        for type_ in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
            assert_eq!(Form::of(type_), None);
        }
    }
}
