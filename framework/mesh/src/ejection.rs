//! Which endpoints of a service are bad, and get no calls for a while.
//!
//! Outlier ejection after gRPC's proposal A50, whose numbers these are, and Envoy's consecutive
//! failures. Nothing runs by a timer: a failure looks whether somebody is to be ejected, and a pick
//! whether a time is over. The first call after it is a probe: its answer decides.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};

use crate::decay::Decay;

/// A failed call counts as one that is unanswered for about a second: whoever fails fast does not
/// look idle.
const FAILURE_HALF_LIFE_MS: f32 = 700.0;
/// What an endpoint says of its load is half as true after this long.
const REPORT_HALF_LIFE_MS: f32 = 250.0;
/// A success rate this little below the mean ejects nobody, however alike the others are.
const SUCCESS_RATE_GAP_MIN: f64 = 0.05;
/// A probe without an answer for this long is followed by another.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// Failures in a row. 0: endpoints are not ejected for that.
    pub consecutive_failures: u32,
    /// Success rates are compared this often.
    pub interval: Duration,
    /// Below the mean by this many standard deviations an endpoint is ejected.
    pub success_rate_deviations: f64,
    /// Endpoints with enough calls that a comparison needs.
    pub success_rate_endpoints_min: usize,
    /// Calls within an interval that an endpoint needs to be compared.
    pub success_rate_calls_min: u64,
    /// An endpoint's n-th ejection lasts n times this.
    pub base: Duration,
    /// The longest ejection.
    pub max: Duration,
    /// At most this part of a service's endpoints is ejected, in percent, and never the last one; of
    /// two or three it may be one. 0: none ever.
    pub endpoints_percent_max: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            interval: Duration::from_secs(10),
            success_rate_deviations: 1.9,
            success_rate_endpoints_min: 5,
            success_rate_calls_min: 100,
            base: Duration::from_secs(30),
            max: Duration::from_secs(300),
            endpoints_percent_max: 50,
        }
    }
}

/// How a call to an endpoint ended, as far as it says something of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answered, be it with the service's own error.
    Good,
    /// It had no room: it is busy, which is no reason to eject it.
    Busy,
    /// It failed, or did not answer in time.
    Bad,
}

/// What a group counts.
pub(crate) struct GroupMetrics {
    pub(crate) ready: IntGauge,
    pub(crate) ejected: IntGauge,
    pub(crate) for_consecutive: IntCounter,
    pub(crate) for_success_rate: IntCounter,
}

/// All endpoints of one service.
pub(crate) struct Group {
    settings: Ejection,
    epoch: Instant,
    members: Mutex<Members>,
    metrics: GroupMetrics,
}

#[derive(Default)]
struct Members {
    healths: Vec<Arc<Health>>,
    /// Endpoints that cannot be ejected: this process's own.
    more: i64,
    compared_at_ms: u32,
}

/// One endpoint of a service: a link.
pub(crate) struct Health {
    group: Weak<Group>,
    epoch: Instant,
    /// Not ejected.
    ready: AtomicBool,
    /// While it is not ready: a probe may go at this moment, in milliseconds.
    probe_at_ms: AtomicU32,
    probing: AtomicBool,
    ejections: AtomicU32,
    back_at_ms: AtomicU32,
    consecutive: AtomicU32,
    successes: AtomicU64,
    failures: AtomicU64,
    charged: Decay,
    others: Decay,
}

fn ms(epoch: Instant, now: Instant) -> u32 {
    // 49 days; after that an endpoint that lives so long is charged as if time stood still.
    u32::try_from(now.saturating_duration_since(epoch).as_millis()).unwrap_or(u32::MAX)
}

fn span_ms(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

impl Group {
    pub(crate) fn new(settings: Ejection, metrics: GroupMetrics, now: Instant) -> Arc<Self> {
        Arc::new(Self { settings, epoch: now, members: Mutex::default(), metrics })
    }

    /// A new endpoint; it counts once it is among the [`Group::members`].
    pub(crate) fn endpoint(self: &Arc<Self>) -> Arc<Health> {
        Arc::new(Health {
            group: Arc::downgrade(self),
            epoch: self.epoch,
            ready: AtomicBool::new(true),
            probe_at_ms: AtomicU32::new(0),
            probing: AtomicBool::new(false),
            ejections: AtomicU32::new(0),
            back_at_ms: AtomicU32::new(0),
            consecutive: AtomicU32::new(0),
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            charged: Decay::default(),
            others: Decay::default(),
        })
    }

    /// These are the endpoints now, and `more` that cannot be ejected.
    pub(crate) fn members(&self, healths: Vec<Arc<Health>>, more: i64) {
        let mut members = self.members.lock();
        members.healths = healths;
        members.more = more;
        self.count(&members);
    }

    fn count(&self, members: &Members) {
        let ejected = members.healths.iter().filter(|health| !health.is_ready()).count() as i64;
        self.metrics.ejected.set(ejected);
        self.metrics.ready.set(members.healths.len() as i64 - ejected + members.more);
    }

    /// Endpoints that may be ejected at the same time.
    fn ejected_max(&self, members: &Members) -> usize {
        let all = members.healths.len() + usize::try_from(members.more).unwrap_or(0);
        match self.settings.endpoints_percent_max {
            0 => 0,
            percent => (all * percent as usize / 100).max(1).min(all.saturating_sub(1)),
        }
    }

    fn eject(&self, members: &Members, health: &Health, now_ms: u32, counter: &IntCounter) {
        let others = members.healths.iter().filter(|h| !h.is_ready() && !std::ptr::eq(&***h, health));
        if others.count() >= self.ejected_max(members) {
            return;
        }
        let Ejection { base, max, interval, .. } = self.settings;
        // One less for every interval in which it did well (A50).
        let well = now_ms.saturating_sub(health.back_at_ms.load(Ordering::Relaxed));
        let before = health.ejections.load(Ordering::Relaxed).saturating_sub(well / span_ms(interval).max(1));
        let times = before.saturating_add(1);
        health.ejections.store(times, Ordering::Relaxed);
        let span = base.saturating_mul(times).min(max.max(base));
        health.probe_at_ms.store(now_ms.saturating_add(span_ms(span)), Ordering::Relaxed);
        health.probing.store(false, Ordering::Relaxed);
        health.consecutive.store(0, Ordering::Relaxed);
        health.ready.store(false, Ordering::Release);
        counter.inc();
        self.count(members);
    }

    fn failed(&self, health: &Health, now_ms: u32) {
        let mut members = self.members.lock();
        if health.is_ready() {
            let in_a_row = health.consecutive.load(Ordering::Relaxed);
            let limit = self.settings.consecutive_failures;
            if limit > 0 && in_a_row >= limit {
                self.eject(&members, health, now_ms, &self.metrics.for_consecutive);
            }
        } else if health.probing.load(Ordering::Relaxed) {
            // Back for a probe and bad again.
            health.back_at_ms.store(now_ms, Ordering::Relaxed);
            self.eject(&members, health, now_ms, &self.metrics.for_consecutive);
        }
        if now_ms.saturating_sub(members.compared_at_ms) >= span_ms(self.settings.interval) {
            members.compared_at_ms = now_ms;
            self.compare(&members, now_ms);
        }
    }

    /// Ejects whose success rate is far below the others'.
    fn compare(&self, members: &Members, now_ms: u32) {
        let rates: Vec<(&Arc<Health>, f64)> = members
            .healths
            .iter()
            .filter_map(|health| {
                let good = health.successes.swap(0, Ordering::Relaxed);
                let calls = good + health.failures.swap(0, Ordering::Relaxed);
                let enough = calls >= self.settings.success_rate_calls_min.max(1) && health.is_ready();
                enough.then(|| (health, good as f64 / calls as f64))
            })
            .collect();
        if rates.len() < self.settings.success_rate_endpoints_min.max(2) {
            return;
        }
        let n = rates.len() as f64;
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / n;
        let deviation = (rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / n).sqrt();
        let gap = (deviation * self.settings.success_rate_deviations).max(SUCCESS_RATE_GAP_MIN);
        let least = mean - gap;
        for (health, _) in rates.into_iter().filter(|(_, rate)| *rate < least) {
            self.eject(members, health, now_ms, &self.metrics.for_success_rate);
        }
    }

    fn back(&self, health: &Health, now_ms: u32) {
        let members = self.members.lock();
        health.back_at_ms.store(now_ms, Ordering::Relaxed);
        health.consecutive.store(0, Ordering::Relaxed);
        health.ready.store(true, Ordering::Release);
        self.count(&members);
    }
}

impl Health {
    /// Whether it is not ejected.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether an ejected endpoint may be tried.
    pub(crate) fn may_probe(&self, now: Instant) -> bool {
        ms(self.epoch, now) >= self.probe_at_ms.load(Ordering::Relaxed)
    }

    /// Takes the right to the one call that tries an ejected endpoint.
    pub(crate) fn probe(&self, now: Instant) -> bool {
        let now_ms = ms(self.epoch, now);
        let next = now_ms.saturating_add(span_ms(PROBE_TIMEOUT));
        let due = |at| (now_ms >= at).then_some(next);
        let won = self.probe_at_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok();
        if won {
            self.probing.store(true, Ordering::Relaxed);
        }
        won
    }

    /// Whether its load is the calls in flight alone.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.charged.is_zero() && self.others.is_zero()
    }

    /// What its failures and the calls of others add to its load, in calls.
    pub(crate) fn surcharge(&self, now: Instant) -> f32 {
        let now_ms = ms(self.epoch, now);
        self.charged.get(now_ms, FAILURE_HALF_LIFE_MS) + self.others.get(now_ms, REPORT_HALF_LIFE_MS)
    }

    /// The endpoint says that it has this much to do, of which `own` is this process's.
    pub(crate) fn reported(&self, depth: u32, own: u32, now: Instant) {
        let others = depth.saturating_sub(own);
        if others > 0 || !self.others.is_zero() {
            self.others.set(others as f32, ms(self.epoch, now));
        }
    }

    /// A call to it ended.
    #[inline]
    pub(crate) fn ended(&self, verdict: Verdict, now: Instant) {
        if verdict != Verdict::Good {
            return self.ended_badly(verdict, now);
        }
        if self.consecutive.load(Ordering::Relaxed) != 0 {
            self.consecutive.store(0, Ordering::Relaxed);
        }
        self.successes.fetch_add(1, Ordering::Relaxed);
        if !self.is_ready() && self.probing.load(Ordering::Relaxed) {
            self.probe_succeeded(now);
        }
    }

    #[cold]
    fn probe_succeeded(&self, now: Instant) {
        if let Some(group) = self.group.upgrade() {
            group.back(self, ms(self.epoch, now));
        }
    }

    #[cold]
    fn ended_badly(&self, verdict: Verdict, now: Instant) {
        let now_ms = ms(self.epoch, now);
        self.charged.add(1.0, now_ms, FAILURE_HALF_LIFE_MS);
        if verdict == Verdict::Bad {
            self.consecutive.fetch_add(1, Ordering::Relaxed);
            self.failures.fetch_add(1, Ordering::Relaxed);
            if let Some(group) = self.group.upgrade() {
                group.failed(self, now_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        group: Arc<Group>,
        healths: Vec<Arc<Health>>,
        start: Instant,
    }

    impl Bench {
        fn new(endpoints: usize) -> Self {
            let metrics = GroupMetrics {
                ready: IntGauge::new("r", "r").unwrap(),
                ejected: IntGauge::new("e", "e").unwrap(),
                for_consecutive: IntCounter::new("c", "c").unwrap(),
                for_success_rate: IntCounter::new("s", "s").unwrap(),
            };
            let start = Instant::now();
            let group = Group::new(Ejection::default(), metrics, start);
            let healths: Vec<_> = (0..endpoints).map(|_| group.endpoint()).collect();
            group.members(healths.clone(), 0);
            Self { group, healths, start }
        }

        fn at(&self, s: u64) -> Instant {
            self.start + Duration::from_secs(s)
        }

        fn fail(&self, endpoint: usize, times: u32, s: u64) {
            (0..times).for_each(|_| self.healths[endpoint].ended(Verdict::Bad, self.at(s)));
        }

        fn ejected(&self) -> Vec<usize> {
            (0..self.healths.len()).filter(|n| !self.healths[*n].is_ready()).collect()
        }
    }

    #[test]
    fn five_failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let bench = Bench::new(3);
        bench.fail(0, 4, 0);
        bench.healths[0].ended(Verdict::Good, bench.at(0));
        bench.fail(0, 4, 0);
        assert_eq!(bench.ejected(), [0_usize; 0]);
        bench.fail(0, 1, 0);
        assert_eq!(bench.ejected(), [0]);
        assert_eq!((bench.group.metrics.ready.get(), bench.group.metrics.ejected.get()), (2, 1));
        assert_eq!(bench.group.metrics.for_consecutive.get(), 1);
    }

    #[test]
    fn at_most_half_is_ejected_and_never_the_only_one() {
        for (endpoints, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)] {
            let bench = Bench::new(endpoints);
            (0..endpoints).for_each(|endpoint| bench.fail(endpoint, 20, 0));
            assert_eq!(bench.ejected().len(), most, "of {endpoints}");
        }
    }

    #[test]
    fn one_probe_goes_after_the_time_and_its_answer_decides() {
        let bench = Bench::new(3);
        bench.fail(0, 5, 0);
        let health = &bench.healths[0];
        assert!(!health.may_probe(bench.at(29)) && !health.probe(bench.at(29)));
        // An answer to a call that was under way when it was ejected decides nothing.
        health.ended(Verdict::Good, bench.at(29));
        assert_eq!(bench.ejected(), [0]);
        assert!(health.probe(bench.at(30)));
        assert!(!health.probe(bench.at(30)), "one probe at a time");
        health.ended(Verdict::Bad, bench.at(31));
        assert!(!health.may_probe(bench.at(31 + 59)), "the second time is twice as long");
        assert!(health.probe(bench.at(31 + 60)));
        health.ended(Verdict::Good, bench.at(92));
        assert_eq!(bench.ejected(), [0_usize; 0]);
        assert_eq!(bench.group.metrics.ready.get(), 3);
    }

    #[test]
    fn a_probe_that_is_never_answered_is_followed_by_another() {
        let bench = Bench::new(3);
        bench.fail(0, 5, 0);
        assert!(bench.healths[0].probe(bench.at(30)));
        assert!(!bench.healths[0].probe(bench.at(39)));
        assert!(bench.healths[0].probe(bench.at(40)));
    }

    #[test]
    fn an_endpoint_that_did_well_for_long_begins_anew() {
        let bench = Bench::new(3);
        bench.fail(0, 5, 0);
        assert!(bench.healths[0].probe(bench.at(30)));
        bench.healths[0].ended(Verdict::Good, bench.at(30));
        bench.fail(0, 5, 50);
        assert!(bench.healths[0].may_probe(bench.at(80)), "30 s, not 60 s");
    }

    #[test]
    fn whose_success_rate_is_far_below_the_others_is_ejected() {
        let bench = Bench::new(6);
        for (endpoint, health) in bench.healths.iter().enumerate() {
            for call in 0..200 {
                let bad = call % if endpoint == 4 { 3 } else { 100 } == 1;
                health.ended(if bad { Verdict::Bad } else { Verdict::Good }, bench.at(1));
            }
        }
        assert_eq!(bench.ejected(), [0_usize; 0]);
        bench.fail(0, 1, 11);
        assert_eq!(bench.ejected(), [4]);
        assert_eq!(bench.group.metrics.for_success_rate.get(), 1);
    }

    #[test]
    fn equal_success_rates_eject_nobody() {
        let bench = Bench::new(6);
        for health in &bench.healths {
            for call in 0..200 {
                health.ended(if call % 2 == 1 { Verdict::Bad } else { Verdict::Good }, bench.at(1));
            }
        }
        bench.fail(0, 1, 11);
        assert_eq!(bench.ejected(), [0_usize; 0]);
    }

    #[test]
    fn a_failure_weighs_like_a_call_that_hangs_and_fades_and_a_busy_endpoint_is_not_ejected() {
        let bench = Bench::new(2);
        let health = &bench.healths[0];
        assert!(health.is_plain());
        (0..10).for_each(|_| health.ended(Verdict::Busy, bench.at(0)));
        assert!(health.surcharge(bench.at(0)) > 9.9 && !health.is_plain());
        assert!(health.surcharge(bench.at(7)) < 0.1);
        assert_eq!(bench.ejected(), [0_usize; 0]);
        health.reported(30, 10, bench.at(20));
        assert!((health.surcharge(bench.at(20)) - 20.0).abs() < 0.1);
    }
}
