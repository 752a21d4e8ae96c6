//! What actors count. A hot path pays for one message in sixteen; gauges are read when scraped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use afflux_wire::contract::WindowEvent;

use crate::detail::Detail;
use crate::watch::StopReason;

/// 1 µs to 16.8 s in steps of four.
const SPAN_BUCKETS_SECONDS: [f64; 13] = [
    1e-6, 4e-6, 16e-6, 64e-6, 256e-6, 1.024e-3, 4.096e-3, 16.384e-3, 65.536e-3, 0.262_144, 1.048_576,
    4.194_304, 16.777_216,
];

/// A mailbox whose gauges are read when metrics are collected.
pub(crate) trait Gauged: Send + Sync {
    fn kind(&self) -> &'static str;
    fn depth(&self) -> usize;
    fn capacity(&self) -> usize;
}

/// The counters of one kind of actor.
pub(crate) struct KindMetrics {
    pub(crate) name: &'static str,
    pub(crate) actors: IntGauge,
    pub(crate) starts: IntCounter,
    pub(crate) restarts: IntCounter,
    pub(crate) panics: IntCounter,
    pub(crate) failed: IntCounter,
    pub(crate) spawned: IntGauge,
    pub(crate) held: IntCounter,
    pub(crate) rejected_full: IntCounter,
    pub(crate) rejected_closed: IntCounter,
    pub(crate) rejected_deadline: IntCounter,
    pub(crate) rejected_cancelled: IntCounter,
    pub(crate) rejected_cycle: IntCounter,
    replies: [IntCounter; 5],
    pub(crate) wait: Histogram,
    handle: Histogram,
    /// Of single messages, in the detail for debugging only.
    messages: Option<HistogramVec>,
    stops: IntCounterVec,
}

impl KindMetrics {
    /// Observes the time in the handler of a message.
    pub(crate) fn handled(&self, message: &str, seconds: f64) {
        self.handle.observe(seconds);
        if let Some(messages) = &self.messages {
            messages.with_label_values(&[self.name, message]).observe(seconds);
        }
    }

    /// Counts what happened in a window of kept answers.
    pub(crate) fn window(&self, event: WindowEvent) {
        self.replies[window_index(event)].inc();
    }

    pub(crate) fn stopped(&self, reason: &StopReason) {
        self.stops.with_label_values(&[self.name, reason.as_str()]).inc();
    }
}

/// The values of the label `event`, by [`window_index`].
const WINDOW_EVENTS: [&str; 5] = ["replayed", "waited", "misused", "evicted", "too_large"];

fn window_index(event: WindowEvent) -> usize {
    match event {
        WindowEvent::Replayed => 0,
        WindowEvent::Waited => 1,
        WindowEvent::Misused => 2,
        WindowEvent::Evicted => 3,
        WindowEvent::TooLarge => 4,
    }
}

/// The metrics of all actors of a process.
///
/// ```
/// let registry = prometheus::Registry::new();
/// let metrics = afflux_actor::ActorMetrics::new(&registry).expect("names are free");
/// # let _ = metrics;
/// ```
pub struct ActorMetrics {
    actors: IntGaugeVec,
    starts: IntCounterVec,
    stops: IntCounterVec,
    restarts: IntCounterVec,
    panics: IntCounterVec,
    failed: IntCounterVec,
    spawned: IntGaugeVec,
    held: IntCounterVec,
    rejected: IntCounterVec,
    replies: IntCounterVec,
    wait: HistogramVec,
    handle: HistogramVec,
    messages: Option<HistogramVec>,
    pub(crate) poll_delay: Histogram,
    pub(crate) workers: IntGauge,
    mailboxes: Mailboxes,
    kinds: Mutex<BTreeMap<&'static str, Arc<KindMetrics>>>,
}

impl ActorMetrics {
    /// Metrics that `registry` exports, in the standard detail.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub fn new(registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        Self::in_detail(registry, Detail::Standard)
    }

    /// Metrics that `registry` exports; [`Detail::Debug`] observes the messages of a kind apart.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub fn in_detail(registry: &Registry, detail: Detail) -> Result<Arc<Self>, prometheus::Error> {
        let mut metrics = Self::build()?;
        metrics.messages = metrics.messages.filter(|_| detail == Detail::Debug);
        if let Some(messages) = &metrics.messages {
            registry.register(Box::new(messages.clone()))?;
        }
        registry.register(Box::new(metrics.actors.clone()))?;
        registry.register(Box::new(metrics.spawned.clone()))?;
        for counters in [
            &metrics.starts,
            &metrics.stops,
            &metrics.restarts,
            &metrics.panics,
            &metrics.failed,
            &metrics.held,
            &metrics.rejected,
            &metrics.replies,
        ] {
            registry.register(Box::new(counters.clone()))?;
        }
        registry.register(Box::new(metrics.wait.clone()))?;
        registry.register(Box::new(metrics.handle.clone()))?;
        registry.register(Box::new(metrics.poll_delay.clone()))?;
        registry.register(Box::new(metrics.workers.clone()))?;
        registry.register(Box::new(metrics.mailboxes.clone()))?;
        Ok(Arc::new(metrics))
    }

    /// Metrics nobody exports: for tests and tools.
    ///
    /// # Panics
    /// Never: the names are constants, and a test builds them.
    pub fn unregistered() -> Arc<Self> {
        #[expect(clippy::expect_used, reason = "the names are constants, and a test builds them")]
        Arc::new(Self { messages: None, ..Self::build().expect("the names of the actor metrics are valid") })
    }

    fn build() -> Result<Self, prometheus::Error> {
        let kind = &["kind"];
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(format!("afflux_{name}"), help), labels)
        };
        let histogram = |name: &str, help: &str| {
            HistogramOpts::new(format!("afflux_{name}"), help).buckets(SPAN_BUCKETS_SECONDS.to_vec())
        };
        Ok(Self {
            actors: IntGaugeVec::new(Opts::new("afflux_actors", "Actors alive"), kind)?,
            starts: counter("actor_starts_total", "Actors spawned, restarts not included", kind)?,
            stops: counter("actor_stops_total", "Actors that ended for good", &["kind", "reason"])?,
            restarts: counter("actor_restarts_total", "Fresh states after an end", kind)?,
            panics: counter("actor_panics_total", "Panics of handlers and states", kind)?,
            spawned: IntGaugeVec::new(
                Opts::new("afflux_actor_spawned", "Futures that handlers started and that run"),
                kind,
            )?,
            held: counter(
                "actor_streams_held_total",
                "Streaming calls whose handler held its actor for more than a second",
                kind,
            )?,
            failed: counter("actor_oneway_failures_total", "One-way calls whose handler failed", kind)?,
            rejected: counter(
                "mailbox_rejected_total",
                "Messages refused, or dropped before they ran",
                &["kind", "reason"],
            )?,
            replies: counter(
                "actor_replies_total",
                "Calls with an idempotency key, by what the window of kept answers did",
                &["kind", "event"],
            )?,
            wait: HistogramVec::new(
                histogram("mailbox_wait_seconds", "From admission to start, one message in 16"),
                kind,
            )?,
            handle: HistogramVec::new(
                histogram("actor_handle_seconds", "Time in the handler, one message in 16"),
                kind,
            )?,
            messages: Some(HistogramVec::new(
                histogram(
                    "actor_message_handle_seconds",
                    "Time in the handler of single messages, one in 16",
                ),
                &["kind", "message"],
            )?),
            poll_delay: Histogram::with_opts(histogram(
                "runtime_poll_delay_seconds",
                "From wake to poll of a probe task on each thread",
            ))?,
            workers: IntGauge::new("afflux_runtime_workers", "Threads that run actors")?,
            mailboxes: Mailboxes::new()?,
            kinds: Mutex::new(BTreeMap::new()),
        })
    }

    /// The counters of a kind, made at its first use so that zeros are exported.
    pub(crate) fn kind(&self, name: &'static str) -> Arc<KindMetrics> {
        let mut kinds = self.kinds.lock();
        Arc::clone(kinds.entry(name).or_insert_with(|| {
            for reason in StopReason::ALL {
                self.stops.with_label_values(&[name, reason]);
            }
            let rejected = |reason| self.rejected.with_label_values(&[name, reason]);
            Arc::new(KindMetrics {
                name,
                actors: self.actors.with_label_values(&[name]),
                starts: self.starts.with_label_values(&[name]),
                restarts: self.restarts.with_label_values(&[name]),
                panics: self.panics.with_label_values(&[name]),
                failed: self.failed.with_label_values(&[name]),
                spawned: self.spawned.with_label_values(&[name]),
                held: self.held.with_label_values(&[name]),
                rejected_full: rejected("full"),
                rejected_closed: rejected("closed"),
                rejected_deadline: rejected("deadline"),
                rejected_cancelled: rejected("cancelled"),
                rejected_cycle: rejected("cycle"),
                replies: WINDOW_EVENTS.map(|event| self.replies.with_label_values(&[name, event])),
                wait: self.wait.with_label_values(&[name]),
                handle: self.handle.with_label_values(&[name]),
                messages: self.messages.clone(),
                stops: self.stops.clone(),
            })
        }))
    }

    pub(crate) fn observe(&self, kind: &'static str, mailbox: Weak<dyn Gauged>) {
        self.mailboxes.add(kind, mailbox);
    }
}

/// The gauges of all live mailboxes, summed when they are collected: admission pays nothing.
#[derive(Clone)]
struct Mailboxes(Arc<MailboxGauges>);

struct MailboxGauges {
    messages: IntGaugeVec,
    fullest: IntGaugeVec,
    capacity: IntGaugeVec,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    mailboxes: Vec<Weak<dyn Gauged>>,
    /// The dead are removed when the list has grown to this length: twice the living at most.
    prune_at: usize,
    /// Every kind that ever had a mailbox, so that zeros are exported. One a type.
    kinds: BTreeSet<&'static str>,
}

impl Mailboxes {
    fn new() -> Result<Self, prometheus::Error> {
        let gauge =
            |name: &str, help: &str| IntGaugeVec::new(Opts::new(format!("afflux_{name}"), help), &["kind"]);
        Ok(Self(Arc::new(MailboxGauges {
            messages: gauge("mailbox_messages", "Messages waiting, all mailboxes of the kind")?,
            fullest: gauge("mailbox_messages_max", "Messages waiting in the fullest mailbox")?,
            capacity: gauge("mailbox_capacity", "Messages that fit, all mailboxes of the kind")?,
            live: Mutex::new(Live::default()),
        })))
    }

    fn add(&self, kind: &'static str, mailbox: Weak<dyn Gauged>) {
        const PRUNE_AT_LEAST: usize = 64;
        let mut live = self.0.live.lock();
        live.kinds.insert(kind);
        if live.mailboxes.len() >= live.prune_at {
            live.mailboxes.retain(|m| m.strong_count() > 0);
            live.prune_at = (live.mailboxes.len() * 2).max(PRUNE_AT_LEAST);
        }
        live.mailboxes.push(mailbox);
    }
}

impl Collector for Mailboxes {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = &self.0;
        [&gauges.messages, &gauges.fullest, &gauges.capacity].iter().flat_map(|g| g.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let gauges = &self.0;
        // The lock also keeps two scrapes from mixing their sums.
        let mut live = gauges.live.lock();
        live.mailboxes.retain(|m| m.strong_count() > 0);
        let mut sums: BTreeMap<&'static str, (usize, usize, usize)> =
            live.kinds.iter().map(|kind| (*kind, (0, 0, 0))).collect();
        for mailbox in live.mailboxes.iter().filter_map(Weak::upgrade) {
            let (messages, fullest, capacity) = sums.entry(mailbox.kind()).or_default();
            let depth = mailbox.depth();
            *messages += depth;
            *fullest = depth.max(*fullest);
            *capacity += mailbox.capacity();
        }
        for all in [&gauges.messages, &gauges.fullest, &gauges.capacity] {
            all.reset();
        }
        for (kind, (messages, fullest, capacity)) in sums {
            let set = |gauge: &IntGaugeVec, n: usize| {
                gauge.with_label_values(&[kind]).set(i64::try_from(n).unwrap_or(i64::MAX));
            };
            set(&gauges.messages, messages);
            set(&gauges.fullest, fullest);
            set(&gauges.capacity, capacity);
        }
        [&gauges.messages, &gauges.fullest, &gauges.capacity].iter().flat_map(|g| g.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(usize);
    impl Gauged for Fixed {
        fn kind(&self) -> &'static str {
            "Fixed"
        }
        fn depth(&self) -> usize {
            self.0
        }
        fn capacity(&self) -> usize {
            10
        }
    }

    fn text(registry: &Registry) -> String {
        prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn gauges_are_summed_over_live_mailboxes_when_collected() {
        let registry = Registry::new();
        let metrics = ActorMetrics::new(&registry).unwrap();
        let mailboxes: Vec<Arc<dyn Gauged>> = vec![Arc::new(Fixed(3)), Arc::new(Fixed(4))];
        for mailbox in &mailboxes {
            metrics.observe("Fixed", Arc::downgrade(mailbox));
        }
        let before = text(&registry);
        assert!(before.contains("afflux_mailbox_messages{kind=\"Fixed\"} 7"), "{before}");
        assert!(before.contains("afflux_mailbox_messages_max{kind=\"Fixed\"} 4"), "{before}");
        assert!(before.contains("afflux_mailbox_capacity{kind=\"Fixed\"} 20"), "{before}");
        drop(mailboxes);
        let after = text(&registry);
        assert!(after.contains("afflux_mailbox_capacity{kind=\"Fixed\"} 0"), "{after}");
    }

    #[test]
    fn a_kind_exports_its_zeros_from_the_beginning() {
        let registry = Registry::new();
        ActorMetrics::new(&registry).unwrap().kind("Desk");
        let text = text(&registry);
        for line in [
            "afflux_actors{kind=\"Desk\"} 0",
            "afflux_actor_panics_total{kind=\"Desk\"} 0",
            "afflux_actor_stops_total{kind=\"Desk\",reason=\"restart_budget\"} 0",
            "afflux_mailbox_rejected_total{kind=\"Desk\",reason=\"full\"} 0",
            "afflux_mailbox_wait_seconds_count{kind=\"Desk\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_messages_of_a_kind_are_apart_for_debugging_only() {
        for (detail, apart) in [(Detail::Minimal, false), (Detail::Standard, false), (Detail::Debug, true)] {
            let registry = Registry::new();
            ActorMetrics::in_detail(&registry, detail).unwrap().kind("Desk").handled("Place", 0.5);
            let text = text(&registry);
            assert!(text.contains("afflux_actor_handle_seconds_count{kind=\"Desk\"} 1"), "{text}");
            let line = "afflux_actor_message_handle_seconds_sum{kind=\"Desk\",message=\"Place\"} 0.5";
            assert_eq!(text.contains(line), apart, "{detail:?}: {text}");
        }
    }

    #[test]
    fn the_list_of_mailboxes_does_not_grow_with_the_dead() {
        let metrics = ActorMetrics::unregistered();
        for _ in 0..10_000 {
            let mailbox: Arc<dyn Gauged> = Arc::new(Fixed(0));
            metrics.observe("Fixed", Arc::downgrade(&mailbox));
        }
        assert!(metrics.mailboxes.0.live.lock().mailboxes.len() <= 128);
    }
}
