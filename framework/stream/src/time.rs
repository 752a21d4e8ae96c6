//! Event time: points on the UTC time line in milliseconds, and lengths of time.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in milliseconds since 1970-01-01T00:00:00Z.
///
/// Text formats carry it as RFC 3339, binary ones as an integer.
///
/// ```
/// use afflux_stream::Timestamp;
/// let t: Timestamp = "2013-01-01T10:15:00Z".parse().unwrap();
/// assert_eq!(t.millis(), 1_357_035_300_000);
/// assert_eq!(t.to_string(), "2013-01-01T10:15:00Z");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Before every record: the watermark of a source that has said nothing.
    pub const MIN: Timestamp = Timestamp(i64::MIN);
    /// After every record: the watermark of a finished source.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// The moment this many milliseconds after the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// This moment earlier by `duration`, or [`Timestamp::MIN`].
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// This moment later by `duration`, or [`Timestamp::MAX`].
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, duration: Duration) -> Timestamp {
        self.after(duration)
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Timestamp;
    fn sub(self, duration: Duration) -> Timestamp {
        self.before(duration)
    }
}

/// Whole milliseconds of a duration, at most `i64::MAX`.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The calendar's milliseconds since 1970-01-01T00:00:00Z.
pub(crate) fn millis_since_epoch(wall: SystemTime) -> i64 {
    match wall.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => millis(since),
        Err(before) => -millis(before.duration()),
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Timestamp::MIN => f.write_str("-inf"),
            Timestamp::MAX => f.write_str("+inf"),
            Timestamp(ms) => match jiff::Timestamp::from_millisecond(ms) {
                Ok(t) => t.fmt(f),
                Err(_) => write!(f, "{ms} ms"),
            },
        }
    }
}

/// The text is no moment of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a moment as RFC 3339, such as 2013-01-01T10:15:00Z, got `{0}`")]
pub struct ParseTimestampError(String);

impl FromStr for Timestamp {
    type Err = ParseTimestampError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>()
            .map(|t| Timestamp(t.as_millisecond()))
            .map_err(|_| ParseTimestampError(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a moment as RFC 3339, such as 2013-01-01T10:15:00Z")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(E::custom)
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Text)
        } else {
            i64::deserialize(deserializer).map(Timestamp).map_err(D::Error::custom)
        }
    }
}

impl schemars::JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// A record that knows when it happened. Implemented by `derive(Event)`.
pub trait Event {
    /// When it happened, in event time.
    fn event_time(&self) -> Timestamp;
}

/// A shared record is as old as the record.
impl<T: Event> Event for std::sync::Arc<T> {
    fn event_time(&self) -> Timestamp {
        T::event_time(self)
    }
}

/// This many milliseconds.
pub const fn millis_of(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// This many seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// This many minutes.
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

/// This many hours.
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_text_for_people_and_an_integer_between_machines() {
        let t = Timestamp::from_millis(1_357_035_300_000);
        assert_eq!(serde_json::to_string(&t).unwrap(), "\"2013-01-01T10:15:00Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>("\"2013-01-01T10:15:00Z\"").unwrap(), t);
        let bytes = rmp_serde::to_vec(&t).unwrap();
        assert_eq!(rmp_serde::from_slice::<Timestamp>(&bytes).unwrap(), t);
    }

    #[test]
    fn a_wrong_timestamp_is_quoted_with_an_example() {
        let error = "yesterday".parse::<Timestamp>().unwrap_err().to_string();
        assert!(error.contains("`yesterday`") && error.contains("RFC 3339"), "{error}");
    }
}
