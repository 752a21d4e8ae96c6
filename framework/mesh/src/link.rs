//! A link: two connections to one peer, told apart from every other pair by its id.
//!
//! The control connection carries calls, answers and credits; the data connection carries channels.
//! Losing either loses the link, and with it all of its calls and channels, at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use afflux_actor::clock;
use afflux_wire::contract::{CallMeta, MethodSpec, Outgoing, Remote, ResponseSink, Started};
use afflux_wire::handshake::{Hello, ServiceOffer};
use afflux_wire::{
    Attach, CancelReason, Code, Executed, Incarnation, Limits, Mark, Meta, Method, NodeId, Stage,
    Status, put_attach, put_bind, put_cancel, put_credit, put_data_header, put_detach, put_goaway,
    put_mark, put_notify, put_ping, put_pong, put_request, put_response_err, put_response_ok,
};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore};

use crate::channel::{ChannelKey, SendState};
use crate::hash::IdMap;
use crate::inflight::{InFlight, Pending};
use crate::metrics::{CalledMetrics, MeshMetrics, SAMPLE_EVERY_CALLS};
use crate::services::{ServedMethod, full_name};
use crate::writer::DataQueue;

/// Bytes of a frame around its params, at most: head, method's number, deadline, trace.
const FRAME_OVERHEAD_BYTES: usize = 512;
/// Methods of a peer whose number and metrics are kept.
const BOUND_METHODS_MAX: usize = 4_096;
/// How long the last bytes of a closing link may take, in both directions together.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// An encoding buffer that once held a large call is given back to the allocator.
const SCRATCH_BYTES_KEPT_MAX: usize = 256 << 10;

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

/// A method of the peer as this side calls it.
struct Bound {
    service: Arc<str>,
    method: Arc<str>,
    full: Box<str>,
    number: Option<u32>,
    metrics: CalledMetrics,
}

/// A request of the peer without its answer.
struct Incoming {
    method: Arc<ServedMethod>,
    cancelled: bool,
    /// Set for the requests whose duration is observed.
    started: Option<Instant>,
}

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
}

/// A pair of connections to a peer.
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) peer: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    /// Whether this side dialled.
    pub(crate) dialled: bool,
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
    /// The services of the peer, with their methods' numbers.
    pub(crate) offers: RwLock<BTreeMap<String, BTreeMap<String, u32>>>,
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
}

impl Link {
    pub(crate) fn new(
        introduction: Introduction,
        config: &crate::config::MeshConfig,
        metrics: Arc<MeshMetrics>,
    ) -> Arc<Self> {
        let Introduction { hello, address, dialled } = introduction;
        let theirs = Duration::from_millis(u64::from(hello.keepalive_ms));
        Arc::new(Self {
            node: config.node.clone(),
            peer: hello.node,
            incarnation: hello.incarnation,
            address,
            dialled,
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
            offers: RwLock::new(hello.services.into_iter().map(offered).collect()),
            state: AtomicU8::new(UP),
            ended: AtomicU8::new(0),
            lost_status: OnceLock::new(),
            closing_status: OnceLock::new(),
            lost_signal: Semaphore::new(0),
            rearm: Notify::new(),
            idle: Notify::new(),
            in_flight: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
            heard: [AtomicU64::new(0), AtomicU64::new(0)],
            rtt_micros: AtomicU64::new(0),
            metrics,
        })
    }

    /// Whether new calls may go over it.
    #[inline]
    pub(crate) fn is_up(&self) -> bool {
        self.state.load(Ordering::Acquire) == UP
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

    // ---- Calls that leave.

    /// Sends a call. `spec` is the identity of the method in this process, where it has one.
    pub(crate) fn start(
        self: &Arc<Self>,
        service: &Arc<str>,
        method: MethodName<'_>,
        one_way: bool,
        meta: &CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status> {
        let now = clock::now();
        let deadline = meta.deadline.unwrap_or(now + Duration::from_secs(3600));
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(Status::new(
                Code::DeadlineExceeded,
                format!("{service}/{}: the deadline passed before the call left", method.name()),
            )
            .executed(Executed::No)
            .stage(Stage::Connect));
        }
        let wire_meta = Meta {
            // Rounded up: a call with half a millisecond left is not refused by the other side.
            deadline_ms: Some(left.as_nanos().div_ceil(1_000_000) as u64),
            traceparent: meta.trace,
            attempt: meta.attempt,
            priority: 0,
            rare: meta.idempotency_key.as_ref().map(|key| {
                Box::new(afflux_wire::RareMeta {
                    idempotency_key: Some(Bytes::copy_from_slice(key)),
                    ..Default::default()
                })
            }),
        };
        with_scratch(|params| {
            call.encode(params)?;
            self.check_bytes(params.len(), service, method.name())?;
            let slot = if one_way { None } else { Some(call.slot()) };
            let mut state = self.control.lock();
            if state.closed || state.buf.len() > self.write_buffer_bytes_max {
                return Err(self.cannot_send(&state));
            }
            let at = self.bind(&mut state, service, method);
            let in_flight_max = self.limits.in_flight_max as usize;
            if slot.is_some() && state.in_flight.len() >= in_flight_max {
                return Err(Status::new(
                    Code::ResourceExhausted,
                    format!(
                        "{in_flight_max} calls to node {} are unanswered, which is its in_flight_max: \
                         call less often, or raise it there",
                        self.peer
                    ),
                )
                .executed(Executed::No)
                .stage(Stage::Connect)
                .node(&self.peer)
                .retry_after_ms(10));
            }
            let id = state.next_id;
            let full;
            let name = match state.bound.get(at as usize) {
                Some(Bound { number: Some(number), .. }) => Method::Number(*number),
                Some(bound) => {
                    full = bound.full.clone();
                    Method::Name(&full)
                }
                None => {
                    full = full_name(service, method.name()).into();
                    Method::Name(&full)
                }
            };
            let put = |buf: &mut Vec<u8>| match one_way {
                true => put_notify(buf, name, params, &wire_meta),
                false => put_request(buf, id, name, params, &wire_meta),
            };
            state.append(put).map_err(|error| Status::from(error).executed(Executed::No))?;
            state.next_id += 2;
            state.calls += 1;
            let mut earlier = false;
            if let Some(slot) = slot {
                let sampled = state.calls.is_multiple_of(SAMPLE_EVERY_CALLS);
                let pending = Pending {
                    slot,
                    deadline,
                    end: state.appended,
                    method: at,
                    started: sampled.then_some(now),
                };
                earlier = state.in_flight.insert(id, pending);
                self.in_flight.store(state.in_flight.len() as u32, Ordering::Relaxed);
            } else if let Some(bound) = state.bound.get(at as usize) {
                bound.metrics.answered(&bound.service, &bound.method, None);
            }
            let writer = state.writer.take();
            drop(state);
            Self::wake(writer);
            if earlier {
                self.rearm.notify_one();
            }
            Ok(Started::Remote(Arc::clone(self) as Arc<dyn Remote>, id))
        })
    }

    fn cannot_send(&self, state: &ControlState) -> Status {
        if let Some(lost) = self.lost_status.get() {
            return lost.clone().executed(Executed::No).stage(Stage::Connect);
        }
        if state.closed {
            return Status::unavailable(format!("the link to node {} is closing", self.peer))
                .executed(Executed::No)
                .stage(Stage::Connect);
        }
        Status::new(
            Code::ResourceExhausted,
            format!(
                "{} bytes wait for node {} to read them, at most {} may (write_buffer_bytes_max)",
                state.buf.len(),
                self.peer,
                self.write_buffer_bytes_max
            ),
        )
        .executed(Executed::No)
        .stage(Stage::Connect)
        .node(&self.peer)
        .retry_after_ms(50)
    }

    fn check_bytes(&self, bytes: usize, service: &str, method: &str) -> Result<(), Status> {
        let max = self.limits.frame_bytes_ceiling() as usize;
        if bytes + FRAME_OVERHEAD_BYTES > max {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "{service}/{method}: params of {bytes} bytes do not fit into a frame of node {}, \
                     whose frame_bytes_max is {max}: send less at once, or raise it there",
                    self.peer
                ),
            )
            .executed(Executed::No)
            .stage(Stage::Connect));
        }
        Ok(())
    }

    /// The index of a method in `bound`; `u32::MAX` when there are too many.
    fn bind(&self, state: &mut ControlState, service: &Arc<str>, method: MethodName<'_>) -> u32 {
        if let MethodName::Spec(spec) = method {
            let address = std::ptr::from_ref(spec) as usize;
            if let Some(&at) = state.bound_by_spec.get(&address)
                && let Some(bound) = state.bound.get(at as usize)
                // Two services with equal methods may share one slice of specs.
                && (Arc::ptr_eq(&bound.service, service) || bound.service == *service)
            {
                return at;
            }
            let at = self.bind_name(state, service, spec.name);
            if at != u32::MAX {
                state.bound_by_spec.insert(address, at);
            }
            return at;
        }
        self.bind_name(state, service, method.name())
    }

    fn bind_name(&self, state: &mut ControlState, service: &Arc<str>, method: &str) -> u32 {
        let known = |bound: &Bound| bound.service == *service && *bound.method == *method;
        if let Some(at) = state.bound.iter().position(known) {
            return at as u32;
        }
        if state.bound.len() >= BOUND_METHODS_MAX {
            return u32::MAX;
        }
        state.bound.push(Bound {
            service: Arc::clone(service),
            method: method.into(),
            full: full_name(service, method).into(),
            number: self.number(service, method),
            metrics: self.metrics.called(service, method),
        });
        (state.bound.len() - 1) as u32
    }

    /// The number that the peer bound to a method.
    fn number(&self, service: &str, method: &str) -> Option<u32> {
        self.offers.read().get(service)?.get(method).copied().filter(|number| *number > 0)
    }

    /// An answer came.
    pub(crate) fn answered(&self, id: u64, result: Result<&[u8], Status>, now: Instant) {
        let mut state = self.control.lock();
        // An answer to a call that was cancelled meanwhile: nobody waits.
        let Some(pending) = state.in_flight.remove(id) else { return };
        self.in_flight.store(state.in_flight.len() as u32, Ordering::Relaxed);
        self.count(&state, &pending, result.as_ref().err().map(|status| status.code), now);
        drop(state);
        pending.slot.complete(result);
    }

    fn count(&self, state: &ControlState, pending: &Pending, code: Option<Code>, now: Instant) {
        if let Some(bound) = state.bound.get(pending.method as usize) {
            bound.metrics.answered(&bound.service, &bound.method, code);
            if let Some(started) = pending.started {
                bound.metrics.seconds.observe((now - started).as_secs_f64());
            }
        }
    }

    /// Fails calls that were taken out of the table. What the peer cannot have seen was not executed.
    fn fail_calls(&self, calls: Vec<(u64, Pending)>, known: Option<Executed>, status: &Status) {
        let written = self.written.load(Ordering::Acquire);
        for (_, pending) in calls {
            let executed = known.unwrap_or(match pending.end > written {
                true => Executed::No,
                false => Executed::Maybe,
            });
            let stage = if executed == Executed::No { Stage::Connect } else { Stage::Running };
            let status = status.clone().executed(executed).stage(stage).node(&self.peer);
            pending.slot.complete(Err(status));
        }
    }

    /// GOAWAY came: what is above `last_id` was not admitted and never will be.
    pub(crate) fn goaway_received(&self, last_id: u64, code: u32, reason: &str) {
        let _ = self.state.compare_exchange(UP, DRAINING, Ordering::AcqRel, Ordering::Acquire);
        let now = clock::now();
        let mut state = self.control.lock();
        let refused = state.in_flight.take_if(|id, _| id > last_id);
        self.in_flight.store(state.in_flight.len() as u32, Ordering::Relaxed);
        for (_, pending) in &refused {
            self.count(&state, pending, Some(Code::Unavailable), now);
        }
        drop(state);
        let code = Code::from_number(u8::try_from(code).unwrap_or(u8::MAX));
        let status = Status::unavailable(format!("node {} is going away: {reason} ({code})", self.peer));
        self.fail_calls(refused, Some(Executed::No), &status);
    }

    // ---- Requests that come.

    /// Admits a request, or says why not and under which metric's reason.
    pub(crate) fn admit(
        &self,
        id: u64,
        method: &Arc<ServedMethod>,
        now: Instant,
    ) -> Result<(), (Status, &'static str)> {
        let mut state = self.control.lock();
        if let Some(last) = state.goaway
            && id > last
        {
            let status = Status::unavailable(format!("node {} is draining", self.node));
            return Err((status, "draining"));
        }
        let in_flight_max = self.own_limits.in_flight_max as usize;
        if state.incoming.len() >= in_flight_max {
            let status = Status::new(
                Code::ResourceExhausted,
                format!("in_flight_max = {in_flight_max} requests of node {} run here", self.peer),
            );
            return Err((status.retry_after_ms(20), "overload"));
        }
        if state.buf.len() > self.write_buffer_bytes_max {
            let status = Status::new(
                Code::ResourceExhausted,
                format!(
                    "{} bytes of answers wait for node {} to read them, at most {} may \
                     (write_buffer_bytes_max)",
                    state.buf.len(),
                    self.peer,
                    self.write_buffer_bytes_max
                ),
            );
            return Err((status.retry_after_ms(50), "overload"));
        }
        state.requests += 1;
        let sampled = state.requests.is_multiple_of(SAMPLE_EVERY_CALLS);
        state.last_admitted = id;
        method.metrics.in_flight.inc();
        let incoming = Incoming {
            method: Arc::clone(method),
            cancelled: false,
            started: sampled.then_some(now),
        };
        state.incoming.insert(id, incoming);
        Ok(())
    }

    /// Whether a request's id is the peer's, and above all before it.
    pub(crate) fn check_request_id(&self, id: u64, last: u64) -> Result<(), String> {
        let parity = if self.dialled { 0 } else { 1 };
        if id % 2 != parity || id <= last {
            return Err(format!("REQUEST.id {id} behind {last}: ids of a side count up, in steps of two"));
        }
        Ok(())
    }

    /// Answers a request that was not admitted.
    pub(crate) fn refuse(&self, id: u64, status: &Status) {
        self.append(|buf| put_error(buf, id, status));
    }

    /// CANCEL came.
    pub(crate) fn cancel_received(&self, id: u64) {
        let mut state = self.control.lock();
        if let Some(incoming) = state.incoming.get_mut(&id)
            && !incoming.cancelled
        {
            incoming.cancelled = true;
            self.cancelled.fetch_add(1, Ordering::Release);
        }
    }

    /// Requests of the peer without an answer.
    pub(crate) fn incoming(&self) -> usize {
        self.control.lock().incoming.len()
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

    pub(crate) fn put_credit(&self, id: u64, bytes: u64) {
        self.append(|buf| put_credit(buf, id, bytes));
    }

    /// Tells the peer of methods that it may call by number.
    pub(crate) fn put_bind(&self, methods: &[(u32, Arc<str>)]) {
        self.append(|buf| {
            if let Err(error) = put_bind(buf, methods.iter().map(|(number, name)| (*number, &**name))) {
                tracing::warn!(%error, "the methods of this node cannot be bound to numbers");
            }
        });
    }

    /// BIND came.
    pub(crate) fn bind_received(&self, methods: Vec<(u32, &str)>) {
        let mut offers = self.offers.write();
        for (number, name) in methods {
            if let Some((service, method)) = name.rsplit_once('/') {
                offers.entry(service.to_owned()).or_default().insert(method.to_owned(), number);
            }
        }
        drop(offers);
        let mut state = self.control.lock();
        for bound in &mut state.bound {
            bound.number = self.number(&bound.service, &bound.method);
        }
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

    // ---- Channels.

    /// Opens a channel towards the peer.
    pub(crate) fn attach(self: &Arc<Self>, sender: &Arc<SendState>) -> Result<(), Status> {
        let id = {
            let mut state = self.control.lock();
            let id = state.next_id;
            state.next_id += 2;
            id
        };
        sender.attached(self, id);
        self.senders.lock().insert(id, Arc::clone(sender));
        let key = &sender.key;
        let attach = Attach {
            channel: id,
            attempt: key.attempt.0,
            fingerprint: sender.fingerprint,
            job: &key.job,
            edge: key.edge,
            from: key.from,
            to: key.to,
        };
        let mut result = Ok(());
        self.push_control_on_data(|buf| result = put_attach(buf, &attach));
        if result.is_err() {
            self.forget_sender(id);
        } else if let Some(status) = self.lost_status.get() {
            // Lost in between: the loss did not see this sender.
            sender.link_lost(status);
        }
        result.map_err(Status::from)
    }

    pub(crate) fn check_payload(&self, bytes: usize, key: &ChannelKey) -> Result<(), Status> {
        let max = self.limits.frame_bytes_ceiling() as usize;
        if bytes + FRAME_OVERHEAD_BYTES > max {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "channel {key}: a batch of {bytes} bytes does not fit into a frame of node {}, \
                     whose frame_bytes_max is {max}: make batches or records smaller, or raise it there",
                    self.peer
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn put_data(&self, channel: u64, seq: u64, count: u32, payload: Bytes) {
        let bytes = payload.len();
        self.data.push(payload, |buf| {
            // Cannot fail: the sender has checked the length against the peer's limit.
            if let Err(error) = put_data_header(buf, channel, seq, count, bytes) {
                tracing::error!(%error, "a batch was checked and is too large");
            }
        });
    }

    pub(crate) fn put_mark(&self, channel: u64, seq: u64, mark: Mark) {
        self.data.push(Bytes::new(), |buf| put_mark(buf, channel, seq, mark));
    }

    pub(crate) fn put_detach(&self, channel: u64) {
        self.push_control_on_data(|buf| put_detach(buf, channel));
    }

    pub(crate) fn sender(&self, channel: u64) -> Option<Arc<SendState>> {
        self.senders.lock().get(&channel).cloned()
    }

    pub(crate) fn forget_sender(&self, channel: u64) {
        self.senders.lock().remove(&channel);
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
        let _ = self.closing_status.set(status);
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
        state.incoming.clear();
        state.buf = Vec::new();
        let writer = state.writer.take();
        drop(state);
        self.in_flight.store(0, Ordering::Relaxed);
        Self::wake(writer);
        self.data.close();
        self.lost_signal.close();
        self.idle.notify_waiters();
        self.fail_calls(pending, None, &status);
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

    /// Fails the calls whose deadline passed; says when to look again, and when a closing is over.
    fn expire(&self, now: Instant) -> (Option<Instant>, Option<Instant>) {
        let mut state = self.control.lock();
        let expired = state.in_flight.expire(now);
        let next = (state.in_flight.earliest(), state.closing_at);
        if expired.is_empty() {
            return next;
        }
        self.in_flight.store(state.in_flight.len() as u32, Ordering::Relaxed);
        let mut names = Vec::with_capacity(expired.len());
        for (id, pending) in &expired {
            self.count(&state, pending, Some(Code::DeadlineExceeded), now);
            let name = state.bound.get(pending.method as usize).map(|bound| bound.full.clone());
            names.push(name.unwrap_or_else(|| "call".into()));
            if !state.closed {
                state.append(|buf| put_cancel(buf, *id, CancelReason::Deadline));
            }
        }
        let writer = state.writer.take();
        drop(state);
        Self::wake(writer);
        for (call, name) in expired.into_iter().zip(names) {
            let status = Status::new(
                Code::DeadlineExceeded,
                format!("{name}: no answer of node {} before the deadline", self.peer),
            );
            self.fail_calls(vec![call], None, &status);
        }
        next
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

/// A method by its spec of this process, or by a name that somebody typed.
#[derive(Clone, Copy)]
pub(crate) enum MethodName<'a> {
    Spec(&'static MethodSpec),
    Typed(&'a str),
}

impl<'a> MethodName<'a> {
    pub(crate) fn name(self) -> &'a str {
        match self {
            Self::Spec(spec) => spec.name,
            Self::Typed(name) => name,
        }
    }
}

fn offered(service: ServiceOffer) -> (String, BTreeMap<String, u32>) {
    (service.name, service.methods.into_iter().map(|method| (method.name, method.number)).collect())
}

fn put_error(buf: &mut Vec<u8>, id: u64, status: &Status) {
    if let Err(error) = put_response_err(buf, id, status, &Meta::default()) {
        let plain = Status::new(status.code, error.message);
        let _ = put_response_err(buf, id, &plain, &Meta::default());
    }
}

impl Remote for Link {
    fn cancel(&self, id: u64, _reason: &str) {
        let mut state = self.control.lock();
        let Some(pending) = state.in_flight.remove(id) else { return };
        self.in_flight.store(state.in_flight.len() as u32, Ordering::Relaxed);
        self.count(&state, &pending, Some(Code::Cancelled), pending.started.unwrap_or(self.established));
        let writer = if state.closed {
            None
        } else {
            state.append(|buf| put_cancel(buf, id, CancelReason::Dropped));
            state.writer.take()
        };
        drop(state);
        Self::wake(writer);
    }
}

impl ResponseSink for Link {
    fn respond(&self, id: u64, result: Result<&[u8], &Status>) {
        let mut state = self.control.lock();
        let Some(incoming) = state.incoming.remove(&id) else { return };
        let mut code = result.err().map(|status| status.code);
        if incoming.cancelled {
            self.cancelled.fetch_sub(1, Ordering::Release);
            code = Some(Code::Cancelled);
        } else if !state.closed {
            let max = self.limits.frame_bytes_ceiling() as usize;
            match result {
                Ok(bytes) if bytes.len() + FRAME_OVERHEAD_BYTES > max => {
                    code = Some(Code::ResourceExhausted);
                    let status = Status::new(
                        Code::ResourceExhausted,
                        format!(
                            "the answer of {} bytes does not fit into a frame of node {}, whose \
                             frame_bytes_max is {max}: answer less at once, or raise it there",
                            bytes.len(),
                            self.peer
                        ),
                    );
                    state.append(|buf| put_error(buf, id, &status.executed(Executed::Yes)));
                }
                // Cannot fail: the length is below the limit.
                Ok(bytes) => drop(state.append(|buf| put_response_ok(buf, id, bytes, &Meta::default()))),
                Err(status) => state.append(|buf| put_error(buf, id, status)),
            }
        }
        let (bytes, idle) = (state.buf.len(), state.incoming.is_empty());
        let writer = state.writer.take();
        let draining = state.goaway.is_some();
        drop(state);
        Self::wake(writer);
        incoming.method.metrics.answered(code);
        incoming.method.metrics.in_flight.dec();
        if let Some(started) = incoming.started {
            incoming.method.metrics.seconds.observe((clock::now() - started).as_secs_f64());
        }
        if idle && draining {
            self.idle.notify_waiters();
        }
        self.check_backlog(bytes);
    }

    fn is_cancelled(&self, id: u64) -> bool {
        if self.is_lost() {
            return true;
        }
        self.cancelled.load(Ordering::Acquire) > 0
            && self.control.lock().incoming.get(&id).is_some_and(|incoming| incoming.cancelled)
    }
}

/// Lends a buffer of this thread to encode into. A call that starts another while it is encoded gets
/// a buffer of its own.
fn with_scratch<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with(|cell| match cell.try_borrow_mut() {
        Ok(mut scratch) => {
            scratch.clear();
            let result = f(&mut scratch);
            if scratch.capacity() > SCRATCH_BYTES_KEPT_MAX {
                *scratch = Vec::new();
            }
            result
        }
        Err(_) => f(&mut Vec::new()),
    })
}
