//! Keyed actors: one for each value of a parameter, on the node that owns the value's partition.
//!
//! Reading order: [`KeyValue`] (what an actor is told), `host` (the actors of this node, and where a
//! call goes), `driver` (which partitions this node owns, by locks of the registry). Which node a
//! partition belongs to is `afflux_mesh`'s business, since every caller needs it.
//!
//! One owner whose writes are accepted: a partition is owned under a lock of the registry, a node takes
//! it only when the one before has given it back or its lease has run out, and the lock's fencing token
//! goes with every activation ([`Cx::fence`](crate::contract::Cx::fence)). See `docs/adr/0007-keyed-actors.md`.

mod driver;
mod host;
mod metrics;

pub use afflux_mesh::{KEYED_PARTITIONS, partition_of};
pub(crate) use driver::{Drive, run};
pub(crate) use host::{DeclaredKeyed, KeyedParts};
pub(crate) use metrics::KeyedMetrics;

use std::fmt;
use std::sync::Arc;

use afflux_wire::Status;
use serde::de::DeserializeOwned;

/// The value of the key that one actor is for.
///
/// ```
/// # fn open(key: &afflux::keyed::KeyValue) -> Result<(), afflux::contract::Status> {
/// let customer: String = key.get()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue(pub(crate) Arc<[u8]>);

impl KeyValue {
    /// The value, as the parameter's type.
    ///
    /// # Errors
    /// Another type than the parameter's.
    pub fn get<T: DeserializeOwned>(&self) -> Result<T, Status> {
        afflux_wire::codec::from_slice(&self.0)
    }

    /// Its MessagePack, which is what makes two keys equal.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// As JSON; text without its quotes.
impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get::<serde_json::Value>() {
            Ok(serde_json::Value::String(text)) => f.write_str(&text),
            Ok(value) => write!(f, "{value}"),
            Err(_) => self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyValue({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: impl serde::Serialize) -> KeyValue {
        KeyValue(afflux_wire::codec::to_named(&value).unwrap().into())
    }

    #[test]
    fn a_key_is_read_as_its_type_and_shown_as_text() {
        assert_eq!(key("alice").get::<String>().unwrap(), "alice");
        assert_eq!((key("alice").to_string(), key(7_u64).to_string()), ("alice".into(), "7".into()));
        assert!(key("alice").get::<u64>().is_err());
        assert!(key(7_u64) == key(7_u32), "the width of an integer is no part of its value");
    }
}
