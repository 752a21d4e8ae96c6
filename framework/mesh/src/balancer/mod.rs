//! Which endpoint gets a call. Every pick reads a few words and takes no lock.

mod rendezvous;
mod weighted;

use std::time::Instant;

use afflux_wire::contract::{Avoid, Policy};

use self::rendezvous::highest;
pub(crate) use self::rendezvous::score;
pub(crate) use self::weighted::schedule;
use crate::config::mix;

/// A near endpoint gets a call as long as its load is at most this many times that of one elsewhere,
const LOCALITY_SHARE: f32 = 1.5;
/// or above it by no more than this many calls.
const LOCALITY_SLACK: f32 = 4.0;
/// Random picks of an unusable endpoint before all are looked at.
const RANDOM_PICKS_MAX: u64 = 3;

/// How fit an endpoint is for a call: the first is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// It may get calls.
    Good,
    /// It was ejected; one call may try it.
    Probe,
    /// It has said that it is not ready.
    NotReady,
    /// It is ejected.
    Ejected,
    /// The last attempt of this call failed there.
    Avoided,
    /// It is gone, or has as many calls as it takes.
    Unusable,
}

/// What a balancer must know of an endpoint.
pub(crate) trait Candidate {
    /// How fit it is now.
    fn fit(&self, moment: &Moment<'_>) -> Fit;
    /// What it has to do, in calls.
    fn load(&self, moment: &Moment<'_>) -> f32;
    /// Takes the right to try it, where it is [`Fit::Probe`].
    fn claim(&self, moment: &Moment<'_>) -> bool;
    /// A hash of its node's name.
    fn hash(&self) -> u64;
}

/// What a pick takes place in: the time, asked for at most once and by most picks never, and where
/// its call was before.
pub(crate) struct Moment<'a> {
    now: std::cell::Cell<Option<Instant>>,
    pub(crate) avoid: Option<&'a Avoid>,
    /// Rather nowhere than there again.
    pub(crate) elsewhere: bool,
}

impl<'a> Moment<'a> {
    pub(crate) fn new(avoid: Option<&'a Avoid>, elsewhere: bool) -> Self {
        Self { now: std::cell::Cell::new(None), avoid, elsewhere }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now.get().unwrap_or_else(|| {
            let now = afflux_actor::clock::now();
            self.now.set(Some(now));
            now
        })
    }
}

/// What a pick goes by.
#[derive(Clone, Copy)]
pub(crate) struct Pick<'a> {
    pub(crate) policy: Policy,
    /// The hash of the call's key.
    pub(crate) key: Option<u64>,
    /// Counts the picks of a service.
    pub(crate) turn: u64,
    /// Indices in the order of [`schedule`], for [`Policy::Weighted`].
    pub(crate) schedule: &'a [u16],
    /// The first so many are in the own zone.
    pub(crate) near: usize,
}

impl Pick<'_> {
    /// One of those that may get a call: the best of what there is.
    #[inline]
    pub(crate) fn among<'a, E: Candidate>(&self, endpoints: &'a [E], moment: &Moment<'_>) -> Option<&'a E> {
        if let [only] = endpoints {
            return match only.fit(moment) {
                Fit::Unusable => None,
                fit => {
                    // The only one is used even when it is ejected; then any call is a probe.
                    if fit == Fit::Probe {
                        only.claim(moment);
                    }
                    Some(only)
                }
            };
        }
        let first = match (self.key, self.policy) {
            (Some(key), _) => highest(key, endpoints, |e| e.fit(moment) <= Fit::Probe),
            (None, Policy::LeastLoaded) => less_loaded(endpoints, self.turn, moment),
            (None, Policy::RoundRobin) => in_turn(endpoints, self.turn, moment),
            (None, Policy::Random | Policy::ConsistentHash) => self.random(endpoints, moment),
            (None, Policy::Weighted) => self.weighted(endpoints, moment),
            (None, Policy::LocalityFirst) => self.locality(endpoints, moment),
        };
        match first {
            Some(picked) if picked.fit(moment) == Fit::Good => Some(picked),
            Some(picked) if picked.claim(moment) => Some(picked),
            _ => self.best(endpoints, moment),
        }
    }

    fn random<'a, E: Candidate>(&self, endpoints: &'a [E], moment: &Moment<'_>) -> Option<&'a E> {
        let n = endpoints.len() as u64;
        (0..RANDOM_PICKS_MAX)
            .filter_map(|draw| endpoints.get((mix(self.turn ^ draw << 32) % n.max(1)) as usize))
            .find(|e| e.fit(moment) <= Fit::Probe)
    }

    fn weighted<'a, E: Candidate>(&self, endpoints: &'a [E], moment: &Moment<'_>) -> Option<&'a E> {
        let n = self.schedule.len() as u64;
        let at = |step| self.schedule.get(((self.turn + step) % n) as usize).map(|at| usize::from(*at));
        (0..n).filter_map(|step| endpoints.get(at(step)?)).find(|e| e.fit(moment) <= Fit::Probe)
    }

    fn locality<'a, E: Candidate>(&self, endpoints: &'a [E], moment: &Moment<'_>) -> Option<&'a E> {
        let (near, far) = endpoints.split_at(self.near.min(endpoints.len()));
        let near = less_loaded(near, self.turn, moment);
        let far = less_loaded(far, self.turn, moment);
        match (near, far) {
            (Some(near), Some(far)) if spills(near.load(moment), far.load(moment)) => Some(far),
            (Some(near), _) => Some(near),
            (None, far) => far,
        }
    }

    /// The fittest of all, the least loaded among equals; nothing when none can take a call.
    #[cold]
    fn best<'a, E: Candidate>(&self, endpoints: &'a [E], moment: &Moment<'_>) -> Option<&'a E> {
        let n = endpoints.len();
        let start = (self.turn % n.max(1) as u64) as usize;
        let fits = (0..n).filter_map(|step| endpoints.get((start + step) % n)).filter_map(|e| {
            // Somebody else tries it at this moment.
            let fit = Some(e.fit(moment)).map(|fit| if fit == Fit::Probe { Fit::Ejected } else { fit })?;
            (fit != Fit::Unusable).then_some((fit, e.load(moment), e))
        });
        fits.min_by(|(a, x, _), (b, y, _)| a.cmp(b).then(x.total_cmp(y))).map(|(_, _, e)| e)
    }
}

/// Whether a near endpoint with this load gives its call to one elsewhere.
pub(crate) fn spills(near: f32, far: f32) -> bool {
    near > far * LOCALITY_SHARE && near > far + LOCALITY_SLACK
}

/// The less loaded of two picked at random (Mitzenmacher 2001).
#[inline]
fn less_loaded<'a, E: Candidate>(endpoints: &'a [E], turn: u64, moment: &Moment<'_>) -> Option<&'a E> {
    let n = endpoints.len();
    if n < 2 {
        return endpoints.first().filter(|e| e.fit(moment) <= Fit::Probe);
    }
    let random = mix(turn);
    let a = ((random >> 32) % n as u64) as usize;
    // Another than `a`, each as likely.
    let b = (a + 1 + (random as u32 as usize) % (n - 1)) % n;
    let usable = |at: usize| endpoints.get(at).filter(|e| e.fit(moment) <= Fit::Probe);
    match (usable(a), usable(b)) {
        (Some(a), Some(b)) => Some(if a.load(moment) <= b.load(moment) { a } else { b }),
        (a, b) => a.or(b),
    }
}

#[inline]
fn in_turn<'a, E: Candidate>(endpoints: &'a [E], turn: u64, moment: &Moment<'_>) -> Option<&'a E> {
    let n = endpoints.len();
    let first = (turn % n.max(1) as u64) as usize;
    (0..n).filter_map(|step| endpoints.get((first + step) % n)).find(|e| e.fit(moment) <= Fit::Probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Fake(usize, f32, Fit);
    impl Candidate for Fake {
        fn fit(&self, _: &Moment<'_>) -> Fit {
            self.2
        }
        fn load(&self, _: &Moment<'_>) -> f32 {
            self.1
        }
        fn claim(&self, _: &Moment<'_>) -> bool {
            true
        }
        fn hash(&self) -> u64 {
            mix(self.0 as u64)
        }
    }

    fn pick(policy: Policy, endpoints: &[Fake], turn: u64) -> Option<usize> {
        let schedule = schedule(&[3, 1, 0]);
        let pick = Pick { policy, key: None, turn, schedule: &schedule, near: 1 };
        pick.among(endpoints, &Moment::new(None, false)).map(|e| e.0)
    }

    fn counts(policy: Policy, endpoints: &[Fake]) -> Vec<usize> {
        let mut counts = vec![0; endpoints.len()];
        (0..3_000).for_each(|turn| counts[pick(policy, endpoints, turn).unwrap()] += 1);
        counts
    }

    fn good(loads: &[f32]) -> Vec<Fake> {
        loads.iter().enumerate().map(|(n, load)| Fake(n, *load, Fit::Good)).collect()
    }

    #[test]
    fn round_robin_gives_each_its_turn_and_skips_the_full_one() {
        let endpoints = [Fake(0, 9.0, Fit::Good), Fake(1, 0.0, Fit::Unusable), Fake(2, 0.0, Fit::Good)];
        let picked: Vec<_> = (0..6).map(|turn| pick(Policy::RoundRobin, &endpoints, turn).unwrap()).collect();
        assert_eq!(picked, [0, 2, 2, 0, 2, 2]);
    }

    #[test]
    fn of_two_the_less_loaded_is_always_picked() {
        let endpoints = good(&[5.0, 4.0]);
        assert_eq!(counts(Policy::LeastLoaded, &endpoints), [0, 3_000]);
    }

    #[test]
    fn equal_loads_are_shared() {
        for policy in [Policy::LeastLoaded, Policy::Random, Policy::RoundRobin] {
            let counts = counts(policy, &good(&[1.0, 1.0, 1.0]));
            assert!(counts.iter().all(|&count| count > 800), "{policy}: {counts:?}");
        }
    }

    #[test]
    fn weights_are_kept_and_a_weight_of_nothing_gets_calls_only_when_nobody_else_can() {
        assert_eq!(counts(Policy::Weighted, &good(&[0.0, 0.0, 0.0])), [2_250, 750, 0]);
        let endpoints = [Fake(0, 0.0, Fit::Ejected), Fake(1, 0.0, Fit::Unusable), Fake(2, 0.0, Fit::Good)];
        assert_eq!(pick(Policy::Weighted, &endpoints, 5), Some(2));
    }

    #[test]
    fn the_own_zone_gets_the_calls_until_it_has_clearly_more_to_do() {
        assert_eq!(counts(Policy::LocalityFirst, &good(&[4.0, 0.0, 0.0])), [3_000, 0, 0]);
        assert_eq!(counts(Policy::LocalityFirst, &good(&[14.0, 10.0, 10.0]))[0], 3_000);
        assert_eq!(counts(Policy::LocalityFirst, &good(&[16.0, 10.0, 10.0]))[0], 0);
        let away = [Fake(0, 0.0, Fit::Ejected), Fake(1, 9.0, Fit::Good), Fake(2, 9.0, Fit::Good)];
        assert_eq!(counts(Policy::LocalityFirst, &away)[0], 0);
    }

    #[test]
    fn the_worse_an_endpoint_the_later_it_is_used_and_the_best_of_the_bad_is_used() {
        for policy in Policy::ALL {
            let bad = |fit| [Fake(0, 0.0, Fit::Avoided), Fake(1, 9.0, fit), Fake(2, 0.0, Fit::Unusable)];
            for fit in [Fit::Good, Fit::Probe, Fit::NotReady, Fit::Ejected] {
                assert_eq!(pick(policy, &bad(fit), 1), Some(1), "{policy} {fit:?}");
            }
            assert_eq!(pick(policy, &bad(Fit::Unusable), 1), Some(0), "{policy}");
            let gone = [Fake(0, 0.0, Fit::Unusable), Fake(1, 0.0, Fit::Unusable)];
            assert_eq!(pick(policy, &gone, 1), None);
            assert_eq!(pick(policy, &[], 1), None);
        }
    }
}
