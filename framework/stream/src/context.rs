//! What a chain's factory is given when a task is made from it.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use afflux_actor::Clock;
use afflux_mesh::{ChannelKey, Mesh};
use afflux_wire::contract::Caller;
use afflux_wire::{Attempt, NodeId, Status};

use crate::Result;
use crate::gate::align::{AlignBoard, AlignBoards};
use crate::gate::input::{From, InputGate};
use crate::gate::local::{LocalQueue, LocalReceiver, LocalSender};
use crate::gate::output::{OutputGate, Wire};
use crate::gate::partition::{RoundRobin, Routing};
use crate::graph::Exchange;
use crate::guarantee::Guarantee;
use crate::job::RestartSettings;
use crate::meter::TaskMeter;
use crate::poison::{PoisonSettings, Watch};
use crate::snapshot::Restore;
use crate::source::{IoContext, OnError, Split};
use crate::state::{Backend, StateBackend};
use crate::task::TaskReport;

/// Where each task of a job runs: `placement[chain][subtask]` is a node.
pub type Placement = Vec<Vec<NodeId>>;

/// By edge, producing subtask and consuming subtask.
type Queues = BTreeMap<(u32, u32, u32), Arc<dyn Any + Send + Sync>>;

/// The queues between tasks of one process, found by edge and ends.
#[derive(Clone, Default)]
pub(crate) struct LocalEdges {
    queues: Arc<Mutex<Queues>>,
    /// How far apart in event time the tasks of aligned sources are.
    pub(crate) boards: AlignBoards,
}

impl LocalEdges {
    fn queue<T: Send + 'static>(&self, edge: u32, from: u32, to: u32) -> Result<Arc<LocalQueue<T>>> {
        let mut queues = self.queues.lock();
        let queue = queues
            .entry((edge, from, to))
            .or_insert_with(|| LocalQueue::<T>::new() as Arc<dyn Any + Send + Sync>);
        Arc::clone(queue).downcast::<LocalQueue<T>>().map_err(|_| {
            Status::internal(format!("edge {edge} carries one type at its start and another at its end"))
        })
    }
}

/// Settings of a job that its tasks read.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct JobSettings {
    /// Parallel tasks of each chain that has no number of its own.
    pub parallelism: u32,
    /// Longest time a record waits in an output buffer, in milliseconds.
    pub linger_ms: u64,
    /// What to do with an input that cannot be read as a record.
    pub on_error: OnError,
    /// Whether operators without an exchange between them run as one actor. Off: each one that has
    /// a name gets an actor of its own.
    pub chaining: bool,
    /// Milliseconds between two checkpoints; 0: only when somebody asks.
    pub checkpoint_interval_ms: u64,
    /// Whether tasks save of keyed state in memory what has changed since their last snapshot, where that
    /// is less than half of it, and not all of it each time. Needs a [`Storage`](crate::job::Storage).
    pub checkpoint_incremental: bool,
    /// Replays event time at this multiple of its speed; as fast as possible when absent.
    pub replay: Option<f64>,
    /// What every sink of the pipeline must give: a pipeline that does not is refused when it is built.
    pub guarantee: Option<Guarantee>,
    /// Whether and how it restarts when an attempt is lost.
    pub restart: RestartSettings,
    /// What it does about records that kill their operator again and again.
    pub poison: PoisonSettings,
    /// Whether it takes the slots of nodes that join without being asked.
    pub rescale_auto: bool,
    /// Where keyed state lives.
    pub state_backend: StateBackend,
    /// Directory of state on disk, in place of the node's; for runs within one process.
    pub state_dir: Option<String>,
    /// Bytes of memory for state on disk, in place of the node's.
    pub state_cache_bytes: Option<u64>,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            parallelism: 1,
            linger_ms: 10,
            on_error: OnError::Fail,
            chaining: true,
            checkpoint_interval_ms: 0,
            checkpoint_incremental: false,
            replay: None,
            guarantee: None,
            restart: RestartSettings::default(),
            poison: PoisonSettings::default(),
            rescale_auto: false,
            state_backend: StateBackend::Memory,
            state_dir: None,
            state_cache_bytes: None,
        }
    }
}

/// The surroundings of one task.
#[derive(Clone)]
pub(crate) struct TaskContext {
    pub(crate) job: Arc<str>,
    pub(crate) pipeline: Arc<str>,
    pub(crate) attempt: Attempt,
    pub(crate) chain: u32,
    pub(crate) subtask: u32,
    pub(crate) settings: Arc<JobSettings>,
    /// Tasks of each chain.
    pub(crate) widths: Arc<Vec<u32>>,
    pub(crate) placement: Arc<Placement>,
    pub(crate) node: NodeId,
    pub(crate) mesh: Option<Mesh>,
    pub(crate) caller: Option<Arc<dyn Caller>>,
    pub(crate) fingerprint: u64,
    pub(crate) locals: LocalEdges,
    pub(crate) restore: Option<Arc<Restore>>,
    pub(crate) splits: Vec<Split>,
    pub(crate) clock: Clock,
    pub(crate) meter: Arc<TaskMeter>,
    pub(crate) backend: Backend,
    pub(crate) report: TaskReport,
    /// Records that are looked at one by one.
    pub(crate) watch: Arc<Watch>,
    /// The edge to the pipeline's dead letters.
    pub(crate) letters: Option<EdgeId>,
}

/// One exchange between two chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EdgeId {
    pub(crate) edge: u32,
    pub(crate) from_chain: u32,
    pub(crate) to_chain: u32,
}

impl TaskContext {
    pub(crate) fn parallelism(&self) -> u32 {
        self.width(self.chain)
    }

    fn width(&self, chain: u32) -> u32 {
        self.widths.get(chain as usize).copied().unwrap_or(1)
    }

    fn node_of(&self, chain: u32, subtask: u32) -> Result<&NodeId> {
        self.placement
            .get(chain as usize)
            .and_then(|tasks| tasks.get(subtask as usize))
            .ok_or_else(|| Status::internal(format!("task {chain}/{subtask} has no place")))
    }

    fn key(&self, edge: u32, from: u32, to: u32) -> ChannelKey {
        ChannelKey { job: Arc::clone(&self.job), attempt: self.attempt, edge, from, to }
    }

    fn mesh(&self) -> Result<&Mesh> {
        self.mesh.as_ref().ok_or_else(|| Status::internal("this process has no mesh"))
    }

    pub(crate) fn linger(&self) -> Duration {
        Duration::from_millis(self.settings.linger_ms)
    }

    pub(crate) fn io(&self, operator: &str) -> IoContext {
        IoContext {
            job: self.job.to_string(),
            pipeline: self.pipeline.to_string(),
            operator: operator.to_owned(),
            subtask: self.subtask,
            parallelism: self.parallelism(),
            attempt: self.attempt.0,
            on_error: self.settings.on_error,
            restored: self.restore.is_some(),
            checkpoint_interval_ms: self.settings.checkpoint_interval_ms,
            clock: self.clock.clone(),
        }
    }

    /// The gate of an edge that begins in this task.
    pub(crate) fn output<T: Serialize + Send + 'static>(
        &self,
        id: EdgeId,
        routing: Routing<T>,
    ) -> Result<OutputGate<T>> {
        let wires = (0..self.width(id.to_chain)).map(|to| self.wire(id, to)).collect::<Result<Vec<_>>>()?;
        Ok(OutputGate::new(wires, routing, self.linger()).metered(id.edge, &self.meter))
    }

    /// The gate of the edges that end in this task.
    pub(crate) fn input<T: DeserializeOwned + Send + 'static>(&self, ids: &[EdgeId]) -> Result<InputGate<T>> {
        let mut channels = Vec::new();
        for id in ids {
            for from in 0..self.width(id.from_chain) {
                channels.push(self.source(*id, from)?);
            }
        }
        Ok(InputGate::new(channels))
    }

    /// The gate of the edges that end in this task, each with how records cross it.
    pub(crate) fn input_of<T: DeserializeOwned + Send + 'static>(
        &self,
        edges: &[(EdgeId, Exchange)],
    ) -> Result<InputGate<T>> {
        let mut channels = Vec::new();
        for (id, exchange) in edges {
            match exchange {
                Exchange::Forward => channels.push(self.source(*id, self.subtask)?),
                _ => {
                    for from in 0..self.width(id.from_chain) {
                        channels.push(self.source(*id, from)?);
                    }
                }
            }
        }
        Ok(InputGate::new(channels))
    }

    /// The gate of an edge to the same subtask of another chain.
    pub(crate) fn forward_output<T: Serialize + Send + 'static>(&self, id: EdgeId) -> Result<OutputGate<T>> {
        let wire = self.wire(id, self.subtask)?;
        let routing = Routing::Split(Box::new(RoundRobin::default()));
        Ok(OutputGate::new(vec![wire], routing, self.linger()).metered(id.edge, &self.meter))
    }

    /// The gate of an edge from the same subtask of another chain.
    pub(crate) fn forward_input<T: DeserializeOwned + Send + 'static>(
        &self,
        id: EdgeId,
    ) -> Result<InputGate<T>> {
        Ok(InputGate::new(vec![self.source(id, self.subtask)?]))
    }

    /// Where the tasks of an aligned source tell each other how far they are.
    pub(crate) fn align(&self, source: &str) -> Arc<AlignBoard> {
        let places = self.placement.get(self.chain as usize).map_or(&[][..], Vec::as_slice);
        self.locals.boards.board(source, places.iter().map(|node| *node == self.node), self.clock.now())
    }

    fn wire<T: Send + 'static>(&self, id: EdgeId, to: u32) -> Result<Wire<T>> {
        let node = self.node_of(id.to_chain, to)?;
        Ok(if *node == self.node {
            Wire::Local(LocalSender::new(self.locals.queue(id.edge, self.subtask, to)?))
        } else {
            let key = self.key(id.edge, self.subtask, to);
            Wire::Remote(self.mesh()?.channel_sender(node, key, self.fingerprint))
        })
    }

    fn source<T: Send + 'static>(&self, id: EdgeId, from: u32) -> Result<From<T>> {
        let node = self.node_of(id.from_chain, from)?;
        Ok(if *node == self.node {
            From::Local(LocalReceiver::new(self.locals.queue(id.edge, from, self.subtask)?))
        } else {
            let key = self.key(id.edge, from, self.subtask);
            From::Remote(self.mesh()?.channel_receiver(key, self.fingerprint))
        })
    }
}
