//! Entries of a key.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Life, State, StateField};

/// A map of a key, ordered by its own keys; each entry has a life of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Serialize + Ord, V: Serialize",
    deserialize = "K: DeserializeOwned + Ord, V: DeserializeOwned"
))]
pub struct MapState<K, V> {
    entries: std::collections::BTreeMap<K, (V, i64)>,
    #[serde(skip)]
    life: Life,
}

impl<K, V> Default for MapState<K, V> {
    fn default() -> Self {
        Self { entries: std::collections::BTreeMap::new(), life: Life::default() }
    }
}

impl<K: Ord, V> MapState<K, V> {
    /// The value of an entry.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|e| &e.0)
    }
    /// The value of an entry to change in place; a change does not prolong its life.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|e| &mut e.0)
    }
    /// Sets an entry, whose life begins anew; returns what was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.entries.insert(key, (value, self.life.now)).map(|e| e.0)
    }
    /// The value of an entry, made when it is absent; its life begins anew.
    pub fn or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let now = self.life.now;
        let entry = self.entries.entry(key).or_insert_with(|| (make(), now));
        entry.1 = now;
        &mut entry.0
    }
    /// Removes an entry.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|e| e.0)
    }
    /// The entries, ordered by their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.entries.iter().map(|(k, e)| (k, &e.0))
    }
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// Removes all entries.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

impl<K, V> State for MapState<K, V>
where
    K: Ord + Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<K, V> StateField for MapState<K, V>
where
    K: Ord + Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    fn prepare(&mut self, now: i64, ttl: i64) {
        (self.life.now, self.life.ttl) = (now, ttl);
        if ttl > 0 {
            self.entries.retain(|_, e| now.saturating_sub(e.1) < ttl);
        }
    }
    fn ends_at(&self) -> Option<i64> {
        let ttl = self.life.ttl;
        (ttl > 0).then(|| self.entries.values().map(|e| e.1.saturating_add(ttl)).min()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_map_live_each_for_itself_over_a_snapshot_too() {
        let mut map = MapState::default();
        map.prepare(0, 10);
        map.insert(1_u32, "one".to_owned());
        map.prepare(5, 10);
        map.insert(2, "two".to_owned());
        let bytes = rmp_serde::to_vec(&map).unwrap();
        let mut map: MapState<u32, String> = rmp_serde::from_slice(&bytes).unwrap();
        map.prepare(10, 10);
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&2, &"two".to_owned())]);
        assert_eq!(map.ends_at(), Some(15));
    }
}
