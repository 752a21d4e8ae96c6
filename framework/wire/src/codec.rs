//! The codec of calls and snapshots: MessagePack through `rmp-serde`.
//!
//! Structs are maps by field name and types take their human-readable form, so that the MessagePack value *is* the
//! JSON value of the same data (bytes are `bin`); an added field breaks no older peer. Decoding is bounded: 64 levels
//! of nesting, no bytes behind the value, and an error that names the place: `order.qty: expected u32, got str`.

mod explain;

use rmp_serde::{Deserializer, Serializer};
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned};

use crate::limits::DEPTH_MAX;
use crate::scan::skip_value;
use crate::status::Status;

/// `rmp-serde` gives up when its counter *reaches* zero, so this allows [`DEPTH_MAX`] levels.
const RMP_DEPTH: usize = DEPTH_MAX as usize + 1;

/// Inputs up to here cannot nest deeper than [`DEPTH_MAX`]: every level that `rmp-serde` does not count itself (the
/// variant of an enum) takes at least two bytes.
const UNSCANNED_BYTES_MAX: usize = 2 * DEPTH_MAX as usize;

/// Encodes a value: structs as maps, human-readable forms.
///
/// # Errors
/// `INTERNAL` where a type refuses to be serialised.
///
/// ```
/// #[derive(serde::Serialize)]
/// struct Point { x: u8 }
///
/// assert_eq!(afflux_wire::codec::to_named(&Point { x: 7 }).unwrap(), [0x81, 0xa1, b'x', 7]);
/// ```
pub fn to_named<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Status> {
    let mut buffer = Vec::with_capacity(64);
    to_named_in(value, &mut buffer)?;
    Ok(buffer)
}

/// Appends an encoded value to `buffer`, which is as before when an error comes back.
///
/// # Errors
/// As [`to_named`].
#[inline]
pub fn to_named_in<T: Serialize + ?Sized>(value: &T, buffer: &mut Vec<u8>) -> Result<(), Status> {
    let start = buffer.len();
    let mut serializer = Serializer::new(&mut *buffer).with_struct_map().with_human_readable();
    match value.serialize(&mut serializer) {
        Ok(()) => Ok(()),
        Err(error) => {
            buffer.truncate(start);
            Err(Status::internal(format!("{} cannot be encoded: {error}", std::any::type_name::<T>())))
        }
    }
}

/// Decodes exactly one value that fills `input`. Structs may be maps by name or arrays in field order.
///
/// # Errors
/// `INVALID_ARGUMENT`, certainly not executed, with the path of what does not fit.
///
/// ```
/// #[derive(serde::Deserialize, Debug)]
/// struct Point { x: u8 }
///
/// let error = afflux_wire::codec::from_slice::<Point>(&[0x81, 0xa1, b'x', 0xa1, b'7']).unwrap_err();
/// assert_eq!(error.message, "x: expected u8, got str");
/// ```
#[inline]
pub fn from_slice<T: DeserializeOwned>(input: &[u8]) -> Result<T, Status> {
    if input.len() > UNSCANNED_BYTES_MAX {
        check_depth(input)?;
    }
    let mut deserializer = Deserializer::from_read_ref(input).with_human_readable();
    deserializer.set_max_depth(RMP_DEPTH);
    match T::deserialize(&mut deserializer) {
        // Asking for one more marker is the only way to learn where `rmp-serde` stands.
        Ok(value) => match bool::deserialize(&mut deserializer) {
            Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
            _ => Err(trailing()),
        },
        Err(error) => Err(explain::explain::<T>(input, &error)),
    }
}

/// Decodes `count` values that stand one behind the other and fill `input`, and appends them to `items`. Those in
/// front of a bad one are appended too.
///
/// # Errors
/// `INVALID_ARGUMENT` with the place of what does not fit, or when there are more or fewer values than `count`.
///
/// ```
/// let mut items = std::collections::VecDeque::new();
/// afflux_wire::codec::decode_items::<u64>(&[7, 8], 2, &mut items).unwrap();
/// assert_eq!(items, [7, 8]);
/// assert!(afflux_wire::codec::decode_items::<u64>(&[7], 2, &mut items).is_err());
/// ```
pub fn decode_items<T: DeserializeOwned>(
    input: &[u8],
    count: u32,
    items: &mut std::collections::VecDeque<T>,
) -> Result<(), Status> {
    if input.len() > UNSCANNED_BYTES_MAX {
        let mut rest = input;
        for _ in 0..count {
            let end = skip_value(rest, DEPTH_MAX).map_err(|error| Status::invalid(error.to_string()))?;
            rest = &rest[end..];
        }
        if !rest.is_empty() {
            return Err(trailing());
        }
    }
    let mut deserializer = Deserializer::from_read_ref(input).with_human_readable();
    deserializer.set_max_depth(RMP_DEPTH);
    items.reserve(count as usize);
    for index in 0..count as usize {
        match T::deserialize(&mut deserializer) {
            Ok(value) => items.push_back(value),
            Err(error) => return Err(bad_item::<T>(input, index, &error)),
        }
    }
    match bool::deserialize(&mut deserializer) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(()),
        _ => Err(trailing()),
    }
}

/// Explains why one of several values does not fit.
#[cold]
fn bad_item<T: DeserializeOwned>(input: &[u8], index: usize, error: &rmp_serde::decode::Error) -> Status {
    let mut rest = input;
    for _ in 0..index {
        match skip_value(rest, DEPTH_MAX) {
            Ok(end) => rest = &rest[end..],
            Err(error) => return Status::invalid(error.to_string()),
        }
    }
    let item = match skip_value(rest, DEPTH_MAX) {
        Ok(end) => &rest[..end],
        Err(error) => return Status::invalid(error.to_string()),
    };
    explain::explain::<T>(item, error)
}

/// `rmp-serde` counts arrays and maps but not the variants of enums, so a recursive enum could overflow the stack.
#[inline(never)]
fn check_depth(input: &[u8]) -> Result<(), Status> {
    match skip_value(input, DEPTH_MAX) {
        Ok(end) if end == input.len() => Ok(()),
        Ok(_) => Err(trailing()),
        Err(error) => Err(Status::invalid(error.to_string())),
    }
}

#[cold]
fn trailing() -> Status {
    Status::invalid("bytes stand after the end of the value")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::status::{Code, Executed};

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Line {
        qty: u32,
        #[serde(default)]
        note: Option<String>,
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Order {
        id: u64,
        lines: Vec<Line>,
        #[serde(with = "serde_bytes", default)]
        blob: Vec<u8>,
    }

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    enum Tree {
        Leaf,
        Branch(Box<Tree>),
    }

    fn order() -> Order {
        Order {
            id: 1,
            lines: vec![Line { qty: 2, note: None }, Line { qty: 3, note: Some("n".into()) }],
            blob: vec![1],
        }
    }

    fn refusal<T: DeserializeOwned + std::fmt::Debug>(value: &impl Serialize) -> String {
        let status = from_slice::<T>(&to_named(value).unwrap()).unwrap_err();
        assert_eq!((status.code, status.was_executed()), (Code::InvalidArgument, Executed::No));
        status.message
    }

    #[test]
    fn a_value_comes_back() {
        assert_eq!(from_slice::<Order>(&to_named(&order()).unwrap()).unwrap(), order());
    }

    #[test]
    fn types_take_their_human_readable_form() {
        let address: IpAddr = "10.0.0.5".parse().unwrap();
        let bytes = to_named(&address).unwrap();
        assert_eq!(from_slice::<String>(&bytes).unwrap(), "10.0.0.5");
        assert_eq!(from_slice::<IpAddr>(&bytes).unwrap(), address);
    }

    #[test]
    fn arrays_in_field_order_are_read() {
        let bytes = rmp_serde::to_vec(&order()).unwrap();
        assert_eq!(bytes[0], 0x93);
        assert_eq!(from_slice::<Order>(&bytes).unwrap(), order());
    }

    #[test]
    fn fields_may_be_added_and_left_out() {
        #[derive(Serialize)]
        struct Later {
            added: BTreeMap<String, Vec<u8>>,
            qty: u32,
        }
        let bytes = to_named(&Later { added: BTreeMap::from([("k".into(), vec![1])]), qty: 5 }).unwrap();
        assert_eq!(from_slice::<Line>(&bytes).unwrap(), Line { qty: 5, note: None });
    }

    #[test]
    fn a_wrong_type_is_named_with_its_path() {
        let wrong = serde_json::json!({"id": 1, "lines": [{"qty": 1}, {"qty": "two"}]});
        assert_eq!(refusal::<Order>(&wrong), "lines[1].qty: expected u32, got str");
    }

    #[test]
    fn a_number_out_of_range_and_a_missing_field_are_named() {
        let wrong = serde_json::json!({"id": 1, "lines": [{"qty": 5_000_000_000_u64}]});
        assert_eq!(refusal::<Order>(&wrong), "lines[0].qty: expected u32, got 5000000000");
        assert_eq!(refusal::<Order>(&serde_json::json!({"id": 1})), "missing field `lines`");
        let wrong = serde_json::json!({"id": 1, "lines": [{}]});
        assert_eq!(refusal::<Order>(&wrong), "lines[0]: missing field `qty`");
    }

    #[test]
    fn bytes_beside_an_error_do_not_hide_it() {
        #[derive(Serialize)]
        struct Wrong<'a> {
            #[serde(with = "serde_bytes")]
            blob: &'a [u8],
            id: &'a str,
            lines: [u8; 0],
        }
        assert_eq!(
            refusal::<Order>(&Wrong { blob: &[1, 2], id: "x", lines: [] }),
            "id: expected u64, got str"
        );
    }

    #[test]
    fn a_large_input_gets_the_path_too() {
        let lines: Vec<_> = (0..20_000).map(|n| serde_json::json!({"qty": n})).collect();
        let mut wrong = serde_json::json!({"id": 1, "lines": lines});
        wrong["lines"][19_999]["qty"] = "x".into();
        let message = refusal::<Order>(&wrong);
        assert!(message.starts_with("lines[19999].qty: "), "{message}");
    }

    #[test]
    fn bytes_behind_the_value_are_an_error() {
        for value in [to_named(&order()).unwrap(), to_named(&7u8).unwrap()] {
            for tail in [&[0u8][..], &[0xc0], &[0xcc], &[0x91], &[0xc1]] {
                let bytes = [&value, tail].concat();
                assert!(from_slice::<serde::de::IgnoredAny>(&bytes).is_err(), "{tail:02x?}");
            }
        }
        let long = [to_named(&"x".repeat(500)).unwrap(), vec![0xc0]].concat();
        assert!(from_slice::<String>(&long).unwrap_err().message.contains("after the end"));
    }

    #[test]
    fn no_bytes_are_an_error() {
        assert!(from_slice::<u8>(&[]).is_err());
        assert!(from_slice::<Option<u8>>(&[]).is_err());
    }

    #[test]
    fn a_failed_encoding_leaves_the_buffer_as_it_was() {
        struct Stubborn;
        impl Serialize for Stubborn {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("no"))
            }
        }
        let mut buffer = vec![1, 2];
        let status = to_named_in(&(1u8, Stubborn), &mut buffer).unwrap_err();
        assert_eq!((buffer, status.code), (vec![1, 2], Code::Internal));
    }

    /// Runs on the stack that a thread gets by default.
    fn on_two_mib<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap()
    }

    #[test]
    fn a_megabyte_of_nested_arrays_is_an_error_on_a_small_stack() {
        let error = on_two_mib(|| from_slice::<serde_json::Value>(&vec![0x91; 1 << 20]).unwrap_err());
        assert_eq!(error.message, "values nest deeper than depth_max = 64");
    }

    #[test]
    fn a_recursive_enum_cannot_overflow_the_stack() {
        let nested = |levels: usize| {
            let mut bytes = Vec::new();
            for _ in 0..levels {
                bytes.extend_from_slice(b"\x81\xa6Branch");
            }
            bytes.extend_from_slice(b"\xa4Leaf");
            bytes
        };
        assert!(on_two_mib(move || from_slice::<Tree>(&nested(64))).is_ok());
        assert!(on_two_mib(move || from_slice::<Tree>(&nested(65))).is_err());
        assert!(on_two_mib(move || from_slice::<Tree>(&nested(100_000))).is_err());
    }

    #[test]
    fn sixty_four_levels_are_decoded_and_sixty_five_are_not() {
        let nested = |levels: usize| [vec![0x91; levels], vec![0xc0]].concat();
        assert!(from_slice::<serde_json::Value>(&nested(64)).is_ok());
        assert!(from_slice::<serde_json::Value>(&nested(65)).is_err());
    }
}
