//! One row as a value: a deserializer that knows its columns, so that an error can name them.
//!
//! The `csv` crate has a deserializer too, but an error that a field's own type raises (a date, a
//! unit, an enum) does not say there which column it came from.

use csv::StringRecord;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::error::{Kind, RowError};

/// A row and its columns' names.
#[derive(Clone, Copy)]
pub(super) struct Row<'r> {
    pub(super) header: &'r StringRecord,
    pub(super) fields: &'r StringRecord,
}

impl<'de> Deserializer<'de> for Row<'_> {
    type Error = RowError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_map(Columns { row: self, next: 0 })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, RowError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_seq(Columns { row: self, next: 0 })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, RowError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, RowError> {
        self.deserialize_seq(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct map struct enum identifier ignored_any
    }
}

/// The columns in turn.
struct Columns<'r> {
    row: Row<'r>,
    next: usize,
}

impl<'de> MapAccess<'de> for Columns<'_> {
    type Error = RowError;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, RowError> {
        match self.row.header.get(self.next) {
            Some(name) => {
                let name: StrDeserializer<'_, RowError> = name.into_deserializer();
                seed.deserialize(name).map(Some)
            }
            None => Ok(None),
        }
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, RowError> {
        let column = self.next;
        self.next += 1;
        seed.deserialize(Field { text: self.row.fields.get(column).unwrap_or_default() })
            .map_err(|e| e.at(column))
    }
}

impl<'de> SeqAccess<'de> for Columns<'_> {
    type Error = RowError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, RowError> {
        if self.next >= self.row.fields.len() {
            return Ok(None);
        }
        self.next_value_seed(seed).map(Some)
    }
}

/// One field of a row.
#[derive(Clone, Copy)]
struct Field<'r> {
    text: &'r str,
}

macro_rules! integers {
    ($($method:ident $visit:ident $t:ident),* $(,)?) => { $(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
            match self.text.parse::<$t>() {
                Ok(number) => visitor.$visit(number),
                Err(_) => Err(RowError::of(if self.text.parse::<i128>().is_ok() {
                    Kind::Range { min: $t::MIN.to_string(), max: $t::MAX.to_string() }
                } else {
                    Kind::Not("an integer")
                })),
            }
        }
    )* };
}

fn nested() -> RowError {
    RowError::of(Kind::Shape("a column holds one value, but the record's field holds several".to_owned()))
}

impl<'de> Deserializer<'de> for Field<'_> {
    type Error = RowError;

    /// For records that say nothing of a column's type: a truth value, a number, or text.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        if let Ok(truth) = self.text.parse::<bool>() {
            visitor.visit_bool(truth)
        } else if let Ok(number) = self.text.parse::<i64>() {
            visitor.visit_i64(number)
        } else if let Ok(number) = self.text.parse::<u64>() {
            visitor.visit_u64(number)
        } else if let Ok(number) = self.text.parse::<f64>() {
            visitor.visit_f64(number)
        } else {
            visitor.visit_str(self.text)
        }
    }

    integers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_i128 visit_i128 i128,
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_u128 visit_u128 u128,
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        match self.text.parse() {
            Ok(truth) => visitor.visit_bool(truth),
            Err(_) => Err(RowError::of(Kind::Not("`true` or `false`"))),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        match self.text.parse() {
            Ok(number) => visitor.visit_f32(number),
            Err(_) => Err(RowError::of(Kind::Not("a number"))),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        match self.text.parse() {
            Ok(number) => visitor.visit_f64(number),
            Err(_) => Err(RowError::of(Kind::Not("a number"))),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        match self.text.parse() {
            Ok(char) => visitor.visit_char(char),
            Err(_) => Err(RowError::of(Kind::Not("one character"))),
        }
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_str(self.text)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_str(self.text)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_str(self.text)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_bytes(self.text.as_bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_bytes(self.text.as_bytes())
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        if self.text.is_empty() {
            return visitor.visit_none();
        }
        visitor.visit_some(self).map_err(|mut error| {
            error.or_empty = true;
            error
        })
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        if self.text.is_empty() { visitor.visit_unit() } else { Err(RowError::of(Kind::Not("empty"))) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, RowError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, RowError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, RowError> {
        visitor.visit_enum(self.text.into_deserializer())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, _: V) -> Result<V::Value, RowError> {
        Err(nested())
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, RowError> {
        Err(nested())
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        _: V,
    ) -> Result<V::Value, RowError> {
        Err(nested())
    }

    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, RowError> {
        Err(nested())
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, RowError> {
        Err(nested())
    }

    #[inline]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_unit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_stream::Timestamp;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Size {
        Big,
        Small,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct All {
        at: Timestamp,
        name: String,
        count: u8,
        delay: Option<i64>,
        ratio: f64,
        sure: bool,
        kind: Size,
        #[serde(default)]
        more: Option<String>,
    }

    const HEADER: [&str; 8] = ["kind", "at", "name", "unused", "count", "delay", "ratio", "sure"];
    const GOOD: [&str; 8] = ["big", "2013-01-01T10:15:00Z", "UA", "?", "7", "-3", "0.5", "true"];

    fn read(fields: [&str; 8]) -> Result<All, String> {
        let (header, fields) = (StringRecord::from(HEADER.to_vec()), StringRecord::from(fields.to_vec()));
        let row = Row { header: &header, fields: &fields };
        All::deserialize(row).map_err(|e| e.describe(&header, &fields))
    }

    #[test]
    fn columns_are_found_by_name_and_unknown_ones_are_passed_over() {
        let all = read(GOOD).unwrap();
        assert_eq!((all.at.millis(), all.name.as_str(), all.count), (1_357_035_300_000, "UA", 7));
        assert_eq!(
            (all.delay, all.ratio, all.sure, all.kind, all.more),
            (Some(-3), 0.5, true, Size::Big, None)
        );
    }

    #[test]
    fn an_empty_field_is_none_for_an_option_only() {
        let mut fields = GOOD;
        fields[5] = "";
        assert_eq!(read(fields).unwrap().delay, None);
        fields[4] = "";
        assert_eq!(read(fields).unwrap_err(), "column count (5): `` is not an integer");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_column_and_what_was_expected() {
        for (index, value, expected) in [
            (5, "abc", "column delay (6): `abc` is not an integer or empty"),
            (4, "300", "column count (5): `300` is not an integer from 0 to 255"),
            (4, "-1", "column count (5): `-1` is not an integer from 0 to 255"),
            (6, "much", "column ratio (7): `much` is not a number"),
            (7, "yes", "column sure (8): `yes` is not `true` or `false`"),
            (0, "huge", "column kind (1): unknown variant `huge`, expected `big` or `small`"),
        ] {
            let mut fields = GOOD;
            fields[index] = value;
            assert_eq!(read(fields).unwrap_err(), expected);
        }
        let mut fields = GOOD;
        fields[1] = "noon";
        let message = read(fields).unwrap_err();
        assert!(
            message.starts_with("column at (2): expected a moment") && message.ends_with("got `noon`"),
            "{message}"
        );
    }

    #[test]
    fn a_long_value_is_cut_and_control_characters_are_made_visible() {
        let mut fields = GOOD;
        let long = format!("\n{}", "x".repeat(5000));
        fields[4] = &long;
        let message = read(fields).unwrap_err();
        assert!(message.contains("`\\nxxx") && message.contains('…') && message.len() < 200, "{message}");
    }

    #[test]
    fn a_missing_column_is_named_with_those_that_are_there() {
        let (header, fields) =
            (StringRecord::from(vec!["at", "nmae"]), StringRecord::from(vec![GOOD[1], "x"]));
        let error = All::deserialize(Row { header: &header, fields: &fields }).unwrap_err();
        assert!(error.concerns_all_rows());
        assert_eq!(error.describe(&header, &fields), "there is no column `name`; the file has `at`, `nmae`");
    }

    #[test]
    fn a_row_can_be_a_tuple_or_a_map() {
        let (header, fields) = (StringRecord::from(vec!["a", "b"]), StringRecord::from(vec!["1", "x"]));
        let row = Row { header: &header, fields: &fields };
        assert_eq!(<(u8, String)>::deserialize(row).unwrap(), (1, "x".to_owned()));
        let map = std::collections::BTreeMap::<String, String>::deserialize(row).unwrap();
        assert_eq!(map.get("b").map(String::as_str), Some("x"));
        assert!(<Vec<Vec<u8>>>::deserialize(row).unwrap_err().concerns_all_rows());
    }
}
