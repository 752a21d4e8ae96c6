//! Byte channels: one producer task to one consumer task, batches with credits, marks without.
//!
//! The receiver grants its window in bytes when it takes an ATTACH, and gives credit back by itself
//! once half a window has been taken out. A batch may overdraw the credit once. There is no window
//! over all channels of a link: a full channel stops its own sender only. Credits travel on the
//! control connection, everything else of a channel on the data connection.
//!
//! Not here: what the bytes mean (`afflux-stream`), how they are written ([`crate::writer`]).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use afflux_actor::sync::Mutex;
use afflux_wire::{Attempt, Mark, NodeId, Status};
use bytes::Bytes;
use prometheus::IntGauge;

use crate::bugs::{self, Bug};
use crate::link::Link;

/// Items that a sender holds back before its first credit: marks and what was sent too early.
pub const HELD_ITEMS_MAX: usize = 1_024;

/// Packets that lie in a receiver at most: marks need no credit, and a batch may be empty.
pub const QUEUED_PACKETS_MAX: usize = 1 << 18;

/// Names a channel in the whole cluster: one producer to one consumer of one edge of one attempt.
///
/// ```
/// use afflux_mesh::ChannelKey;
/// use afflux_wire::Attempt;
/// let key = ChannelKey { job: "hourly".into(), attempt: Attempt(3), edge: 1, from: 0, to: 2 };
/// assert_eq!(key.to_string(), "hourly#3 edge 1, 0 -> 2");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelKey {
    /// The job's name.
    pub job: Arc<str>,
    /// Which try at running it.
    pub attempt: Attempt,
    /// Index of the edge in the execution plan.
    pub edge: u32,
    /// Sending subtask.
    pub from: u32,
    /// Receiving subtask.
    pub to: u32,
}

impl fmt::Display for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, attempt, edge, from, to } = self;
        write!(f, "{job}#{} edge {edge}, {from} -> {to}", attempt.0)
    }
}

/// What comes out of a channel, in the order in which it went in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// One batch.
    Data {
        /// Rows in it.
        count: u32,
        /// The rows, as the sender encoded them.
        payload: Bytes,
    },
    /// A watermark, idleness, a barrier or the end.
    Mark(Mark),
}

impl Packet {
    fn bytes(&self) -> usize {
        match self {
            Self::Data { payload, .. } => payload.len(),
            Self::Mark(_) => 0,
        }
    }
}

/// Gauges of one channel, shared by all channels of its edge.
#[derive(Clone)]
pub(crate) struct ChannelGauges {
    pub(crate) queued_bytes: IntGauge,
    pub(crate) credits: IntGauge,
}

// ---------------------------------------------------------------------------------------------
// The sending side.

enum SendPhase {
    /// Waits for a link, or for the first credit on it.
    Attaching(Option<(Arc<Link>, u64)>),
    /// Credit was granted on this link under this id.
    Open(Arc<Link>, u64),
    Failed(Status),
    Closed,
}

/// What the sender's task and the link share.
pub(crate) struct SendState {
    pub(crate) key: ChannelKey,
    pub(crate) peer: NodeId,
    pub(crate) fingerprint: u64,
    inner: Mutex<SendInner>,
    gauges: ChannelGauges,
    /// Woken when an attach was granted, refused or became pointless.
    pub(crate) settled: tokio::sync::Notify,
}

struct SendInner {
    phase: SendPhase,
    credits: i64,
    window: i64,
    seq: u64,
    held: VecDeque<Packet>,
    held_bytes: usize,
    waker: Option<Waker>,
    ended: bool,
    /// The sender is gone, but what it sent before its end still has to go out.
    dropped: bool,
}

/// How an attach stands.
pub(crate) enum Attaching {
    /// Not granted yet.
    Waiting,
    /// Not on any link: never attached, or refused.
    Unattached,
    /// Granted, failed or no longer wanted: nothing to do.
    Settled,
}

impl SendState {
    pub(crate) fn new(key: ChannelKey, peer: NodeId, fingerprint: u64, gauges: ChannelGauges) -> Arc<Self> {
        Arc::new(Self {
            key,
            peer,
            fingerprint,
            inner: Mutex::new(SendInner {
                phase: SendPhase::Attaching(None),
                credits: 0,
                window: 0,
                seq: 0,
                held: VecDeque::new(),
                held_bytes: 0,
                waker: None,
                ended: false,
                dropped: false,
            }),
            gauges,
            settled: tokio::sync::Notify::new(),
        })
    }

    pub(crate) fn attaching(&self) -> Attaching {
        match &self.inner.lock().phase {
            SendPhase::Attaching(Some(_)) => Attaching::Waiting,
            SendPhase::Attaching(None) => Attaching::Unattached,
            SendPhase::Open(..) | SendPhase::Failed(_) | SendPhase::Closed => Attaching::Settled,
        }
    }

    /// An ATTACH for it was written on this link.
    pub(crate) fn attached(&self, link: &Arc<Link>, id: u64) {
        let mut inner = self.inner.lock();
        if matches!(inner.phase, SendPhase::Attaching(_)) {
            inner.phase = SendPhase::Attaching(Some((Arc::clone(link), id)));
        }
    }

    /// CREDIT came. The first one opens the channel.
    pub(crate) fn credited(&self, bytes: u64, wakers: &mut Vec<Waker>) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let opened = match &mut inner.phase {
            SendPhase::Attaching(at) => match at.take() {
                Some((link, id)) => {
                    inner.phase = SendPhase::Open(link, id);
                    inner.window = bytes;
                    true
                }
                None => false,
            },
            SendPhase::Open(..) => false,
            SendPhase::Failed(_) | SendPhase::Closed => return,
        };
        inner.credits = inner.credits.saturating_add(bytes);
        self.gauges.credits.add(bytes);
        if opened && let Err(status) = self.check_held(inner) {
            self.fail_locked(inner, status);
        }
        inner.release_held();
        if inner.dropped {
            self.finish(inner);
        }
        if inner.credits > 0 || matches!(inner.phase, SendPhase::Failed(_)) {
            wakers.extend(inner.waker.take());
        }
        drop(guard);
        if opened {
            self.settled.notify_one();
        }
    }

    /// What was sent before the peer's limits were known must fit into its frames.
    fn check_held(&self, inner: &SendInner) -> Result<(), Status> {
        let SendPhase::Open(link, id) = &inner.phase else { return Ok(()) };
        let checked = inner.held.iter().try_for_each(|packet| link.check_payload(packet.bytes(), &self.key));
        if checked.is_err() {
            link.put_detach(*id);
            link.forget_sender(*id);
        }
        checked
    }

    /// Writes all that is left, and detaches.
    fn finish(&self, inner: &mut SendInner) {
        match &inner.phase {
            SendPhase::Open(link, id) => {
                let (link, id) = (Arc::clone(link), *id);
                inner.release_all(&link, id);
                link.put_detach(id);
                link.forget_sender(id);
            }
            SendPhase::Attaching(Some((link, id))) => {
                link.put_detach(*id);
                link.forget_sender(*id);
            }
            SendPhase::Attaching(None) | SendPhase::Failed(_) | SendPhase::Closed => {}
        }
        self.fail_locked(inner, Status::unavailable("the sender was dropped"));
        inner.phase = SendPhase::Closed;
        inner.waker = None;
    }

    /// DETACH came from the receiving side.
    pub(crate) fn detached(&self, wakers: &mut Vec<Waker>) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        match &mut inner.phase {
            SendPhase::Attaching(at) => *at = None,
            SendPhase::Open(..) if inner.ended => inner.phase = SendPhase::Closed,
            SendPhase::Open(..) => {
                let status = Status::unavailable(format!(
                    "node {} detached channel {}: its receiver is gone",
                    self.peer, self.key
                ));
                self.fail_locked(inner, status.node(&self.peer));
            }
            SendPhase::Failed(_) | SendPhase::Closed => {}
        }
        wakers.extend(inner.waker.take());
        drop(guard);
        self.settled.notify_one();
    }

    /// The link is lost, or no attach succeeded in time.
    pub(crate) fn fail(&self, status: Status) {
        let mut inner = self.inner.lock();
        if matches!(inner.phase, SendPhase::Attaching(_) | SendPhase::Open(..)) {
            if inner.dropped {
                tracing::warn!(channel = %self.key, %status, "the end of a channel could not be delivered");
            }
            self.fail_locked(&mut inner, status);
        }
        let waker = inner.waker.take();
        drop(inner);
        self.settled.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn fail_locked(&self, inner: &mut SendInner, status: Status) {
        self.gauges.credits.sub(std::mem::take(&mut inner.credits));
        inner.held_bytes = 0;
        inner.held.clear();
        inner.phase = SendPhase::Failed(status);
    }

    /// The link that carries it is lost: an attach that was not granted starts again elsewhere.
    pub(crate) fn link_lost(&self, status: &Status) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        match &mut inner.phase {
            SendPhase::Attaching(at) => {
                *at = None;
                drop(guard);
                self.settled.notify_one();
            }
            SendPhase::Open(..) if inner.ended => inner.phase = SendPhase::Closed,
            _ => {
                drop(guard);
                let mut status = status.clone();
                status.message = format!("channel {}: {}", self.key, status.message);
                self.fail(status);
            }
        }
    }
}

impl SendInner {
    /// Writes what was held back: everything once open, but a lone watermark only with credit, so
    /// that later ones can replace it.
    fn release_held(&mut self) {
        let SendPhase::Open(link, id) = &self.phase else { return };
        let (link, id) = (Arc::clone(link), *id);
        while let Some(first) = self.held.front() {
            let only_watermark = self.held.len() == 1 && matches!(first, Packet::Mark(Mark::Watermark(_)));
            if only_watermark && self.credits <= 0 {
                return;
            }
            if let Some(packet) = self.held.pop_front() {
                self.held_bytes -= packet.bytes();
                self.put(&link, id, packet);
            }
        }
    }

    /// Writes all that was held back, in front of a batch or a DETACH.
    fn release_all(&mut self, link: &Link, id: u64) {
        self.held_bytes = 0;
        while let Some(packet) = self.held.pop_front() {
            self.put(link, id, packet);
        }
    }

    fn put(&mut self, link: &Link, id: u64, packet: Packet) {
        self.seq += 1;
        match packet {
            Packet::Data { count, payload } => link.put_data(id, self.seq, count, payload),
            Packet::Mark(mark) => link.put_mark(id, self.seq, mark),
        }
    }

    /// Holds an item back; a watermark replaces the one before it.
    fn hold(&mut self, packet: Packet) -> bool {
        if let (Some(Packet::Mark(Mark::Watermark(last))), Packet::Mark(Mark::Watermark(at))) =
            (self.held.back_mut(), &packet)
        {
            *last = *at;
            return true;
        }
        if self.held.len() >= HELD_ITEMS_MAX {
            return false;
        }
        self.held_bytes += packet.bytes();
        self.held.push_back(packet);
        true
    }
}

/// The sending end of a byte channel. Dropping it detaches the channel.
///
/// ```no_run
/// # use std::task::{Context, Poll};
/// # fn step(sender: &mut afflux_mesh::ChannelSender, cx: &mut Context<'_>) -> Result<(), afflux_wire::Status> {
/// if sender.poll_ready(cx)?.is_ready() {
///     sender.send(2, bytes::Bytes::from_static(b"two rows"))?;
///     sender.mark(afflux_mesh::Mark::Watermark(1_000))?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct ChannelSender {
    state: Arc<SendState>,
}

impl ChannelSender {
    pub(crate) fn new(state: Arc<SendState>) -> Self {
        Self { state }
    }

    /// The channel's name.
    pub fn key(&self) -> &ChannelKey {
        &self.state.key
    }

    /// Ready while credit is held, and then a batch of any size may be sent.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let mut inner = self.state.inner.lock();
        match &inner.phase {
            SendPhase::Open(..) if inner.credits > 0 => Poll::Ready(Ok(())),
            SendPhase::Failed(status) => Poll::Ready(Err(status.clone())),
            SendPhase::Closed => Poll::Ready(Err(self.closed())),
            SendPhase::Attaching(_) | SendPhase::Open(..) => {
                match &inner.waker {
                    Some(known) if known.will_wake(cx.waker()) => {}
                    _ => inner.waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    /// Whether credit is held.
    pub fn try_ready(&self) -> bool {
        let inner = self.state.inner.lock();
        matches!(inner.phase, SendPhase::Open(..)) && inner.credits > 0
    }

    /// Sends one batch of `count` rows. A batch may overdraw the credit.
    ///
    /// # Errors
    /// The failure of the channel; `RESOURCE_EXHAUSTED` when the credit is overdrawn by a whole
    /// window already: ask [`ChannelSender::poll_ready`] before each batch.
    pub fn send(&mut self, count: u32, payload: Bytes) -> Result<(), Status> {
        let mut inner = self.state.inner.lock();
        let inner = &mut *inner;
        let bytes = payload.len();
        match &inner.phase {
            SendPhase::Failed(status) => return Err(status.clone()),
            SendPhase::Closed => return Err(self.closed()),
            SendPhase::Attaching(_) => {
                inner.credits -= bytes as i64;
                self.state.gauges.credits.sub(bytes as i64);
                if !inner.hold(Packet::Data { count, payload }) {
                    return Err(self.overdrawn(inner));
                }
                return Ok(());
            }
            SendPhase::Open(link, id) => {
                if inner.credits <= -inner.window.max(1) {
                    return Err(self.overdrawn(inner));
                }
                let (link, id) = (Arc::clone(link), *id);
                link.check_payload(bytes, &self.state.key)?;
                inner.credits -= bytes as i64;
                self.state.gauges.credits.sub(bytes as i64);
                inner.release_all(&link, id);
                if bugs::on(Bug::DuplicateBatch) && inner.seq % 16 == 9 {
                    inner.put(&link, id, Packet::Data { count, payload: payload.clone() });
                }
                inner.put(&link, id, Packet::Data { count, payload });
            }
        }
        Ok(())
    }

    /// Sends a mark: it needs no credit and keeps its place among the batches. A watermark that
    /// waits for the receiver is replaced by a later one.
    ///
    /// # Errors
    /// The failure of the channel; `RESOURCE_EXHAUSTED` when [`HELD_ITEMS_MAX`] items wait for the
    /// channel to be attached.
    pub fn mark(&mut self, mark: Mark) -> Result<(), Status> {
        let mut inner = self.state.inner.lock();
        let inner = &mut *inner;
        inner.ended |= mark == Mark::End;
        match &inner.phase {
            SendPhase::Failed(status) => return Err(status.clone()),
            SendPhase::Closed => return Err(self.closed()),
            SendPhase::Attaching(_) | SendPhase::Open(..) => {}
        }
        if !inner.hold(Packet::Mark(mark)) {
            return Err(self.overdrawn(inner));
        }
        inner.release_held();
        Ok(())
    }

    /// Bytes sent too early, which wait in this process for the channel to be attached.
    pub fn queued_bytes(&self) -> usize {
        self.state.inner.lock().held_bytes
    }

    /// Bytes that may be sent now; negative after a batch that overdrew.
    pub fn credits(&self) -> i64 {
        self.state.inner.lock().credits
    }

    fn closed(&self) -> Status {
        Status::precondition(format!("channel {} has ended", self.state.key))
    }

    fn overdrawn(&self, inner: &SendInner) -> Status {
        Status::new(
            afflux_wire::Code::ResourceExhausted,
            format!(
                "channel {}: {} bytes of credit in a window of {} and {} items held (at most \
                 {HELD_ITEMS_MAX}): wait for poll_ready before each batch",
                self.state.key,
                inner.credits,
                inner.window,
                inner.held.len()
            ),
        )
    }
}

impl Drop for ChannelSender {
    fn drop(&mut self) {
        let mut inner = self.state.inner.lock();
        if inner.ended && matches!(inner.phase, SendPhase::Attaching(_)) {
            // A producer may end before its consumer is there: its end must not be lost.
            inner.dropped = true;
            return;
        }
        self.state.finish(&mut inner);
        drop(inner);
        self.state.settled.notify_one();
    }
}

impl fmt::Debug for ChannelSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelSender({} to node {})", self.state.key, self.state.peer)
    }
}

// ---------------------------------------------------------------------------------------------
// The receiving side.

/// What the link and the receiver's task share.
pub(crate) struct RecvState {
    pub(crate) key: ChannelKey,
    pub(crate) fingerprint: u64,
    pub(crate) window_bytes: u64,
    /// The most that may lie here: the window, an overdraft of a window, and one frame.
    bytes_max: u64,
    inner: Mutex<RecvInner>,
    gauges: ChannelGauges,
}

struct RecvInner {
    queue: VecDeque<Packet>,
    /// Bytes received and not given back as credit.
    owed_bytes: u64,
    source: Source,
    waker: Option<Waker>,
}

enum Source {
    /// No sender yet.
    Waiting,
    Attached(Arc<Link>, u64),
    /// The sender is gone; `Some` when it went too early.
    Ended(Option<Status>),
    /// The receiver is gone.
    Closed,
}

/// What became of a packet that came over a link.
pub(crate) enum Taken {
    /// It lies in the queue.
    Queued,
    /// The receiver is gone, or has failed.
    Dropped,
    /// The sender sent far more than it had credit for; the text says how much.
    Overdrawn(String),
}

impl RecvState {
    pub(crate) fn new(
        key: ChannelKey,
        fingerprint: u64,
        window_bytes: u32,
        frame_bytes_max: u32,
        gauges: ChannelGauges,
    ) -> Arc<Self> {
        let window_bytes = u64::from(window_bytes.max(1));
        Arc::new(Self {
            key,
            fingerprint,
            window_bytes,
            bytes_max: 2 * window_bytes + u64::from(frame_bytes_max),
            inner: Mutex::new(RecvInner {
                queue: VecDeque::new(),
                owed_bytes: 0,
                source: Source::Waiting,
                waker: None,
            }),
            gauges,
        })
    }

    /// A sender attached; false when it already has one or is gone.
    pub(crate) fn attach(&self, link: &Arc<Link>, id: u64) -> bool {
        let mut inner = self.inner.lock();
        if matches!(inner.source, Source::Waiting) {
            inner.source = Source::Attached(Arc::clone(link), id);
            return true;
        }
        false
    }

    /// A packet came. The waker goes into `wakers`, to be woken once a batch of frames.
    pub(crate) fn push(&self, packet: Packet, wakers: &mut Vec<Waker>) -> Taken {
        let mut inner = self.inner.lock();
        if !matches!(inner.source, Source::Attached(..)) {
            return Taken::Dropped;
        }
        let bytes = packet.bytes() as u64;
        if inner.owed_bytes >= self.bytes_max || inner.queue.len() >= QUEUED_PACKETS_MAX {
            return Taken::Overdrawn(format!(
                "channel {}: {} bytes in {} packets lie here, for a window of {} bytes and \
                 {QUEUED_PACKETS_MAX} packets",
                self.key,
                inner.owed_bytes + bytes,
                inner.queue.len(),
                self.window_bytes
            ));
        }
        if let (Some(Packet::Mark(Mark::Watermark(last))), Packet::Mark(Mark::Watermark(at))) =
            (inner.queue.back_mut(), &packet)
        {
            *last = *at;
            return Taken::Queued;
        }
        inner.owed_bytes += bytes;
        self.gauges.queued_bytes.add(bytes as i64);
        inner.queue.push_back(packet);
        wakers.extend(inner.waker.take());
        Taken::Queued
    }

    /// The sender is gone: by DETACH (`None`), or by a failure.
    pub(crate) fn end(&self, failure: Option<Status>, wakers: &mut Vec<Waker>) {
        let mut inner = self.inner.lock();
        if let Source::Attached(..) | Source::Waiting = inner.source {
            inner.source = Source::Ended(failure);
        }
        wakers.extend(inner.waker.take());
    }

    /// The attempt was released, or the receiver dropped: nothing is taken any more.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        let source = std::mem::replace(&mut inner.source, Source::Closed);
        let bytes: u64 = inner.queue.drain(..).map(|packet| packet.bytes() as u64).sum();
        self.gauges.queued_bytes.sub(bytes as i64);
        let waker = inner.waker.take();
        drop(inner);
        if let Source::Attached(link, id) = source {
            link.put_detach(id);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The receiving end of a byte channel. Dropping it detaches the sender.
pub struct ChannelReceiver {
    state: Arc<RecvState>,
    /// Taken out of the shared queue as a whole, so that link and task meet at the lock once a batch.
    local: VecDeque<Packet>,
    /// Bytes taken out since credit was last given back.
    consumed_bytes: u64,
    ended: bool,
    done: bool,
    /// Takes the receiver out of the node's table.
    forget: Option<Box<dyn FnOnce() + Send>>,
}

impl ChannelReceiver {
    pub(crate) fn new(state: Arc<RecvState>, forget: Box<dyn FnOnce() + Send>) -> Self {
        Self {
            state,
            local: VecDeque::new(),
            consumed_bytes: 0,
            ended: false,
            done: false,
            forget: Some(forget),
        }
    }

    /// The channel's name.
    pub fn key(&self) -> &ChannelKey {
        &self.state.key
    }

    /// The next packet; nothing after [`Mark::End`] or after an error.
    ///
    /// Credit for a batch goes back when it is taken out here, once half a window has come together.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Packet, Status>>> {
        if self.done || self.ended {
            return Poll::Ready(None);
        }
        if self.local.is_empty() {
            let mut inner = self.state.inner.lock();
            if inner.queue.is_empty() {
                let failure = match &mut inner.source {
                    Source::Waiting | Source::Attached(..) => {
                        match &inner.waker {
                            Some(known) if known.will_wake(cx.waker()) => {}
                            _ => inner.waker = Some(cx.waker().clone()),
                        }
                        return Poll::Pending;
                    }
                    Source::Ended(failure) => failure.take().unwrap_or_else(|| {
                        Status::unavailable(format!(
                            "channel {} was detached by its sender before its end",
                            self.state.key
                        ))
                    }),
                    Source::Closed => Status::unavailable(format!(
                        "channel {} was released: its attempt is over",
                        self.state.key
                    )),
                };
                self.done = true;
                return Poll::Ready(Some(Err(failure)));
            }
            std::mem::swap(&mut inner.queue, &mut self.local);
        }
        let Some(packet) = self.local.pop_front() else { return Poll::Pending };
        match &packet {
            Packet::Data { payload, .. } => self.consumed(payload.len() as u64),
            Packet::Mark(Mark::End) => self.ended = true,
            Packet::Mark(_) => {}
        }
        Poll::Ready(Some(Ok(packet)))
    }

    /// Bytes that lie here.
    pub fn queued_bytes(&self) -> usize {
        let local: usize = self.local.iter().map(Packet::bytes).sum();
        local + self.state.inner.lock().queue.iter().map(Packet::bytes).sum::<usize>()
    }

    fn consumed(&mut self, bytes: u64) {
        self.state.gauges.queued_bytes.sub(bytes as i64);
        self.consumed_bytes += bytes;
        if self.consumed_bytes * 2 < self.state.window_bytes {
            return;
        }
        let bytes = std::mem::take(&mut self.consumed_bytes);
        if bugs::on(Bug::LostCredit) {
            return;
        }
        let mut inner = self.state.inner.lock();
        inner.owed_bytes = inner.owed_bytes.saturating_sub(bytes);
        if let Source::Attached(link, id) = &inner.source {
            let (link, id) = (Arc::clone(link), *id);
            drop(inner);
            link.put_credit(id, bytes);
        }
    }
}

impl Drop for ChannelReceiver {
    fn drop(&mut self) {
        if let Some(forget) = self.forget.take() {
            forget();
        }
        let bytes: usize = self.local.drain(..).map(|packet| packet.bytes()).sum();
        self.state.gauges.queued_bytes.sub(bytes as i64);
        self.state.close();
    }
}

impl fmt::Debug for ChannelReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelReceiver({})", self.state.key)
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
