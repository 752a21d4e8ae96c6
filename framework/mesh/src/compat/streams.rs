//! Streams of one client: an id as the answer, then items and an end as notifications, both ways.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use afflux_wire::compat::{put_notification, put_notification_error, put_number};
use afflux_wire::{Code, Status};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::stream::RawStream;

/// Streams that one client may have open.
pub(super) const STREAMS_MAX: usize = 64;
/// Items that either side may send before it was granted more.
pub(super) const CREDIT_ITEMS: u64 = 256;
/// Credits that a client can have collected.
const CREDIT_ITEMS_MAX: u64 = 1 << 20;
/// Items of the client are granted anew in portions of this.
const GRANT_ITEMS: u64 = CREDIT_ITEMS / 2;

/// What a stream has come to.
pub(super) enum Step {
    Item(u64, Bytes),
    Sent(u64, Result<(), Status>),
    Ended(u64, Result<Bytes, Status>),
    /// It was cancelled meanwhile.
    Nothing,
}

type Pump = Pin<Box<dyn Future<Output = Step> + Send>>;

struct Open {
    raw: Arc<RawStream>,
    next_seq: u64,
    credit: u64,
    /// Whether somebody waits for the next item.
    is_pulled: bool,
    /// Items of the client on their way, the first of them being sent; bounded by [`CREDIT_ITEMS`].
    sending: VecDeque<Bytes>,
    /// Items that were taken and not granted anew.
    taken: u64,
    is_finished: bool,
    pulling: Option<AbortHandle>,
    pushing: Option<AbortHandle>,
}

impl Drop for Open {
    fn drop(&mut self) {
        for abort in self.pulling.iter().chain(&self.pushing) {
            abort.abort();
        }
    }
}

/// The streams of one client.
#[derive(Default)]
pub(super) struct Streams {
    open: BTreeMap<u64, Open>,
    pumps: FuturesUnordered<Pump>,
    last_id: u64,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether anything moves without the client.
    pub(super) fn is_idle(&self) -> bool {
        self.pumps.is_empty()
    }

    /// The next thing that happens; never when nothing can.
    pub(super) async fn next(&mut self) -> Step {
        match self.pumps.next().await {
            Some(step) => step,
            None => std::future::pending().await,
        }
    }

    /// The next thing that has happened already.
    pub(super) fn next_now(&mut self) -> Option<Step> {
        self.pumps.next().now_or_never().flatten()
    }

    /// A stream that was opened, and the id that its client is told.
    pub(super) fn insert(&mut self, raw: RawStream) -> u64 {
        self.last_id += 1;
        let open = Open {
            raw: Arc::new(raw),
            next_seq: 0,
            credit: CREDIT_ITEMS,
            is_pulled: false,
            sending: VecDeque::new(),
            taken: 0,
            is_finished: false,
            pulling: None,
            pushing: None,
        };
        self.open.insert(self.last_id, open);
        self.pull(self.last_id);
        self.last_id
    }

    fn pump(&mut self, future: impl Future<Output = Step> + Send + 'static) -> Option<AbortHandle> {
        let (abort, registration) = AbortHandle::new_pair();
        let future = Abortable::new(future, registration);
        self.pumps.push(Box::pin(async move { future.await.unwrap_or(Step::Nothing) }));
        Some(abort)
    }

    /// Waits for the next item, if the client has room for one.
    fn pull(&mut self, id: u64) {
        let Some(open) = self.open.get_mut(&id) else { return };
        if open.is_pulled || open.credit == 0 {
            return;
        }
        open.is_pulled = true;
        let raw = Arc::clone(&open.raw);
        let pulling = self.pump(async move {
            match raw.next().await {
                Some(Ok(item)) => Step::Item(id, item),
                Some(Err(status)) => Step::Ended(id, Err(status)),
                None => Step::Ended(id, raw.result().await),
            }
        });
        if let Some(open) = self.open.get_mut(&id) {
            open.pulling = pulling;
        }
    }

    fn push(&mut self, id: u64) {
        let Some(open) = self.open.get_mut(&id) else { return };
        let raw = Arc::clone(&open.raw);
        match open.sending.front() {
            Some(item) => {
                let item = item.clone();
                let pushing = self.pump(async move { Step::Sent(id, raw.send(&item).await) });
                if let Some(open) = self.open.get_mut(&id) {
                    open.pushing = pushing;
                }
            }
            None if open.is_finished => raw.finish(),
            None => {}
        }
    }

    /// Tells the client what a stream has come to.
    pub(super) fn step(&mut self, step: Step, out: &mut Vec<u8>) {
        match step {
            Step::Item(id, item) => {
                let Some(open) = self.open.get_mut(&id) else { return };
                put_notification(out, "rpc.item", &[&number(id), &number(open.next_seq), &item]);
                open.next_seq += 1;
                open.credit -= 1;
                open.is_pulled = false;
                self.pull(id);
            }
            Step::Sent(id, Ok(())) => {
                let Some(open) = self.open.get_mut(&id) else { return };
                open.sending.pop_front();
                open.taken += 1;
                if open.taken >= GRANT_ITEMS {
                    put_notification(out, "rpc.credit", &[&number(id), &number(open.taken)]);
                    open.taken = 0;
                }
                self.push(id);
            }
            // How the call ended comes as its end.
            Step::Sent(id, Err(_)) => {
                if let Some(open) = self.open.get_mut(&id) {
                    open.sending.clear();
                }
            }
            Step::Ended(id, result) => self.end(id, &result, out),
            Step::Nothing => {}
        }
    }

    fn end(&mut self, id: u64, result: &Result<Bytes, Status>, out: &mut Vec<u8>) {
        if self.open.remove(&id).is_none() {
            return;
        }
        match result {
            Ok(result) => {
                let result: &[u8] = if result.is_empty() { &[0xc0] } else { result };
                put_notification(out, "rpc.end", &[&number(id), &[0xc0], result]);
            }
            Err(status) => put_notification_error(out, "rpc.end", id, status),
        }
    }

    /// `rpc.credit`: room for more items.
    pub(super) fn credit(&mut self, id: u64, items: u64) {
        if let Some(open) = self.open.get_mut(&id) {
            open.credit = open.credit.saturating_add(items).min(CREDIT_ITEMS_MAX);
        }
        self.pull(id);
    }

    /// `rpc.cancel`: nothing more of it comes, nor its end.
    pub(super) fn cancel(&mut self, id: u64) {
        self.open.remove(&id);
    }

    /// `rpc.item` of the client.
    pub(super) fn item(&mut self, id: u64, item: &[u8], out: &mut Vec<u8>) {
        let Some(open) = self.open.get_mut(&id) else { return };
        if open.is_finished || open.sending.len() as u64 >= CREDIT_ITEMS {
            let text = if open.is_finished {
                "an item came behind rpc.end".to_owned()
            } else {
                format!("more than {CREDIT_ITEMS} items came without waiting for rpc.credit")
            };
            return self.end(id, &Err(Status::new(Code::ResourceExhausted, text)), out);
        }
        open.sending.push_back(Bytes::copy_from_slice(item));
        if open.sending.len() == 1 {
            self.push(id);
        }
    }

    /// `rpc.end` of the client: no more items of it.
    pub(super) fn finish(&mut self, id: u64) {
        let Some(open) = self.open.get_mut(&id) else { return };
        open.is_finished = true;
        if open.sending.is_empty() {
            self.push(id);
        }
    }
}

fn number(value: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(9);
    put_number(&mut out, value);
    out
}
