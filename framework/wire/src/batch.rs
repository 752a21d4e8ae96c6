//! The codec of exchange batches: rows between two processes of the *same build*.
//!
//! Nothing in it describes itself, so both ends must have the same types in the same order; ATTACH carries the
//! build's fingerprint for that. In return a row of two `u64` is sixteen bytes and takes two copies.
//!
//! | serde type | bytes |
//! |---|---|
//! | integers, floats | their width, little-endian |
//! | bool | 1: 0 or 1 |
//! | char | 4: the code point |
//! | str, bytes | u32 length, then the bytes |
//! | sequence, map | u32 count, then the elements |
//! | option | 1: 0 or 1, then the value |
//! | enum | u32 variant index, then its fields |
//! | struct, tuple, newtype, unit | the fields and nothing else |
//!
//! What needs a self-describing format is refused with an error that names the attribute: `flatten`, `untagged`,
//! internally tagged enums, `skip_serializing_if`, `deserialize_any`. Types take their binary form
//! (`is_human_readable` is false).
//!
//! Hostile bytes give an error: a length is compared with the bytes that are left before anything is allocated,
//! nesting ends at [`DEPTH_MAX`](crate::limits::DEPTH_MAX), and elements without bytes are counted against
//! [`ZERO_SIZED_ELEMENTS_MAX`].

mod de;
mod error;
mod ser;

use std::collections::VecDeque;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::status::{Code, Status};
use de::Decoder;
use error::BatchError;
use ser::Encoder;

/// Elements and rows that take no bytes at all (`()`, empty structs) in one batch. They cost time but no input, so
/// without a bound four bytes could claim four billion of them.
pub const ZERO_SIZED_ELEMENTS_MAX: u32 = 1 << 20;

/// Memory reserved at once for rows that are only claimed yet.
const RESERVE_BYTES_MAX: usize = 1 << 20;

/// Appends one row to `buffer`, which is as before when an error comes back.
///
/// # Errors
/// `INVALID_ARGUMENT` for a type that this format cannot carry (see the module), for nesting deeper than 64 and for
/// lengths above `u32::MAX`.
///
/// ```
/// let mut rows = Vec::new();
/// afflux_wire::batch::encode_row(&(1u64, "a", Some(true)), &mut rows).unwrap();
/// assert_eq!(rows, [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'a', 1, 1]);
/// ```
#[inline]
pub fn encode_row<T: Serialize + ?Sized>(row: &T, buffer: &mut Vec<u8>) -> Result<(), Status> {
    let start = buffer.len();
    match row.serialize(&mut Encoder::new(buffer)) {
        Ok(()) => Ok(()),
        Err(error) => {
            buffer.truncate(start);
            Err(refused::<T>("encoded", Code::InvalidArgument, &error))
        }
    }
}

/// Appends the `count` rows that fill `input` to `out`, which may hold some of them when an error comes back.
///
/// # Errors
/// `DATA_LOSS` where the bytes are not exactly `count` rows of this type.
///
/// ```
/// let mut rows: Vec<(u16, bool)> = Vec::new();
/// afflux_wire::batch::decode_rows(&[1, 0, 1, 2, 0, 0], 2, &mut rows).unwrap();
/// assert_eq!(rows, [(1, true), (2, false)]);
/// ```
#[inline]
pub fn decode_rows<T: DeserializeOwned>(
    input: &[u8],
    count: usize,
    out: &mut impl RowBuffer<T>,
) -> Result<(), Status> {
    let row_bytes = size_of::<T>().max(1);
    out.reserve(count.min(input.len()).min(RESERVE_BYTES_MAX / row_bytes));
    let mut decoder = Decoder::new(input);
    for _ in 0..count {
        match decoder.row() {
            Ok(row) => out.push(row),
            Err(error) => return Err(refused::<T>("decoded", Code::DataLoss, &error)),
        }
    }
    if decoder.rest().is_empty() { Ok(()) } else { Err(left_over::<T>(count, decoder.rest().len())) }
}

/// What decoded rows are appended to.
pub trait RowBuffer<T> {
    /// Makes room for so many more.
    fn reserve(&mut self, rows: usize);
    /// Appends one.
    fn push(&mut self, row: T);
}

impl<T> RowBuffer<T> for Vec<T> {
    fn reserve(&mut self, rows: usize) {
        Self::reserve(self, rows);
    }
    #[inline]
    fn push(&mut self, row: T) {
        Self::push(self, row);
    }
}

impl<T> RowBuffer<T> for VecDeque<T> {
    fn reserve(&mut self, rows: usize) {
        Self::reserve(self, rows);
    }
    #[inline]
    fn push(&mut self, row: T) {
        self.push_back(row);
    }
}

/// Decodes rows one by one and shows what is left, for batches with a tail of another format and for consumers that
/// stop in the middle.
///
/// ```
/// use afflux_wire::batch::RowDecoder;
///
/// let mut rows = RowDecoder::<u16>::new(&[1, 0, 2, 0, 0xff], 2);
/// assert_eq!(rows.next().unwrap().unwrap(), 1);
/// assert_eq!(rows.remaining_rows(), 1);
/// assert_eq!(rows.next().unwrap().unwrap(), 2);
/// assert!(rows.next().is_none());
/// assert_eq!(rows.rest(), [0xff]);
/// ```
pub struct RowDecoder<'a, T> {
    decoder: Decoder<'a>,
    left: usize,
    row: PhantomData<fn() -> T>,
}

impl<'a, T: DeserializeOwned> RowDecoder<'a, T> {
    /// A decoder of `count` rows at the start of `input`.
    #[inline]
    #[must_use]
    pub fn new(input: &'a [u8], count: usize) -> Self {
        Self { decoder: Decoder::new(input), left: count, row: PhantomData }
    }

    /// What no row has taken yet.
    #[inline]
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.decoder.rest()
    }

    /// Rows that were not asked for yet.
    #[inline]
    #[must_use]
    pub const fn remaining_rows(&self) -> usize {
        self.left
    }

    /// Ends the batch: an error unless every row was taken and no byte is left.
    ///
    /// # Errors
    /// `DATA_LOSS` with what is left.
    pub fn finish(self) -> Result<(), Status> {
        if self.left == 0 && self.decoder.rest().is_empty() {
            return Ok(());
        }
        let rows = self.left;
        let bytes = self.decoder.rest().len();
        Err(Status::new(
            Code::DataLoss,
            format!("batch of {}: {rows} rows and {bytes} bytes are left", std::any::type_name::<T>()),
        ))
    }
}

impl<T: DeserializeOwned> Iterator for RowDecoder<'_, T> {
    type Item = Result<T, Status>;

    /// The next row. After an error there is no further one: where it would start is unknown.
    #[inline]
    fn next(&mut self) -> Option<Result<T, Status>> {
        self.left = self.left.checked_sub(1)?;
        match self.decoder.row() {
            Ok(row) => Some(Ok(row)),
            Err(error) => {
                self.left = 0;
                Some(Err(refused::<T>("decoded", Code::DataLoss, &error)))
            }
        }
    }
}

impl<T> std::fmt::Debug for RowDecoder<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowDecoder")
            .field("rows", &self.left)
            .field("bytes", &self.decoder.rest().len())
            .finish()
    }
}

#[cold]
#[inline(never)]
fn refused<T: ?Sized>(verb: &str, code: Code, error: &BatchError) -> Status {
    Status::new(code, format!("row {} cannot be {verb}: {error}", std::any::type_name::<T>()))
}

#[cold]
#[inline(never)]
fn left_over<T>(count: usize, bytes: usize) -> Status {
    let name = std::any::type_name::<T>();
    Status::new(
        Code::DataLoss,
        format!("{bytes} bytes stand after {count} rows of {name}: do both ends run the same build?"),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::fmt::Debug;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
    enum Shape {
        Unit,
        New(u8),
        Pair(u8, String),
        Named { at: i64, of: Option<Box<Shape>> },
    }

    #[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
    struct Row {
        a: (u8, i16, u32, i64, u128, i128),
        f: (f32, f64),
        c: char,
        b: bool,
        s: String,
        #[serde(with = "serde_bytes")]
        raw: Vec<u8>,
        list: Vec<Shape>,
        map: BTreeMap<String, Option<u16>>,
        unit: (),
        nested: Option<Option<()>>,
    }

    fn row() -> Row {
        Row {
            a: (u8::MAX, i16::MIN, u32::MAX, i64::MIN, u128::MAX, i128::MIN),
            f: (f32::MIN, f64::EPSILON),
            c: '𝄞',
            b: true,
            s: "päss".into(),
            raw: vec![0, 255],
            list: vec![
                Shape::Unit,
                Shape::New(7),
                Shape::Pair(8, "x".into()),
                Shape::Named { at: -1, of: Some(Box::new(Shape::Unit)) },
            ],
            map: BTreeMap::from([("k".into(), Some(3)), ("l".into(), None)]),
            unit: (),
            nested: Some(None),
        }
    }

    fn encode<T: Serialize>(rows: &[T]) -> Vec<u8> {
        let mut bytes = Vec::new();
        rows.iter().for_each(|row| encode_row(row, &mut bytes).unwrap());
        bytes
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8], count: usize) -> Result<Vec<T>, Status> {
        let mut rows = Vec::new();
        decode_rows(bytes, count, &mut rows).map(|()| rows)
    }

    #[test]
    fn rows_of_every_serde_type_come_back() {
        let rows = vec![row(), Row { s: String::new(), nested: None, ..row() }];
        assert_eq!(decode::<Row>(&encode(&rows), 2).unwrap(), rows);
    }

    #[test]
    fn the_layout_is_that_of_the_table() {
        assert_eq!(encode(&[(1u16, -1i8, true, 'a')]), [1, 0, 0xff, 1, b'a', 0, 0, 0]);
        assert_eq!(encode(&[1.0f32]), [0, 0, 0x80, 0x3f]);
        assert_eq!(encode(&[("ab", vec![9u8])]), [2, 0, 0, 0, b'a', b'b', 1, 0, 0, 0, 9]);
        assert_eq!(encode(&[(None::<u8>, Some(4u8))]), [0, 1, 4]);
        assert_eq!(encode(&[Shape::New(7)]), [1, 0, 0, 0, 7]);
        assert_eq!(encode(&[((), Shape::Unit)]), [0, 0, 0, 0]);
    }

    #[test]
    fn every_byte_must_be_used() {
        let bytes = encode(&[(1u64, 2u64)]);
        assert!(decode::<(u64, u64)>(&bytes[..15], 1).is_err());
        let error = decode::<(u64, u64)>(&[bytes.as_slice(), &[0]].concat(), 1).unwrap_err();
        assert!(error.message.contains("1 bytes stand after 1 rows"), "{error}");
        assert!(decode::<(u64, u64)>(&bytes, 2).is_err());
        assert!(decode::<(u64, u64)>(&bytes, 0).is_err());
    }

    #[test]
    fn sequences_whose_length_serde_does_not_know_come_back() {
        struct Odd;
        impl Serialize for Odd {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq((0..10u8).filter(|n| n % 2 == 1))
            }
        }
        assert_eq!(decode::<(Vec<u8>, u8)>(&encode(&[(Odd, 5u8)]), 1).unwrap(), [(vec![1, 3, 5, 7, 9], 5)]);
    }

    #[test]
    fn a_displayed_value_is_written_in_place() {
        struct Shown;
        impl Serialize for Shown {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&format_args!("{}-{}", 1, 2))
            }
        }
        assert_eq!(decode::<(String, u8)>(&encode(&[(Shown, 5u8)]), 1).unwrap(), [("1-2".to_owned(), 5)]);
    }

    #[test]
    fn a_length_beyond_the_input_is_refused_before_it_is_allocated() {
        let claim = u32::MAX.to_le_bytes();
        assert!(decode::<String>(&claim, 1).unwrap_err().message.contains("4294967295"));
        assert!(decode::<serde_bytes::ByteBuf>(&claim, 1).is_err());
        assert!(decode::<Vec<u64>>(&claim, 1).is_err());
        assert!(decode::<HashMap<u64, u64>>(&claim, 1).is_err());
        let mut rows = Vec::<[u64; 8]>::new();
        assert!(decode_rows(&[0; 1 << 16], u32::MAX as usize, &mut rows).is_err());
        assert!(rows.capacity() * 64 <= 2 << 20, "{} rows reserved", rows.capacity());
    }

    #[test]
    fn elements_without_bytes_are_bounded() {
        assert_eq!(decode::<Vec<()>>(&encode(&[vec![(); 1000]]), 1).unwrap()[0].len(), 1000);
        let error = decode::<Vec<()>>(&u32::MAX.to_le_bytes(), 1).unwrap_err();
        assert!(error.message.contains("1048576"), "{error}");
        assert!(decode::<HashMap<(), ()>>(&u32::MAX.to_le_bytes(), 1).is_err());
        assert!(decode::<()>(&[], u32::MAX as usize).is_err());
        assert!(encode_row(&vec![(); ZERO_SIZED_ELEMENTS_MAX as usize + 1], &mut Vec::new()).is_err());
        // The bound is on the batch, so many rows with a few each cannot multiply it.
        let hostile = (1u32 << 19).to_le_bytes().repeat(100);
        assert!(decode::<Vec<()>>(&hostile, 100).is_err());
    }

    #[derive(Serialize, Deserialize, Debug)]
    struct Chain(Option<Box<Chain>>);

    #[test]
    fn recursion_ends_at_the_limit_on_both_sides() {
        let chain = |levels: usize| (0..levels).fold(Chain(None), |inner, _| Chain(Some(Box::new(inner))));
        assert!(decode::<Chain>(&encode(&[chain(64)]), 1).is_ok());
        let error = encode_row(&chain(65), &mut Vec::new()).unwrap_err();
        assert!(error.message.contains("depth_max = 64"), "{error}");
        assert!(decode::<Chain>(&vec![1; 1 << 20], 1).unwrap_err().message.contains("depth_max = 64"));
    }

    #[test]
    fn values_side_by_side_do_not_add_to_the_depth() {
        let wide = vec![Some(vec![Some(1u8)]); 1000];
        assert_eq!(decode::<Vec<Option<Vec<Option<u8>>>>>(&encode(&[&wide]), 1).unwrap(), [wide]);
    }

    #[test]
    fn what_needs_a_self_describing_format_is_refused_by_name() {
        #[derive(Serialize, Deserialize, Debug)]
        #[serde(untagged)]
        enum Untagged {
            A(u8),
        }
        #[derive(Serialize)]
        struct Skips {
            #[serde(skip_serializing_if = "Option::is_none")]
            gap: Option<u8>,
        }
        let error = decode::<Untagged>(&encode(&[Untagged::A(1)]), 1).unwrap_err();
        assert!(error.message.contains("untagged"), "{error}");
        assert!(encode_row(&Skips { gap: Some(1) }, &mut Vec::new()).is_ok());
        let error = encode_row(&Skips { gap: None }, &mut Vec::new()).unwrap_err();
        assert!(error.message.contains("gap") && error.message.contains("skip_serializing_if"), "{error}");
    }

    #[test]
    fn a_failed_row_leaves_the_buffer_as_it_was() {
        struct Stubborn;
        impl Serialize for Stubborn {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("no"))
            }
        }
        let mut buffer = vec![1, 2];
        assert!(encode_row(&(1u64, Stubborn), &mut buffer).is_err());
        assert_eq!(buffer, [1, 2]);
    }

    #[test]
    fn wrong_tags_are_refused() {
        assert!(decode::<bool>(&[2], 1).is_err());
        assert!(decode::<Option<u8>>(&[2, 0], 1).is_err());
        assert!(decode::<char>(&0xd800u32.to_le_bytes(), 1).is_err());
        assert!(decode::<Shape>(&9u32.to_le_bytes(), 1).is_err());
        assert!(decode::<String>(&[1, 0, 0, 0, 0xff], 1).is_err());
    }

    #[test]
    fn after_a_bad_row_there_is_no_further_one() {
        let mut rows = RowDecoder::<bool>::new(&[1, 7, 1], 3);
        assert!(rows.next().unwrap().is_ok());
        assert!(rows.next().unwrap().is_err());
        assert!(rows.next().is_none());
    }

    #[test]
    fn finishing_early_says_what_is_left() {
        let mut rows = RowDecoder::<u8>::new(&[1, 2, 3], 2);
        let _ = rows.next();
        assert!(rows.finish().unwrap_err().message.contains("1 rows and 2 bytes"));
        assert!(RowDecoder::<u8>::new(&[], 0).finish().is_ok());
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        let leaf = prop_oneof![
            Just(Shape::Unit),
            any::<u8>().prop_map(Shape::New),
            (any::<u8>(), ".*").prop_map(|(n, s)| Shape::Pair(n, s)),
        ];
        leaf.prop_recursive(8, 32, 1, |inner| {
            (any::<i64>(), proptest::option::of(inner))
                .prop_map(|(at, of)| Shape::Named { at, of: of.map(Box::new) })
        })
    }

    fn survives<T: DeserializeOwned + Serialize + Debug + PartialEq>(bytes: &[u8], count: usize) {
        if let Ok(rows) = decode::<T>(bytes, count) {
            assert_eq!(rows.len(), count);
            assert_eq!(decode::<T>(&encode(&rows), count).ok().as_ref().map(Vec::len), Some(count));
        }
    }

    proptest! {
        #[test]
        fn any_rows_come_back(
            rows in proptest::collection::vec((any::<u64>(), ".*", shapes(), any::<Option<Vec<u16>>>()), 0..8)
        ) {
            prop_assert_eq!(decode::<(u64, String, Shape, Option<Vec<u16>>)>(&encode(&rows), rows.len()).unwrap(), rows);
        }

        #[test]
        fn any_bytes_are_rows_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0usize..20) {
            survives::<Row>(&bytes, count);
            survives::<Vec<Shape>>(&bytes, count);
            survives::<(u64, u64)>(&bytes, count);
            survives::<BTreeMap<String, Vec<()>>>(&bytes, count);
        }

        #[test]
        fn damaged_rows_are_rows_or_an_error(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = encode(&[row()]);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            survives::<Row>(&bytes, 1);
        }
    }
}
