//! How many different values there are: exact.

use std::fmt;
use std::marker::PhantomData;

use hashbrown::HashTable;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::aggregate::{Aggregate, MergeAggregate};
use crate::key::Key;
use crate::table::spread;
use crate::window::Window;

/// A set of values, for counting different ones in an aggregate of one's own.
///
/// ```
/// use afflux_stream::DistinctSet;
/// let mut bidders = DistinctSet::default();
/// assert!(bidders.insert(7_u64));
/// assert!(!bidders.insert(7));
/// assert_eq!(bidders.len(), 1);
/// ```
pub struct DistinctSet<V> {
    values: HashTable<V>,
}

impl<V> Default for DistinctSet<V> {
    fn default() -> Self {
        Self { values: HashTable::new() }
    }
}

impl<V: Key> DistinctSet<V> {
    /// Adds a value; tells whether it is new.
    pub fn insert(&mut self, value: V) -> bool {
        let hash = spread(value.key_hash());
        match self.values.entry(hash, |v| *v == value, |v| spread(v.key_hash())) {
            hashbrown::hash_table::Entry::Occupied(_) => false,
            hashbrown::hash_table::Entry::Vacant(place) => {
                place.insert(value);
                true
            }
        }
    }

    /// Whether a value is in it.
    pub fn contains(&self, value: &V) -> bool {
        self.values.find(spread(value.key_hash()), |v| v == value).is_some()
    }

    /// Adds all values of another set.
    pub fn merge(&mut self, other: &Self) {
        for value in &other.values {
            if !self.contains(value) {
                self.insert(value.clone());
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl<V: Clone> Clone for DistinctSet<V> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone() }
    }
}

impl<V: fmt::Debug> fmt::Debug for DistinctSet<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.values).finish()
    }
}

impl<V: Serialize> Serialize for DistinctSet<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.values)
    }
}

impl<'de, V: Key> Deserialize<'de> for DistinctSet<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<V>(PhantomData<V>);
        impl<'de, V: Key> Visitor<'de> for Values<V> {
            type Value = DistinctSet<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a set of values")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<DistinctSet<V>, A::Error> {
                let mut set = DistinctSet::default();
                while let Some(value) = values.next_element()? {
                    set.insert(value);
                }
                Ok(set)
            }
        }
        deserializer.deserialize_seq(Values(PhantomData))
    }
}

/// The aggregate that [`distinct`] makes.
pub struct Distinct<F, V> {
    of: F,
    value: PhantomData<fn() -> V>,
}

/// Counts the different values of each key and window: `(key, window, count)`. Exact: every
/// different value is kept until the window is over.
///
/// ```
/// use afflux_stream::{Flow, Global, JobSettings, distinct, generate};
/// let flow = Flow::new("p", JobSettings::default());
/// flow.source("numbers", generate(100, |i| i))
///     .untimed()
///     .key_by(|i| i % 2)
///     .window(Global)
///     .aggregate("different", distinct(|i: &u64| i % 10))
///     .map(|(key, _window, count)| (key, count))
///     .count("counts");
/// flow.finish().unwrap();
/// ```
pub fn distinct<T, V: Key, F: Fn(&T) -> V>(of: F) -> Distinct<F, V> {
    Distinct { of, value: PhantomData }
}

impl<K: 'static, T, V: Key, F: Fn(&T) -> V + Send + Sync + 'static> Aggregate<K, T> for Distinct<F, V> {
    type Acc = DistinctSet<V>;
    type Output = (K, Window, u64);
    fn create(&self) -> DistinctSet<V> {
        DistinctSet::default()
    }
    fn add(&self, values: &mut DistinctSet<V>, row: &T) {
        values.insert((self.of)(row));
    }
    fn finish(&self, key: K, window: Window, values: DistinctSet<V>) -> (K, Window, u64) {
        (key, window, values.len() as u64)
    }
}

impl<K: 'static, T, V: Key, F: Fn(&T) -> V + Send + Sync + 'static> MergeAggregate<K, T> for Distinct<F, V> {
    fn merge(&self, into: &mut DistinctSet<V>, from: &DistinctSet<V>) {
        into.merge(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_being_written_and_read() {
        let mut set = DistinctSet::default();
        (0..1_000_u64).for_each(|i| {
            set.insert(format!("value {}", i % 100));
        });
        let bytes = rmp_serde::to_vec(&set).unwrap();
        let read: DistinctSet<String> = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(read.len(), 100);
        assert!((0..100).all(|i| read.contains(&format!("value {i}"))));
        assert!(!read.contains(&"value 100".to_owned()));
    }
}
