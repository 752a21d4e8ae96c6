//! Timers of keys: what an operator asked to be told at a moment, fired in order of time.

use std::collections::BTreeMap;

use hashbrown::HashTable;
use hashbrown::hash_table::{Entry, IntoIter};

use crate::Result;
use crate::key::{Key, KeyGroup};
use crate::snapshot::{Restore, TaskSnapshot};
use crate::table::spread;

/// The keys of one moment: mostly one.
enum Keys<K> {
    One(K),
    Many(HashTable<K>),
}

/// The timers of all keys of one operator in one task; a key has at most one for each moment.
pub(crate) struct Timers<K> {
    name: &'static str,
    moments: BTreeMap<i64, Keys<K>>,
    /// The rest of a moment that is being fired.
    firing: Option<(i64, IntoIter<K>)>,
}

impl<K: Key> Timers<K> {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, moments: BTreeMap::new(), firing: None }
    }

    /// Asks for a moment; a second request for the same is none.
    pub(crate) fn set(&mut self, at: i64, key: &K) {
        match self.moments.entry(at) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(Keys::One(key.clone()));
            }
            std::collections::btree_map::Entry::Occupied(mut place) => {
                if let Keys::One(one) = place.get() {
                    if one == key {
                        return;
                    }
                    let mut many = HashTable::with_capacity(4);
                    many.insert_unique(spread(one.key_hash()), one.clone(), |k| spread(k.key_hash()));
                    place.insert(Keys::Many(many));
                }
                if let Keys::Many(many) = place.get_mut() {
                    let entry = many.entry(spread(key.key_hash()), |k| k == key, |k| spread(k.key_hash()));
                    if let Entry::Vacant(entry) = entry {
                        entry.insert(key.clone());
                    }
                }
            }
        }
    }

    /// Takes a request back.
    pub(crate) fn remove(&mut self, at: i64, key: &K) {
        let std::collections::btree_map::Entry::Occupied(mut place) = self.moments.entry(at) else { return };
        let empty = match place.get_mut() {
            Keys::One(one) => one == key,
            Keys::Many(many) => {
                if let Ok(entry) = many.find_entry(spread(key.key_hash()), |k| k == key) {
                    entry.remove();
                }
                many.is_empty()
            }
        };
        if empty {
            place.remove();
        }
    }

    /// The earliest moment asked for.
    pub(crate) fn first(&self) -> Option<i64> {
        match &self.firing {
            Some((at, keys)) if keys.len() > 0 => Some(*at),
            _ => self.moments.first_key_value().map(|(at, _)| *at),
        }
    }

    /// Takes the next timer that is due at `until`.
    pub(crate) fn pop(&mut self, until: i64) -> Option<(i64, K)> {
        loop {
            if let Some((at, keys)) = &mut self.firing {
                if let Some(key) = keys.next() {
                    return Some((*at, key));
                }
                self.firing = None;
            }
            if *self.moments.first_key_value()?.0 > until {
                return None;
            }
            match self.moments.pop_first()? {
                (at, Keys::One(key)) => return Some((at, key)),
                (at, Keys::Many(many)) => self.firing = Some((at, many.into_iter())),
            }
        }
    }

    /// Adds the timers to the snapshot. Never while a moment is being fired: a barrier waits.
    pub(crate) fn save(&self, snapshot: &mut TaskSnapshot, operator: &str, subtask: u32) -> Result<()> {
        let mut rows: Vec<(&K, i64)> = Vec::new();
        for (at, keys) in &self.moments {
            match keys {
                Keys::One(key) => rows.push((key, *at)),
                Keys::Many(many) => rows.extend(many.iter().map(|key| (key, *at))),
            }
        }
        snapshot.put(operator, self.name, subtask, rows.len() as u64, &rows)
    }

    /// Takes the timers of this task's key groups out of a checkpoint.
    pub(crate) fn restore(
        &mut self,
        restore: &Restore,
        operator: &str,
        (subtask, parallelism): (u32, u32),
    ) -> Result<()> {
        let groups = KeyGroup::range_of(subtask, parallelism);
        for (_, rows) in restore.get::<Vec<(K, i64)>>(operator, self.name)? {
            for (key, at) in rows {
                if groups.contains(&u32::from(KeyGroup::of(key.key_hash()).0)) {
                    self.set(at, &key);
                }
            }
        }
        Ok(())
    }

    /// All of them, for people and tests.
    pub(crate) fn list(&self) -> Vec<(i64, K)> {
        let mut all = Vec::new();
        for (at, keys) in &self.moments {
            match keys {
                Keys::One(key) => all.push((*at, key.clone())),
                Keys::Many(many) => all.extend(many.iter().map(|key| (*at, key.clone()))),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn each_fires_once_in_order_of_time_unless_it_was_taken_back(
            asked in proptest::collection::vec((0_i64..50, 0_u64..20), 0..300),
            back in proptest::collection::vec((0_i64..50, 0_u64..20), 0..100),
            until in 0_i64..60,
        ) {
            let mut timers = Timers::new("timers");
            let mut expected = BTreeSet::new();
            for (at, key) in &asked {
                timers.set(*at, key);
                expected.insert((*at, *key));
            }
            for (at, key) in &back {
                timers.remove(*at, key);
                expected.remove(&(*at, *key));
            }
            let mut snapshot = TaskSnapshot::default();
            timers.save(&mut snapshot, "op", 0).unwrap();
            let mut timers = Timers::new("timers");
            timers.restore(&Restore::new([snapshot]), "op", (0, 1)).unwrap();
            let mut fired = Vec::new();
            while let Some(timer) = timers.pop(until) {
                fired.push(timer);
            }
            prop_assert!(fired.is_sorted_by_key(|t| t.0));
            let due: BTreeSet<_> = expected.iter().filter(|t| t.0 <= until).copied().collect();
            prop_assert_eq!(fired.len(), due.len());
            prop_assert_eq!(fired.into_iter().collect::<BTreeSet<_>>(), due);
            let rest: BTreeSet<_> = timers.list().into_iter().collect();
            prop_assert_eq!(rest, expected.into_iter().filter(|t| t.0 > until).collect::<BTreeSet<_>>());
        }
    }
}
