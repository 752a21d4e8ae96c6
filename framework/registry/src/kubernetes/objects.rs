//! Leases as they stand in the API: names, labels, annotations, and what is read out of them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use afflux_wire::{Incarnation, NodeId};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use crate::instance::{Instance, InstanceState};
use crate::registry::Fence;

/// The labels and annotations of what is ours.
pub(super) const CLUSTER: &str = "afflux.dev/cluster";
const KIND: &str = "afflux.dev/kind";
const OBJECT: &str = "afflux.dev/name";
pub(super) const RECORD: &str = "afflux.dev/record";
pub(super) const VALUE: &str = "afflux.dev/value";
pub(super) const FENCE_BASE: &str = "afflux.dev/fence-base";
const TTL_MS: &str = "afflux.dev/ttl-ms";

/// The name of the port in an EndpointSlice that is the node port; else its first.
const PORT: &str = "node";

/// Bytes of a name that stay readable.
const READABLE_BYTES_MAX: usize = 40;

/// What a Lease stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Node,
    Lock,
    Counter,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Node => "node",
            Kind::Lock => "lock",
            Kind::Counter => "counter",
        }
    }

    pub(super) fn of(lease: &Lease) -> Option<Self> {
        let word = lease.metadata.labels.as_ref()?.get(KIND)?;
        [Kind::Node, Kind::Lock, Kind::Counter].into_iter().find(|kind| kind.word() == word)
    }
}

/// The name of the Lease of something: legal for Kubernetes whatever its own name is, and told apart by
/// a hash of that.
pub(super) fn object_name(cluster: &str, kind: Kind, name: &str) -> String {
    let readable: String = format!("{cluster}-{}-{name}", kind.word())
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(READABLE_BYTES_MAX)
        .collect();
    let whole = format!("{cluster}\0{}\0{name}", kind.word());
    // A name begins with a letter or a digit, whatever the cluster's does.
    format!("a-{readable}-{:016x}", xxhash_rust::xxh3::xxh3_64(whole.as_bytes()))
}

/// A Lease that nobody holds and that is not in the API yet.
pub(super) fn empty(cluster: &str, kind: Kind, name: &str) -> Lease {
    let labels = [
        ("app.kubernetes.io/managed-by".to_owned(), "afflux".to_owned()),
        (CLUSTER.to_owned(), cluster.to_owned()),
        (KIND.to_owned(), kind.word().to_owned()),
    ];
    Lease {
        metadata: ObjectMeta {
            name: Some(object_name(cluster, kind, name)),
            labels: Some(labels.into()),
            annotations: Some([(OBJECT.to_owned(), name.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec::default()),
    }
}

pub(super) fn annotate(lease: &mut Lease, key: &str, value: String) {
    lease.metadata.annotations.get_or_insert_with(BTreeMap::new).insert(key.to_owned(), value);
}

pub(super) fn annotation<'a>(lease: &'a Lease, key: &str) -> Option<&'a str> {
    lease.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub(super) fn name_of(lease: &Lease) -> &str {
    lease.metadata.name.as_deref().unwrap_or_default()
}

pub(super) fn version_of(lease: &Lease) -> &str {
    lease.metadata.resource_version.as_deref().unwrap_or_default()
}

fn micros(now: SystemTime) -> Option<MicroTime> {
    Timestamp::try_from(now).ok().map(MicroTime)
}

/// Gives a Lease to another holder, or to the same one anew.
pub(super) fn take(lease: &mut Lease, holder: &str, ttl: Duration, now: SystemTime) {
    let known = lease.metadata.resource_version.is_some();
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + i32::from(known));
    spec.holder_identity = Some(holder.to_owned());
    spec.acquire_time = micros(now);
    spec.renew_time = micros(now);
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    spec.lease_duration_seconds = Some(i32::try_from(seconds).unwrap_or(i32::MAX));
    annotate(lease, TTL_MS, ttl.as_millis().to_string());
}

/// Extends a Lease for its holder.
pub(super) fn extend(lease: &mut Lease, now: SystemTime) {
    lease.spec.get_or_insert_with(LeaseSpec::default).renew_time = micros(now);
}

/// Leaves a Lease without a holder; its count of holders stays.
pub(super) fn free(lease: &mut Lease) {
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = None;
    }
}

pub(super) fn holder_of(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

pub(super) fn transitions_of(lease: &Lease) -> i32 {
    lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0)
}

pub(super) fn ttl_of(lease: &Lease) -> Duration {
    let exact = annotation(lease, TTL_MS).and_then(|text| text.parse().ok()).map(Duration::from_millis);
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    exact.unwrap_or_else(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// How long ago the holder says it extended it.
pub(super) fn age_of(lease: &Lease, now: SystemTime) -> Option<Duration> {
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    now.duration_since(SystemTime::from(renewed)).ok()
}

/// Above the resource version before it was created stands the number of holders.
pub(super) fn fence_of(lease: &Lease) -> Fence {
    let base: u64 = annotation(lease, FENCE_BASE).and_then(|text| text.parse().ok()).unwrap_or(0);
    Fence(base + 1 + u64::try_from(transitions_of(lease)).unwrap_or(0))
}

pub(super) fn record_of(lease: &Lease) -> Option<Instance> {
    match serde_json::from_str(annotation(lease, RECORD)?) {
        Ok(instance) => Some(instance),
        Err(error) => {
            tracing::warn!(lease = name_of(lease), %error, "a record in a Lease cannot be read and is left out");
            None
        }
    }
}

/// The addresses of a Service's pods, and whether each takes new work.
pub(super) fn endpoints<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> BTreeMap<String, (bool, Option<i32>)> {
    let mut found = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.as_deref().unwrap_or_default();
        let port =
            ports.iter().find(|p| p.name.as_deref() == Some(PORT)).or(ports.first()).and_then(|p| p.port);
        for endpoint in &slice.endpoints {
            // What is not said counts as ready and not terminating, as the API's description has it.
            let ready = endpoint.conditions.as_ref().is_none_or(|conditions| {
                conditions.serving.or(conditions.ready).unwrap_or(true)
                    && !conditions.terminating.unwrap_or(false)
            });
            for address in &endpoint.addresses {
                // While a pod moves from one slice to another it stands in both.
                let known = found.entry(address.clone()).or_insert((ready, port));
                known.0 |= ready;
            }
        }
    }
    found
}

/// The records of living Leases, with what the slices say of their pods.
pub(super) fn combine(
    records: Vec<Instance>,
    endpoints: Option<BTreeMap<String, (bool, Option<i32>)>>,
) -> Vec<Instance> {
    let Some(mut endpoints) = endpoints else { return records };
    let mut combined: Vec<Instance> = Vec::with_capacity(records.len());
    for mut record in records {
        let host = record.address.rsplit_once(':').map_or(record.address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        // Behind no Service yet, or no longer: it gets no new calls.
        if !endpoints.remove(&host).is_some_and(|(ready, _)| ready) {
            record.state = InstanceState::Draining;
        }
        combined.push(record);
    }
    // A pod that may not write Leases is still known by its address.
    for (host, (ready, port)) in endpoints {
        let Some(port) = port.filter(|_| ready) else { continue };
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        combined.push(Instance::new(NodeId::new(address.as_str()), Incarnation(0), address));
    }
    combined
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};

    fn slice(pods: &[(&str, bool, bool)]) -> EndpointSlice {
        let endpoint = |(address, ready, terminating): &(&str, bool, bool)| Endpoint {
            addresses: vec![(*address).to_owned()],
            conditions: Some(EndpointConditions {
                ready: Some(*ready),
                serving: None,
                terminating: Some(*terminating),
            }),
            ..Endpoint::default()
        };
        let port = EndpointPort { name: Some("node".into()), port: Some(7000), ..EndpointPort::default() };
        EndpointSlice {
            address_type: "IPv4".into(),
            endpoints: pods.iter().map(endpoint).collect(),
            ports: Some(vec![port]),
            ..EndpointSlice::default()
        }
    }

    #[test]
    fn pods_that_are_not_ready_or_end_get_no_new_calls() {
        let record =
            |name: &str, host: &str| Instance::new(NodeId::new(name), Incarnation(1), format!("{host}:7000"));
        let slice = slice(&[
            ("10.0.0.1", true, false),
            ("10.0.0.2", false, false),
            ("10.0.0.3", true, true),
            ("10.0.0.9", true, false),
        ]);
        let records = vec![
            record("a", "10.0.0.1"),
            record("b", "10.0.0.2"),
            record("c", "10.0.0.3"),
            record("d", "10.0.0.4"),
        ];
        let seen = combine(records.clone(), Some(endpoints([&slice].into_iter())));
        let told: Vec<_> = seen.iter().map(|i| (i.node.as_str(), i.state == InstanceState::Ready)).collect();
        assert_eq!(told, [("a", true), ("b", false), ("c", false), ("d", false), ("10.0.0.9:7000", true)]);
        assert!(!seen[4].is_identified());
        assert_eq!(combine(records.clone(), None), records, "without a Service Leases alone count");
    }

    #[test]
    fn names_are_legal_and_no_two_are_the_same() {
        let name = object_name("afflux", Kind::Lock, "service/Book");
        assert!(name.starts_with("a-afflux-lock-service-book-"), "{name}");
        assert_ne!(name, object_name("afflux", Kind::Lock, "service-book"));
        let long = object_name("_", Kind::Node, &"Ü".repeat(200));
        assert!(
            long.len() <= 63
                && long.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        );
    }

    #[test]
    fn a_token_grows_with_every_holder_and_over_the_end_of_its_lease() {
        let now = SystemTime::UNIX_EPOCH;
        let mut lease = empty("c", Kind::Lock, "x");
        annotate(&mut lease, FENCE_BASE, "100".into());
        take(&mut lease, "a", Duration::from_secs(3), now);
        assert_eq!(fence_of(&lease), Fence(101));
        lease.metadata.resource_version = Some("101".into());
        take(&mut lease, "b", Duration::from_millis(2500), now);
        assert_eq!((fence_of(&lease), holder_of(&lease)), (Fence(102), Some("b")));
        assert_eq!(ttl_of(&lease), Duration::from_millis(2500));
        free(&mut lease);
        assert_eq!((fence_of(&lease), holder_of(&lease)), (Fence(102), None));
    }
}
