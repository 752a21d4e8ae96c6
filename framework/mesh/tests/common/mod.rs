//! A service written by hand, nodes over both transports, and eyes for what they count.

// Each test binary uses its own part of this.
#![allow(dead_code, unreachable_pub)]
// A test may fail by panicking.
#![allow(clippy::unwrap_used)]

pub mod client;
pub mod flow;
pub mod raw;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use afflux_actor::{Place, ServiceEntry};
use afflux_mesh::{
    ChannelReceiver, ChannelSender, MemoryNetwork, Mesh, MeshConfig, MeshMetrics, Packet, Transport,
};
use afflux_wire::contract::{
    Accept, Call, CallMeta, Handle, Mail, MethodKind, MethodSpec, NoError, Params, Refused, Reply, ReplyTo,
    Service,
};
use afflux_wire::{Incarnation, Status, codec};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub const SECOND: Duration = Duration::from_secs(1);

// ---- The service.

pub struct Sums;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Add {
    pub a: u64,
    pub b: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Touch {
    pub n: u64,
}

pub enum SumsCall {
    Add(CallMeta, Add, Option<Reply<u64, NoError>>),
    Touch(CallMeta, Touch),
}

impl Mail for SumsCall {
    fn meta(&self) -> &CallMeta {
        match self {
            Self::Add(meta, ..) | Self::Touch(meta, _) => meta,
        }
    }
    fn is_cancelled(&self) -> bool {
        matches!(self, Self::Add(_, _, Some(reply)) if reply.is_cancelled())
    }
    fn reject(self, status: Status) {
        if let Self::Add(_, _, Some(reply)) = self {
            reply.reject(status);
        }
    }
}

#[derive(Clone)]
pub struct SumsClient(Handle<Sums>);

impl From<Handle<Sums>> for SumsClient {
    fn from(handle: Handle<Sums>) -> Self {
        Self(handle)
    }
}

impl SumsClient {
    pub fn add(&self, a: u64, b: u64) -> Call<Add> {
        self.0.call(Add { a, b })
    }
    pub fn again(&self, a: u64, b: u64) -> Call<Again> {
        self.0.call(Again(Add { a, b }))
    }
    pub fn touch(&self, n: u64) -> Call<Touch> {
        self.0.call(Touch { n })
    }
}

const fn method(name: &'static str, kind: MethodKind, fields: &'static [&'static str]) -> MethodSpec {
    MethodSpec {
        name,
        kind,
        fields,
        params: || schemars::schema_for!(u64),
        returns: || schemars::schema_for!(u64),
        ..MethodSpec::DEFAULT
    }
}

const fn add() -> MethodSpec {
    MethodSpec { params: || schemars::schema_for!(Add), ..method("Add", MethodKind::Unary, &["a", "b"]) }
}

/// As `Add`, and may run twice.
const AGAIN: MethodSpec = MethodSpec { idempotent: true, ..method("Again", MethodKind::Unary, &["a", "b"]) };

impl Service for Sums {
    const NAME: &'static str = "math.sums";
    const VERSION: &'static str = "1.0";
    const DOC: &'static str = "Adds.";
    const METHODS: &'static [MethodSpec] = &[add(), method("Touch", MethodKind::OneWay, &["n"]), AGAIN];
    type Error = NoError;
    type Call = SumsCall;
    type Client = SumsClient;

    fn decode(
        method: usize,
        params: &[u8],
        meta: CallMeta,
        reply: Option<ReplyTo>,
    ) -> Result<SumsCall, (Status, Option<ReplyTo>)> {
        match method {
            0 | 2 => match codec::from_slice(params) {
                Ok(add) => Ok(SumsCall::Add(meta, add, reply.map(Reply::wire))),
                Err(status) => Err((status, reply)),
            },
            _ => match codec::from_slice(params) {
                Ok(touch) => Ok(SumsCall::Touch(meta, touch)),
                Err(status) => Err((status, reply)),
            },
        }
    }
}

impl Params for Add {
    type Service = Sums;
    type Output = u64;
    const METHOD: usize = 0;
    fn into_call(self, meta: CallMeta, reply: Option<Reply<u64, NoError>>) -> SumsCall {
        SumsCall::Add(meta, self, reply)
    }
    fn recover(call: SumsCall) -> Result<Self, SumsCall> {
        match call {
            SumsCall::Add(_, add, reply) => {
                if let Some(reply) = reply {
                    reply.release();
                }
                Ok(add)
            }
            other => Err(other),
        }
    }
}

/// The params of [`AGAIN`]: on the wire those of [`Add`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Again(pub Add);

impl Params for Again {
    type Service = Sums;
    type Output = u64;
    const METHOD: usize = 2;
    fn into_call(self, meta: CallMeta, reply: Option<Reply<u64, NoError>>) -> SumsCall {
        SumsCall::Add(meta, self.0, reply)
    }
}

impl Params for Touch {
    type Service = Sums;
    type Output = ();
    const METHOD: usize = 1;
    fn into_call(self, meta: CallMeta, _: Option<Reply<(), NoError>>) -> SumsCall {
        SumsCall::Touch(meta, self)
    }
}

/// A mailbox that answers at once, or keeps what came.
#[derive(Default)]
pub struct Desk {
    pub held: Mutex<VecDeque<SumsCall>>,
    pub touched: Mutex<Vec<u64>>,
    pub hold: std::sync::atomic::AtomicBool,
    pub full: std::sync::atomic::AtomicBool,
    pub came: std::sync::atomic::AtomicUsize,
    pub callers: Mutex<Vec<Option<afflux_wire::contract::Identity>>>,
}

impl Desk {
    pub fn entry(self: &Arc<Self>) -> ServiceEntry {
        ServiceEntry::of::<Sums>(Arc::clone(self) as Arc<dyn Accept<SumsCall>>)
    }

    pub fn holding() -> Arc<Self> {
        let desk = Self::default();
        desk.hold.store(true, std::sync::atomic::Ordering::SeqCst);
        Arc::new(desk)
    }

    pub fn answer_all(&self) {
        while let Some(call) = { self.held.lock().pop_front() } {
            answer(call);
        }
    }
}

fn answer(call: SumsCall) {
    if let SumsCall::Add(_, Add { a, b }, Some(reply)) = call {
        reply.send(Ok(a + b));
    }
}

impl Accept<SumsCall> for Desk {
    fn accept(&self, call: SumsCall) -> Result<(), Refused<SumsCall>> {
        use std::sync::atomic::Ordering::SeqCst;
        self.came.fetch_add(1, SeqCst);
        self.callers.lock().push(call.meta().identity.as_deref().cloned());
        if self.full.load(SeqCst) {
            return Err(Refused::Full(call));
        }
        match call {
            SumsCall::Touch(_, touch) => self.touched.lock().push(touch.n),
            call if self.hold.load(SeqCst) => self.held.lock().push_back(call),
            call => answer(call),
        }
        Ok(())
    }
    fn depth(&self) -> usize {
        self.held.lock().len()
    }
    fn capacity(&self) -> usize {
        1024
    }
}

// ---- Nodes.

/// The transport a test runs over.
#[derive(Clone)]
pub struct Net(pub Transport);

impl Net {
    pub fn config(&self, name: &str) -> MeshConfig {
        MeshConfig {
            listen: Some("127.0.0.1:0".into()),
            build: format!("build-of-{name}"),
            ..MeshConfig::new(name, "test")
        }
    }

    pub fn node(&self, name: &str) -> Node {
        self.node_with(self.config(name))
    }

    pub fn node_with(&self, config: MeshConfig) -> Node {
        self.node_on(config, Place::current().unwrap())
    }

    pub fn node_on(&self, config: MeshConfig, place: Place) -> Node {
        let registry = prometheus::Registry::new();
        let metrics = MeshMetrics::new(&registry).unwrap();
        let mesh = Mesh::start(config, self.0.clone(), place, metrics).unwrap();
        Node { mesh, registry }
    }

    /// A connection of a client that speaks bytes.
    pub async fn raw(&self, address: &str) -> Box<dyn Stream> {
        match &self.0 {
            Transport::Tcp => Box::new(tokio::net::TcpStream::connect(address).await.unwrap()),
            Transport::Memory(network) => Box::new(network.connect(address).unwrap()),
            #[cfg(feature = "simulated")]
            Transport::Simulated => panic!("played sockets are for played machines"),
        }
    }
}

pub trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Stream for T {}

pub struct Node {
    pub mesh: Mesh,
    pub registry: prometheus::Registry,
}

impl Node {
    /// Dials another node and waits for the link.
    pub async fn link(&self, other: &Node) {
        self.mesh.connect_unknown(&other.mesh.local_address()).await.unwrap();
        let name = self.mesh.node().clone();
        until(|| {
            other
                .mesh
                .peers()
                .iter()
                .any(|peer| peer.node == name && peer.state == afflux_mesh::PeerState::Up)
        })
        .await;
    }

    pub fn serve(&self, desk: &Arc<Desk>) {
        self.mesh.serve(desk.entry());
    }

    pub fn sums(&self) -> SumsClient {
        self.mesh.client::<Sums>()
    }

    /// The sum of a metric's samples whose labels contain these values.
    pub fn metric(&self, name: &str, values: &[&str]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let family = family.unwrap_or_else(|| panic!("no metric {name}"));
        family
            .get_metric()
            .iter()
            .filter(|metric| {
                values.iter().all(|value| metric.get_label().iter().any(|label| label.value() == *value))
            })
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}

/// Turns after which the clock moves on by a millisecond.
const TURNS: u32 = 64;

/// Lets everything run until a condition holds. A clock that stands still moves on now and then.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        let mut turns = 0;
        while !condition() {
            turns += 1;
            if turns % TURNS == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(20 * SECOND, waiting).await.expect("the condition never held");
}

pub async fn ready(sender: &mut ChannelSender) -> Result<(), Status> {
    poll_fn(|cx| sender.poll_ready(cx)).await
}

pub async fn next(receiver: &mut ChannelReceiver) -> Option<Result<Packet, Status>> {
    poll_fn(|cx| receiver.poll_next(cx)).await
}

pub async fn packet(receiver: &mut ChannelReceiver) -> Packet {
    next(receiver).await.expect("a packet").expect("no failure")
}

/// Runs a test over pipes with a clock that leaps, and over TCP with the real one.
pub fn over_both<F: Future<Output = ()>>(test: impl Fn(Net) -> F) {
    afflux_actor::test::paused(|| test(Net(Transport::Memory(MemoryNetwork::default()))));
    afflux_actor::test::system(|| async {
        tokio::time::timeout(30 * SECOND, test(Net(Transport::Tcp))).await.expect("30 s over TCP");
    });
}

pub fn incarnation(config: MeshConfig, incarnation: u64) -> MeshConfig {
    MeshConfig { incarnation: Incarnation(incarnation), ..config }
}
