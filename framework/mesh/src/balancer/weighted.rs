//! Smooth weighted round robin, worked out ahead, so that a pick takes no lock.

/// Turns of a schedule; finer weights are rounded.
const SCHEDULE_TURNS_MAX: u64 = 1_024;

/// The order in which endpoints of these weights have their turns: each as often as its weight,
/// spread out as nginx's smooth weighted round robin does. An endpoint with weight 0 has none.
pub(crate) fn schedule(weights: &[u32]) -> Vec<u16> {
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let divisor = weights.iter().fold(0, |a, b| gcd(a, u64::from(*b))).max(1);
    let scaled: Vec<i64> = weights
        .iter()
        .map(|&weight| match u64::from(weight) {
            0 => 0,
            weight if sum / divisor <= SCHEDULE_TURNS_MAX => (weight / divisor) as i64,
            weight => (weight * SCHEDULE_TURNS_MAX / sum).max(1) as i64,
        })
        .collect();
    let all: i64 = scaled.iter().sum();
    let mut current = vec![0_i64; scaled.len()];
    let mut turns = Vec::with_capacity(usize::try_from(all).unwrap_or(0));
    for _ in 0..all {
        current.iter_mut().zip(&scaled).for_each(|(current, weight)| *current += weight);
        let Some(most) = (0..current.len()).rev().max_by_key(|at| current[*at]) else { break };
        current[most] -= all;
        turns.extend(u16::try_from(most));
    }
    turns
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_endpoints_have_their_turns_spread_out() {
        // nginx's own example.
        assert_eq!(schedule(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(schedule(&[100, 100]), [0, 1]);
        assert_eq!(schedule(&[0, 7]), [1]);
        assert_eq!(schedule(&[0, 0]), [0_u16; 0]);
    }

    #[test]
    fn any_weights_make_a_short_schedule_and_nobody_is_forgotten() {
        for weights in [vec![u32::MAX, 1, 3], vec![1_000_003; 40], (0..2_000).collect()] {
            let turns = schedule(&weights);
            assert!(turns.len() <= 2 * SCHEDULE_TURNS_MAX as usize + weights.len(), "{}", turns.len());
            for (at, weight) in weights.iter().enumerate() {
                assert_eq!(turns.iter().any(|turn| usize::from(*turn) == at), *weight > 0);
            }
        }
    }
}
