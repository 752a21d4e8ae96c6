//! Which of the parallel consumers gets a record.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Instant;

use super::hot::{HotKeys, key_text};
use crate::batch::Batch;
use crate::key::KeyGroup;
use crate::keyed::KeyOf;
use crate::meter::EdgeMeter;

/// Gives every row of a batch a consumer.
pub(crate) trait Partition<T> {
    /// Fills `consumers` with one number below `count` for each row.
    fn assign(&mut self, batch: &Batch<T>, count: u32, consumers: &mut Vec<u32>);
    /// Where the hottest keys are to be told, if it has keys.
    fn watch(&mut self, _meter: Arc<EdgeMeter>) {}
    /// Takes note of the keys of a batch, once it is watched.
    fn observe(&mut self, _batch: &Batch<T>, _now: Instant) {}
}

/// By the key group of the record's key.
pub(crate) struct ByKey<T, F> {
    key: Arc<F>,
    hot: Option<HotKeys>,
    record: PhantomData<fn(T)>,
}

impl<T, F> ByKey<T, F> {
    pub(crate) fn new(key: Arc<F>) -> Self {
        Self { key, hot: None, record: PhantomData }
    }
}

impl<T, F: KeyOf<T>> Partition<T> for ByKey<T, F> {
    fn assign(&mut self, batch: &Batch<T>, count: u32, consumers: &mut Vec<u32>) {
        consumers.extend(batch.rows.iter().map(|row| KeyGroup::of(self.key.hash(row)).owner(count)));
    }

    fn watch(&mut self, meter: Arc<EdgeMeter>) {
        self.hot = Some(HotKeys::new(meter));
    }

    fn observe(&mut self, batch: &Batch<T>, now: Instant) {
        if let Some(hot) = &mut self.hot {
            let (key, rows) = (&self.key, &batch.rows);
            hot.observe(
                rows.len(),
                now,
                |i| rows.get(i).map_or(0, |row| key.hash(row)),
                |i| rows.get(i).map_or_else(String::new, |row| key_text(&*key.key(row))),
            );
        }
    }
}

/// One after the other.
#[derive(Default)]
pub(crate) struct RoundRobin {
    next: u32,
}

impl<T> Partition<T> for RoundRobin {
    fn assign(&mut self, batch: &Batch<T>, count: u32, consumers: &mut Vec<u32>) {
        for _ in &batch.rows {
            self.next = if self.next + 1 >= count { 0 } else { self.next + 1 };
            consumers.push(self.next);
        }
    }
}

/// By where the record's key lies between boundaries: as many consumers as there are ranges.
pub(crate) struct ByRange<F, K> {
    pub(crate) key: Arc<F>,
    pub(crate) boundaries: Arc<[K]>,
}

impl<T, K: Ord, F: Fn(&T) -> K> Partition<T> for ByRange<F, K> {
    fn assign(&mut self, batch: &Batch<T>, count: u32, consumers: &mut Vec<u32>) {
        let last = count.saturating_sub(1);
        consumers.extend(batch.rows.iter().map(|row| {
            let key = (self.key)(row);
            (self.boundaries.partition_point(|boundary| *boundary <= key) as u32).min(last)
        }));
    }
}

/// At random (SplitMix64, Steele et al. 2014), each producing task with a sequence of its own.
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64, subtask: u32) -> Self {
        Self { state: seed ^ (u64::from(subtask) << 32) }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl<T> Partition<T> for Random {
    fn assign(&mut self, batch: &Batch<T>, count: u32, consumers: &mut Vec<u32>) {
        for _ in &batch.rows {
            consumers.push((((self.next() >> 32) * u64::from(count)) >> 32) as u32);
        }
    }
}

/// In an order that is repeated.
pub(crate) struct ByWeight {
    order: Arc<[u32]>,
    next: usize,
}

impl ByWeight {
    pub(crate) fn new(order: Arc<[u32]>) -> Self {
        Self { order, next: 0 }
    }

    /// One round of smooth weighted round robin: each weight as often as it says, spread out.
    pub(crate) fn order(weights: &[u32]) -> Vec<u32> {
        let sum: i64 = weights.iter().map(|w| i64::from(*w)).sum();
        let mut credit = vec![0_i64; weights.len()];
        let mut order = Vec::with_capacity(usize::try_from(sum).unwrap_or(0));
        for _ in 0..sum {
            credit.iter_mut().zip(weights).for_each(|(c, w)| *c += i64::from(*w));
            // The first of the greatest.
            let best = credit.iter().enumerate().rev().max_by_key(|(_, c)| **c).map_or(0, |(i, _)| i);
            if let Some(best) = credit.get_mut(best) {
                *best -= sum;
            }
            order.push(best as u32);
        }
        order
    }
}

impl<T> Partition<T> for ByWeight {
    fn assign(&mut self, batch: &Batch<T>, count: u32, consumers: &mut Vec<u32>) {
        for _ in &batch.rows {
            let consumer = self.order.get(self.next).copied().unwrap_or(0);
            self.next = if self.next + 1 >= self.order.len() { 0 } else { self.next + 1 };
            consumers.push(consumer.min(count.saturating_sub(1)));
        }
    }
}

/// By a closure.
pub(crate) struct ByFn<F>(pub(crate) Arc<F>);

impl<T, F: Fn(&T, u32) -> u32> Partition<T> for ByFn<F> {
    fn assign(&mut self, batch: &Batch<T>, count: u32, consumers: &mut Vec<u32>) {
        consumers.extend(batch.rows.iter().map(|row| (self.0)(row, count) % count.max(1)));
    }
}

/// How a gate spreads its records.
pub(crate) enum Routing<T> {
    /// Each record to one consumer.
    Split(Box<dyn Partition<T>>),
    /// Each record to all consumers.
    Broadcast(fn(&T) -> T),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::keyed::ByValue;

    #[test]
    fn a_key_goes_where_its_group_lives() {
        let key = Arc::new(ByValue { f: |x: &u64| *x, key: PhantomData });
        let mut by_key = ByKey::new(key);
        let batch = Batch::untimed((0..1000_u64).collect());
        let mut consumers = Vec::new();
        by_key.assign(&batch, 3, &mut consumers);
        for (row, consumer) in batch.rows.iter().zip(&consumers) {
            assert_eq!(KeyGroup::of(row.key_hash()).owner(3), *consumer);
        }
        for consumer in 0..3 {
            assert!(consumers.iter().filter(|c| **c == consumer).count() > 250);
        }
    }

    #[test]
    fn round_robin_is_even_over_batches_of_any_size() {
        let mut rr = RoundRobin::default();
        let mut counts = [0; 3];
        for size in [1, 2, 4, 5] {
            let mut consumers = Vec::new();
            rr.assign(&Batch::untimed(vec![(); size]), 3, &mut consumers);
            consumers.iter().for_each(|c| counts[*c as usize] += 1);
        }
        assert_eq!(counts, [4, 4, 4]);
    }
    fn dealt<T>(mut by: impl Partition<T>, rows: Vec<T>, count: u32) -> Vec<u32> {
        let mut consumers = Vec::new();
        by.assign(&Batch::untimed(rows), count, &mut consumers);
        consumers
    }

    #[test]
    fn a_boundary_belongs_to_the_range_above_it() {
        let by = ByRange { key: Arc::new(|x: &i32| *x), boundaries: [10, 20].into_iter().collect() };
        assert_eq!(dealt(by, vec![i32::MIN, 9, 10, 19, 20, i32::MAX], 3), [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn weights_hold_in_every_round_and_are_spread_out() {
        assert_eq!(ByWeight::order(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(ByWeight::order(&[0, 1]), [1]);
        let by = ByWeight::new(ByWeight::order(&[3, 1]).into());
        let consumers = dealt(by, vec![(); 400], 2);
        assert_eq!(consumers.iter().filter(|c| **c == 0).count(), 300);
    }

    #[test]
    fn a_seed_fixes_the_choices_and_each_producer_has_its_own() {
        let of = |seed, subtask| dealt(Random::new(seed, subtask), vec![(); 9000], 3);
        assert_eq!(of(1, 0), of(1, 0));
        assert_ne!(of(1, 0), of(1, 1));
        assert_ne!(of(1, 0), of(2, 0));
        for consumer in 0..3 {
            let share = of(7, 0).iter().filter(|c| **c == consumer).count();
            assert!((2800..3200).contains(&share), "{share} of 9000 to {consumer}");
        }
    }

    #[test]
    fn a_closure_is_taken_modulo_the_tasks() {
        let by = ByFn(Arc::new(|x: &u32, _| *x));
        assert_eq!(dealt(by, vec![0, 1, 2, 3, u32::MAX], 3), [0, 1, 2, 0, 0]);
    }
}
