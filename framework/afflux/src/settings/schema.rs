//! The table of every setting: name, type, default, unit and what it is for.

use super::value::{Kind, Value};

/// One row of the table.
///
/// ```
/// let listen = afflux::settings::find("node.listen").unwrap();
/// assert_eq!(listen.default, "127.0.0.1:0");
/// assert_eq!(listen.variable(), "AFFLUX_NODE_LISTEN");
/// ```
#[derive(Debug)]
pub struct Setting {
    /// The name in `afflux.toml` and for `--set`, dots between tables and keys.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// The value when nobody says otherwise, as text.
    pub default: &'static str,
    /// The unit of a number; empty for the rest.
    pub unit: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Whether its value is never shown.
    pub secret: bool,
}

impl Setting {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("AFFLUX_{}", self.name.to_uppercase().replace('.', "_"))
    }
}

/// The setting of this name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SCHEMA.iter().find(|setting| setting.name == name)
}

// One declaration gives the table and the typed struct, so that neither can lack a row of the other.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty = $name:literal, $kind:expr, $default:literal $(unit $unit:literal)? $(, $secret:ident)?;)*) => {
        /// Every setting.
        pub const SCHEMA: &[Setting] = &[$(Setting {
            name: $name,
            kind: $kind,
            default: $default,
            unit: concat!($($unit)?),
            doc: settings!(@doc $($doc),+),
            secret: settings!(@secret $($secret)?),
        }),*];

        /// The settings of this process, typed. Made by [`Layers::settings`](super::Layers::settings).
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $field: $type,)*
        }

        impl Settings {
            /// Takes each field from its value; `get` is asked with names of the table only.
            pub(super) fn from_values(mut get: impl FnMut(&'static Setting) -> Value) -> Self {
                let mut rows = SCHEMA.iter();
                // Fields are evaluated in the order of the declaration, which is the table's.
                Self {
                    $($field: match rows.next() {
                        Some(row) => <$type>::from(get(row)),
                        None => <$type>::from(Value::Text(String::new())),
                    },)*
                }
            }
        }
    };
    (@doc $first:literal $(, $rest:literal)*) => { concat!($first $(, "\n", $rest)*) };
    (@secret secret) => { true };
    (@secret) => { false };
}

settings! {
    /// Name of the cluster. Nodes of another cluster are refused.
    cluster: String = "cluster", Kind::Name, "afflux";
    /// Name of this node, unique in the cluster and kept over restarts. Empty: made from host name and process id.
    node_id: String = "node.id", Kind::Text, "";
    /// Address of the node port, for other nodes and clients. Port 0: any free one.
    node_listen: String = "node.listen", Kind::Address, "127.0.0.1:0";
    /// Address under which others reach the node port, when it is not the one it listens on (0.0.0.0, NAT).
    node_advertise: String = "node.advertise", Kind::Text, "";
    /// Address of a node to join. Empty: this node begins a cluster and holds its registry.
    node_join: String = "node.join", Kind::OptionalAddress, "";
    /// What this node says of itself in its record, such as `zone=eu-1a` and `weight=2`.
    node_labels: Vec<String> = "node.labels", Kind::List, "";
    /// Threads for pipeline tasks. 0: as many as the CPU quota allows.
    node_slots: u64 = "node.slots", Kind::Integer { min: 0, max: 1024 }, "0" unit "threads";
    /// Threads for connections, timers and services.
    node_io_threads: u64 = "node.io_threads", Kind::Integer { min: 1, max: 64 }, "1" unit "threads";
    /// Address of the admin HTTP port: /metrics, /livez, /readyz, /api/v1. Empty: none.
    admin_listen: String = "admin.listen", Kind::OptionalAddress, "127.0.0.1:0";
    /// Names of this node beside `localhost` and its addresses, under which the admin port is asked without a token, such as that of a proxy in front of it.
    admin_hosts: Vec<String> = "admin.hosts", Kind::List, "";
    /// Whether the admin port is inside TLS, with the certificates of `tls.mode`; of its callers it asks none.
    admin_tls: String = "admin.tls", Kind::Choice(&["off", "on"]), "off";
    /// Address of an HTTP port that shows /livez, /readyz, /startupz and /metrics and nothing else, for probes and Prometheus. Empty: none; the admin port has them too.
    health_listen: String = "health.listen", Kind::OptionalAddress, "";
    /// Address of the port for gRPC clients, of a program with the feature `grpc`. Empty: none.
    grpc_listen: String = "grpc.listen", Kind::OptionalAddress, "";
    /// Files that keep the numbers of services' fields (`schema proto --write`), one a service.
    grpc_proto: Vec<String> = "grpc.proto", Kind::List, "";
    /// Secret that every node and client of the cluster knows. Empty: none is asked for, and only loopback is safe.
    token: String = "token", Kind::Text, "", secret;
    /// Whether MessagePack-RPC clients are served on the node port. `auto`: on loopback, and where clients have to say who they are.
    compat_enabled: String = "compat.enabled", Kind::Choice(&["auto", "on", "off"]), "auto";
    /// MessagePack-RPC clients at the same time.
    compat_connections_max: u64 = "compat.connections_max", Kind::Integer { min: 1, max: 1_000_000 }, "1024" unit "clients";
    /// Calls of one MessagePack-RPC client without an answer; it is not read from while it has as many.
    compat_in_flight_max: u64 = "compat.in_flight_max", Kind::Integer { min: 1, max: 1_000_000 }, "1024" unit "calls";
    /// Bytes of one message of a MessagePack-RPC client.
    compat_message_bytes_max: u64 = "compat.message_bytes_max", Kind::Integer { min: 1_024, max: 1_073_741_824 }, "8388608" unit "bytes";
    /// File that holds that secret, instead of `token`.
    auth_token_file: String = "auth.token_file", Kind::Path, "";
    /// File of callers with tokens of their own, a line `role/name:SHA-256` each. Callers are then allowed what `auth.allow` says.
    auth_tokens: String = "auth.tokens", Kind::Path, "";
    /// Who may call what, once callers differ (`tls.mode = mutual` or `auth.tokens`): rules such as `support = shop.orders/Get` and `node/* = *`.
    auth_allow: Vec<String> = "auth.allow", Kind::List, "";
    /// Whether links are inside TLS: `loopback` (no, and so no address beyond this machine), `insecure` (no, on purpose), `server` (who is dialled shows a certificate), `mutual` (both do).
    tls_mode: String = "tls.mode", Kind::Choice(&["loopback", "insecure", "server", "mutual"]), "loopback";
    /// Certificates of the authorities that peers' certificates must come from, PEM.
    tls_ca: String = "tls.ca", Kind::Path, "";
    /// Certificate of this process, and what leads from it to an authority, PEM.
    tls_certificate: String = "tls.certificate", Kind::Path, "";
    /// Key of that certificate, PEM.
    tls_key: String = "tls.key", Kind::Path, "";
    /// How often the files of certificates and callers are looked at for changes. 0: never.
    tls_reload_ms: u64 = "tls.reload_ms", Kind::Integer { min: 0, max: 86_400_000 }, "10000" unit "ms";
    /// Connections to the node port that may be open.
    node_connections_max: u64 = "node.connections_max", Kind::Integer { min: 1, max: 1_000_000 }, "16384" unit "connections";
    /// Connections to the node port from one address that may be open.
    node_connections_per_peer_max: u64 = "node.connections_per_peer_max", Kind::Integer { min: 1, max: 1_000_000 }, "8192" unit "connections";
    /// Connections to the node port that may be in the middle of their handshake.
    node_handshakes_max: u64 = "node.handshakes_max", Kind::Integer { min: 1, max: 100_000 }, "1024" unit "connections";
    /// Those from one address.
    node_handshakes_per_peer_max: u64 = "node.handshakes_per_peer_max", Kind::Integer { min: 1, max: 100_000 }, "256" unit "connections";
    /// Who knows the nodes: `embedded` (the first node, or the launcher of `dev`), `static` (the list `registry.nodes`), `dns`, `etcd`, `zookeeper` or `kubernetes`, each with the feature of its name.
    registry: String = "registry", Kind::Choice(&["embedded", "static", "dns", "etcd", "zookeeper", "kubernetes"]), "embedded";
    /// Node ports of all nodes, for `registry = "static"`.
    registry_nodes: Vec<String> = "registry.nodes", Kind::List, "";
    /// Servers: client URLs of etcd, `HOST:PORT` of ZooKeeper, DNS servers `IP:PORT` (none: the system's).
    registry_endpoints: Vec<String> = "registry.endpoints", Kind::List, "";
    /// Key or path below which etcd and ZooKeeper hold what clusters know; the cluster's name follows.
    registry_base: String = "registry.base", Kind::Text, "/afflux";
    /// Name that resolves to all nodes, for `registry = "dns"`: `HOST:PORT` (A and AAAA) or `_service._tcp.HOST` (SRV).
    registry_dns_name: String = "registry.dns_name", Kind::Text, "";
    /// Namespace of the Leases and EndpointSlices, for `registry = "kubernetes"`. Empty: that of the pod.
    registry_namespace: String = "registry.namespace", Kind::Text, "";
    /// Headless Service whose EndpointSlices say which pods are ready, for `registry = "kubernetes"`. Empty: Leases alone say it.
    registry_service: String = "registry.service", Kind::Text, "";
    /// File that tells how to reach the API server, for `registry = "kubernetes"`. Empty: the pod's service account, else KUBECONFIG.
    registry_kubeconfig: String = "registry.kubeconfig", Kind::Text, "";
    /// User of etcd or ZooKeeper. Empty: none.
    registry_user: String = "registry.user", Kind::Text, "";
    /// Password of `registry.user`.
    registry_password: String = "registry.password", Kind::Text, "", secret;
    /// File with the certificate of the authority that signed etcd's. Empty: no TLS.
    registry_ca_file: String = "registry.ca_file", Kind::Text, "";
    /// File with this process's certificate for etcd. Empty: none.
    registry_cert_file: String = "registry.cert_file", Kind::Text, "";
    /// File with the key of `registry.cert_file`.
    registry_key_file: String = "registry.key_file", Kind::Text, "";
    /// A node that has not been heard of for this long is gone.
    registry_ttl_ms: u64 = "registry.ttl_ms", Kind::Integer { min: 100, max: 3_600_000 }, "5000" unit "ms";
    /// How the endpoints of a service share its calls, where `rpc.balancers` says nothing of it.
    rpc_balancer: String = "rpc.balancer", Kind::Choice(&["least_loaded", "round_robin", "random", "weighted", "consistent_hash", "locality_first"]), "least_loaded";
    /// The same for single services, such as `shop.orders=round_robin`.
    rpc_balancers: Vec<String> = "rpc.balancers", Kind::List, "";
    /// Whether a call to a service that this process offers too stays in it.
    rpc_local_first: String = "rpc.local_first", Kind::Choice(&["on", "off"]), "on";
    /// Retries and second attempts of ten seconds, as a part of the calls to the same service.
    rpc_retry_percent: u64 = "rpc.retry_percent", Kind::Integer { min: 0, max: 1_000 }, "20" unit "percent";
    /// Retries that are allowed beside that part.
    rpc_retries_per_second_min: u64 = "rpc.retries_per_second_min", Kind::Integer { min: 0, max: 1_000_000 }, "10" unit "calls/s";
    /// At most this part of a service's endpoints is ejected for failures, and never the last one. 0: none.
    rpc_ejection_percent_max: u64 = "rpc.ejection_percent_max", Kind::Integer { min: 0, max: 100 }, "50" unit "percent";
    /// Form of the log on stderr.
    log_format: String = "log.format", Kind::Choice(&["human", "json"]), "human";
    /// What is logged: error, warn, info, debug, trace, or directives such as `info,afflux_mesh=debug`.
    log_level: String = "log.level", Kind::Text, "info";
    /// Of a million calls that begin outside any trace, this many begin one that is recorded.
    trace_sample_per_million: u64 = "trace.sample_per_million", Kind::Integer { min: 0, max: 1_000_000 }, "10000" unit "calls";
    /// How much is told apart in metrics: `minimal` (the methods of a service together), `standard`, `debug` (also each message of an actor).
    metrics_detail: String = "metrics.detail", Kind::Choice(&["minimal", "standard", "debug"]), "standard";
    /// Where spans of recorded calls go, of a program with the feature `otlp`: a collector's `http://HOST:PORT`, OTLP over HTTP. Empty: nowhere.
    trace_otlp_endpoint: String = "trace.otlp_endpoint", Kind::Text, "";
    /// Tasks of each operator. 0: one per slot of the cluster.
    pipeline_parallelism: u64 = "pipeline.parallelism", Kind::Integer { min: 0, max: 32_768 }, "0" unit "tasks";
    /// A record waits at most this long for its batch to fill.
    pipeline_linger_ms: u64 = "pipeline.linger_ms", Kind::Integer { min: 0, max: 60_000 }, "10" unit "ms";
    /// Whether operators without an exchange between them run as one actor; off: an actor for each one with a name.
    pipeline_chaining: String = "pipeline.chaining", Kind::Choice(&["on", "off"]), "on";
    /// What every sink of a pipeline must give after a failure; a pipeline that does not is refused, with the sink and the cure.
    pipeline_guarantee: String = "pipeline.guarantee", Kind::Choice(&["any", "at_least_once", "exactly_once"]), "any";
    /// What a record that cannot be read does: `fail` stops the pipeline, `skip` counts it and goes on.
    source_on_error: String = "source.on_error", Kind::Choice(&["fail", "skip"]), "fail";
    /// Bytes that may be on their way on one channel between two tasks.
    channel_credit_bytes: u64 = "channel.credit_bytes", Kind::Integer { min: 4_096, max: 1_073_741_824 }, "262144" unit "bytes";
    /// Where checkpoints are kept: `file:///DIRECTORY`, a path, or `s3://BUCKET/PREFIX` with the feature `s3`, which reads `AWS_*` of the environment. Empty: `checkpoint.dir`.
    checkpoint_url: String = "checkpoint.url", Kind::Text, "";
    /// Newest checkpoints of a job that are kept; older ones are deleted. Savepoints stay.
    checkpoint_retain: u64 = "checkpoint.retain", Kind::Integer { min: 2, max: 10_000 }, "3" unit "checkpoints";
    /// Directory of the checkpoints, in short. Empty: none are written.
    checkpoint_dir: String = "checkpoint.dir", Kind::Text, "";
    /// Between two checkpoints of a job. 0: only when somebody asks.
    checkpoint_interval_ms: u64 = "checkpoint.interval_ms", Kind::Integer { min: 0, max: 86_400_000 }, "0" unit "ms";
    /// Whether a checkpoint has, of keyed state in memory, what has changed since the one before, where that is little; or all of it each time.
    checkpoint_incremental: String = "checkpoint.incremental", Kind::Choice(&["off", "on"]), "off";
    /// Whether a job that loses its attempt (a node, a task, a link) begins another from its last checkpoint: `auto` where it takes checkpoints by itself, `exponential` always, with pauses that grow, `none` never.
    restart_strategy: String = "restart.strategy", Kind::Choice(&["auto", "exponential", "none"]), "auto";
    /// The pause after a first failure.
    restart_backoff_initial_ms: u64 = "restart.backoff_initial_ms", Kind::Integer { min: 0, max: 3_600_000 }, "100" unit "ms";
    /// The longest pause after a failure.
    restart_backoff_max_ms: u64 = "restart.backoff_max_ms", Kind::Integer { min: 0, max: 3_600_000 }, "10000" unit "ms";
    /// Each pause is this many times the one before.
    restart_backoff_multiplier: u64 = "restart.backoff_multiplier", Kind::Integer { min: 1, max: 100 }, "2" unit "times";
    /// Failures within `restart.window_ms` that a job survives; one more fails it.
    restart_failures_max: u64 = "restart.failures_max", Kind::Integer { min: 0, max: 1_000_000 }, "10" unit "failures";
    /// For how long a failure counts.
    restart_window_ms: u64 = "restart.window_ms", Kind::Integer { min: 1, max: 604_800_000 }, "600000" unit "ms";
    /// Whether a job follows the slots there are: `auto`, from a checkpoint a second after a node has joined, and when one has left for `pipeline.rescale_leave_ms`; or `manual`, by `rescale` alone.
    pipeline_rescale: String = "pipeline.rescale", Kind::Choice(&["manual", "auto"]), "manual";
    /// How long the slots of a node that has left count as if it were there, for `pipeline.rescale = auto`: a node that comes back within it changes nothing.
    pipeline_rescale_leave_ms: u64 = "pipeline.rescale_leave_ms", Kind::Integer { min: 0, max: 86_400_000 }, "60000" unit "ms";
    /// Between two rescales of a job by itself.
    pipeline_rescale_cooldown_ms: u64 = "pipeline.rescale_cooldown_ms", Kind::Integer { min: 0, max: 86_400_000 }, "30000" unit "ms";
    /// What a job does when one record has killed its operator (a panic) again and again: `fail` with an error that names it, or `set_aside`: the record goes to the pipeline's dead letters and the job goes on without it.
    pipeline_on_poison: String = "pipeline.on_poison", Kind::Choice(&["fail", "set_aside"]), "fail";
    /// Attempts that die over one record within `restart.window_ms` before `pipeline.on_poison` holds.
    pipeline_poison_failures: u64 = "pipeline.poison_failures", Kind::Integer { min: 2, max: 1_000 }, "3" unit "failures";
    /// Records that one job sets aside; with one more it fails.
    pipeline_poison_records_max: u64 = "pipeline.poison_records_max", Kind::Integer { min: 1, max: 1_000 }, "100" unit "records";
    /// Whether errors show the record that killed an operator, cut at 256 bytes; off: where it was read, and a digest.
    pipeline_poison_show: String = "pipeline.poison_show", Kind::Choice(&["on", "off"]), "on";
    /// Pipelines that the node that coordinates jobs starts by itself where it finds no job of theirs: `NAME`, `NAME=TASKS` with a parallelism of its own that stays, or `NAME=auto`, which follows the slots there are as `pipeline.rescale = auto` does.
    pipeline_start: Vec<String> = "pipeline.start", Kind::List, "";
    /// Nodes that are waited for before that, for a minute at most.
    pipeline_start_nodes_min: u64 = "pipeline.start_nodes_min", Kind::Integer { min: 1, max: 100_000 }, "1" unit "nodes";
    /// Where keyed state lives: `memory`, or `disk` for state larger than memory (feature `disk`).
    state_backend: String = "state.backend", Kind::Choice(&["memory", "disk"]), "memory";
    /// Directory of state on disk; disposable, each node takes one of its own below it. Empty: below the system's directory for temporary files.
    state_dir: String = "state.dir", Kind::Text, "";
    /// Memory of a job's state on disk on one node: what was used last, and blocks of files.
    state_cache_mb: u64 = "state.cache_mb", Kind::Integer { min: 1, max: 1_048_576 }, "256" unit "MiB";
    /// Room that state on disk leaves free. With less, tasks take no input until there is more.
    state_reserve_mb: u64 = "state.reserve_mb", Kind::Integer { min: 0, max: 1_048_576 }, "1024" unit "MiB";
    /// On SIGTERM, tasks get this long to go on on other nodes, from a checkpoint that is taken for it. 0: they go on as after a loss.
    drain_hand_over_ms: u64 = "drain.hand_over_ms", Kind::Integer { min: 0, max: 600_000 }, "5000" unit "ms";
    /// On the way out, others still find this node for this long while it answers.
    drain_lame_duck_ms: u64 = "drain.lame_duck_ms", Kind::Integer { min: 0, max: 600_000 }, "0" unit "ms";
    /// Calls that were taken before a shutdown get this long to be answered.
    drain_grace_ms: u64 = "drain.grace_ms", Kind::Integer { min: 0, max: 600_000 }, "2000" unit "ms";
}

impl Default for Settings {
    fn default() -> Self {
        Self::from_values(|row| row.kind.parse(row.default).unwrap_or(Value::Text(String::new())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_default_is_a_legal_value_of_its_own_setting() {
        for row in SCHEMA {
            row.kind.parse(row.default).unwrap_or_else(|why| panic!("{}: {why}", row.name));
        }
    }

    #[test]
    fn no_two_settings_share_a_name_or_a_variable() {
        let variables: BTreeSet<String> = SCHEMA.iter().map(Setting::variable).collect();
        assert_eq!(variables.len(), SCHEMA.len());
    }

    #[test]
    fn each_field_gets_the_value_of_its_own_row() {
        let settings = Settings::default();
        assert_eq!(settings.cluster, "afflux");
        assert_eq!(settings.channel_credit_bytes, 262_144);
        assert_eq!(settings.drain_grace_ms, 2_000);
        assert!(settings.registry_nodes.is_empty());
    }

    #[test]
    fn every_number_has_a_unit_in_its_row() {
        for row in SCHEMA {
            assert_eq!(matches!(row.kind, Kind::Integer { .. }), !row.unit.is_empty(), "{}", row.name);
        }
    }
}
