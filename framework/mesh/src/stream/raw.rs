//! A stream without types: items are MessagePack, for gateways and the command line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use std::future::poll_fn;

use afflux_actor::clock;
use afflux_wire::contract::{
    CallMeta, ItemForm, MethodKind, NoSlot, Outgoing, ReplyTo, ResponseSlot, StreamWire, Target,
};
use afflux_wire::limits::DEPTH_MAX;
use afflux_wire::{Code, Executed, Stage, Status, skip_value};
use bytes::Bytes;
use parking_lot::Mutex;

use super::state::Stream;
use crate::link::MethodName;
use crate::mesh::{Mesh, Shared};
use crate::router::{Choice, method_index};

/// A call of any kind but one-way, opened by [`Mesh::open_raw`]. Dropping it before its end cancels the call.
///
/// One task may send while another reads; each direction has room for one waiting task.
pub struct RawStream {
    stream: Arc<dyn StreamWire>,
    reading: Mutex<Reading>,
}

/// A block of items that is taken apart.
#[derive(Default)]
struct Reading {
    items: Bytes,
    left: u32,
    credits: u64,
}

impl RawStream {
    fn new(stream: Arc<dyn StreamWire>) -> Self {
        Self { stream, reading: Mutex::default() }
    }

    /// The next item, as the MessagePack of one value; nothing after the last one. An error is the last thing
    /// that comes.
    pub async fn next(&self) -> Option<Result<Bytes, Status>> {
        loop {
            if let Some(item) = self.next_of_block() {
                return Some(item);
            }
            match poll_fn(|cx| self.stream.poll_block(cx)).await? {
                Ok(block) => {
                    let mut reading = self.reading.lock();
                    *reading = Reading { items: block.items, left: block.count, credits: block.credits };
                }
                Err(status) => return Some(Err(status)),
            }
        }
    }

    fn next_of_block(&self) -> Option<Result<Bytes, Status>> {
        let mut reading = self.reading.lock();
        if reading.left == 0 {
            return None;
        }
        let end = match skip_value(&reading.items, DEPTH_MAX) {
            Ok(end) if reading.left > 1 || end == reading.items.len() => end,
            bad => {
                *reading = Reading::default();
                let text =
                    bad.err().map_or("bytes behind the last item".to_owned(), |error| error.to_string());
                let status = Status::internal(format!("the items of the stream are damaged: {text}"));
                drop(reading);
                self.stream.stop(&status);
                return Some(Err(status));
            }
        };
        let item = reading.items.split_to(end);
        reading.left -= 1;
        if reading.left == 0 {
            let credits = std::mem::take(&mut reading.credits);
            drop(reading);
            self.stream.consumed(credits);
        }
        Some(Ok(item))
    }

    /// Sends one item, the MessagePack of one value; waits for credit.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for bytes that are not one value; or the end of the call: the other side failed it, or
    /// takes no more items.
    pub async fn send(&self, item: &[u8]) -> Result<(), Status> {
        match skip_value(item, DEPTH_MAX) {
            Ok(end) if end == item.len() => {}
            Ok(_) => return Err(Status::invalid("an item is one MessagePack value, here bytes follow it")),
            Err(error) => return Err(Status::invalid(format!("an item is one MessagePack value: {error}"))),
        }
        let mut encode = |buf: &mut Vec<u8>, _: ItemForm| {
            buf.extend_from_slice(item);
            Ok(())
        };
        while !self.stream.put(&mut encode)? {
            poll_fn(|cx| self.stream.poll_ready(cx)).await?;
        }
        Ok(())
    }

    /// No further item will be sent. Without it, dropping the stream cancels the call.
    pub fn finish(&self) {
        self.stream.finish(Ok(()));
    }

    /// The call's result, once it has ended: the MessagePack of the value that the method returns, which is nil
    /// (or no bytes at all) where it streams. Items that were not read are dropped. Asked once.
    ///
    /// # Errors
    /// Whatever the call failed with.
    pub async fn result(&self) -> Result<Bytes, Status> {
        poll_fn(|cx| {
            // Items that nobody reads must not keep the end from coming.
            while let std::task::Poll::Ready(Some(Ok(block))) = self.stream.poll_block(cx) {
                self.stream.consumed(block.credits);
            }
            self.stream.poll_result(cx)
        })
        .await
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        self.stream.stop(&Status::new(Code::Cancelled, "the caller dropped the stream"));
    }
}

impl std::fmt::Debug for RawStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawStream")
    }
}

impl Mesh {
    /// Opens a call without types, local or remote: `params` is the MessagePack of the parameters' map. It is
    /// open once the other side has taken it, which `deadline` bounds; then nothing does but its end.
    ///
    /// Methods of every kind but one-way can be opened: a unary one has no items and a result, and is open when it
    /// has ended.
    ///
    /// # Errors
    /// As any call: nobody offers the service, it has no such method, its mailbox is full, the handler failed.
    pub async fn open_raw(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        deadline: Duration,
    ) -> Result<RawStream, Status> {
        self.open_raw_with(target, method, params, CallMeta::default(), deadline).await
    }

    /// The same with all that goes with a call. [`CallMeta::deadline`], where it is set, bounds the whole stream:
    /// over a link it then ends with `DEADLINE_EXCEEDED`.
    ///
    /// # Errors
    /// As [`Mesh::open_raw`].
    pub async fn open_raw_with(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        meta: CallMeta,
        deadline: Duration,
    ) -> Result<RawStream, Status> {
        let mut until = clock::now() + deadline;
        if let Some(whole) = meta.deadline {
            until = until.min(whole);
        }
        self.shared().open_raw(target, method, params, meta, until).await
    }
}

impl Shared {
    async fn open_raw(
        &self,
        target: &Target,
        method: &str,
        params: Vec<u8>,
        mut meta: CallMeta,
        until: Instant,
    ) -> Result<RawStream, Status> {
        // The span covers the opening; the handler's covers the stream.
        let span = self.tracer.call(meta.trace.as_ref(), &target.service, method);
        if let Some(span) = &span {
            span.attempt(None);
            meta.trace = Some(span.context());
        }
        let mut call = RawOpen { params, stream: None };
        let stream = loop {
            let failed = match self.choose(target) {
                Ok(Choice::Local(entry)) => {
                    let index = method_index(&entry, method)?;
                    let kind = entry.methods[index].kind;
                    if kind == MethodKind::OneWay {
                        return Err(Status::invalid(format!(
                            "{}/{method} is one-way: it has no answer that a stream could end with",
                            target.service
                        ))
                        .executed(Executed::No));
                    }
                    let (caller, called) = Stream::pair(kind.streams());
                    entry.dispatch.dispatch(index, &call.params, meta.clone(), Some(ReplyTo::stream(called)));
                    break RawStream::new(caller);
                }
                Ok(Choice::Link(link)) => {
                    match self.send(target, link, MethodName::Typed(method), false, &meta, &mut call) {
                        Ok(_) => match call.stream.take() {
                            Some(stream) => break RawStream::new(stream),
                            None => {
                                return Err(Status::internal("a stream was started as another kind of call"));
                            }
                        },
                        Err(status) => status,
                    }
                }
                Err(status) => status,
            };
            let left = until.saturating_duration_since(clock::now());
            let connecting = failed.details.as_ref().is_some_and(|d| d.stage == Some(Stage::Connect));
            if failed.code != Code::Unavailable || !connecting || left.is_zero() {
                return Err(failed);
            }
            self.changed_since_now(left).await;
        };
        let opened = poll_fn(|cx| stream.stream.poll_opened(cx));
        match tokio::time::timeout_at(until.into(), opened).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(status)) => Err(status),
            Err(_) => {
                let text = format!("{}/{method}: not opened before the deadline", target.service);
                Err(Status::new(Code::DeadlineExceeded, text).stage(Stage::Running))
            }
        }
    }
}

struct RawOpen {
    params: Vec<u8>,
    stream: Option<Arc<dyn StreamWire>>,
}

impl Outgoing for RawOpen {
    fn encode(&mut self, buffer: &mut Vec<u8>) -> Result<(), Status> {
        buffer.extend_from_slice(&self.params);
        Ok(())
    }

    fn deliver(&mut self, _: &(dyn std::any::Any + Send + Sync), _: CallMeta) -> Result<(), Status> {
        Err(Status::internal("a call without types is delivered as bytes"))
    }

    fn slot(&self) -> Arc<dyn ResponseSlot> {
        Arc::new(NoSlot)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn opened(&mut self, stream: Arc<dyn StreamWire>) {
        self.stream = Some(stream);
    }
}
