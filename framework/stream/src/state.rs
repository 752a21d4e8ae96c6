//! What operators remember: the state of one key, and where all keys of a task are kept.
//!
//! An operator sees the state of the current key only, as a plain value behind `&mut`. Where the
//! values live is [`KeyedState`]'s affair: every keyed operator goes through it, and through it
//! alone a snapshot is written and read back.

use std::borrow::Cow;
use std::mem::take;

use hashbrown::hash_table::{Entry, OccupiedEntry};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::key::{Key, KeyGroup};
use crate::keyed::KeyOf;
use crate::snapshot::{Restore, TaskSnapshot};
use crate::table::{Table, spread};

/// What an operator remembers of one key: saved in checkpoints, forgotten when it is empty.
pub trait State: Default + Serialize + DeserializeOwned + 'static {
    /// Whether anything in it has a time to live.
    const EXPIRES: bool = false;

    /// Whether nothing is remembered: the key is forgotten.
    fn is_empty(&self) -> bool;

    /// Forgets what has outlived its time at `now` (milliseconds). Called before the state is used.
    fn expire(&mut self, _now: i64) {}

    /// The earliest moment (milliseconds) at which something will have outlived its time.
    fn expires_at(&self) -> Option<i64> {
        None
    }
}

impl State for () {
    fn is_empty(&self) -> bool {
        true
    }
}

impl<T: Serialize + DeserializeOwned + 'static> State for Option<T> {
    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

impl<T: Serialize + DeserializeOwned + 'static> State for Vec<T> {
    fn is_empty(&self) -> bool {
        Vec::is_empty(self)
    }
}

/// The values of all keys of one state in one task.
pub(crate) struct KeyedState<K, V> {
    name: &'static str,
    table: Table<K, V>,
}

impl<K: Key, V> KeyedState<K, V> {
    /// No values. The name tells an operator's states apart in a snapshot.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, table: Table::new() }
    }

    /// Keys that have a value.
    #[allow(dead_code, reason = "a collection has a length")]
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let hash = spread(key.key_hash());
        self.table.inner().find(hash, |e| e.0 == *key).map(|e| &e.1)
    }

    /// The value of a key, made when it is absent. `hash` is the key's [`Key::key_hash`].
    #[inline]
    pub(crate) fn entry(
        &mut self,
        hash: u64,
        key: Cow<'_, K>,
        make: impl FnOnce() -> V,
    ) -> StateEntry<'_, K, V> {
        let inner = self.table.inner_mut();
        let entry = inner.entry(spread(hash), |e| e.0 == *key, |e| spread(e.0.key_hash()));
        StateEntry(match entry {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert((key.into_owned(), make())),
        })
    }

    /// The value of a key that has one.
    #[inline]
    pub(crate) fn find(&mut self, hash: u64, key: &K) -> Option<StateEntry<'_, K, V>> {
        self.table.inner_mut().find_entry(spread(hash), |e| e.0 == *key).ok().map(StateEntry)
    }

    /// Takes in all rows: `add` for each with the value of its key, made when it is absent.
    #[inline]
    #[allow(dead_code, reason = "for stages that take a batch at once")]
    pub(crate) fn upsert_all<T, F: KeyOf<T, Key = K>>(
        &mut self,
        rows: &[T],
        keys: &F,
        make: impl Fn() -> V,
        add: impl Fn(&mut V, &T),
    ) {
        self.table.upsert_all(rows, keys, make, add);
    }

    /// Takes all values out.
    #[allow(dead_code, reason = "for stages that fire all keys at once")]
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (K, V)> + use<K, V> {
        let name = self.name;
        std::mem::replace(self, Self::new(name)).table.into_entries()
    }

    /// Looks at all values, in no order that means anything.
    #[allow(dead_code, reason = "for stages that ask all keys")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.table.iter()
    }

    /// Adds the values to the snapshot.
    pub(crate) fn save(&self, snapshot: &mut TaskSnapshot, operator: &str, subtask: u32) -> Result<()>
    where
        V: Serialize,
    {
        let rows: Vec<&(K, V)> = self.table.iter().collect();
        snapshot.put(operator, self.name, subtask, rows.len() as u64, &rows)
    }

    /// Takes the values of this task's key groups out of a checkpoint.
    pub(crate) fn restore(
        &mut self,
        restore: &Restore,
        operator: &str,
        (subtask, parallelism): (u32, u32),
    ) -> Result<()>
    where
        V: DeserializeOwned,
    {
        let groups = KeyGroup::range_of(subtask, parallelism);
        for (_, rows) in restore.get::<Vec<(K, V)>>(operator, self.name)? {
            for (key, value) in rows {
                if groups.contains(&u32::from(KeyGroup::of(key.key_hash()).0)) {
                    self.table.insert(key, value);
                }
            }
        }
        Ok(())
    }
}

/// The value of one key, in its place.
pub(crate) struct StateEntry<'a, K, V>(OccupiedEntry<'a, (K, V)>);

impl<K, V> StateEntry<'_, K, V> {
    /// The key and its value.
    #[inline]
    pub(crate) fn parts(&mut self) -> (&K, &mut V) {
        let (key, value) = self.0.get_mut();
        (key, value)
    }

    /// Forgets the key.
    pub(crate) fn remove(self) -> (K, V) {
        self.0.remove().0
    }
}

/// One value of a key, with a time to live where the operator gives it one.
///
/// ```
/// use afflux_stream::ValueState;
/// let mut last = ValueState::default();
/// last.set(7);
/// assert_eq!(last.get(), Some(&7));
/// assert_eq!(last.take(), Some(7));
/// assert_eq!(last.get(), None);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "V: Serialize", deserialize = "V: DeserializeOwned"))]
pub struct ValueState<V> {
    value: Option<V>,
    life: Life,
}

/// When something was written, and how long it lives: absent without a time to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    written: i64,
    #[serde(skip)]
    ttl: i64,
    #[serde(skip)]
    now: i64,
}

impl Life {
    fn touch(&mut self) {
        self.written = self.now;
    }
    fn over(&self, now: i64) -> bool {
        self.ttl > 0 && now.saturating_sub(self.written) >= self.ttl
    }
    fn ends(&self) -> Option<i64> {
        (self.ttl > 0).then(|| self.written.saturating_add(self.ttl))
    }
}

#[diagnostic::on_unimplemented(
    message = "`{Self}` is no state of an operator",
    label = "a `#[state]` field is a ValueState, ListState, MapState, ReducingState or AggregatingState",
    note = "what is the same for all keys, such as a limit, is a plain field without `#[state]`"
)]
/// A part of an operator's state whose values may have a time to live; `derive(Operator)` calls it.
pub trait StateField: State {
    /// Says what time it is and how long values live, both in milliseconds; `ttl` 0: for ever.
    /// What has outlived its time is forgotten.
    fn prepare(&mut self, now: i64, ttl: i64);
    /// When something will have outlived its time.
    fn ends_at(&self) -> Option<i64>;
}

impl<V> Default for ValueState<V> {
    fn default() -> Self {
        Self { value: None, life: Life::default() }
    }
}

impl<V> ValueState<V> {
    /// The value, if there is one.
    pub fn get(&self) -> Option<&V> {
        self.value.as_ref()
    }
    /// The value to change in place, if there is one; a change does not prolong its life.
    pub fn get_mut(&mut self) -> Option<&mut V> {
        self.value.as_mut()
    }
    /// Sets the value; its life begins anew.
    pub fn set(&mut self, value: V) {
        self.life.touch();
        self.value = Some(value);
    }
    /// Takes the value out.
    pub fn take(&mut self) -> Option<V> {
        self.value.take()
    }
    /// The value, made and set when there is none; its life begins anew.
    pub fn or_insert_with(&mut self, make: impl FnOnce() -> V) -> &mut V {
        self.life.touch();
        self.value.get_or_insert_with(make)
    }
}

impl<V: Serialize + DeserializeOwned + 'static> State for ValueState<V> {
    fn is_empty(&self) -> bool {
        self.value.is_none()
    }
}

impl<V: Serialize + DeserializeOwned + 'static> StateField for ValueState<V> {
    fn prepare(&mut self, now: i64, ttl: i64) {
        (self.life.now, self.life.ttl) = (now, ttl);
        if self.value.is_some() && self.life.over(now) {
            self.value = None;
        }
    }
    fn ends_at(&self) -> Option<i64> {
        self.value.as_ref().and(self.life.ends())
    }
}

/// Values of a key in the order in which they were added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "V: Serialize", deserialize = "V: DeserializeOwned"))]
pub struct ListState<V> {
    values: Vec<V>,
    life: Life,
}

impl<V> Default for ListState<V> {
    fn default() -> Self {
        Self { values: Vec::new(), life: Life::default() }
    }
}

impl<V> ListState<V> {
    /// The values, oldest first.
    pub fn get(&self) -> &[V] {
        &self.values
    }
    /// Adds a value; the life of the whole list begins anew.
    pub fn add(&mut self, value: V) {
        self.life.touch();
        self.values.push(value);
    }
    /// Keeps the values that meet a predicate.
    pub fn retain(&mut self, keep: impl FnMut(&V) -> bool) {
        self.values.retain(keep);
    }
    /// Takes all values out.
    pub fn take(&mut self) -> Vec<V> {
        take(&mut self.values)
    }
    /// Puts these in place of all values; their life begins anew.
    pub fn set(&mut self, values: Vec<V>) {
        self.life.touch();
        self.values = values;
    }
}

impl<V: Serialize + DeserializeOwned + 'static> State for ListState<V> {
    fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl<V: Serialize + DeserializeOwned + 'static> StateField for ListState<V> {
    fn prepare(&mut self, now: i64, ttl: i64) {
        (self.life.now, self.life.ttl) = (now, ttl);
        if self.life.over(now) {
            self.values.clear();
        }
    }
    fn ends_at(&self) -> Option<i64> {
        if self.values.is_empty() { None } else { self.life.ends() }
    }
}

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

/// How two values become one: the rule of a [`ReducingState`].
pub trait Reducer: 'static {
    /// The values.
    type Value: Serialize + DeserializeOwned + 'static;
    /// Takes another value into the one that is kept.
    fn reduce(kept: &mut Self::Value, value: Self::Value);
}

/// One value of a key that every value added is reduced into.
///
/// ```
/// use afflux_stream::{Reducer, ReducingState};
/// struct Longest;
/// impl Reducer for Longest {
///     type Value = String;
///     fn reduce(kept: &mut String, value: String) {
///         if value.len() > kept.len() { *kept = value }
///     }
/// }
/// let mut longest = ReducingState::<Longest>::default();
/// longest.add("ab".into());
/// longest.add("a".into());
/// assert_eq!(longest.get().map(String::as_str), Some("ab"));
/// ```
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = ""))]
pub struct ReducingState<R: Reducer>(ValueState<R::Value>);

impl<R: Reducer> Default for ReducingState<R> {
    fn default() -> Self {
        Self(ValueState::default())
    }
}

impl<R: Reducer> ReducingState<R> {
    /// Reduces a value into what is kept; its life begins anew.
    pub fn add(&mut self, value: R::Value) {
        match self.0.value.as_mut() {
            Some(kept) => {
                R::reduce(kept, value);
                self.0.life.touch();
            }
            None => self.0.set(value),
        }
    }
    /// What is kept, if anything was added.
    pub fn get(&self) -> Option<&R::Value> {
        self.0.get()
    }
    /// Takes out what is kept.
    pub fn take(&mut self) -> Option<R::Value> {
        self.0.take()
    }
}

impl<R: Reducer> State for ReducingState<R> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<R: Reducer> StateField for ReducingState<R> {
    fn prepare(&mut self, now: i64, ttl: i64) {
        self.0.prepare(now, ttl);
    }
    fn ends_at(&self) -> Option<i64> {
        self.0.ends_at()
    }
}

/// How values are gathered and what they give: the rule of an [`AggregatingState`].
pub trait Aggregator: 'static {
    /// What is added.
    type Input;
    /// What is kept.
    type Acc: Default + Serialize + DeserializeOwned + 'static;
    /// What is asked for.
    type Output;
    /// Takes a value in.
    fn add(acc: &mut Self::Acc, input: Self::Input);
    /// The result of all values so far.
    fn result(acc: &Self::Acc) -> Self::Output;
}

/// An accumulator of a key, whose result is another type than what is added.
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = ""))]
pub struct AggregatingState<A: Aggregator>(ValueState<A::Acc>);

impl<A: Aggregator> Default for AggregatingState<A> {
    fn default() -> Self {
        Self(ValueState::default())
    }
}

impl<A: Aggregator> AggregatingState<A> {
    /// Takes a value in; the life of the accumulator begins anew.
    pub fn add(&mut self, input: A::Input) {
        A::add(self.0.or_insert_with(A::Acc::default), input);
    }
    /// The result so far, if anything was added.
    pub fn get(&self) -> Option<A::Output> {
        self.0.get().map(A::result)
    }
    /// Forgets everything and gives the last result.
    pub fn take(&mut self) -> Option<A::Output> {
        self.0.take().as_ref().map(A::result)
    }
}

impl<A: Aggregator> State for AggregatingState<A> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<A: Aggregator> StateField for AggregatingState<A> {
    fn prepare(&mut self, now: i64, ttl: i64) {
        self.0.prepare(now, ttl);
    }
    fn ends_at(&self) -> Option<i64> {
        self.0.ends_at()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_forgotten_when_its_time_is_over_and_a_new_one_lives_as_long_again() {
        let mut value = ValueState::default();
        value.prepare(1_000, 100);
        value.set("a".to_owned());
        assert_eq!(value.ends_at(), Some(1_100));
        value.prepare(1_099, 100);
        assert_eq!(value.get().map(String::as_str), Some("a"));
        value.set("b".to_owned());
        value.prepare(1_198, 100);
        assert!(!value.is_empty());
        value.prepare(1_199, 100);
        assert!(value.is_empty());
    }

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

    #[test]
    fn a_snapshot_gives_each_task_the_keys_of_its_groups() {
        let mut all = KeyedState::<u64, u64>::new("values");
        for key in 0..100_u64 {
            *all.entry(key.key_hash(), Cow::Owned(key), || 0).parts().1 = key * 2;
        }
        let mut snapshot = TaskSnapshot::default();
        all.save(&mut snapshot, "op", 0).unwrap();
        let restore = Restore::new([snapshot]);
        let mut found = 0;
        for subtask in 0..3 {
            let mut mine = KeyedState::<u64, u64>::new("values");
            mine.restore(&restore, "op", (subtask, 3)).unwrap();
            assert!(mine.iter().all(|(k, v)| *v == k * 2 && KeyGroup::of(k.key_hash()).owner(3) == subtask));
            found += mine.len();
        }
        assert_eq!(found, 100);
    }
}
