//! Which of the parallel consumers gets a record.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::batch::Batch;
use crate::key::KeyGroup;
use crate::keyed::KeyOf;

/// Gives every row of a batch a consumer.
pub(crate) trait Partition<T> {
    /// Fills `consumers` with one number below `count` for each row.
    fn assign(&mut self, batch: &Batch<T>, count: u32, consumers: &mut Vec<u32>);
}

/// By the key group of the record's key.
pub(crate) struct ByKey<T, F> {
    key: Arc<F>,
    record: PhantomData<fn(T)>,
}

impl<T, F> ByKey<T, F> {
    pub(crate) fn new(key: Arc<F>) -> Self {
        Self { key, record: PhantomData }
    }
}

impl<T, F: KeyOf<T>> Partition<T> for ByKey<T, F> {
    fn assign(&mut self, batch: &Batch<T>, count: u32, consumers: &mut Vec<u32>) {
        consumers.extend(batch.rows.iter().map(|row| KeyGroup::of(self.key.hash(row)).owner(count)));
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
}
