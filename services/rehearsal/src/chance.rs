//! Numbers that one seed decides.

/// A row of numbers that a seed decides, the same on every machine: SplitMix64 (Steele, Lea, Flood: Fast
/// Splittable Pseudorandom Number Generators, OOPSLA 2014). Not for secrets.
///
/// ```
/// use afflux_rehearsal::Chance;
/// let (mut a, mut b) = (Chance::seeded(7), Chance::seeded(7));
/// assert_eq!(a.draw(), b.draw());
/// assert!(a.below(6) < 6);
/// ```
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// The row of this seed, from its beginning.
    pub const fn seeded(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub const fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below a bound, each as likely as the others; 0 where the bound is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.draw() as u128 * bound as u128) >> 64) as u64
    }

    /// Whether what happens once in `n` times happens now.
    pub const fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    ///
    /// # Panics
    /// When there are none.
    pub const fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of seed 1234567 as the authors' own program gives them.
    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        let mut chance = Chance::seeded(1_234_567);
        assert_eq!(
            [(); 3].map(|()| chance.draw()),
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn every_number_below_a_bound_comes_about_as_often() {
        let mut chance = Chance::seeded(1);
        let mut seen = [0_u32; 6];
        (0..60_000).for_each(|_| seen[chance.below(6) as usize] += 1);
        assert!(seen.iter().all(|n| (9_500..10_500).contains(n)), "{seen:?}");
    }
}
