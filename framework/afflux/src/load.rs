//! What a node counted since its start, as numbers for `top`: read from its own metrics when it is asked.

use std::collections::BTreeMap;

use prometheus::Registry;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a node has counted since its start, at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NodeLoad {
    /// Its name.
    pub id: String,
    /// Milliseconds of its own clock since an arbitrary moment: rates are between two of these.
    pub at_ms: u64,
    /// Processor seconds since its start.
    pub cpu_s: f64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Connections of links and clients.
    pub connections: u64,
    /// Bytes that came over all links.
    pub bytes_in: u64,
    /// Bytes that went over all links.
    pub bytes_out: u64,
    /// Requests of other nodes that are not answered yet, by service.
    pub in_flight: BTreeMap<String, u64>,
    /// Methods that other nodes called here.
    pub methods: Vec<MethodLoad>,
    /// Actors by their kind.
    pub actors: Vec<ActorLoad>,
}

/// A method that other nodes called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MethodLoad {
    /// Its service.
    pub service: String,
    /// Its name.
    pub method: String,
    /// Requests answered.
    pub calls: u64,
    /// Those that were answered with an error.
    pub errors: u64,
    /// Where the buckets of its duration end, in seconds; one request in sixteen is observed.
    pub bounds_s: Vec<f64>,
    /// Requests in each bucket and all below it.
    pub observed: Vec<u64>,
    /// All that were observed.
    pub observed_all: u64,
}

/// The actors of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ActorLoad {
    /// The kind.
    pub kind: String,
    /// Actors alive.
    pub actors: u64,
    /// Messages that wait in all of their mailboxes.
    pub waiting: u64,
    /// Messages that wait in the fullest one.
    pub waiting_max: u64,
    /// Messages that fit.
    pub capacity: u64,
    /// Messages that were refused, or dropped before they ran.
    pub rejected: u64,
    /// Panics.
    pub panics: u64,
}

impl MethodLoad {
    /// The duration in seconds within which this part of the observed requests was answered, by linear
    /// interpolation in its bucket, as Prometheus does it; nothing without a request.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<f64> {
        if self.observed_all == 0 {
            return None;
        }
        let rank = part * self.observed_all as f64;
        let (mut below, mut count_below) = (0.0, 0);
        for (&bound, &count) in self.bounds_s.iter().zip(&self.observed) {
            if count as f64 >= rank && count > count_below {
                let within = (rank - count_below as f64) / (count - count_below) as f64;
                return Some(below + (bound - below) * within.clamp(0.0, 1.0));
            }
            (below, count_below) = (bound, count);
        }
        Some(below)
    }

    /// What was counted after `before`; all of it where the method was not known then.
    #[must_use]
    pub fn since(&self, before: Option<&Self>) -> Self {
        let Some(before) = before else { return self.clone() };
        let observed = |at: usize| before.observed.get(at).copied().unwrap_or_default();
        Self {
            calls: self.calls.saturating_sub(before.calls),
            errors: self.errors.saturating_sub(before.errors),
            observed: (0..).zip(&self.observed).map(|(at, n)| n.saturating_sub(observed(at))).collect(),
            observed_all: self.observed_all.saturating_sub(before.observed_all),
            ..self.clone()
        }
    }
}

fn label<'a>(metric: &'a Metric, name: &str) -> &'a str {
    metric.get_label().iter().find(|pair| pair.name() == name).map_or("", |pair| pair.value())
}

fn value(kind: MetricType, metric: &Metric) -> u64 {
    let value = match kind {
        MetricType::COUNTER => metric.get_counter().get_value(),
        _ => metric.get_gauge().get_value(),
    };
    // A gauge may be below zero for a moment.
    value.max(0.0) as u64
}

impl NodeLoad {
    /// Reads the counters of a process.
    pub(crate) fn read(registry: &Registry) -> Self {
        Self::of(&registry.gather())
    }

    fn of(families: &[MetricFamily]) -> Self {
        let mut load = Self::default();
        let mut methods: BTreeMap<(String, String), MethodLoad> = BTreeMap::new();
        let mut actors: BTreeMap<String, ActorLoad> = BTreeMap::new();
        for family in families {
            let kind = family.get_field_type();
            let name = family.name().strip_prefix("afflux_").unwrap_or_default();
            for metric in family.get_metric() {
                let n = value(kind, metric);
                match name {
                    "rpc_server_requests_total" => {
                        let of = method(&mut methods, metric);
                        of.calls += n;
                        if label(metric, "code") != "OK" {
                            of.errors += n;
                        }
                    }
                    "rpc_server_request_duration_seconds" => {
                        let of = method(&mut methods, metric);
                        let histogram = metric.get_histogram();
                        of.observed_all = histogram.get_sample_count();
                        for bucket in histogram.get_bucket() {
                            of.bounds_s.push(bucket.upper_bound());
                            of.observed.push(bucket.cumulative_count());
                        }
                    }
                    "rpc_server_requests_in_flight" => {
                        load.in_flight.insert(label(metric, "service").to_owned(), n);
                    }
                    "connections" => load.connections += n,
                    "wire_bytes_total" => match label(metric, "direction") {
                        "in" => load.bytes_in += n,
                        _ => load.bytes_out += n,
                    },
                    "actors" => of_kind(&mut actors, metric).actors = n,
                    "mailbox_messages" => of_kind(&mut actors, metric).waiting = n,
                    "mailbox_messages_max" => of_kind(&mut actors, metric).waiting_max = n,
                    "mailbox_capacity" => of_kind(&mut actors, metric).capacity = n,
                    "mailbox_rejected_total" => of_kind(&mut actors, metric).rejected += n,
                    "actor_panics_total" => of_kind(&mut actors, metric).panics = n,
                    _ => {}
                }
            }
        }
        load.methods = methods.into_values().collect();
        load.actors = actors.into_values().collect();
        load
    }
}

fn method<'a>(
    methods: &'a mut BTreeMap<(String, String), MethodLoad>,
    metric: &Metric,
) -> &'a mut MethodLoad {
    let (service, method) = (label(metric, "service").to_owned(), label(metric, "method").to_owned());
    let fresh = || MethodLoad { service: service.clone(), method: method.clone(), ..MethodLoad::default() };
    methods.entry((service.clone(), method.clone())).or_insert_with(fresh)
}

fn of_kind<'a>(actors: &'a mut BTreeMap<String, ActorLoad>, metric: &Metric) -> &'a mut ActorLoad {
    let kind = label(metric, "kind");
    let fresh = || ActorLoad { kind: kind.to_owned(), ..ActorLoad::default() };
    actors.entry(kind.to_owned()).or_insert_with(fresh)
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

    use super::*;

    #[test]
    fn the_counters_of_a_method_and_of_a_kind_come_together_whatever_their_names_order() {
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new("afflux_rpc_server_requests_total", "x"),
            &["service", "method", "code"],
        )
        .unwrap();
        let opts =
            HistogramOpts::new("afflux_rpc_server_request_duration_seconds", "x").buckets(vec![1.0, 2.0]);
        let seconds = HistogramVec::new(opts, &["service", "method"]).unwrap();
        let waiting = IntGaugeVec::new(Opts::new("afflux_mailbox_messages", "x"), &["kind"]).unwrap();
        for each in [
            Box::new(requests.clone()) as Box<dyn prometheus::core::Collector>,
            Box::new(seconds.clone()),
            Box::new(waiting.clone()),
        ] {
            registry.register(each).unwrap();
        }
        requests.with_label_values(&["s", "M", "OK"]).inc_by(7);
        requests.with_label_values(&["s", "M", "INTERNAL"]).inc_by(2);
        seconds.with_label_values(&["s", "M"]).observe(1.5);
        waiting.with_label_values(&["Desk"]).set(4);
        let load = NodeLoad::read(&registry);
        assert_eq!((load.methods.len(), load.methods[0].calls, load.methods[0].errors), (1, 9, 2));
        assert_eq!((load.methods[0].observed.as_slice(), load.methods[0].observed_all), (&[0, 1][..], 1));
        assert_eq!((load.actors[0].kind.as_str(), load.actors[0].waiting), ("Desk", 4));
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_that_holds_its_rank() {
        let load = MethodLoad {
            bounds_s: vec![1.0, 2.0, 4.0],
            observed: vec![50, 90, 100],
            observed_all: 100,
            ..MethodLoad::default()
        };
        assert_eq!(load.quantile(0.5), Some(1.0));
        assert_eq!(load.quantile(0.7), Some(1.5));
        assert!(load.quantile(0.99).is_some_and(|p99| (3.7..3.9).contains(&p99)));
        // Beyond the last bucket there is no better bound.
        assert_eq!(MethodLoad { observed_all: 1_000, ..load.clone() }.quantile(0.99), Some(4.0));
        assert_eq!(MethodLoad::default().quantile(0.5), None);
    }

    #[test]
    fn a_rate_is_what_came_between_two_looks_and_all_of_it_for_a_new_method() {
        let before = MethodLoad { calls: 5, observed: vec![1], observed_all: 1, ..MethodLoad::default() };
        let now = MethodLoad { calls: 9, observed: vec![4], observed_all: 6, ..MethodLoad::default() };
        let between = now.since(Some(&before));
        assert_eq!((between.calls, between.observed[0], between.observed_all), (4, 3, 5));
        assert_eq!(now.since(None), now);
        assert_eq!(before.since(Some(&now)).calls, 0, "a node that began anew");
    }
}
