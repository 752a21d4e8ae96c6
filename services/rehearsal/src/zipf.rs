//! A few that are common, and many that are rare.

use crate::Chance;

/// The weight of the first rank; that of rank `k`, from 0 on, is a `k + 1`-th of it.
const FIRST_WEIGHT: u64 = 1 << 32;

/// Ranks from 0 on that are drawn as Zipf found words to be used: rank 0 twice as often as rank 1, three
/// times as often as rank 2. Whole numbers only, so that every machine draws the same.
///
/// ```
/// use afflux_rehearsal::{Chance, Zipf};
/// let words = Zipf::of(1_000);
/// assert!(words.pick(&mut Chance::seeded(7)) < 1_000);
/// ```
#[derive(Clone, Debug)]
pub struct Zipf {
    /// For each rank, the weights up to and with its own.
    sums: Vec<u64>,
}

impl Zipf {
    /// This many ranks.
    pub fn of(ranks: usize) -> Self {
        let add = |sum: &mut u64, rank: u64| {
            *sum += FIRST_WEIGHT / rank;
            Some(*sum)
        };
        Self { sums: (1..=ranks as u64).scan(0, add).collect() }
    }

    /// Draws a rank; 0 where there are none.
    pub fn pick(&self, chance: &mut Chance) -> usize {
        let drawn = chance.below(self.sums.last().copied().unwrap_or(0));
        self.sums.partition_point(|sum| *sum <= drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rank_comes_twice_as_often_as_the_second_and_ten_times_as_often_as_the_tenth() {
        let (zipf, mut chance) = (Zipf::of(100), Chance::seeded(3));
        let mut seen = [0_u32; 100];
        (0..200_000).for_each(|_| seen[zipf.pick(&mut chance)] += 1);
        let times = |rank: usize| f64::from(seen[0]) / f64::from(seen[rank]);
        assert!((1.9..2.1).contains(&times(1)) && (9.0..11.0).contains(&times(9)), "{seen:?}");
        assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
    }
}
