//! What every node tells of itself: the contract behind `nodes`, `services` and `describe`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afflux_actor::ServiceEntry;
use afflux_registry::Instance;

use crate::jobs::TaskPlace;
use crate::load::NodeLoad;
use crate::macros::Service;
use crate::telemetry::LogLines;

/// A node at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NodeInfo {
    /// Its name.
    pub id: String,
    /// Its process.
    pub pid: u32,
    /// Which life of the node this is.
    pub incarnation: u64,
    /// `ready`, `draining`, or `unreachable` when it was asked in vain.
    pub state: String,
    /// Its node port.
    pub address: String,
    /// Its admin HTTP port.
    pub admin: Option<String>,
    /// Which build it runs.
    pub build: String,
    /// Threads for tasks.
    pub slots: u32,
    /// Processor seconds since its start.
    pub cpu_s: f64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Services it offers.
    pub services: Vec<String>,
    /// Tasks that run here.
    pub tasks: Vec<TaskPlace>,
    /// What is left to be done before it goes, of a node that was asked to drain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainInfo>,
}

impl NodeInfo {
    /// What the registry knows of a node that does not answer.
    pub(crate) fn silent(instance: &Instance) -> Self {
        Self {
            id: instance.node.to_string(),
            incarnation: instance.incarnation.0,
            state: "unreachable".to_owned(),
            address: instance.address.clone(),
            admin: instance.admin.clone(),
            build: instance.build.clone(),
            slots: instance.slots,
            services: instance.services.iter().map(|service| service.name.clone()).collect(),
            ..Self::default()
        }
    }
}

/// What is left of a node that was asked to drain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DrainInfo {
    /// `tasks` while jobs are handed over, `calls` while the last are answered, `leaving` behind that.
    pub phase: String,
    /// Tasks that still run here.
    pub tasks: u32,
    /// The most there were since it began.
    pub tasks_max: u32,
    /// Calls of others that are not answered yet.
    pub calls: u64,
    /// The most there were since it began.
    pub calls_max: u64,
    /// Jobs that could not be handed over, and why; each ends with the node, and goes on as after a loss.
    pub kept: Vec<String>,
}

/// A method as it can be called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MethodInfo {
    /// Its name.
    pub name: String,
    /// `unary`, `oneway`, `server_stream`, `client_stream` or `duplex`.
    pub kind: String,
    /// Its doc comment.
    pub doc: String,
    /// The deadline of a call that sets none.
    pub deadline_ms: u64,
    /// Whether a second execution does no harm.
    pub idempotent: bool,
    /// Whether it changes nothing.
    #[serde(default)]
    pub readonly: bool,
    /// Its lane in the mailbox: `high`, `normal` or `low`.
    #[serde(default)]
    pub priority: String,
    /// Whether the calls of its handler go on when its caller gives up.
    #[serde(default)]
    pub detached: bool,
    /// Whether a one-way call is acknowledged once it is admitted.
    #[serde(default)]
    pub ack: bool,
    /// Names of the parameters, in order.
    pub fields: Vec<String>,
    /// JSON Schema of the parameters.
    pub params: serde_json::Value,
    /// JSON Schema of the result.
    pub returns: serde_json::Value,
    /// JSON Schema of the typed error.
    #[serde(default)]
    pub error: serde_json::Value,
    /// JSON Schema of one item that the caller sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepts: Option<serde_json::Value>,
    /// JSON Schema of one item that the service sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<serde_json::Value>,
}

/// A service as it can be called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceInfo {
    /// Its name.
    pub name: String,
    /// The version of its contract.
    pub version: String,
    /// Its doc comment.
    pub doc: String,
    /// Its methods.
    pub methods: Vec<MethodInfo>,
}

impl ServiceInfo {
    /// What is known of a service of this process.
    pub fn of(entry: &ServiceEntry) -> Self {
        Self {
            name: entry.name.to_owned(),
            version: entry.version.to_owned(),
            doc: entry.doc.trim().to_owned(),
            methods: entry
                .methods
                .iter()
                .map(|method| MethodInfo {
                    name: method.name.to_owned(),
                    kind: method.kind.name().to_owned(),
                    doc: method.doc.trim().to_owned(),
                    deadline_ms: u64::try_from(method.deadline.as_millis()).unwrap_or(u64::MAX),
                    idempotent: method.idempotent,
                    readonly: method.readonly,
                    priority: method.priority.as_str().to_owned(),
                    detached: method.detached,
                    ack: method.ack,
                    fields: method.fields.iter().map(|f| (*f).to_owned()).collect(),
                    params: (method.params)().to_value(),
                    returns: (method.returns)().to_value(),
                    error: (method.error)().to_value(),
                    accepts: method.accepts.map(|schema| schema().to_value()),
                    streams: method.streams.map(|schema| schema().to_value()),
                })
                .collect(),
        }
    }
}

/// An actor that can be looked up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NamedActor {
    /// Its path.
    pub path: String,
    /// Which life of the node it lives in.
    pub incarnation: u64,
    /// Which of the actors that have had this path in that life.
    pub life: u64,
    /// The contracts that it serves.
    pub services: Vec<String>,
}

/// What a node tells of itself.
#[derive(Service)]
#[service(name = "afflux.node", version = "1.0")]
pub enum NodeService {
    /// The node now.
    #[rpc(returns = NodeInfo, idempotent, allow = "authenticated", deadline = "2s")]
    Info,
    /// The services it offers, with their methods.
    #[rpc(returns = Vec<ServiceInfo>, idempotent, allow = "authenticated", deadline = "2s")]
    Services,
    /// The actor of this name here, if there is one.
    #[rpc(returns = Vec<NamedActor>, idempotent, deadline = "2s")]
    Actors {
        /// Its path.
        name: String,
    },
    /// Keys of this actor that are meant for this node have been given back.
    #[rpc(oneway)]
    Vacated {
        /// The name under which the actor was declared.
        name: String,
    },
    /// Its calendar, in milliseconds since 1970: who asks compares it with its own.
    #[rpc(returns = i64, idempotent, readonly, allow = "authenticated", deadline = "2s")]
    Clock,
    /// Leaves without losing anything: it takes no new work, hands its tasks to other nodes from a checkpoint
    /// that is taken for it, answers the calls it has, and ends as by SIGTERM. Answers when that has begun;
    /// `Info` says how far it is. A second request changes nothing.
    #[rpc(returns = NodeInfo, idempotent, deadline = "5s")]
    Drain,
    /// What it has counted since its start: calls, latencies, mailboxes, links.
    #[rpc(returns = NodeLoad, idempotent, readonly, allow = "authenticated", deadline = "2s")]
    Load,
    /// The last lines of its log: at most `count` of those behind line number `after`, and as severe as
    /// `level` (`error` to `trace`) or more.
    #[rpc(returns = LogLines, idempotent, readonly, deadline = "2s")]
    Logs {
        /// Number of the line behind which to begin; 0 for the oldest that is kept.
        after: u64,
        /// Lines at most, the latest of those there are.
        count: u32,
        /// The least level.
        level: String,
    },
}

/// Services of the framework itself begin with this.
pub const OWN_PREFIX: &str = "afflux.";
