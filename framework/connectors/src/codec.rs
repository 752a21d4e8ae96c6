//! Bodies of a broker's messages: JSON, MessagePack, text.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Makes the body of a record.
pub(crate) type Encode<T> = Arc<dyn Fn(&T) -> Result<Vec<u8>, String> + Send + Sync>;

/// Bytes of a body that an error shows.
const SHOWN_BYTES_MAX: usize = 120;
/// Values inside values of a body at most: deeper ones could overflow the stack.
const DEPTH_MAX: usize = 64;

/// The beginning of a body, for a message that says what is wrong with it.
pub(crate) fn beginning(body: &[u8]) -> String {
    let part = body.get(..SHOWN_BYTES_MAX).unwrap_or(body);
    let more = if part.len() < body.len() { "…" } else { "" };
    format!("`{}{more}`", String::from_utf8_lossy(part).escape_debug())
}

pub(crate) fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let row = serde_path_to_error::deserialize(&mut json)
        .map_err(|e| format!("no JSON of this record: {} at `{}`", e.inner(), e.path()))?;
    json.end().map_err(|e| format!("more than one JSON value: {e}"))?;
    Ok(row)
}

pub(crate) fn to_json<T: Serialize>(row: &T) -> Result<Vec<u8>, String> {
    serde_json::to_vec(row).map_err(|e| format!("the record cannot be JSON: {e}"))
}

pub(crate) fn from_message_pack<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let mut rest = body;
    let mut packed = rmp_serde::Deserializer::new(&mut rest);
    packed.set_max_depth(DEPTH_MAX);
    let row = serde_path_to_error::deserialize(&mut packed)
        .map_err(|e| format!("no MessagePack of this record: {} at `{}`", e.inner(), e.path()))?;
    if !rest.is_empty() {
        return Err(format!("{} bytes behind the MessagePack value", rest.len()));
    }
    Ok(row)
}

/// Records as maps, so that a reader may know more or fewer fields.
pub(crate) fn to_message_pack<T: Serialize>(row: &T) -> Result<Vec<u8>, String> {
    rmp_serde::to_vec_named(row).map_err(|e| format!("the record cannot be MessagePack: {e}"))
}

pub(crate) fn from_text(body: &[u8]) -> Result<String, String> {
    String::from_utf8(body.to_vec())
        .map_err(|e| format!("no UTF-8 from byte {}", e.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u64,
        lines: Vec<Line>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Line {
        item: String,
        price: i64,
    }

    #[test]
    fn what_is_wrong_in_a_body_is_named_with_its_place() {
        let error = from_json::<Order>(br#"{"id":1,"lines":[{"item":"tea","price":"dear"}]}"#).unwrap_err();
        assert!(error.contains("lines[0].price") && error.contains("dear"), "{error}");
        assert!(from_json::<u64>(b"1 2").unwrap_err().contains("more than one"));
        assert!(from_json::<u64>(b"").unwrap_err().contains("EOF"));
        let packed = rmp_serde::to_vec_named(&("tea", 1)).unwrap();
        assert!(from_message_pack::<Order>(&packed).unwrap_err().contains("MessagePack"));
        let two = [1, 2];
        assert_eq!(from_message_pack::<u8>(&two).unwrap_err(), "1 bytes behind the MessagePack value");
        assert_eq!(from_text(b"gr\xfcn").unwrap_err(), "no UTF-8 from byte 2");
    }

    #[test]
    fn a_body_of_lists_in_lists_is_refused_and_overflows_no_stack() {
        let deep = [0x91_u8].repeat(1_000_000);
        from_message_pack::<serde_json::Value>(&deep).unwrap_err();
        from_json::<serde_json::Value>("[".repeat(1_000_000).as_bytes()).unwrap_err();
    }

    #[test]
    fn a_long_body_is_shown_by_its_beginning_on_one_line() {
        assert_eq!(beginning(b"a\nb"), "`a\\nb`");
        assert_eq!(beginning(&[b'x'; 500]), format!("`{}…`", "x".repeat(SHOWN_BYTES_MAX)));
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was_and_bytes_of_chance_are_an_answer(
            id in any::<u64>(),
            lines in prop::collection::vec((".{0,20}", any::<i64>()), 0..8),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let lines = lines.into_iter().map(|(item, price)| Line { item, price }).collect();
            let order = Order { id, lines };
            prop_assert_eq!(from_json::<Order>(&to_json(&order).unwrap()), Ok(order.clone()));
            prop_assert_eq!(from_message_pack::<Order>(&to_message_pack(&order).unwrap()), Ok(order));
            let _ = (from_json::<Order>(&noise), from_message_pack::<Order>(&noise), from_text(&noise));
        }
    }
}
