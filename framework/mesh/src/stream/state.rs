//! One side's end of one streaming call.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};

use afflux_wire::contract::{Block, EncodeItem, ItemForm, ResponseSink, ResponseSlot, StreamWire};
use afflux_wire::{Code, FrameBuf as _, Status, put_end_err, put_end_ok, put_item, put_item_header};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::body::{Body, Budget};
use super::half::{Came, Receiving, Sending, keep};
use crate::link::Link;
use crate::traffic::Traffic;

/// Credits of a stream between two ends of one process.
const BESIDE_WINDOW: u64 = 2_048;
/// Bytes of an item between two ends of one process.
const BESIDE_BYTES_MAX: usize = 64 << 20;

/// What carries it.
enum Carrier {
    Link {
        link: Arc<Link>,
        id: u64,
    },
    /// The other side, in this process.
    Beside(OnceLock<Weak<Stream>>),
}

/// How the call as a whole stands.
#[derive(Default)]
struct Call {
    opened: Option<Result<(), Status>>,
    opener: Option<Waker>,
    result: Option<Result<Bytes, Status>>,
    waiter: Option<Waker>,
    /// The code that the call ended with on the side that is called, once it has.
    answered: bool,
}

/// What a turn at the writer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// There is nothing more to write now.
    Done,
    /// There is more.
    More,
}

/// See the module.
pub(crate) struct Stream {
    me: Weak<Stream>,
    carrier: Carrier,
    /// Whether this side called.
    caller: bool,
    bytes_max: usize,
    /// Whether both sides are of one build and said so when the call was opened.
    rows: bool,
    /// Counts the bytes of items, and of the result.
    traffic: Option<Traffic>,
    send: Mutex<Sending>,
    recv: Mutex<Receiving>,
    call: Mutex<Call>,
    /// The handler has shown that it takes the call.
    acknowledged: AtomicBool,
    cancelled: AtomicBool,
}

impl Stream {
    fn make(
        carrier: Carrier,
        caller: bool,
        parties: u8,
        windows: (u64, u64),
        bytes_max: usize,
        rows: bool,
        traffic: Option<Traffic>,
    ) -> Arc<Self> {
        let (theirs, ours) = windows;
        let form = if rows { ItemForm::Row } else { ItemForm::Named };
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            carrier,
            caller,
            bytes_max,
            rows,
            traffic,
            send: Mutex::new(Sending::new(theirs, parties, form)),
            recv: Mutex::new(Receiving::new(ours)),
            call: Mutex::default(),
            acknowledged: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
        })
    }

    fn over(
        link: &Arc<Link>,
        id: u64,
        caller: bool,
        parties: u8,
        rows: bool,
        traffic: Option<Traffic>,
    ) -> Arc<Self> {
        let windows =
            (u64::from(link.limits.stream_credit_items), u64::from(link.own_limits.stream_credit_items));
        let bytes_max = link.limits.message_bytes_max as usize;
        let carrier = Carrier::Link { link: Arc::clone(link), id };
        Self::make(carrier, caller, parties, windows, bytes_max, rows, traffic)
    }

    /// The side of the caller, over a link; `rows`: what its OPEN says.
    pub(crate) fn called(link: &Arc<Link>, id: u64, rows: bool, traffic: Option<Traffic>) -> Arc<Self> {
        Self::over(link, id, true, 1, rows, traffic)
    }

    /// The side that is called, over a link; `streams`: whether its method sends items; `rows`: what OPEN says.
    pub(crate) fn served(
        link: &Arc<Link>,
        id: u64,
        streams: bool,
        rows: bool,
        traffic: Traffic,
    ) -> Arc<Self> {
        Self::over(link, id, false, if streams { 2 } else { 1 }, rows, Some(traffic))
    }

    /// Both sides of a call within this process: the caller's, and the one that is called.
    pub(crate) fn pair(streams: bool) -> (Arc<Self>, Arc<Self>) {
        let side = |caller, parties| {
            let windows = (BESIDE_WINDOW, BESIDE_WINDOW);
            // Without types at one of its ends: rows would be read by nobody.
            let carrier = Carrier::Beside(OnceLock::new());
            Self::make(carrier, caller, parties, windows, BESIDE_BYTES_MAX, false, None)
        };
        let (caller, called) = (side(true, 1), side(false, if streams { 2 } else { 1 }));
        for (one, other) in [(&caller, &called), (&called, &caller)] {
            if let Carrier::Beside(place) = &one.carrier {
                let _ = place.set(Arc::downgrade(other));
            }
        }
        (caller, called)
    }

    pub(crate) fn is_caller(&self) -> bool {
        self.caller
    }

    fn other(&self) -> Option<Arc<Self>> {
        match &self.carrier {
            Carrier::Beside(other) => other.get().and_then(Weak::upgrade),
            Carrier::Link { .. } => None,
        }
    }

    // ---- What leaves.

    /// Lets what waits leave: asks for a turn at the writer, or hands it to the other side.
    fn flush(&self) {
        {
            let mut send = self.send.lock();
            if send.queued || !send.has_work() {
                return;
            }
            send.queued = true;
        }
        match &self.carrier {
            Carrier::Link { link, .. } => {
                if let Some(me) = self.me.upgrade() {
                    link.data.push_stream(me);
                }
            }
            Carrier::Beside(_) => self.hand_over(),
        }
    }

    /// Hands everything to the other side of this process. Whoever has set `queued` is alone here.
    fn hand_over(&self) {
        loop {
            let mut send = self.send.lock();
            let Some(other) = self.other() else {
                send.queued = false;
                return;
            };
            if let Some((first, packet)) = send.take_packet() {
                drop(send);
                // Both sides are this process's own: nothing to refuse.
                let _ = other.items(first, packet.count, Bytes::from(packet.items));
                continue;
            }
            if send.has_work()
                && let Some(end) = send.end.clone()
            {
                send.end_sent = true;
                drop(send);
                match self.caller {
                    true => other.half_closed(end.map(drop)),
                    false => other.complete(end.as_deref().map_err(Clone::clone)),
                }
                continue;
            }
            send.queued = false;
            return;
        }
    }

    /// A turn at the data connection's writer: one frame, or one part of a large one. Nothing comes back while a
    /// large frame has to wait for others.
    pub(crate) fn turn(&self, out: &mut BytesMut, budget: &mut Budget) -> Turned {
        let Carrier::Link { link, id } = &self.carrier else { return Turned::Done };
        let (id, part_bytes) = (*id, link.chunk_bytes());
        let mut send = self.send.lock();
        if send.body.is_none()
            && let Some(packet) = send.packets.front()
            && packet.items.len() > link.large_bytes()
        {
            // Begins once there is room for it, counted without its header.
            if !budget.begin(packet.items.len()) {
                return Turned::More;
            }
            if let Some((first, packet)) = send.take_packet() {
                self.items_left(packet.items.len());
                let body = Body::new(id, |buf| put_item(buf, id, first, packet.count, &packet.items));
                budget.end(packet.items.len());
                send.body = body.ok();
                budget.begin_always(send.body.as_ref().map_or(0, Body::len));
            }
        }
        if let Some(body) = &mut send.body {
            if body.put(out, part_bytes) {
                budget.end(body.len());
                send.body = None;
            }
        } else if let Some((first, packet)) = send.take_packet() {
            self.items_left(packet.items.len());
            if put_item_header(out, id, first, packet.count, packet.items.len()).is_ok() {
                out.extend_from_slice(&packet.items);
            }
            send.keep_buffer(packet.items);
        } else if send.has_work()
            && let Some(end) = send.end.clone()
        {
            match &end {
                Ok(result) if result.len() > link.large_bytes() => {
                    if !budget.begin(result.len()) {
                        return Turned::More;
                    }
                    budget.end(result.len());
                    send.body = Body::new(id, |buf| put_end_ok(buf, id, result)).ok();
                    budget.begin_always(send.body.as_ref().map_or(0, Body::len));
                }
                Ok(result) => drop(put_end_ok(out, id, result)),
                Err(status) => put_end(out, id, status),
            }
            send.end_sent = true;
        }
        if send.has_work() {
            return Turned::More;
        }
        send.queued = false;
        let over = send.end_sent && !self.caller;
        drop(send);
        if over {
            link.forget_stream(id);
        }
        Turned::Done
    }

    fn items_left(&self, bytes: usize) {
        if let Some(traffic) = &self.traffic {
            traffic.left.inc_by(bytes as u64);
        }
    }

    /// The end of what this side sends is decided.
    fn ended(&self, code: Option<Code>) {
        if !self.caller {
            self.answered(code);
            self.recv.lock().stop();
        }
        if self.send.lock().stopped.is_some() {
            if !self.caller
                && let Carrier::Link { link, id } = &self.carrier
            {
                link.forget_stream(*id);
            }
            return;
        }
        self.flush();
    }

    /// The call is over on the side that was called.
    fn answered(&self, code: Option<Code>) {
        if std::mem::replace(&mut self.call.lock().answered, true) {
            return;
        }
        if let Carrier::Link { link, id } = &self.carrier {
            let code = if self.cancelled.load(Ordering::Acquire) { Some(Code::Cancelled) } else { code };
            link.stream_answered(*id, code);
        }
    }

    /// Shows the caller that its call is taken.
    fn acknowledge(&self) {
        if self.caller || self.acknowledged.swap(true, Ordering::AcqRel) {
            return;
        }
        match &self.carrier {
            Carrier::Link { link, id } => link.put_credit(*id, 0),
            Carrier::Beside(_) => {
                if let Some(other) = self.other() {
                    other.credited(0);
                }
            }
        }
    }

    // ---- What comes.

    /// CREDIT came, which of a caller's stream says also that it is open.
    pub(crate) fn credited(&self, credits: u64) {
        if self.caller {
            self.open(Ok(()));
        }
        let waker = self.send.lock().credited(credits);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn open(&self, result: Result<(), Status>) {
        if self.acknowledged.load(Ordering::Acquire) && result.is_ok() {
            return;
        }
        let mut call = self.call.lock();
        if call.opened.is_none() {
            call.opened = Some(result);
            self.acknowledged.store(true, Ordering::Release);
        }
        let opener = call.opener.take();
        drop(call);
        if let Some(opener) = opener {
            opener.wake();
        }
    }

    /// ITEM came. An error is the metric's reason and a text: the peer broke the protocol.
    pub(crate) fn items(
        &self,
        first_seq: u64,
        count: u32,
        items: Bytes,
    ) -> Result<bool, (&'static str, String)> {
        if let Some(traffic) = &self.traffic {
            traffic.came.inc_by(items.len() as u64);
        }
        let came = self.recv.lock().came(first_seq, count, items);
        if self.caller {
            self.open(Ok(()));
        }
        match came {
            Came::Queued(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                Ok(true)
            }
            Came::Dropped => Ok(false),
            Came::Wrong(reason, text) => Err((reason, text)),
        }
    }

    /// END came from the caller: its items have ended.
    pub(crate) fn half_closed(&self, result: Result<(), Status>) {
        let waker = self.recv.lock().end(result);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// CANCEL came, the link is lost, or this node goes away.
    pub(crate) fn cancelled(&self, status: &Status) {
        if self.caller {
            // The side that is called takes no more items; its answer is still to come.
            return self.stop_sending(status);
        }
        self.cancelled.store(true, Ordering::Release);
        self.stop_sending(status);
        let waker = self.recv.lock().end(Err(status.clone()));
        if let Some(waker) = waker {
            waker.wake();
        }
        // Nobody is left who could end it.
        if self.send.lock().end.is_some() {
            self.ended(Some(Code::Cancelled));
        }
    }

    fn stop_sending(&self, status: &Status) {
        let wakers = self.send.lock().stop(status);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

fn put_end(out: &mut BytesMut, id: u64, status: &Status) {
    let before = out.len();
    if let Err(error) = put_end_err(out, id, status) {
        out.cut(before);
        let plain = Status::new(status.code, error.message);
        let _ = put_end_err(out, id, &plain);
    }
}

impl ResponseSlot for Stream {
    /// The end of the call, at its caller: END, or whatever ended it before.
    fn complete(&self, result: Result<&[u8], Status>) {
        if let Carrier::Link { link, id } = &self.carrier {
            link.forget_stream(*id);
        }
        let end = result.as_ref().map(|_| ()).map_err(Clone::clone);
        self.open(end.clone());
        let mut call = self.call.lock();
        if call.answered {
            return;
        }
        call.answered = true;
        call.result = Some(result.map(Bytes::copy_from_slice));
        let waiter = call.waiter.take();
        drop(call);
        let over = match &end {
            Ok(()) => Status::precondition("the call has ended: its handler takes no more items"),
            Err(status) => status.clone(),
        };
        self.stop_sending(&over);
        let waker = self.recv.lock().end(end);
        waiter.into_iter().chain(waker).for_each(Waker::wake);
    }
}

impl ResponseSink for Stream {
    /// The handler has returned.
    fn respond(&self, _: u64, result: Result<&[u8], &Status>) {
        match result {
            Ok(bytes) => {
                self.items_left(bytes.len());
                let mut send = self.send.lock();
                send.result = Bytes::copy_from_slice(bytes);
                let over = send.leave();
                drop(send);
                match over {
                    true => self.ended(None),
                    false => self.acknowledge(),
                }
            }
            Err(status) => {
                if self.send.lock().end(Err(status.clone())) {
                    self.ended(Some(status.code));
                }
            }
        }
    }

    fn is_cancelled(&self, _: u64) -> bool {
        self.cancelled.load(Ordering::Acquire)
            || match &self.carrier {
                Carrier::Link { link, .. } => link.is_lost(),
                Carrier::Beside(_) => self.other().is_none(),
            }
    }
}

impl StreamWire for Stream {
    fn takes_rows(&self) -> bool {
        self.rows
    }

    fn put(&self, encode: EncodeItem<'_>) -> Result<bool, Status> {
        let mut send = self.send.lock();
        let put = send.put(self.bytes_max, encode)?;
        if put && !send.queued {
            drop(send);
            // The first item says that the call is taken.
            self.acknowledged.store(true, Ordering::Release);
            self.flush();
        }
        Ok(put)
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        match self.send.lock().poll_ready(cx) {
            Some(ready) => Poll::Ready(ready),
            None => Poll::Pending,
        }
    }

    fn finish(&self, result: Result<(), &Status>) {
        let mut send = self.send.lock();
        let (over, code) = match result {
            Ok(()) => (send.leave(), None),
            Err(status) => (send.end(Err(status.clone())), Some(status.code)),
        };
        drop(send);
        if over {
            self.ended(code);
        }
    }

    fn abandon(&self, status: &Status) {
        let parties = self.send.lock().parties;
        if parties > 1 { self.finish(Ok(())) } else { self.finish(Err(status)) }
    }

    fn stopped(&self) -> Option<Status> {
        let send = self.send.lock();
        let ended = || send.end.is_some().then(|| Status::precondition("the stream has ended"));
        send.stopped.clone().or_else(ended)
    }

    fn poll_stopped(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut send = self.send.lock();
        if send.stopped.is_some() || send.end.is_some() {
            return Poll::Ready(());
        }
        send.watch(cx);
        Poll::Pending
    }

    fn poll_block(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Block, Status>>> {
        self.acknowledge();
        match self.recv.lock().poll(cx) {
            Some(ready) => Poll::Ready(ready),
            None => Poll::Pending,
        }
    }

    fn consumed(&self, credits: u64) {
        let back = self.recv.lock().used(credits);
        let Some(back) = back else { return };
        match &self.carrier {
            Carrier::Link { link, id } => link.put_credit(*id, back),
            Carrier::Beside(_) => {
                if let Some(other) = self.other() {
                    other.credited(back);
                }
            }
        }
    }

    fn stop(&self, status: &Status) {
        self.recv.lock().stop();
        if !self.caller {
            if self.recv.lock().end.is_some() || self.send.lock().end.is_some() {
                return;
            }
            match &self.carrier {
                Carrier::Link { link, id } => link.put_stop(*id),
                Carrier::Beside(_) => {
                    if let Some(other) = self.other() {
                        other.cancelled(status);
                    }
                }
            }
            return;
        }
        if self.call.lock().answered {
            return;
        }
        match &self.carrier {
            Carrier::Link { link, id } => link.cancel_stream(*id),
            Carrier::Beside(_) => {
                if let Some(other) = self.other() {
                    other.cancelled(status);
                }
            }
        }
        self.complete(Err(status.clone()));
    }

    fn poll_opened(&self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let mut call = self.call.lock();
        match &call.opened {
            Some(opened) => Poll::Ready(opened.clone()),
            None => {
                keep(&mut call.opener, cx);
                Poll::Pending
            }
        }
    }

    fn poll_result(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        let mut call = self.call.lock();
        match call.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                keep(&mut call.waiter, cx);
                Poll::Pending
            }
        }
    }
}

impl Stream {
    /// This side ends the call with an error, whatever its handler does.
    pub(crate) fn fail(&self, status: &Status) {
        if self.send.lock().end(Err(status.clone())) {
            self.ended(Some(status.code));
        }
    }
}
