//! The two readers of a link: big reads, and all complete frames of each in one go.

mod room;
mod streams;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

use afflux_actor::clock;
use afflux_wire::contract::{CallChain, CallMeta, Identity, Passed, Priority, ReplyTo, ResponseSink};
use afflux_wire::{
    Code, Executed, Frame, Incarnation, Kind, Limits, Meta, Method, RareMeta, Stage, Status, WireError,
    take_frames,
};
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use self::room::Room;
use self::streams::Wholes;
use crate::attach::Refusal;
use crate::channel::{Packet, RecvState, Taken};
use crate::doorman::Doorman;
use crate::hash::IdMap;
use crate::link::{Link, Side};
use crate::mesh::Shared;
use crate::metrics::FrameCounts;
use crate::services::ServiceTable;
use crate::traffic::Run;
use crate::transport::ReadHalf;

/// Room for one read of a busy control connection.
const CONTROL_READ_BYTES_MAX: usize = 64 << 10;
/// Room for one read of a busy data connection.
const DATA_READ_BYTES_MAX: usize = 256 << 10;
/// Batches below this are copied out, so that a small one does not keep a whole read buffer.
const COPY_BYTES_MAX: usize = 2 << 10;
/// What one connection moves before others have their turn: tokio's own budget counts reads and writes, not their bytes,
/// and 128 of them are tens of milliseconds.
pub(crate) const TURN_BYTES_MAX: usize = 256 << 10;
/// A deadline further away than this is none.
const DEADLINE_MS_MAX: u64 = 366 * 24 * 3600 * 1000;

/// What the peer did that the protocol forbids.
struct Violation {
    reason: &'static str,
    text: String,
}

impl From<WireError> for Violation {
    fn from(error: WireError) -> Self {
        Self { reason: error.reason(), text: error.to_string() }
    }
}

fn violation<T>(reason: &'static str, text: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { reason, text: text.into() })
}

/// One side's loop: `take` gets all complete frames after every read.
async fn run(
    link: &Arc<Link>,
    side: Side,
    mut half: ReadHalf,
    mut buf: BytesMut,
    read_bytes_max: usize,
    mut take: impl FnMut(&mut BytesMut) -> Result<(), Violation>,
) {
    let mut lost = pin!(link.lost());
    let mut room = Room::new(read_bytes_max);
    let mut moved = 0;
    loop {
        if let Err(Violation { reason, text }) = take(&mut buf) {
            link.metrics.decode_error(reason);
            tracing::warn!(peer = %link.peer, side = side.name(), %text, "protocol error");
            let text = format!("protocol error on the {} connection: {text}", side.name());
            link.put_goaway(Code::InvalidArgument, &text, Duration::ZERO);
            return link
                .close(Status::unavailable(format!("the link to node {} was closed: {text}", link.peer)));
        }
        let free = room.make(&mut buf);
        let read = tokio::select! {
            biased;
            () = &mut lost => return,
            read = half.read_buf(&mut buf) => read,
        };
        match read {
            Ok(0) => return link.ended(side),
            Ok(n) => {
                link.metrics.bytes_in.inc_by(n as u64);
                room.has_read(n, free);
                moved += n;
            }
            Err(error) => return link.fail_io(side, &error),
        }
        if moved >= TURN_BYTES_MAX {
            moved = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// A reader that panics in a user's decoder must not leave a deaf link behind.
struct Guard<'a>(&'a Link);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lose(Status::internal(format!("the reader of node {}'s frames panicked", self.0.peer)));
        }
    }
}

/// Reads the control connection until the link ends.
pub(crate) async fn run_control(shared: Arc<Shared>, link: Arc<Link>, half: ReadHalf, buf: BytesMut) {
    let _guard = Guard(&link);
    let mut reader = Control::new(&shared, &link);
    run(&link, Side::Control, half, buf, CONTROL_READ_BYTES_MAX, |buf| reader.take(buf)).await;
}

struct Control<'a> {
    shared: &'a Arc<Shared>,
    link: &'a Arc<Link>,
    sink: Arc<dyn ResponseSink>,
    limits: Limits,
    counts: FrameCounts,
    /// Bytes of requests, and of answers.
    asked: Run,
    answers: Run,
    last_request: u64,
    doorman: Doorman,
    wakers: Vec<Waker>,
}

impl<'a> Control<'a> {
    fn new(shared: &'a Arc<Shared>, link: &'a Arc<Link>) -> Self {
        let sink = Arc::clone(link) as Arc<dyn ResponseSink>;
        Self {
            shared,
            link,
            sink,
            limits: link.own_limits,
            counts: FrameCounts::new(),
            asked: Run::default(),
            answers: Run::default(),
            last_request: 0,
            doorman: Doorman::default(),
            wakers: Vec::new(),
        }
    }
}

impl Control<'_> {
    fn take(&mut self, buf: &mut BytesMut) -> Result<(), Violation> {
        loop {
            let frames = take_frames(buf, &self.limits)?;
            if frames.is_empty() {
                return Ok(());
            }
            let now = clock::now();
            self.link.heard(Side::Control, now);
            let mut services = None;
            let mut result = Ok(());
            for part in frames.iter() {
                result = Frame::decode_part(frames.block(), part)
                    .map_err(Violation::from)
                    .and_then(|frame| self.frame(frame, now, &mut services));
                if result.is_err() {
                    break;
                }
            }
            self.flush_counts();
            self.wakers.drain(..).for_each(Waker::wake);
            result?;
        }
    }

    /// Tells the counters what one read has brought.
    fn flush_counts(&mut self) {
        self.counts.flush(&self.link.metrics);
        self.asked.flush();
        self.answers.flush();
    }

    #[inline]
    fn frame(
        &mut self,
        frame: Frame<'_>,
        now: Instant,
        services: &mut Option<Arc<ServiceTable>>,
    ) -> Result<(), Violation> {
        match frame {
            Frame::Request { id, method, params, meta } => {
                self.counts.add(Kind::Request);
                if let Err(text) = self.link.check_request_id(id, self.last_request) {
                    return violation("id", text);
                }
                self.last_request = id;
                let services = services.get_or_insert_with(|| self.shared.services());
                self.request(id, method, &params, meta, now, services);
            }
            Frame::Response { id, result, meta } => {
                self.counts.add(Kind::Response);
                match result {
                    Ok(bytes) => self.link.answered(id, Ok(&bytes), meta.load, now, &mut self.answers),
                    Err(status) => self.link.answered(id, Err(status), meta.load, now, &mut self.answers),
                }
            }
            Frame::Notify { method, params, meta } => {
                self.counts.add(Kind::Notify);
                let services = services.get_or_insert_with(|| self.shared.services());
                self.notify(method, &params, meta, now, services);
            }
            Frame::Credit { id, n } => {
                self.counts.add(Kind::Credit);
                // A sender that is gone needs no credit.
                if let Some(sender) = self.link.sender(id) {
                    sender.credited(n, &mut self.wakers);
                } else if let Some(stream) = self.link.stream(id) {
                    stream.credited(n);
                }
            }
            Frame::Cancel { id, reason } => {
                self.counts.add(Kind::Cancel);
                self.link.cancel_received(id);
                self.link.stream_cancelled(id, reason);
                self.link.unwatched(id);
            }
            other => return self.rare(other, now),
        }
        Ok(())
    }

    #[inline(never)]
    fn rare(&mut self, frame: Frame<'_>, now: Instant) -> Result<(), Violation> {
        let Some(kind) = frame.kind() else { return Ok(()) };
        self.counts.add(kind);
        match frame {
            Frame::Ping(nonce) => self.link.put_pong(Side::Control, nonce),
            Frame::Pong(nonce) => {
                let sent = self.link.established + Duration::from_micros(nonce.min(u64::MAX / 4));
                let micros = now.saturating_duration_since(sent).as_micros() as u64;
                self.link.rtt_micros.store(micros, std::sync::atomic::Ordering::Relaxed);
            }
            Frame::Goaway { last_id, code, reason, grace_ms } => {
                tracing::info!(peer = %self.link.peer, reason, grace_ms, "a node is going away");
                self.link.goaway_received(last_id, code, reason);
                self.shared.routes_changed();
            }
            Frame::Bind(methods) => {
                if let Err(text) = self.link.bind_received(methods) {
                    return violation("bindings_max", text);
                }
                self.shared.routes_changed();
            }
            Frame::Watch { id, actor } => {
                if let Err(text) = self.link.check_request_id(id, self.last_request) {
                    return violation("id", text.replace("REQUEST.id", "WATCH.id"));
                }
                self.last_request = id;
                self.shared.watch_received(self.link, id, &actor);
            }
            Frame::Down { id, reason, error } => self.link.down_received(id, reason, error),
            Frame::Redirect { id, node, incarnation } => {
                let text = format!("what was called lives on node {node}, says node {}", self.link.peer);
                let status = Status::unavailable(text)
                    .executed(Executed::No)
                    .stage(Stage::Admission)
                    .node(&self.link.peer)
                    .redirect(node.into(), Incarnation(incarnation));
                self.link.answered(id, Err(status), 0, now, &mut self.answers);
            }
            Frame::Health(report) => {
                if let Err(status) = self.shared.health_received(self.link, &report, now) {
                    return violation("malformed", format!("HEALTH: {}", status.message));
                }
            }
            Frame::Ignored { .. } => {}
            _ => return violation("misplaced", format!("{} on the control connection", kind.name())),
        }
        Ok(())
    }

    #[inline]
    fn request(
        &mut self,
        id: u64,
        method: Method<'_>,
        params: &[u8],
        meta: Meta,
        now: Instant,
        services: &ServiceTable,
    ) {
        let of_actor = meta.rare().and_then(|rare| rare.to.as_ref());
        let of_actor = of_actor.map(|to| self.shared.method_of_actor(to, services, method));
        let found = match &of_actor {
            None => services.find(method),
            Some(found) => found.as_ref().map_err(Clone::clone),
        };
        let method = match found {
            Ok(method) => method,
            Err((status, reason)) => return self.refuse(id, "unknown", status, reason),
        };
        let identity = match self.doorman.admit(self.shared, self.link, method, &meta) {
            Ok(identity) => identity,
            Err((status, reason)) => return self.refuse(id, method.service, status, reason),
        };
        if meta.deadline_ms == Some(0) {
            let text = "the deadline passed before the request arrived";
            let status = Status::new(Code::DeadlineExceeded, text);
            return self.refuse(id, method.service, status, "deadline");
        }
        let chain = match chain_of(&meta) {
            Ok(chain) => chain,
            Err(status) => return self.refuse(id, method.service, status, "chain"),
        };
        if let Err((status, reason)) = self.link.admit(id, method, now) {
            return self.refuse(id, method.service, status, reason);
        }
        self.asked.add(&method.metrics.traffic.came, method.service, params.len());
        let reply = ReplyTo::new(Arc::clone(&self.sink), id);
        method.dispatch.dispatch(
            method.index,
            params,
            CallMeta { chain, ..self.meta(meta, now, identity) },
            Some(reply),
        );
    }

    #[cold]
    fn refuse(&self, id: u64, service: &str, status: Status, reason: &'static str) {
        self.link.metrics.rejected(service, reason);
        let status = status.executed(Executed::No).stage(Stage::Admission).node(&self.link.node);
        self.link.refuse(id, &status);
    }

    fn notify(
        &mut self,
        method: Method<'_>,
        params: &[u8],
        meta: Meta,
        now: Instant,
        services: &ServiceTable,
    ) {
        let of_actor = meta.rare().and_then(|rare| rare.to.as_ref());
        let of_actor = of_actor.map(|to| self.shared.method_of_actor(to, services, method));
        let found = match &of_actor {
            None => services.find(method),
            Some(found) => found.as_ref().map_err(Clone::clone),
        };
        match found {
            Ok(method) if meta.deadline_ms == Some(0) => {
                self.link.metrics.rejected(method.service, "deadline");
            }
            Ok(method) => {
                let identity = match self.doorman.admit(self.shared, self.link, method, &meta) {
                    Ok(identity) => identity,
                    Err((status, reason)) => {
                        self.link.metrics.rejected(method.service, reason);
                        return tracing::debug!(peer = %self.link.peer, %status, "a one-way call was refused");
                    }
                };
                if method.one_way {
                    method.metrics.answered(None);
                }
                self.asked.add(&method.metrics.traffic.came, method.service, params.len());
                method.dispatch.dispatch(method.index, params, self.meta(meta, now, identity), None);
            }
            Err((status, reason)) => {
                self.link.metrics.rejected("unknown", reason);
                tracing::debug!(peer = %self.link.peer, %status, "a one-way call was dropped");
            }
        }
    }

    #[inline]
    fn meta(&self, meta: Meta, now: Instant, identity: Option<Arc<Identity>>) -> CallMeta {
        CallMeta {
            deadline: meta
                .deadline_ms
                .and_then(|ms| now.checked_add(Duration::from_millis(ms.min(DEADLINE_MS_MAX)))),
            trace: meta.traceparent,
            passed: meta.rare().and_then(passed_of),
            attempt: meta.attempt,
            idempotency_key: meta
                .rare
                .and_then(|rare| rare.idempotency_key)
                .map(|key| Arc::from(key.as_ref())),
            priority: Priority::from_wire(meta.priority),
            peer: Some(self.link.peer.clone()),
            identity,
            ..CallMeta::default()
        }
    }
}

/// What came beside the trace.
fn passed_of(rare: &RareMeta) -> Option<Arc<Passed>> {
    let text =
        |bytes: &Option<Bytes>| bytes.as_ref().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    Passed::new(text(&rare.tracestate).as_deref(), text(&rare.baggage).as_deref())
}

/// The actors that wait for a request.
#[inline]
fn chain_of(meta: &Meta) -> Result<Option<CallChain>, Status> {
    match meta.rare().and_then(|rare| rare.chain.as_ref()) {
        None => Ok(None),
        Some(bytes) => CallChain::from_wire(bytes),
    }
}

/// Reads the data connection until the link ends, and fails its receivers then.
pub(crate) async fn run_data(shared: Arc<Shared>, link: Arc<Link>, half: ReadHalf, buf: BytesMut) {
    let mut reader = Data {
        shared: &shared,
        link: &link,
        limits: link.own_limits,
        counts: FrameCounts::new(),
        receivers: IdMap::default(),
        last_attached: 0,
        last_opened: 0,
        calls: Control::new(&shared, &link),
        wholes: Wholes::default(),
        wakers: Vec::new(),
    };
    run(&link, Side::Data, half, buf, DATA_READ_BYTES_MAX, |buf| reader.take(buf)).await;
    link.lost().await;
    let status = link.lost_status().cloned();
    let mut receivers: Vec<_> = reader.receivers.drain().collect();
    receivers.sort_unstable_by_key(|(id, _)| *id);
    for (_, receiver) in receivers {
        let mut status = status.clone().unwrap_or_else(|| Status::unavailable("the link is lost"));
        status.message = format!("channel {}: {}", receiver.state.key, status.message);
        receiver.state.end(Some(status), &mut reader.wakers);
    }
    reader.wakers.drain(..).for_each(Waker::wake);
}

struct Receiving {
    state: Arc<RecvState>,
    seq: u64,
}

struct Data<'a> {
    shared: &'a Arc<Shared>,
    link: &'a Arc<Link>,
    limits: Limits,
    counts: FrameCounts,
    receivers: IdMap<u64, Receiving>,
    last_attached: u64,
    last_opened: u64,
    /// What is called over this connection: streams, and large calls.
    calls: Control<'a>,
    wholes: Wholes,
    /// Of the receivers that got something in this read: each is woken once.
    wakers: Vec<Waker>,
}

impl Data<'_> {
    fn take(&mut self, buf: &mut BytesMut) -> Result<(), Violation> {
        loop {
            let frames = take_frames(buf, &self.limits)?;
            if frames.is_empty() {
                return Ok(());
            }
            self.link.heard(Side::Data, clock::now());
            let mut result = Ok(());
            for part in frames.iter() {
                result = Frame::decode_part(frames.block(), part)
                    .map_err(Violation::from)
                    .and_then(|frame| self.frame(frame));
                if result.is_err() {
                    break;
                }
            }
            self.counts.flush(&self.link.metrics);
            self.calls.flush_counts();
            self.wakers.drain(..).for_each(Waker::wake);
            result?;
        }
    }

    fn frame(&mut self, frame: Frame<'_>) -> Result<(), Violation> {
        let Some(kind) = frame.kind() else { return Ok(()) };
        self.counts.add(kind);
        match frame {
            Frame::Data { channel, seq, count, rows } => {
                let payload = if rows.len() < COPY_BYTES_MAX { Bytes::copy_from_slice(&rows) } else { rows };
                self.packet(channel, seq, Packet::Data { count, payload })
            }
            Frame::Item { id, first_seq, count, items } => self.calls.items(id, first_seq, count, items),
            Frame::End { id, result } => {
                self.calls.end(id, result);
                Ok(())
            }
            Frame::Open { id, method, params, meta } => {
                if let Err(text) = self.link.check_request_id(id, self.last_opened) {
                    return violation("id", text.replace("REQUEST.id", "OPEN.id"));
                }
                self.last_opened = id;
                self.calls.open(id, method, &params, meta, clock::now());
                Ok(())
            }
            Frame::Chunk { id, total, last, part } => {
                match self.wholes.part(&self.limits, id, total, last, &part)? {
                    Some(whole) => self.calls.whole(&whole, clock::now()),
                    None => Ok(()),
                }
            }
            Frame::Mark { channel, seq, mark } => self.packet(channel, seq, Packet::Mark(mark)),
            Frame::Attach(attach) => {
                let id = attach.channel;
                if let Err(text) = self.link.check_request_id(id, self.last_attached) {
                    return violation("id", text.replace("REQUEST.id", "ATTACH.channel"));
                }
                self.last_attached = id;
                let is_node = self.link.identity.as_ref().is_some_and(|identity| identity.node.is_some());
                let attached = if self.shared.guard.is_on() && !is_node {
                    Err(Refusal::Forbidden)
                } else {
                    self.shared.channels.receiver(&attach).and_then(|state| {
                        if state.attach(self.link, id) { Ok(state) } else { Err(Refusal::Taken) }
                    })
                };
                match attached {
                    Ok(state) => {
                        self.link.put_credit(id, state.window_bytes);
                        self.receivers.insert(id, Receiving { state, seq: 0 });
                        self.link.receivers.fetch_add(1, Ordering::AcqRel);
                    }
                    Err(refusal) => {
                        self.link.metrics.attach_refused(refusal.name());
                        self.link.put_detach(id);
                    }
                }
                Ok(())
            }
            Frame::Detach { channel } => {
                if let Some(receiver) = self.receivers.remove(&channel) {
                    self.link.receivers.fetch_sub(1, Ordering::AcqRel);
                    receiver.state.end(None, &mut self.wakers);
                } else if let Some(sender) = self.link.sender(channel) {
                    self.link.forget_sender(channel);
                    sender.detached(&mut self.wakers);
                }
                Ok(())
            }
            Frame::Ping(nonce) => {
                self.link.put_pong(Side::Data, nonce);
                Ok(())
            }
            Frame::Pong(_) => Ok(()),
            _ => violation("misplaced", format!("{} on the data connection", kind.name())),
        }
    }

    #[inline]
    fn packet(&mut self, channel: u64, seq: u64, packet: Packet) -> Result<(), Violation> {
        let Some(receiver) = self.receivers.get_mut(&channel) else {
            self.link.metrics.channel_dropped("unattached", 1);
            return Ok(());
        };
        if seq != receiver.seq + 1 {
            return violation(
                "gap",
                format!("channel {}: frame {seq} follows frame {}", receiver.state.key, receiver.seq),
            );
        }
        receiver.seq = seq;
        match receiver.state.push(packet, &mut self.wakers) {
            Taken::Queued => Ok(()),
            Taken::Dropped => {
                self.receivers.remove(&channel);
                self.link.receivers.fetch_sub(1, Ordering::AcqRel);
                self.link.metrics.channel_dropped("released", 1);
                Ok(())
            }
            Taken::Overdrawn(text) => violation("credit", text),
        }
    }
}
