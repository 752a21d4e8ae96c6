//! What the mesh counts. A hot path pays one relaxed add a call, or one a batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use afflux_actor::Detail;
use afflux_wire::{Code, Kind};
use parking_lot::Mutex;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::channel::{ChannelGauges, ChannelKey};
use crate::ejection::GroupMetrics;
use crate::latency::Latency;
use crate::tls::Tls;
use crate::traffic::Traffic;

/// One call in this many has its duration observed.
pub(crate) const SAMPLE_EVERY_CALLS: u64 = 16;

/// 16 µs to 67 s in steps of four.
const SPAN_BUCKETS_SECONDS: [f64; 12] = [
    16e-6, 64e-6, 256e-6, 1.024e-3, 4.096e-3, 16.384e-3, 65.536e-3, 0.262_144, 1.048_576, 4.194_304,
    16.777_216, 67.108_864,
];

/// Why a connection never became part of a link.
const REFUSED_CONNECTIONS: [&str; 19] = [
    "garbage",
    "http",
    "tls",
    "plaintext",
    "tls_handshake",
    "tls_handshake_timeout",
    "msgpack_rpc",
    "compat_connections_max",
    "empty",
    "first_byte_timeout",
    "hello_timeout",
    "hello",
    "rejected",
    "unauthenticated",
    "half",
    "handshakes_max",
    "handshakes_per_peer_max",
    "connections_max",
    "connections_per_peer_max",
];

/// Why the connection of a MessagePack-RPC client ended.
const COMPAT_ENDS: [&str; 13] = [
    "eof",
    "io",
    "closed",
    "message_timeout",
    "idle",
    "write_timeout",
    "write_buffer",
    "buffered_bytes",
    "auth",
    "depth",
    "elements",
    "malformed",
    "utf8",
];

/// What came of looking an actor up.
const LOOKUP_RESULTS: [&str; 3] = ["found", "not_found", "unavailable"];

/// The metrics of one node's mesh.
///
/// ```
/// let registry = prometheus::Registry::new();
/// let metrics = afflux_mesh::MeshMetrics::new(&registry).expect("names are free");
/// # let _ = metrics;
/// ```
pub struct MeshMetrics {
    detail: Detail,
    server_bytes: IntCounterVec,
    client_bytes: IntCounterVec,
    lookups: IntCounterVec,
    server_requests: IntCounterVec,
    server_seconds: HistogramVec,
    server_in_flight: IntGaugeVec,
    server_rejected: IntCounterVec,
    client_requests: IntCounterVec,
    client_seconds: HistogramVec,
    pub(crate) endpoints: IntGaugeVec,
    picks: IntCounterVec,
    ejections: IntCounterVec,
    retries: IntCounterVec,
    hedges: IntCounterVec,
    pub(crate) one_way_lost: IntCounter,
    /// Of the methods that are called on other nodes.
    latencies: Mutex<BTreeMap<String, BTreeMap<String, Arc<Latency>>>>,
    incompatible: IntCounterVec,
    pub(crate) connections: IntGaugeVec,
    pub(crate) opened: IntCounterVec,
    closed: IntCounterVec,
    pub(crate) handshake_seconds: HistogramVec,
    pub(crate) tls_reloads: IntCounterVec,
    certificate_expiry: IntGaugeVec,
    pub(crate) bytes_in: IntCounter,
    pub(crate) bytes_out: IntCounter,
    frames: Vec<IntCounter>,
    decode_errors: IntCounterVec,
    compat_notifications: IntCounterVec,
    channel_dropped: IntCounterVec,
    attach_refused: IntCounterVec,
    /// Streams over links.
    pub(crate) streams: IntGauge,
    pub(crate) items_in: IntCounter,
    items_dropped: IntCounter,
    queued_bytes: IntGaugeVec,
    credits: IntGaugeVec,
}

impl MeshMetrics {
    /// Registers all of them, in the standard detail.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn new(registry: &Registry) -> prometheus::Result<Arc<Self>> {
        Self::in_detail(registry, Detail::Standard)
    }

    /// Registers all of them; [`Detail::Minimal`] counts the methods of a service together.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn in_detail(registry: &Registry, detail: Detail) -> prometheus::Result<Arc<Self>> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(format!("afflux_{name}"), help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(format!("afflux_{name}"), help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let spans = |name: &str, help: &str, labels: &[&str]| {
            let opts =
                HistogramOpts::new(format!("afflux_{name}"), help).buckets(SPAN_BUCKETS_SECONDS.to_vec());
            let vec = HistogramVec::new(opts, labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let items =
            counter("rpc_stream_items_total", "Items of streams that came over links.", &["outcome"])?;
        let streams = gauge("rpc_streams", "Streams over links, of both sides, that have not ended.", &[])?;
        let bytes = counter("wire_bytes_total", "Bytes on all links.", &["direction", "form"])?;
        let frames = counter("frames_total", "Frames received.", &["kind"])?;
        let metrics = Self {
            detail,
            server_bytes: counter(
                "rpc_server_bytes_total",
                "Params, results and items of requests from other nodes, without frames.",
                &["service", "direction"],
            )?,
            client_bytes: counter(
                "rpc_client_bytes_total",
                "Params, results and items of calls to other nodes, without frames.",
                &["service", "direction"],
            )?,
            lookups: counter(
                "registry_lookups_total",
                "Actors looked up by name on all nodes, by what came of it.",
                &["result"],
            )?,
            streams: streams.with_label_values::<&str>(&[]),
            items_in: items.with_label_values(&["taken"]),
            items_dropped: items.with_label_values(&["dropped"]),
            server_requests: counter(
                "rpc_server_requests_total",
                "Requests from other nodes, by the code of their answer.",
                &["service", "method", "code"],
            )?,
            server_seconds: spans(
                "rpc_server_request_duration_seconds",
                "From a request's arrival to its answer; one request in sixteen.",
                &["service", "method"],
            )?,
            server_in_flight: gauge(
                "rpc_server_requests_in_flight",
                "Requests from other nodes not yet answered.",
                &["service"],
            )?,
            server_rejected: counter(
                "rpc_server_rejected_total",
                "Requests that reached no mailbox.",
                &["service", "reason"],
            )?,
            client_requests: counter(
                "rpc_client_requests_total",
                "Calls to other nodes, by the code of their answer.",
                &["target", "method", "code"],
            )?,
            client_seconds: spans(
                "rpc_client_request_duration_seconds",
                "From a call's start to its answer; one call in sixteen.",
                &["target", "method"],
            )?,
            endpoints: gauge("lb_endpoints", "Known endpoints of a service.", &["target", "state"])?,
            picks: counter("lb_picks_total", "Endpoints picked.", &["target", "policy"])?,
            ejections: counter("lb_ejections_total", "Endpoints ejected.", &["target", "reason"])?,
            retries: counter(
                "rpc_client_retries_total",
                "Calls tried again, by why that may be done.",
                &["target", "reason"],
            )?,
            one_way_lost: {
                let lost = IntCounter::new(
                    "afflux_rpc_client_oneway_lost_total",
                    "One-way calls that were, or may have been, lost with their link",
                )?;
                registry.register(Box::new(lost.clone()))?;
                lost
            },
            hedges: counter(
                "rpc_client_hedges_total",
                "Second attempts beside a first that took long.",
                &["target"],
            )?,
            latencies: Mutex::default(),
            incompatible: counter(
                "schema_incompatible_total",
                "Methods of a peer that this build cannot call, each counted once a link.",
                &["service"],
            )?,
            connections: gauge("connections", "Connections of links.", &["role", "tls"])?,
            opened: counter("connections_opened_total", "Connections of links made.", &["role"])?,
            closed: counter(
                "connections_closed_total",
                "Connections ended, links' and those that never became one.",
                &["role", "reason"],
            )?,
            handshake_seconds: spans(
                "handshake_duration_seconds",
                "From connecting to a link (dial), or from the first byte to WELCOME (accept).",
                &["role"],
            )?,
            tls_reloads: counter("tls_reloads_total", "Certificates read again.", &["result"])?,
            certificate_expiry: gauge(
                "tls_certificate_expiry_timestamp_seconds",
                "When the own certificate ends, in seconds since 1970.",
                &["name"],
            )?,
            bytes_in: bytes.with_label_values(&["in", "raw"]),
            bytes_out: bytes.with_label_values(&["out", "raw"]),
            frames: Kind::ALL.iter().map(|kind| frames.with_label_values(&[kind.name()])).collect(),
            decode_errors: counter(
                "decode_errors_total",
                "Frames that could not be read; each costs its sender the link.",
                &["reason"],
            )?,
            compat_notifications: counter(
                "compat_notifications_total",
                "Notifications of MessagePack-RPC clients.",
                &["outcome"],
            )?,
            channel_dropped: counter(
                "channel_frames_dropped_total",
                "DATA and MARK frames that no receiver wanted.",
                &["reason"],
            )?,
            attach_refused: counter(
                "channel_attach_refused_total",
                "ATTACH frames answered with DETACH.",
                &["reason"],
            )?,
            queued_bytes: gauge(
                "channel_queued_bytes",
                "Bytes that lie in the receivers of an edge.",
                &["pipeline", "edge"],
            )?,
            credits: gauge(
                "channel_credits",
                "Bytes that the senders of an edge may send now.",
                &["pipeline", "edge"],
            )?,
        };
        metrics.export_zeros();
        Ok(Arc::new(metrics))
    }

    /// A counter that is absent until its first count cannot be alerted on.
    fn export_zeros(&self) {
        for result in LOOKUP_RESULTS {
            self.lookups.with_label_values(&[result]);
        }
        for role in ["dial", "accept"] {
            self.handshake_seconds.with_label_values(&[role]);
        }
        for result in ["ok", "failed"] {
            self.tls_reloads.with_label_values(&[result]);
        }
        for role in ["control", "data"] {
            self.connections.with_label_values(&[role, "false"]);
            self.connections.with_label_values(&[role, "true"]);
            self.opened.with_label_values(&[role]);
            for reason in ["eof", "io", "keepalive", "closed", "flush_timeout"] {
                self.closed.with_label_values(&[role, reason]);
            }
        }
        self.connections.with_label_values(&["compat", "false"]);
        self.opened.with_label_values(&["compat"]);
        for reason in COMPAT_ENDS {
            self.closed.with_label_values(&["compat", reason]);
        }
        for outcome in ["one_way", "answer_dropped", "failed"] {
            self.compat_notifications.with_label_values(&[outcome]);
        }
        for reason in REFUSED_CONNECTIONS {
            self.closed.with_label_values(&["unknown", reason]);
        }
        for reason in ["unattached", "released"] {
            self.channel_dropped.with_label_values(&[reason]);
        }
        for reason in ["unknown", "released", "fingerprint", "taken", "forbidden"] {
            self.attach_refused.with_label_values(&[reason]);
        }
        for reason in [
            "frame_too_large",
            "malformed",
            "unknown_kind",
            "gap",
            "credit",
            "id",
            "misplaced",
            "bindings_max",
            "depth",
            "elements",
        ] {
            self.decode_errors.with_label_values(&[reason]);
        }
    }

    /// Tells when the own certificate ends.
    pub(crate) fn certificate(&self, tls: Option<&Tls>) {
        self.certificate_expiry.reset();
        if let Some(tls) = tls
            && let Some(seconds) = tls.expires_at_seconds()
        {
            let name = tls.own_name().unwrap_or("host");
            self.certificate_expiry
                .with_label_values(&[name])
                .set(i64::try_from(seconds).unwrap_or(i64::MAX));
        }
    }

    /// Metrics that nobody reads.
    ///
    /// # Panics
    /// Never: the names are free in a registry of its own.
    pub fn unregistered() -> Arc<Self> {
        #[expect(clippy::expect_used, reason = "a registry of its own has no other names")]
        Self::new(&Registry::new()).expect("names are free in a fresh registry")
    }

    pub(crate) fn served(&self, service: &'static str, method: &'static str) -> ServedMetrics {
        let method = self.detail.of_methods().unwrap_or(method);
        ServedMetrics {
            traffic: traffic(&self.server_bytes, service),
            ok: self.server_requests.with_label_values(&[service, method, "OK"]),
            all: self.server_requests.clone(),
            seconds: self.server_seconds.with_label_values(&[service, method]),
            in_flight: self.server_in_flight.with_label_values(&[service]),
            service,
            method,
        }
    }

    pub(crate) fn called(&self, target: &str, method: &str) -> CalledMetrics {
        let together = self.detail.of_methods();
        let label = together.unwrap_or(method);
        CalledMetrics {
            traffic: traffic(&self.client_bytes, target),
            together,
            ok: self.client_requests.with_label_values(&[target, label, "OK"]),
            all: self.client_requests.clone(),
            seconds: self.client_seconds.with_label_values(&[target, label]),
            latency: self.latency(target, method),
        }
    }

    /// How long the calls of a method on other nodes take.
    pub(crate) fn latency(&self, target: &str, method: &str) -> Arc<Latency> {
        let mut latencies = self.latencies.lock();
        let methods = latencies.entry(target.to_owned()).or_default();
        Arc::clone(methods.entry(method.to_owned()).or_default())
    }

    /// What the balancing of a service counts.
    pub(crate) fn group(&self, target: &str) -> GroupMetrics {
        GroupMetrics {
            ready: self.endpoints.with_label_values(&[target, "ready"]),
            ejected: self.endpoints.with_label_values(&[target, "ejected"]),
            for_consecutive: self.ejections.with_label_values(&[target, "consecutive_failures"]),
            for_success_rate: self.ejections.with_label_values(&[target, "success_rate"]),
        }
    }

    pub(crate) fn retried(&self, target: &str, reason: &str) {
        self.retries.with_label_values(&[target, reason]).inc();
    }

    pub(crate) fn hedges(&self, target: &str) -> IntCounter {
        for reason in ["refused", "not_executed", "repeatable"] {
            self.retries.with_label_values(&[target, reason]);
        }
        self.hedges.with_label_values(&[target])
    }

    pub(crate) fn picks(&self, target: &str, policy: &str) -> IntCounter {
        self.picks.with_label_values(&[target, policy])
    }

    pub(crate) fn incompatible(&self, service: &str) {
        self.incompatible.with_label_values(&[service]).inc();
    }

    pub(crate) fn rejected(&self, service: &str, reason: &str) {
        self.server_rejected.with_label_values(&[service, reason]).inc();
    }

    pub(crate) fn closed(&self, role: &str, reason: &str) {
        self.closed.with_label_values(&[role, reason]).inc();
    }

    /// Counts that an actor was looked up: `found`, `not_found`, or some node was `unavailable`.
    pub(crate) fn looked_up(&self, result: &str) {
        self.lookups.with_label_values(&[result]).inc();
    }

    pub(crate) fn decode_error(&self, reason: &str) {
        self.decode_errors.with_label_values(&[reason]).inc();
    }

    pub(crate) fn compat_notified(&self, outcome: &str) {
        self.compat_notifications.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn channel_dropped(&self, reason: &str, frames: u64) {
        if frames > 0 {
            self.channel_dropped.with_label_values(&[reason]).inc_by(frames);
        }
    }

    pub(crate) fn items_dropped(&self, items: u64) {
        self.items_dropped.inc_by(items);
    }

    pub(crate) fn attach_refused(&self, reason: &str) {
        self.attach_refused.with_label_values(&[reason]).inc();
    }

    pub(crate) fn channel(&self, key: &ChannelKey) -> ChannelGauges {
        let labels = [key.job.as_ref(), &key.edge.to_string()];
        ChannelGauges {
            queued_bytes: self.queued_bytes.with_label_values(&labels),
            credits: self.credits.with_label_values(&labels),
        }
    }
}

/// Counts the frames of one read, and adds them up once.
pub(crate) struct FrameCounts([u32; Kind::ALL.len()]);

impl FrameCounts {
    pub(crate) fn new() -> Self {
        Self([0; Kind::ALL.len()])
    }

    #[inline]
    pub(crate) fn add(&mut self, kind: Kind) {
        if let Some(count) = self.0.get_mut(kind as usize) {
            *count += 1;
        }
    }

    pub(crate) fn flush(&mut self, metrics: &MeshMetrics) {
        for (count, counter) in self.0.iter_mut().zip(&metrics.frames) {
            if *count > 0 {
                counter.inc_by(u64::from(std::mem::take(count)));
            }
        }
    }
}

fn traffic(bytes: &IntCounterVec, service: &str) -> Traffic {
    Traffic {
        came: bytes.with_label_values(&[service, "in"]),
        left: bytes.with_label_values(&[service, "out"]),
    }
}

/// The metrics of one method that is served here.
pub(crate) struct ServedMetrics {
    pub(crate) traffic: Traffic,
    ok: IntCounter,
    all: IntCounterVec,
    pub(crate) seconds: Histogram,
    pub(crate) in_flight: IntGauge,
    service: &'static str,
    method: &'static str,
}

impl ServedMetrics {
    #[inline]
    pub(crate) fn answered(&self, code: Option<Code>) {
        match code {
            None => self.ok.inc(),
            Some(code) => {
                self.all.with_label_values(&[self.service, self.method, code.as_str()]).inc();
            }
        }
    }
}

/// The metrics of one method that is called on other nodes.
pub(crate) struct CalledMetrics {
    pub(crate) traffic: Traffic,
    /// The label of all methods, where they are counted together.
    together: Option<&'static str>,
    ok: IntCounter,
    all: IntCounterVec,
    pub(crate) seconds: Histogram,
    pub(crate) latency: Arc<Latency>,
}

impl CalledMetrics {
    #[inline]
    pub(crate) fn answered(&self, target: &str, method: &str, code: Option<Code>) {
        match code {
            None => self.ok.inc(),
            Some(code) => {
                let label = self.together.unwrap_or(method);
                self.all.with_label_values(&[target, label, code.as_str()]).inc();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_least_detail_the_methods_of_a_service_are_counted_together() {
        let registry = Registry::new();
        let metrics = MeshMetrics::in_detail(&registry, Detail::Minimal).expect("names are free");
        for method in ["Place", "Get"] {
            metrics.served("shop.orders", method).answered(Some(Code::NotFound));
            metrics.called("shop.orders", method).answered("shop.orders", method, Some(Code::NotFound));
        }
        let families = registry.gather();
        for name in ["afflux_rpc_server_requests_total", "afflux_rpc_client_requests_total"] {
            let family = families.iter().find(|family| family.name() == name).expect("it is there");
            let of = |metric: &prometheus::proto::Metric, label: &str| {
                metric.get_label().iter().any(|l| l.name() == "method" && l.value() == label)
            };
            let all: f64 = family.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum();
            assert!(family.get_metric().iter().all(|metric| of(metric, "all")), "{family:?}");
            assert_eq!(all, 2.0);
        }
    }
}
