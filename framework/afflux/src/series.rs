//! What is exported is bounded: series beyond a limit are folded into one a metric, with every label `other`.
//!
//! Which series are exported by themselves is decided when they are first seen, so that a counter does not
//! jump between two scrapes. What a process *holds* is bounded by the rule that no label has unbounded values;
//! this is the net below that rule.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use xxhash_rust::xxh3::Xxh3;

use crate::error::Result;

/// Series of a process above which it warns, once.
pub(crate) const SERIES_WARN: usize = 2_000;
/// Series that a process exports by themselves; what comes later is folded.
pub(crate) const SERIES_MAX: usize = 10_000;
/// The value of every label of a folded series.
const OTHER: &str = "other";

/// Counts series, and folds those that came too late.
pub(crate) struct SeriesGuard {
    max: usize,
    warn: usize,
    series: IntGauge,
    folded: IntCounterVec,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Hashes of name and labels of what is exported by itself; at most as many as `max`.
    known: BTreeSet<u64>,
    /// Their series: a histogram is one a bucket, and three more.
    exported: usize,
    warned: bool,
}

impl SeriesGuard {
    pub(crate) fn new(metrics: &Registry) -> Result<Self> {
        Self::with_limits(metrics, SERIES_WARN, SERIES_MAX)
    }

    fn with_limits(metrics: &Registry, warn: usize, max: usize) -> Result<Self> {
        let series = IntGauge::new("afflux_metrics_series", "Series exported at the last scrape.")?;
        let folded = IntCounterVec::new(
            Opts::new("afflux_metrics_series_dropped_total", "Series folded into `other`, at each scrape."),
            &["metric"],
        )?;
        metrics.register(Box::new(series.clone()))?;
        metrics.register(Box::new(folded.clone()))?;
        Ok(Self { max, warn, series, folded, state: Mutex::default() })
    }

    /// What may be exported of a scrape.
    pub(crate) fn bounded(&self, families: Vec<MetricFamily>) -> Vec<MetricFamily> {
        let mut state = self.state.lock();
        let mut exported = 0;
        let families: Vec<MetricFamily> = families
            .into_iter()
            .map(|mut family| {
                let (kind, name) = (family.get_field_type(), family.name().to_owned());
                let metrics = std::mem::take(family.mut_metric());
                let (kept, late): (Vec<_>, Vec<_>) =
                    metrics.into_iter().partition(|metric| state.admit(&name, metric, self.max));
                exported += kept.iter().map(weight).sum::<usize>();
                *family.mut_metric() = kept;
                if let Some(other) = fold(kind, &late) {
                    self.folded.with_label_values(&[name.as_str()]).inc_by(late.len() as u64);
                    exported += weight(&other);
                    family.mut_metric().push(other);
                }
                family
            })
            .collect();
        self.series.set(i64::try_from(exported).unwrap_or(i64::MAX));
        if exported > self.warn && !std::mem::replace(&mut state.warned, true) {
            let largest =
                families.iter().max_by_key(|family| family.get_metric().iter().map(weight).sum::<usize>());
            let largest = largest.map(|family| family.name()).unwrap_or_default();
            tracing::warn!(
                series = exported,
                max = self.max,
                largest,
                "many series are exported; from `max` on they are folded into `other`"
            );
        }
        families
    }
}

impl State {
    fn admit(&mut self, name: &str, metric: &Metric, max: usize) -> bool {
        let mut hasher = Xxh3::new();
        hasher.update(name.as_bytes());
        for pair in metric.get_label() {
            hasher.update(&[0xff]);
            hasher.update(pair.value().as_bytes());
        }
        let hash = hasher.digest();
        if self.known.contains(&hash) {
            return true;
        }
        let weight = weight(metric);
        if self.exported + weight > max {
            return false;
        }
        self.exported += weight;
        self.known.insert(hash)
    }
}

/// Lines in the text format.
fn weight(metric: &Metric) -> usize {
    match metric.get_histogram().get_bucket().len() {
        0 => 1,
        // +Inf, sum and count.
        buckets => buckets + 3,
    }
}

/// One series that stands for these; nothing for none.
fn fold(kind: MetricType, late: &[Metric]) -> Option<Metric> {
    let first = late.first()?;
    let labels = first.get_label().iter().map(|pair| {
        let mut other = LabelPair::default();
        other.set_name(pair.name().to_owned());
        other.set_value(OTHER.to_owned());
        other
    });
    let mut folded = Metric::from_label(labels.collect());
    match kind {
        MetricType::COUNTER => {
            let mut sum = Counter::default();
            sum.set_value(late.iter().map(|metric| metric.get_counter().get_value()).sum());
            folded.set_counter(sum);
        }
        MetricType::HISTOGRAM => {
            let all = || late.iter().map(|metric| metric.get_histogram());
            let mut sum = Histogram::default();
            sum.set_sample_count(all().map(Histogram::get_sample_count).sum());
            sum.set_sample_sum(all().map(Histogram::get_sample_sum).sum());
            // All of a family have the same bounds.
            let buckets = first.get_histogram().get_bucket().iter().enumerate().map(|(at, bucket)| {
                let mut sum = Bucket::default();
                sum.set_upper_bound(bucket.upper_bound());
                let counts = all().filter_map(|one| one.get_bucket().get(at));
                sum.set_cumulative_count(counts.map(Bucket::cumulative_count).sum());
                sum
            });
            sum.set_bucket(buckets.collect());
            folded.set_histogram(sum);
        }
        _ => {
            let mut sum = Gauge::default();
            sum.set_value(late.iter().map(|metric| metric.get_gauge().get_value()).sum());
            folded.set_gauge(sum);
        }
    }
    Some(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric<'a>(families: &'a [MetricFamily], name: &str, value: &str) -> Option<&'a Metric> {
        let family = families.iter().find(|family| family.name() == name)?;
        family.get_metric().iter().find(|metric| metric.get_label()[0].value() == value)
    }

    #[test]
    fn series_beyond_the_limit_are_folded_and_counted_and_those_known_stay_themselves() {
        let registry = Registry::new();
        let calls = IntCounterVec::new(Opts::new("calls_total", "x"), &["key"]).unwrap();
        registry.register(Box::new(calls.clone())).unwrap();
        // The guard's own are not in this registry, so that the counts below are of `calls` alone.
        let own = Registry::new();
        let guard = SeriesGuard::with_limits(&own, 2, 3).unwrap();
        for key in ["m", "n", "o"] {
            calls.with_label_values(&[key]).inc_by(5);
        }
        let first = guard.bounded(registry.gather());
        assert_eq!(first[0].get_metric().len(), 3);
        // `a` sorts in front of those that are known, and is late all the same.
        for key in ["a", "z"] {
            calls.with_label_values(&[key]).inc_by(2);
        }
        let second = guard.bounded(registry.gather());
        assert_eq!(second[0].get_metric().len(), 4);
        assert!(metric(&second, "calls_total", "a").is_none());
        let value = |key: &str| metric(&second, "calls_total", key).map(|one| one.get_counter().get_value());
        assert_eq!((value("m"), value("other")), (Some(5.0), Some(4.0)));
        let own = own.gather();
        let dropped = metric(&own, "afflux_metrics_series_dropped_total", "calls_total").unwrap();
        assert_eq!(dropped.get_counter().get_value(), 2.0);
        let series = own.iter().find(|family| family.name() == "afflux_metrics_series").unwrap();
        assert_eq!(series.get_metric()[0].get_gauge().get_value(), 4.0);
    }

    #[test]
    fn a_folded_histogram_has_the_sum_of_every_bucket() {
        let registry = Registry::new();
        let opts = prometheus::HistogramOpts::new("spans_seconds", "x").buckets(vec![1.0, 2.0]);
        let spans = prometheus::HistogramVec::new(opts, &["key"]).unwrap();
        registry.register(Box::new(spans.clone())).unwrap();
        for (key, seconds) in [("a", 0.5), ("b", 1.5), ("c", 9.0)] {
            spans.with_label_values(&[key]).observe(seconds);
        }
        let guard = SeriesGuard::with_limits(&Registry::new(), 100, 4).unwrap();
        let folded = guard.bounded(registry.gather());
        let other = metric(&folded, "spans_seconds", "other").unwrap().get_histogram();
        assert_eq!((other.get_sample_count(), other.get_sample_sum()), (3, 11.0));
        let counts: Vec<u64> = other.get_bucket().iter().map(Bucket::cumulative_count).collect();
        assert_eq!(counts, [1, 2]);
    }
}
