//! Which endpoint gets a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::mix;
use crate::link::Link;

/// How the endpoints of a service share its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Each in turn.
    RoundRobin,
    /// The one with fewer unanswered calls of two picked at random (Mitzenmacher 2001).
    #[default]
    LeastLoaded,
}

impl Policy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastLoaded => "least_loaded",
        }
    }
}

/// What a balancer must know of an endpoint.
pub(crate) trait Endpoint {
    /// Calls without an answer, if it may get another.
    fn load(&self) -> Option<u32>;
}

impl Endpoint for Arc<Link> {
    #[inline]
    fn load(&self) -> Option<u32> {
        let load = self.in_flight.load(Ordering::Relaxed);
        (self.is_up() && load < self.limits.in_flight_max).then_some(load)
    }
}

/// Picks endpoints of one service.
#[derive(Debug, Default)]
pub(crate) struct Balancer {
    policy: Policy,
    turn: AtomicU64,
}

impl Balancer {
    /// The seed makes different nodes begin at different endpoints.
    pub(crate) fn new(policy: Policy, seed: u64) -> Self {
        Self { policy, turn: AtomicU64::new(seed) }
    }

    /// One of those that may get a call.
    #[inline]
    pub(crate) fn pick<'a, E: Endpoint>(&self, endpoints: &'a [E]) -> Option<&'a E> {
        if let [only] = endpoints {
            return only.load().map(|_| only);
        }
        let n = endpoints.len();
        if n == 0 {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let first = match self.policy {
            Policy::RoundRobin => (turn % n as u64) as usize,
            Policy::LeastLoaded => {
                let random = mix(turn);
                let a = ((random >> 32) % n as u64) as usize;
                // Another than `a`, each as likely.
                let b = (a + 1 + (random as u32 as usize) % (n - 1)) % n;
                match (endpoints.get(a).map(E::load), endpoints.get(b).map(E::load)) {
                    (Some(Some(x)), Some(Some(y))) if x <= y => a,
                    (_, Some(Some(_))) => b,
                    _ => a,
                }
            }
        };
        // The picked one may be full or going away: then the next that is not.
        (0..n).filter_map(|step| endpoints.get((first + step) % n)).find(|e| e.load().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Fake(usize, Option<u32>);
    impl Endpoint for Fake {
        fn load(&self) -> Option<u32> {
            self.1
        }
    }

    #[test]
    fn round_robin_gives_each_its_turn_and_skips_the_full_one() {
        let balancer = Balancer::new(Policy::RoundRobin, 0);
        let endpoints = [Fake(0, Some(9)), Fake(1, None), Fake(2, Some(0))];
        let picked: Vec<_> = (0..6).map(|_| balancer.pick(&endpoints).unwrap().0).collect();
        assert_eq!(picked, [0, 2, 2, 0, 2, 2]);
    }

    #[test]
    fn of_two_the_less_loaded_is_always_picked() {
        let balancer = Balancer::new(Policy::LeastLoaded, 7);
        let endpoints = [Fake(0, Some(5)), Fake(1, Some(4))];
        assert!((0..100).all(|_| balancer.pick(&endpoints).unwrap().0 == 1));
    }

    #[test]
    fn equal_loads_are_shared() {
        let balancer = Balancer::new(Policy::LeastLoaded, 7);
        let endpoints = [Fake(0, Some(1)), Fake(1, Some(1)), Fake(2, Some(1))];
        let mut counts = [0; 3];
        for _ in 0..3000 {
            counts[balancer.pick(&endpoints).unwrap().0] += 1;
        }
        assert!(counts.iter().all(|&count| count > 800), "{counts:?}");
    }

    #[test]
    fn nothing_is_picked_when_all_are_full_or_gone() {
        let balancer = Balancer::default();
        assert_eq!(balancer.pick(&[] as &[Fake]), None);
        assert_eq!(balancer.pick(&[Fake(0, None)]), None);
        assert_eq!(balancer.pick(&[Fake(0, None), Fake(1, None)]), None);
    }
}
