//! A link: two connections to one peer, told apart from every other pair by its id.
//!
//! The control connection carries calls, answers and credits; the data connection carries channels.
//! Losing either loses the link, and with it all of its calls and channels, at once.

mod channels;
mod incoming;
mod outgoing;
mod streams;
mod watches;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use afflux_actor::clock;
use afflux_wire::contract::Identity;
use afflux_wire::handshake::{Hello, ServiceOffer};
use afflux_wire::{
    Code, HealthReport, Incarnation, Limits, NodeId, Status, put_bind, put_goaway, put_health, put_ping,
    put_pong,
};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore};

use self::incoming::Incoming;
use self::outgoing::Bound;
pub(crate) use self::outgoing::MethodName;
pub use self::watches::WATCHES_PER_LINK_MAX;
use self::watches::Watches;
use crate::channel::SendState;
use crate::ejection::{Group, Health};
use crate::hash::IdMap;
use crate::inflight::InFlight;
use crate::metrics::MeshMetrics;
use crate::schemas::{Judged, Schemas};
use crate::stream::Stream;
use crate::traffic::Run;
use crate::writer::DataQueue;

/// Bytes of a frame around its params, at most: head, method's number, deadline, trace.
const FRAME_OVERHEAD_BYTES: usize = 512;
/// Methods that a peer may bind to numbers.
const BINDINGS_MAX: usize = 16_384;
/// How long the last bytes of a closing link may take, in both directions together.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Control = 0,
    Data = 1,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
        }
    }
}

const UP: u8 = 0;
const DRAINING: u8 = 1;
const LOST: u8 = 2;

/// All that callers, answers and the two loops of the control connection share: one lock a call.
#[derive(Default)]
pub(crate) struct ControlState {
    pub(crate) buf: Vec<u8>,
    pub(crate) writer: Option<Waker>,
    /// Nothing is appended any more; the writer ends when `buf` is empty.
    pub(crate) closed: bool,
    /// Bytes ever appended to `buf`.
    appended: u64,
    next_id: u64,
    calls: u64,
    in_flight: InFlight,
    bound: Vec<Bound>,
    /// The address of a method's spec to its index in `bound`.
    bound_by_spec: IdMap<usize, u32>,
    incoming: IdMap<u64, Incoming>,
    requests: u64,
    last_admitted: u64,
    /// Requests above this id are refused: GOAWAY was sent.
    goaway: Option<u64>,
    closing_at: Option<Instant>,
    /// One-way calls in `buf`, and in the writer's hands.
    pub(crate) one_way: [u32; 2],
    /// Bytes of calls and of answers since the last write.
    pub(crate) asked: Run,
    pub(crate) answers: Run,
}

/// A pair of connections to a peer.
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) peer: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    /// Version of the peer's application, for people.
    pub(crate) build: String,
    /// Whether the peer runs the executable that this process runs.
    pub(crate) same_build: bool,
    /// Whether this side dialled.
    pub(crate) dialled: bool,
    /// Who the peer is, where that was authenticated.
    pub(crate) identity: Option<Arc<Identity>>,
    /// Whether its connections are inside TLS.
    pub(crate) tls: bool,
    /// Counts the dials of one life of the dialler.
    pub(crate) id: u64,
    pub(crate) established: Instant,
    /// What the peer accepts.
    pub(crate) limits: Limits,
    /// What this side accepts.
    pub(crate) own_limits: Limits,
    pub(crate) keepalive: Duration,
    pub(crate) silence_max: Duration,
    write_buffer_bytes_max: usize,
    pub(crate) control: Mutex<ControlState>,
    /// Bytes of the control connection that the operating system took.
    pub(crate) written: AtomicU64,
    pub(crate) data: DataQueue,
    senders: Mutex<IdMap<u64, Arc<SendState>>>,
    /// Streams of both sides that have not ended.
    streams: Mutex<IdMap<u64, Arc<Stream>>>,
    watches: Watches,
    /// Channels that the peer attached and has not detached.
    pub(crate) receivers: AtomicU32,
    /// The services of the peer, with their methods' numbers.
    pub(crate) offers: RwLock<BTreeMap<String, BTreeMap<String, u32>>>,
    /// Which of the peer's methods can be called from here.
    pub(crate) judged: Judged,
    schemas: OnceLock<Arc<Schemas>>,
    state: AtomicU8,
    ended: AtomicU8,
    lost_status: OnceLock<Status>,
    closing_status: OnceLock<Status>,
    lost_signal: Semaphore,
    /// Wakes the timer task: an earlier deadline, or a closing.
    pub(crate) rearm: Notify,
    /// Notified when the last request of the peer is answered.
    pub(crate) idle: Notify,
    /// Calls without an answer, for the balancer.
    pub(crate) in_flight: AtomicU32,
    /// Whether its node says that it is ready.
    pub(crate) ready: AtomicBool,
    /// Whether its node says that it goes away soon.
    pub(crate) leaving: AtomicBool,
    /// What is known of the peer's services as endpoints, by name.
    health: Mutex<BTreeMap<String, Arc<Health>>>,
    cancelled: AtomicU32,
    /// Microseconds after `established` at which each connection was last heard.
    heard: [AtomicU64; 2],
    pub(crate) rtt_micros: AtomicU64,
    pub(crate) metrics: Arc<MeshMetrics>,
}

/// What a handshake found out.
pub(crate) struct Introduction {
    pub(crate) hello: Hello,
    pub(crate) address: String,
    pub(crate) dialled: bool,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) tls: bool,
}

impl Link {
    pub(crate) fn new(
        introduction: Introduction,
        config: &crate::config::MeshConfig,
        metrics: Arc<MeshMetrics>,
    ) -> Arc<Self> {
        let Introduction { hello, address, dialled, identity, tls } = introduction;
        let theirs = Duration::from_millis(u64::from(hello.keepalive_ms));
        Arc::new(Self {
            node: config.node.clone(),
            peer: hello.node,
            incarnation: hello.incarnation,
            address,
            same_build: hello.build_fingerprint != 0 && hello.build_fingerprint == config.build_fingerprint,
            build: hello.build,
            dialled,
            identity,
            tls,
            id: hello.link_id,
            established: clock::now(),
            limits: hello.limits,
            own_limits: config.limits,
            keepalive: config.keepalive,
            silence_max: 3 * theirs.max(config.keepalive),
            write_buffer_bytes_max: config.write_buffer_bytes_max,
            control: Mutex::new(ControlState {
                next_id: if dialled { 1 } else { 2 },
                ..ControlState::default()
            }),
            written: AtomicU64::new(0),
            data: DataQueue::default(),
            senders: Mutex::default(),
            streams: Mutex::default(),
            watches: Watches::default(),
            receivers: AtomicU32::new(0),
            judged: Judged::of(&hello.services),
            schemas: OnceLock::new(),
            offers: RwLock::new(hello.services.into_iter().map(offered).collect()),
            state: AtomicU8::new(UP),
            ended: AtomicU8::new(0),
            lost_status: OnceLock::new(),
            closing_status: OnceLock::new(),
            lost_signal: Semaphore::new(0),
            rearm: Notify::new(),
            idle: Notify::new(),
            in_flight: AtomicU32::new(0),
            ready: AtomicBool::new(true),
            leaving: AtomicBool::new(false),
            health: Mutex::default(),
            cancelled: AtomicU32::new(0),
            heard: [AtomicU64::new(0), AtomicU64::new(0)],
            rtt_micros: AtomicU64::new(0),
            metrics,
        })
    }

    /// From now on the contracts that are called here are compared with the peer's.
    pub(crate) fn compare_with(self: &Arc<Self>, schemas: &Arc<Schemas>) {
        let _ = self.schemas.set(Arc::clone(schemas));
        schemas.offered(self);
    }

    /// Whether new calls may go over it.
    #[inline]
    pub(crate) fn is_up(&self) -> bool {
        self.state.load(Ordering::Acquire) == UP
    }

    /// Whether the balancer may send new calls over it.
    pub(crate) fn is_open(&self) -> bool {
        self.is_up() && !self.leaving.load(Ordering::Acquire)
    }

    /// What is known of a service of the peer as an endpoint of this group.
    pub(crate) fn health_in(&self, service: &str, group: &Arc<Group>) -> Arc<Health> {
        let mut known = self.health.lock();
        if let Some(health) = known.get(service) {
            return Arc::clone(health);
        }
        let health = group.endpoint();
        known.insert(service.to_owned(), Arc::clone(&health));
        health
    }

    pub(crate) fn health(&self, service: &str) -> Option<Arc<Health>> {
        self.health.lock().get(service).cloned()
    }

    /// Whether the peer listens, and so has a port; a client has none.
    pub(crate) fn is_node(&self) -> bool {
        self.address.contains(':')
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.state.load(Ordering::Acquire) == LOST
    }

    /// Why it was lost.
    pub(crate) fn lost_status(&self) -> Option<&Status> {
        self.lost_status.get()
    }

    /// Resolves once the link is lost.
    pub(crate) async fn lost(&self) {
        // Never has a permit: resolves when it is closed.
        let _ = self.lost_signal.acquire().await;
    }

    pub(crate) fn heard(&self, side: Side, now: Instant) {
        let micros = now.saturating_duration_since(self.established).as_micros() as u64;
        self.heard[side as usize].store(micros, Ordering::Relaxed);
    }

    /// The connection that has been silent for too long, and since when.
    fn silent(&self, now: Instant) -> Option<(Side, Duration)> {
        [Side::Control, Side::Data].into_iter().find_map(|side| {
            let heard = Duration::from_micros(self.heard[side as usize].load(Ordering::Relaxed));
            let silence = now.saturating_duration_since(self.established + heard);
            (silence > self.silence_max).then_some((side, silence))
        })
    }

    fn wake(writer: Option<Waker>) {
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Appends to the control connection; the buffer's length after it is checked against its limit.
    fn append(&self, put: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.control.lock();
        if state.closed {
            return;
        }
        state.append(put);
        let (bytes, writer) = (state.buf.len(), state.writer.take());
        drop(state);
        Self::wake(writer);
        self.check_backlog(bytes);
    }

    fn check_backlog(&self, bytes: usize) {
        if bytes > 2 * self.write_buffer_bytes_max {
            self.lose(Status::unavailable(format!(
                "node {} reads nothing: {bytes} bytes wait for it, at most {} may \
                 (write_buffer_bytes_max)",
                self.peer,
                2 * self.write_buffer_bytes_max
            )));
        }
    }

    // ---- Frames of the link itself.

    pub(crate) fn put_pong(&self, side: Side, nonce: u64) {
        match side {
            Side::Control => self.append(|buf| put_pong(buf, nonce)),
            Side::Data => self.push_control_on_data(|buf| put_pong(buf, nonce)),
        }
    }

    fn push_control_on_data(&self, put: impl FnOnce(&mut bytes::BytesMut)) {
        let bytes = self.data.push(Bytes::new(), put);
        self.check_backlog(bytes);
    }

    /// Tells the peer of methods that it may call by number.
    pub(crate) fn put_bind(&self, methods: &[(u32, Arc<str>)]) {
        self.append(|buf| {
            if let Err(error) = put_bind(buf, methods.iter().map(|(number, name)| (*number, &**name))) {
                tracing::warn!(%error, "the methods of this node cannot be bound to numbers");
            }
        });
    }

    /// Tells the peer how this node does.
    pub(crate) fn put_health(&self, report: &HealthReport) {
        let put = report.encode().and_then(|bytes| {
            let mut result = Ok(());
            self.append(|buf| result = put_health(buf, &bytes).map_err(Status::from));
            result
        });
        if let Err(error) = put {
            tracing::warn!(%error, "the state of this node cannot be told");
        }
    }

    /// BIND came.
    ///
    /// # Errors
    /// What to tell a peer that binds more than [`BINDINGS_MAX`] methods.
    pub(crate) fn bind_received(self: &Arc<Self>, methods: Vec<(u32, &str)>) -> Result<(), String> {
        let mut offers = self.offers.write();
        for (number, name) in methods {
            if let Some((service, method)) = name.rsplit_once('/') {
                offers.entry(service.to_owned()).or_default().insert(method.to_owned(), number);
            }
        }
        let known: usize = offers.values().map(BTreeMap::len).sum();
        drop(offers);
        if known > BINDINGS_MAX {
            return Err(format!("{known} methods are bound, at most {BINDINGS_MAX} may be (bindings_max)"));
        }
        let mut state = self.control.lock();
        for bound in &mut state.bound {
            bound.number = self.number(&bound.service, &bound.method);
        }
        drop(state);
        if let Some(schemas) = self.schemas.get() {
            schemas.offered(self);
        }
        Ok(())
    }

    /// Sends GOAWAY: requests that are not here yet will be refused. Returns the last id admitted.
    pub(crate) fn put_goaway(&self, code: Code, reason: &str, grace: Duration) {
        let mut state = self.control.lock();
        let admitted = state.last_admitted;
        let last = *state.goaway.get_or_insert(admitted);
        if !state.closed {
            state.append(|buf| {
                put_goaway(buf, last, u32::from(code.number()), reason, grace.as_millis() as u64);
            });
        }
        let writer = state.writer.take();
        drop(state);
        Self::wake(writer);
    }

    // ---- The end.

    /// A connection failed.
    pub(crate) fn fail_io(&self, side: Side, error: &io::Error) {
        self.metrics.closed(side.name(), "io");
        let status = match self.closing_status.get() {
            Some(closing) => closing.clone(),
            None => Status::unavailable(format!(
                "the link to node {} ({}) is lost: {} connection: {error}",
                self.peer,
                self.address,
                side.name()
            )),
        };
        self.lose(status);
    }

    /// Takes nothing new, writes what is left, and loses the link once the peer has closed too, or
    /// after [`FLUSH_TIMEOUT`]. Closing earlier could reset the connection before the peer has read.
    pub(crate) fn close(&self, status: Status) {
        let _ = self.state.compare_exchange(UP, DRAINING, Ordering::AcqRel, Ordering::Acquire);
        if self.closing_status.set(status).is_ok() {
            self.metrics.closed(Side::Control.name(), "closed");
            self.metrics.closed(Side::Data.name(), "closed");
        }
        let mut state = self.control.lock();
        state.closed = true;
        state.closing_at.get_or_insert(clock::now() + FLUSH_TIMEOUT);
        let writer = state.writer.take();
        drop(state);
        Self::wake(writer);
        self.data.close();
        self.rearm.notify_one();
    }

    /// The peer will send nothing more on one connection. The other may still bring answers that it
    /// sent before: the link is lost with the second one, or soon.
    pub(crate) fn ended(&self, side: Side) {
        self.metrics.closed(side.name(), "eof");
        let status = Status::unavailable(format!(
            "the link to node {} ({}) is lost: closed by the peer",
            self.peer, self.address
        ));
        let bit = 1 << side as u8;
        if self.ended.fetch_or(bit, Ordering::AcqRel) | bit == 3 {
            self.lose(self.closing_status.get().cloned().unwrap_or(status));
        } else {
            self.close(status);
        }
    }

    /// The end of the link: every call and every channel fails now. Only the first reason counts.
    pub(crate) fn lose(&self, status: Status) {
        let status = status.node(&self.peer);
        if self.lost_status.set(status.clone()).is_err() {
            return;
        }
        self.state.store(LOST, Ordering::Release);
        let now = clock::now();
        let mut state = self.control.lock();
        state.closed = true;
        let pending = state.in_flight.take_if(|_, _| true);
        for (_, pending) in &pending {
            self.count(&state, pending, Some(Code::Unavailable), now);
        }
        for incoming in state.incoming.values() {
            incoming.method.metrics.in_flight.dec();
        }
        let scopes: Vec<_> =
            state.incoming.values_mut().filter_map(|incoming| incoming.scope.take()).collect();
        state.incoming.clear();
        state.buf = Vec::new();
        // What was not written is lost for certain, and what was in the writer's hands may be.
        if self.written.load(Ordering::Acquire) < state.appended {
            self.metrics.one_way_lost.inc_by(state.one_way.iter().map(|n| u64::from(*n)).sum());
        }
        state.one_way = [0; 2];
        let writer = state.writer.take();
        drop(state);
        self.in_flight.store(0, Ordering::Relaxed);
        Self::wake(writer);
        self.data.close();
        self.lost_signal.close();
        self.idle.notify_waiters();
        self.fail_calls(pending, None, &status);
        self.lose_streams(&status);
        self.end_watches();
        // Whoever asked is gone, so the calls that its requests have led to are made for nobody.
        scopes.into_iter().for_each(|scope| scope.cancel());
        let senders = std::mem::take(&mut *self.senders.lock());
        let mut senders: Vec<_> = senders.into_iter().collect();
        senders.sort_unstable_by_key(|(id, _)| *id);
        for (_, sender) in senders {
            sender.link_lost(&status);
        }
    }

    /// Keeps the link alive, fails calls at their deadline, ends a closing link; until it is lost.
    pub(crate) async fn run_timer(self: Arc<Self>) {
        let mut next_ping = self.established + self.keepalive;
        loop {
            let now = clock::now();
            if now >= next_ping {
                next_ping = now + self.keepalive;
                if let Some((side, silence)) = self.silent(now) {
                    self.metrics.closed(side.name(), "keepalive");
                    return self.lose(Status::unavailable(format!(
                        "the link to node {} ({}) is lost: nothing came on its {} connection for \
                         {silence:.1?}, at most {:.1?} may pass (three keepalives)",
                        self.peer,
                        self.address,
                        side.name(),
                        self.silence_max
                    )));
                }
                let nonce = now.saturating_duration_since(self.established).as_micros() as u64;
                self.append(|buf| put_ping(buf, nonce));
                self.push_control_on_data(|buf| put_ping(buf, nonce));
            }
            let (deadline, closing_at) = self.expire(now);
            if closing_at.is_some_and(|at| at <= now) {
                self.metrics.closed(Side::Control.name(), "flush_timeout");
                let closing = self.closing_status.get().cloned();
                return self.lose(closing.unwrap_or_else(|| Status::unavailable("the link was closed")));
            }
            let next = [Some(next_ping), deadline, closing_at].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = self.lost() => return,
                () = self.rearm.notified() => {}
                () = tokio::time::sleep_until(next.unwrap_or(next_ping).into()) => {}
            }
        }
    }
}

impl ControlState {
    #[inline]
    fn append<R>(&mut self, put: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let before = self.buf.len();
        let result = put(&mut self.buf);
        self.appended += (self.buf.len() - before) as u64;
        result
    }
}

fn offered(service: ServiceOffer) -> (String, BTreeMap<String, u32>) {
    (service.name, service.methods.into_iter().map(|method| (method.name, method.number)).collect())
}
