//! Messages of MessagePack-RPC: read what a client says, write what it is told.

use super::{Cursor, put_array_len, put_map_len, put_str, put_uint};
use crate::error::WireError;
use crate::limits::{DEPTH_MAX, METHOD_BYTES_MAX};
use crate::scan::skip_value;
use crate::status::{Details, Status};

/// What a client says. `params` is the MessagePack of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// `[0, id, method, params]`: an answer is expected.
    Request {
        /// The client's, echoed in the answer.
        id: u64,
        /// The method's name as it was sent.
        method: &'a str,
        /// One MessagePack value.
        params: &'a [u8],
    },
    /// `[2, method, params]`: nobody waits.
    Notification {
        /// The method's name as it was sent.
        method: &'a str,
        /// One MessagePack value.
        params: &'a [u8],
    },
}

/// An array that is no message of a client, with the id that an answer needs, where one can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of the request.
    pub id: Option<u64>,
    /// What is wrong.
    pub error: WireError,
}

/// Reads one complete message, as [`Scanner`](crate::Scanner) found it.
///
/// # Errors
/// [`Refused`] for what is no request and no notification.
///
/// ```
/// use afflux_wire::compat::{Message, decode};
///
/// let bytes = [0x94, 0x00, 0x07, 0xa3, b'a', b'.', b'b', 0x90];
/// assert_eq!(decode(&bytes), Ok(Message::Request { id: 7, method: "a.b", params: &[0x90] }));
/// ```
pub fn decode(message: &[u8]) -> Result<Message<'_>, Refused> {
    let mut cursor = Cursor(message);
    let refuse =
        |id, what, expected, got| Refused { id, error: WireError::Malformed { what, expected, got } };
    let got = cursor.what();
    let Some(elements) = cursor.array() else {
        return Err(refuse(None, "message", "an array", got));
    };
    let got = cursor.what();
    let kind = match cursor.unsigned() {
        Some(kind @ (0 | 2)) => kind,
        Some(1) => {
            let expected = "0 (request) or 2 (notification): this side asks nothing";
            return Err(refuse(None, "message type", expected, "1 (answer)"));
        }
        Some(_) => {
            return Err(refuse(None, "message type", "0 (request) or 2 (notification)", "another integer"));
        }
        None => return Err(refuse(None, "message type", "0 (request) or 2 (notification)", got)),
    };
    let id = match kind {
        0 => {
            let got = cursor.what();
            Some(cursor.unsigned().ok_or_else(|| refuse(None, "message id", "an unsigned integer", got))?)
        }
        _ => None,
    };
    let elements_must = if kind == 0 { 4 } else { 3 };
    if elements < elements_must {
        let what = if kind == 0 { "request" } else { "notification" };
        return Err(Refused {
            id,
            error: WireError::TooFewElements { what, elements, elements_min: elements_must },
        });
    }
    let got = cursor.what();
    let Some(name) = cursor.text() else {
        return Err(refuse(id, "method", "its name as str or bin", got));
    };
    if name.len() > METHOD_BYTES_MAX {
        let (claimed, limit) = (name.len() as u64, METHOD_BYTES_MAX as u64);
        return Err(Refused { id, error: WireError::TooLong { what: "method", claimed, limit } });
    }
    let Ok(method) = std::str::from_utf8(name) else {
        return Err(Refused { id, error: WireError::NotUtf8 { what: "method" } });
    };
    let Some(params) = cursor.value() else {
        let error = WireError::Truncated { what: "params", missing_bytes: 1 };
        return Err(Refused { id, error });
    };
    // Elements behind those that the specification names belong to a later one; what is behind the array does not.
    for _ in elements_must..elements {
        if cursor.value().is_none() {
            return Err(Refused { id, error: WireError::Truncated { what: "message", missing_bytes: 1 } });
        }
    }
    if !cursor.0.is_empty() {
        let error = WireError::Trailing { what: "message", bytes: cursor.0.len() as u64 };
        return Err(Refused { id, error });
    }
    Ok(match id {
        Some(id) => Message::Request { id, method, params },
        None => Message::Notification { method, params },
    })
}

/// The id of a request of which only the beginning has come, so that a refusal of it can be answered.
#[must_use]
pub fn peek_request_id(beginning: &[u8]) -> Option<u64> {
    let mut cursor = Cursor(beginning);
    cursor.array()?;
    match cursor.unsigned()? {
        0 => cursor.unsigned(),
        _ => None,
    }
}

/// Appends `[1, id, nil, result]`; `result` is MessagePack, no bytes are nil.
pub fn put_answer(out: &mut Vec<u8>, id: u64, result: &[u8]) {
    put_array_len(out, 4);
    out.push(1);
    put_uint(out, id);
    out.push(0xc0);
    if result.is_empty() {
        out.push(0xc0);
    } else {
        out.extend_from_slice(result);
    }
}

/// Appends `[1, id, [code, message] or [code, message, details], nil]`.
///
/// `details` is a map; a typed error stands in it as the value that it is (`data`), not as bytes.
pub fn put_error(out: &mut Vec<u8>, id: u64, status: &Status) {
    put_array_len(out, 4);
    out.push(1);
    put_uint(out, id);
    put_status(out, status);
    out.push(0xc0);
}

/// Appends `[2, method, [values…]]`; each value is MessagePack.
pub fn put_notification(out: &mut Vec<u8>, method: &str, values: &[&[u8]]) {
    put_array_len(out, 3);
    out.push(2);
    put_str(out, method);
    put_array_len(out, values.len() as u32);
    for value in values {
        out.extend_from_slice(value);
    }
}

/// Appends `[2, method, [id, [code, message, …], nil]]`: the end of something that failed.
pub fn put_notification_error(out: &mut Vec<u8>, method: &str, id: u64, status: &Status) {
    put_array_len(out, 3);
    out.push(2);
    put_str(out, method);
    put_array_len(out, 3);
    put_uint(out, id);
    put_status(out, status);
    out.push(0xc0);
}

fn put_status(out: &mut Vec<u8>, status: &Status) {
    put_array_len(out, if status.details.is_some() { 3 } else { 2 });
    put_uint(out, u64::from(status.code.number()));
    put_str(out, &status.message);
    if let Some(details) = &status.details {
        put_details(out, details);
    }
}

fn put_details(out: &mut Vec<u8>, details: &Details) {
    let mut plain = details.clone();
    let data = plain.data.take();
    // Without `data` it has only fields that every peer reads.
    let Ok(bytes) = crate::codec::to_named(&plain) else { return out.push(0x80) };
    let mut cursor = Cursor(&bytes);
    let Some(entries) = cursor.map() else { return out.push(0x80) };
    put_map_len(out, entries as u32 + u32::from(data.is_some()));
    out.extend_from_slice(cursor.0);
    if let Some(data) = data {
        put_str(out, "data");
        // Three levels are around it.
        if skip_value(&data, DEPTH_MAX - 3) == Ok(data.len()) {
            out.extend_from_slice(&data);
        } else {
            let _ = rmp::encode::write_bin(out, &data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{from_slice, to_named};
    use crate::status::{Code, Executed};
    use serde_json::{Value, json};

    fn bytes(value: &Value) -> Vec<u8> {
        to_named(value).unwrap()
    }

    #[test]
    fn a_method_may_be_named_by_bin_and_ids_may_have_any_width() {
        let params = [0x91, 0x2a];
        for id in [0u64, 127, 128, 65_536, u64::from(u32::MAX), u64::MAX] {
            let mut message = vec![0x94, 0x00];
            put_uint(&mut message, id);
            message.extend([0xc4, 3, b'a', b'.', b'b']);
            message.extend(params);
            assert_eq!(decode(&message), Ok(Message::Request { id, method: "a.b", params: &params }));
            assert_eq!(peek_request_id(&message[..message.len() - 5]), Some(id));
        }
        let signed = [0x94, 0xd0, 0x00, 0xd2, 0, 0, 1, 0, 0xa1, b'm', 0xc0];
        assert_eq!(decode(&signed), Ok(Message::Request { id: 256, method: "m", params: &[0xc0] }));
    }

    #[test]
    fn what_is_no_message_is_refused_with_the_id_where_there_is_one() {
        let wrong = |value: Value| decode(&bytes(&value)).map(|_| ()).unwrap_err();
        assert_eq!(wrong(json!([0, 7, "m"])).id, Some(7));
        assert_eq!(wrong(json!([0, 7, 8, []])).id, Some(7));
        assert_eq!(wrong(json!([0, -7, "m", []])).id, None);
        assert_eq!(wrong(json!([0, "7", "m", []])).id, None);
        assert!(wrong(json!([1, 7, null, 1])).error.to_string().contains("asks nothing"));
        assert!(wrong(json!([3, 7])).error.to_string().contains("another integer"));
        assert!(wrong(json!([])).error.to_string().contains("nothing"));
        assert!(wrong(json!({"a": 1})).error.to_string().contains("a map"));
        assert_eq!(wrong(json!([0, 7, "m".repeat(257), []])).error.reason(), "elements");
        let utf8 = [0x94, 0x00, 0x01, 0xa1, 0xff, 0x90];
        assert_eq!(decode(&utf8).unwrap_err().error.reason(), "utf8");
    }

    #[test]
    fn a_message_is_the_whole_of_what_is_given() {
        let mut message = bytes(&json!([2, "m", []]));
        assert_eq!(decode(&message), Ok(Message::Notification { method: "m", params: &[0x90] }));
        message.push(0xc0);
        assert_eq!(decode(&message).unwrap_err().error.reason(), "trailing");
        // A later specification may add elements.
        let more = bytes(&json!([2, "m", [], {"a": 1}]));
        assert!(decode(&more).is_ok());
    }

    #[test]
    fn an_error_is_an_array_and_its_typed_data_a_value() {
        let mut status = Status::new(Code::NotFound, "no such order").executed(Executed::No);
        let details = status.details_mut();
        details.kind = Some("NoSuch".to_owned());
        details.data = Some(bytes(&json!({"NoSuch": {"id": 7}})));
        let mut out = Vec::new();
        put_error(&mut out, 9, &status);
        let expected = json!([1, 9, [5, "no such order",
            {"type": "NoSuch", "executed": 0, "data": {"NoSuch": {"id": 7}}}], null]);
        assert_eq!(from_slice::<Value>(&out).unwrap(), expected);
        // Data that is no MessagePack stays bytes.
        status.details_mut().data = Some(vec![0xc1]);
        out.clear();
        put_error(&mut out, 9, &status);
        assert_eq!(skip_value(&out, 64), Ok(out.len()));
        out.clear();
        put_error(&mut out, 1, &Status::internal("plain"));
        assert_eq!(from_slice::<Value>(&out).unwrap(), json!([1, 1, [13, "plain"], null]));
    }

    #[test]
    fn answers_and_notifications_have_their_shape() {
        let mut out = Vec::new();
        put_answer(&mut out, 300, &[0x2a]);
        assert_eq!(from_slice::<Value>(&out).unwrap(), json!([1, 300, null, 42]));
        out.clear();
        put_answer(&mut out, 1, &[]);
        assert_eq!(from_slice::<Value>(&out).unwrap(), json!([1, 1, null, null]));
        out.clear();
        put_notification(&mut out, "rpc.item", &[&[1], &[0], &[0xa1, b'x']]);
        assert_eq!(from_slice::<Value>(&out).unwrap(), json!([2, "rpc.item", [1, 0, "x"]]));
    }
}
