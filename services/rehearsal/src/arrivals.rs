//! Events in the order in which they arrive.

use crate::Chance;

/// Most events arrive within this share of the greatest delay.
const PROMPT_SHARE: u64 = 20;

/// One event in this many may take the greatest delay there is.
const TARDY_ONE_IN: u64 = 50;

/// Puts events, given in the order in which they happened, into the order in which they arrive: each is
/// delayed by chance, by at most `delay_max_ms`. So none is older by more than that than one in front of it.
///
/// ```
/// use afflux_rehearsal::{Chance, arrivals};
/// let arrived = arrivals(vec![0, 400, 9_000], |at| *at, 500, &mut Chance::seeded(7));
/// assert_eq!(arrived.last(), Some(&9_000));
/// ```
pub fn arrivals<T>(
    events: Vec<T>,
    time_ms: impl Fn(&T) -> i64,
    delay_max_ms: u64,
    chance: &mut Chance,
) -> Vec<T> {
    let mut arriving: Vec<(i64, T)> = Vec::with_capacity(events.len());
    for event in events {
        let most = if chance.one_in(TARDY_ONE_IN) { delay_max_ms } else { delay_max_ms / PROMPT_SHARE };
        let delay = chance.below(most.saturating_add(1));
        arriving.push((time_ms(&event).saturating_add_unsigned(delay), event));
    }
    arriving.sort_by_key(|(arrival, _)| *arrival);
    arriving.into_iter().map(|(_, event)| event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_out_of_order_by_no_more_than_the_bound_and_all_of_them_arrive() {
        let arrived = arrivals((0..20_000).collect(), |at| *at, 300, &mut Chance::seeded(5));
        let mut latest = i64::MIN;
        let mut behind = 0;
        for at in &arrived {
            latest = latest.max(*at);
            behind = behind.max(latest - at);
        }
        assert!((150..=300).contains(&behind), "the most out of order is {behind}");
        let mut sorted = arrived;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20_000).collect::<Vec<_>>());
    }
}
