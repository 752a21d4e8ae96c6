//! Timers in memory, moment by moment.

use std::collections::BTreeMap;

use hashbrown::HashTable;
use hashbrown::hash_table::{Entry, IntoIter};

use crate::Result;
use crate::block::Blocks;
use crate::key::Key;
use crate::snapshot::TaskSnapshot;
use crate::table::spread;
use afflux_wire::Status;

/// The keys of one moment: mostly one.
enum Keys<K> {
    One(K),
    Many(HashTable<K>),
}

/// The timers of all keys of one operator in one task; a key has at most one for each moment.
pub(crate) struct MemoryTimers<K> {
    name: &'static str,
    moments: BTreeMap<i64, Keys<K>>,
    /// The rest of a moment that is being fired.
    firing: Option<(i64, IntoIter<K>)>,
    pen: Option<Box<Pen<K>>>,
}

/// The snapshot that timers are being written to, moment by moment.
struct Pen<K> {
    /// Moments before this one are written; none: all are.
    next: Option<i64>,
    /// Buckets of the next moment's keys that are written.
    buckets: usize,
    /// Timers from the next moment on that were not there at the barrier.
    added: HashTable<(i64, K)>,
    blocks: Blocks,
}

/// The hash of a timer.
fn timer_hash<K: Key>(at: i64, key: &K) -> u64 {
    spread(key.key_hash() ^ (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

impl<K: Key> Pen<K> {
    /// Whether the snapshot still lacks timers of this moment.
    fn lacks(&self, at: i64) -> bool {
        self.next.is_some_and(|next| at >= next)
    }

    fn was_added(&self, at: i64, key: &K) -> bool {
        !self.added.is_empty() && self.added.find(timer_hash(at, key), |t| t.0 == at && t.1 == *key).is_some()
    }

    fn write(&mut self, at: i64, key: &K) -> usize {
        if self.was_added(at, key) { 0 } else { self.blocks.push(&(key, at)) }
    }

    /// A timer was set that was not there.
    fn add(&mut self, at: i64, key: &K) {
        if self.lacks(at) {
            let row = (at, key.clone());
            self.added.insert_unique(timer_hash(at, key), row, |t| timer_hash(t.0, &t.1));
        }
    }

    /// A timer is removed that was in this bucket of its moment.
    fn remove(&mut self, at: i64, key: &K, bucket: usize) {
        if !self.lacks(at) {
            return;
        }
        if let Ok(added) = self.added.find_entry(timer_hash(at, key), |t| t.0 == at && t.1 == *key) {
            added.remove();
        } else if self.next != Some(at) || bucket >= self.buckets {
            self.blocks.push(&(key, at));
        }
    }

    /// Writes what the snapshot lacks of a moment, until the budget is spent; `true`: all is written.
    /// Only for the first moment that it lacks.
    fn write_moment(&mut self, at: i64, keys: &Keys<K>, budget: &mut usize) -> bool {
        if self.next != Some(at) {
            self.next = Some(at);
            self.buckets = 0;
        }
        match keys {
            Keys::One(key) => {
                let cost = 16 + self.write(at, key);
                *budget = budget.saturating_sub(cost);
            }
            Keys::Many(many) => {
                while self.buckets < many.num_buckets() {
                    if *budget == 0 {
                        return false;
                    }
                    let end = (self.buckets + 64).min(many.num_buckets());
                    let mut cost = 64;
                    for bucket in self.buckets..end {
                        if let Some(key) = many.get_bucket(bucket) {
                            cost += self.write(at, key);
                        }
                    }
                    self.buckets = end;
                    *budget = budget.saturating_sub(cost);
                }
            }
        }
        self.next = at.checked_add(1);
        self.buckets = 0;
        true
    }
}

impl<K: Key> MemoryTimers<K> {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, moments: BTreeMap::new(), firing: None, pen: None }
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
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
                if let Some(pen) = &mut self.pen
                    && pen.next == Some(at)
                    && pen.buckets > 0
                    && matches!(place.get(), Keys::Many(many) if many.len() >= many.capacity())
                {
                    // The keys are about to move: their buckets would no longer tell which are written.
                    pen.write_moment(at, place.get(), &mut { usize::MAX });
                }
                if let Keys::Many(many) = place.get_mut() {
                    let entry = many.entry(spread(key.key_hash()), |k| k == key, |k| spread(k.key_hash()));
                    let Entry::Vacant(entry) = entry else { return };
                    entry.insert(key.clone());
                }
            }
        }
        if let Some(pen) = &mut self.pen {
            pen.add(at, key);
        }
    }

    /// Takes a request back.
    pub(crate) fn remove(&mut self, at: i64, key: &K) {
        let std::collections::btree_map::Entry::Occupied(mut place) = self.moments.entry(at) else { return };
        let (empty, bucket) = match place.get_mut() {
            Keys::One(one) if one == key => (true, 0),
            Keys::One(_) => return,
            Keys::Many(many) => {
                let Ok(entry) = many.find_entry(spread(key.key_hash()), |k| k == key) else { return };
                let bucket = entry.bucket_index();
                entry.remove();
                (many.is_empty(), bucket)
            }
        };
        if let Some(pen) = &mut self.pen {
            pen.remove(at, key, bucket);
        }
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
            let (at, keys) = self.moments.pop_first()?;
            if let Some(pen) = &mut self.pen
                && pen.lacks(at)
            {
                pen.write_moment(at, &keys, &mut { usize::MAX });
            }
            match (at, keys) {
                (at, Keys::One(key)) => return Some((at, key)),
                (at, Keys::Many(many)) => self.firing = Some((at, many.into_iter())),
            }
        }
    }

    /// Whether the next timer that is due at `until` can be taken without much work for the snapshot under
    /// way; else does some of it, until the budget is spent.
    pub(crate) fn ready(&mut self, until: i64, budget: &mut usize) -> bool {
        let Some(pen) = &mut self.pen else { return true };
        if self.firing.as_ref().is_some_and(|f| f.1.len() > 0) {
            return true;
        }
        match self.moments.first_key_value() {
            Some((at, keys @ Keys::Many(_))) if *at <= until && pen.lacks(*at) => {
                pen.write_moment(*at, keys, budget)
            }
            _ => true,
        }
    }

    /// A barrier passes: a snapshot begins that has the timers as they are now. Never while a moment is
    /// being fired: a barrier waits.
    ///
    /// # Errors
    /// While the one before is being written.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if self.pen.is_some() {
            return Err(Status::internal("a barrier came while the timers of the one before were written"));
        }
        let (added, blocks) = (HashTable::new(), Blocks::default());
        self.pen = Some(Box::new(Pen { next: Some(i64::MIN), buckets: 0, added, blocks }));
        Ok(())
    }

    /// Goes on with the snapshot that has begun, until the budget (bytes and buckets) is spent. `true`:
    /// all is written, or there is none.
    ///
    /// # Errors
    /// When a key cannot be encoded.
    pub(crate) fn write(
        &mut self,
        snapshot: &mut TaskSnapshot,
        operator: &str,
        subtask: u32,
        budget: &mut usize,
    ) -> Result<bool> {
        let Some(pen) = &mut self.pen else { return Ok(true) };
        let mut through = true;
        if let Some(next) = pen.next {
            for (at, keys) in self.moments.range(next..) {
                if *budget == 0 || !pen.write_moment(*at, keys, budget) {
                    through = false;
                    break;
                }
            }
        }
        pen.blocks.hand_over(through, snapshot, (operator, self.name, subtask))?;
        if through {
            self.pen = None;
        }
        Ok(through)
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
    use crate::snapshot::Restore;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Clone, Debug)]
    enum Step {
        Set(i64, u64),
        Remove(i64, u64),
        Pop(i64),
        Ready(i64, usize),
        Write(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (at, key) = (0_i64..20, 0_u64..300);
        prop_oneof![
            4 => (at.clone(), key.clone()).prop_map(|(at, key)| Step::Set(at, key)),
            3 => (at.clone(), key).prop_map(|(at, key)| Step::Remove(at, key)),
            1 => at.clone().prop_map(Step::Pop),
            1 => (at, 0_usize..500).prop_map(|(at, budget)| Step::Ready(at, budget)),
            3 => (0_usize..500).prop_map(Step::Write),
        ]
    }

    proptest! {
        #[test]
        fn a_snapshot_has_the_timers_of_the_barrier_whatever_is_done_while_it_is_written(
            before in proptest::collection::vec((0_i64..20, 0_u64..300), 0..600),
            steps in proptest::collection::vec(step(), 0..300),
        ) {
            let mut timers = MemoryTimers::new("timers");
            for (at, key) in &before {
                timers.set(*at, key);
            }
            let barrier: BTreeSet<(i64, u64)> = before.into_iter().collect();
            let mut now = barrier.clone();
            let mut snapshot = TaskSnapshot::default();
            timers.begin().unwrap();
            for step in steps {
                match step {
                    // A moment that is being fired is not what it was.
                    Step::Set(at, _) | Step::Remove(at, _)
                        if timers.firing.as_ref().is_some_and(|f| f.0 == at && f.1.len() > 0) => {}
                    Step::Set(at, key) => {
                        timers.set(at, &key);
                        now.insert((at, key));
                    }
                    Step::Remove(at, key) => {
                        timers.remove(at, &key);
                        now.remove(&(at, key));
                    }
                    Step::Pop(until) => match timers.pop(until) {
                        Some(timer) => prop_assert!(now.remove(&timer)),
                        None => prop_assert!(now.first().is_none_or(|t| t.0 > until)),
                    },
                    Step::Ready(until, mut budget) => {
                        timers.ready(until, &mut budget);
                    }
                    Step::Write(mut budget) => {
                        timers.write(&mut snapshot, "op", 0, &mut budget).unwrap();
                    }
                }
            }
            let through = timers.write(&mut snapshot, "op", 0, &mut { usize::MAX }).unwrap();
            prop_assert!(through);
            let mut saved: Vec<(i64, u64)> = Vec::new();
            let restore = Restore::new([snapshot]);
            restore.rows("op", "timers", None, |_, (key, at)| saved.push((at, key))).unwrap();
            prop_assert_eq!(saved.len(), barrier.len(), "each once");
            prop_assert_eq!(saved.into_iter().collect::<BTreeSet<_>>(), barrier);
        }
    }
}
