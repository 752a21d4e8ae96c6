//! What happens to the machines, and when: a seed's fate.

use std::fmt;
use std::time::Duration;

use crate::cluster::{LAUNCHER, WORKERS};
use crate::disk::{Moment, Mood};
use crate::seed::Dice;

/// Something that is done to the machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// The power of a machine fails.
    Kill(&'static str),
    /// It comes back, with nothing but what lasts.
    Start(&'static str),
    /// What two machines send each other is thrown away.
    Cut(&'static str, &'static str),
    /// It arrives again; connections that have lost something stay broken.
    Mend(&'static str, &'static str),
    /// What two machines send each other waits.
    Hold(&'static str, &'static str),
    /// It goes on, and what has waited arrives.
    Release(&'static str, &'static str),
    /// Longest time of a packet.
    Latency(Duration),
    /// How the store of checkpoints behaves.
    Store(Mood),
    /// The calendar of a machine jumps by so many milliseconds.
    Jump(&'static str, i64),
    /// Tasks of each step, from the next start of the job.
    Rescale(u32),
    /// The power of a machine fails as soon as this has been written once more, for so long.
    Strike(Moment, &'static str, Duration),
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Which troubles a seed may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Troubles {
    /// Machines that die.
    pub kills: bool,
    /// Networks that lose or delay.
    pub network: bool,
    /// Stores that fail, are slow or full.
    pub store: bool,
    /// Calendars that jump.
    pub clocks: bool,
    /// Other parallelisms.
    pub rescale: bool,
}

impl Troubles {
    /// Every trouble.
    pub const ALL: Self = Self { kills: true, network: true, store: true, clocks: true, rescale: true };
    /// None.
    pub const NONE: Self = Self { kills: false, network: false, store: false, clocks: false, rescale: false };
}

/// Longest time of a packet in good days.
pub(crate) const LATENCY: Duration = Duration::from_millis(4);
/// When the first trouble comes.
const FROM_MS: u64 = 1_200;
/// When the last begins at the latest.
const UNTIL_MS: u64 = 6_000;
/// Troubles of one seed.
const TROUBLES: std::ops::Range<u64> = 2..6;
/// Power failures of one seed that wait for a moment of the protocol: a kill at any time meets the few
/// milliseconds between a decision and what follows from it about once in thirty.
const STRIKES: std::ops::Range<u64> = 0..3;
/// The moments they wait for; the decision most often.
const MOMENTS: [Moment; 5] =
    [Moment::Decided, Moment::Decided, Moment::Decided, Moment::Saved, Moment::Begun];

/// The acts of a seed, by time.
pub fn fate(seed: u64, troubles: Troubles) -> Vec<(Duration, Act)> {
    let mut dice = Dice::new(seed).fork("fate");
    let mut acts = Vec::new();
    let Troubles { kills, network, store, clocks, rescale } = troubles;
    let kinds: Vec<u8> = [(kills, 0), (kills, 0), (network, 1), (network, 2), (network, 3), (store, 4)]
        .into_iter()
        .chain([(store, 5), (clocks, 6), (rescale, 7)])
        .filter_map(|(wanted, kind)| wanted.then_some(kind))
        .collect();
    let number = if kinds.is_empty() { 0 } else { dice.within(TROUBLES) };
    // A machine that is down is not killed again: by machine, when it is back.
    let mut back = [0; WORKERS.len()];
    for _ in 0..number {
        let at = dice.within(FROM_MS..UNTIL_MS);
        let span = dice.within(50..2_500);
        let number = dice.below(WORKERS.len() as u64) as usize;
        let machine = WORKERS.get(number).copied().unwrap_or(WORKERS[0]);
        let other = match dice.below(4) {
            0 => LAUNCHER,
            n => WORKERS.get((number + 1 + n as usize % 2) % WORKERS.len()).copied().unwrap_or(LAUNCHER),
        };
        let mut push = |after: u64, act| acts.push((Duration::from_millis(at + after), act));
        match dice.pick(&kinds) {
            Some(0) => {
                let free = back.get_mut(number).filter(|back| **back < at);
                if let Some(free) = free {
                    *free = at + span + 1;
                    push(0, Act::Kill(machine));
                    push(span, Act::Start(machine));
                }
            }
            Some(1) => {
                push(0, Act::Cut(machine, other));
                push(span, Act::Mend(machine, other));
            }
            Some(2) => {
                push(0, Act::Hold(machine, other));
                push(span, Act::Release(machine, other));
            }
            Some(3) => {
                push(0, Act::Latency(Duration::from_millis(dice.within(10..120))));
                push(span, Act::Latency(LATENCY));
            }
            Some(4) => {
                let failing_permille = dice.within(50..500);
                let slow_ms = dice.within(1..300);
                push(0, Act::Store(Mood { slow_ms, failing_permille, full: false }));
                push(span, Act::Store(Mood::default()));
            }
            Some(5) => {
                push(0, Act::Store(Mood { full: true, ..Mood::default() }));
                push(span, Act::Store(Mood::default()));
            }
            Some(6) => {
                let by = dice.within(0..7_200_000) as i64 - 3_600_000;
                push(0, Act::Jump(machine, by));
            }
            Some(7) => push(0, Act::Rescale(dice.within(1..5) as u32)),
            _ => {}
        }
    }
    if kills {
        // Numbers of their own: the other troubles of a seed are what they would be without.
        let mut dice = Dice::new(seed).fork("strikes");
        for _ in 0..dice.within(STRIKES) {
            let at = Duration::from_millis(dice.within(FROM_MS..UNTIL_MS));
            let span = Duration::from_millis(dice.within(50..2_500));
            let moment = dice.pick(&MOMENTS).copied().unwrap_or(Moment::Decided);
            let machine = dice.pick(&WORKERS).copied().unwrap_or(WORKERS[0]);
            acts.push((at, Act::Strike(moment, machine, span)));
        }
    }
    acts.sort_by_key(|(at, _)| *at);
    acts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trouble_comes_to_some_seed_and_what_is_broken_is_mended() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let mut down = std::collections::BTreeSet::new();
            for (_, act) in fate(seed, Troubles::ALL) {
                let text = act.to_string();
                seen.insert(text.split('(').next().unwrap_or_default().to_owned());
                match act {
                    Act::Kill(machine) => assert!(down.insert(machine), "seed {seed}: killed twice"),
                    Act::Start(machine) => assert!(down.remove(machine), "seed {seed}: not down"),
                    _ => {}
                }
            }
            assert!(down.is_empty(), "seed {seed}: {down:?} stay down");
            assert_eq!(fate(seed, Troubles::ALL), fate(seed, Troubles::ALL));
            assert!(fate(seed, Troubles::NONE).is_empty());
        }
        assert_eq!(seen.len(), 11, "{seen:?}");
    }
}
