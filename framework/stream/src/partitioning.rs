//! How a user says which task gets a record.

use std::sync::Arc;

use crate::gate::partition::{ByFn, ByKey, ByRange, ByWeight, Random, RoundRobin, Routing};
use crate::graph::Exchange;
use crate::key::Key;
use crate::keyed::ByValue;

/// Tasks of a weighted exchange and ranges of a range exchange at most.
pub const PARTITIONS_MAX: usize = 1024;
/// Sum of the weights of [`Partitioning::weighted`] at most, once divided by what divides all.
pub const WEIGHTS_SUM_MAX: u64 = 65_536;

/// Which task gets a record: what [`Stream::partition`](crate::Stream::partition) takes.
///
/// ```
/// use afflux_stream::{Flow, JobSettings, Partitioning, generate};
/// let flow = Flow::new("ages", JobSettings::default());
/// flow.source("ages", generate(100, |i| i))
///     .untimed()
///     .partition(Partitioning::range(|age| *age, [18, 65])) // three tasks: ..18, 18..65, 65..
///     .count("ages-by-range");
/// assert_eq!(flow.finish().unwrap().widths(), [1, 3]);
/// ```
#[must_use = "give it to `.partition(…)`"]
pub struct Partitioning<T> {
    pub(crate) exchange: Exchange,
    /// How many tasks it is for, where it says so itself.
    pub(crate) tasks: Option<u32>,
    pub(crate) routing: Routings<T>,
    /// What is wrong with it.
    pub(crate) problem: Option<String>,
}

/// Makes the routing of one producing task, by its number.
type Routings<T> = Box<dyn Fn(u32) -> Routing<T> + Send + Sync>;

impl<T: 'static> Partitioning<T> {
    fn new(exchange: Exchange, routing: impl Fn(u32) -> Routing<T> + Send + Sync + 'static) -> Self {
        Self { exchange, tasks: None, routing: Box::new(routing), problem: None }
    }

    /// By key: equal keys meet in one task, the same one that `key_by` would take them to.
    pub fn hash<K: Key>(key: impl Fn(&T) -> K + Send + Sync + 'static) -> Self {
        let key = Arc::new(ByValue { f: key, key: std::marker::PhantomData });
        Self::new(Exchange::Hash, move |_| Routing::Split(Box::new(ByKey::new(Arc::clone(&key)))))
    }

    /// By range: the boundaries b₀ < b₁ < … make one task each for keys below b₀, for b₀ up to
    /// below b₁, …, and for the last boundary and all above. Tasks are in the order of their ranges.
    ///
    /// At most [`PARTITIONS_MAX`] ranges; boundaries that do not rise are refused by `Flow::finish`.
    pub fn range<K: Ord + Send + Sync + 'static>(
        key: impl Fn(&T) -> K + Send + Sync + 'static,
        boundaries: impl IntoIterator<Item = K>,
    ) -> Self {
        let boundaries: Arc<[K]> = boundaries.into_iter().collect();
        let key = Arc::new(key);
        let problem = if !boundaries.is_sorted_by(|a, b| a < b) {
            Some("the boundaries of a range partitioning have to rise".to_owned())
        } else if boundaries.len() >= PARTITIONS_MAX {
            Some(format!(
                "{} boundaries make {} ranges, at most {PARTITIONS_MAX} are possible (PARTITIONS_MAX): \
                 take fewer and wider ranges",
                boundaries.len(),
                boundaries.len() + 1
            ))
        } else {
            None
        };
        let tasks = u32::try_from(boundaries.len().min(PARTITIONS_MAX - 1) + 1).ok();
        let routing = move |_| {
            Routing::Split(
                Box::new(ByRange { key: Arc::clone(&key), boundaries: Arc::clone(&boundaries) }) as _
            )
        };
        Self { tasks, problem, ..Self::new(Exchange::Range, routing) }
    }

    /// At random, evenly; the same seed gives the same choices.
    pub fn random(seed: u64) -> Self {
        Self::new(Exchange::Random, move |subtask| Routing::Split(Box::new(Random::new(seed, subtask))))
    }

    /// By weight, one task a weight: of every Σw records in a row task i gets exactly wᵢ, spread
    /// out as evenly as it goes. A weight of 0 gets none.
    ///
    /// At most [`PARTITIONS_MAX`] weights; their sum, once divided by their greatest common divisor,
    /// is at most [`WEIGHTS_SUM_MAX`].
    pub fn weighted(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<u32> = weights.into_iter().collect();
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        let weights: Vec<u32> = weights.into_iter().map(|w| w / divisor).collect();
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let problem = if sum == 0 {
            Some("the weights of a weighted partitioning are all 0: no task would get a record".to_owned())
        } else if weights.len() > PARTITIONS_MAX {
            Some(format!("{} weights, at most {PARTITIONS_MAX} are possible (PARTITIONS_MAX)", weights.len()))
        } else if sum > WEIGHTS_SUM_MAX {
            Some(format!(
                "the weights of a weighted partitioning sum to {sum}, at most {WEIGHTS_SUM_MAX} is possible \
                 (WEIGHTS_SUM_MAX): round them"
            ))
        } else {
            None
        };
        let tasks = u32::try_from(weights.len().clamp(1, PARTITIONS_MAX)).ok();
        let order: Arc<[u32]> =
            if problem.is_none() { ByWeight::order(&weights).into() } else { [0].into_iter().collect() };
        let routing = move |_| Routing::Split(Box::new(ByWeight::new(Arc::clone(&order))) as _);
        Self { tasks, problem, ..Self::new(Exchange::Weighted, routing) }
    }

    /// One after the other, as `.rebalance()` does.
    pub fn round_robin() -> Self {
        Self::new(Exchange::Rebalance, |_| Routing::Split(Box::new(RoundRobin::default())))
    }

    /// By a closure that is given the record and the number of tasks. What it gives is taken modulo
    /// that number, so a hash will do.
    pub fn by(task: impl Fn(&T, u32) -> u32 + Send + Sync + 'static) -> Self {
        let task = Arc::new(task);
        Self::new(Exchange::Custom, move |_| Routing::Split(Box::new(ByFn(Arc::clone(&task)))))
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_dealt_out_is_explained() {
        let problem = |p: Partitioning<u32>| p.problem.unwrap();
        assert!(problem(Partitioning::range(|x| *x, [3, 3])).contains("have to rise"));
        assert!(problem(Partitioning::range(|x| *x, 0..2000)).contains("2001 ranges"));
        assert!(problem(Partitioning::weighted([0, 0])).contains("all 0"));
        assert!(problem(Partitioning::weighted([])).contains("all 0"));
        assert!(problem(Partitioning::weighted([1, 1_000_000])).contains("1000001"));
        assert!(Partitioning::<u32>::weighted([1_000_000, 3_000_000]).problem.is_none());
        assert_eq!(Partitioning::<u32>::range(|x| *x, []).tasks, Some(1));
    }
}
