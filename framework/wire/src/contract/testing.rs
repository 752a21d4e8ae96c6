//! A contract written by hand, and a mesh that does only what a test says.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::*;
use crate::id::ActorPath;
use crate::status::{Executed, Stage};

/// Polls a future once.
pub(crate) fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

pub(crate) struct Shop;

#[derive(Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) enum ShopError {
    Unlucky { n: u64 },
}

impl RpcError for ShopError {
    fn code(&self) -> Code {
        Code::Aborted
    }
    fn kind(&self) -> &'static str {
        "Unlucky"
    }
    fn retry_after_ms(&self) -> Option<u64> {
        Some(50)
    }
}

#[derive(Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct Double {
    pub(crate) n: u64,
}

#[derive(Serialize, Deserialize, schemars::JsonSchema)]
pub(crate) struct Note {}

pub(crate) enum ShopCall {
    Double(CallMeta, Double, Option<Reply<u64, ShopError>>),
    Note(CallMeta, Option<Reply<(), ShopError>>),
}

impl ShopCall {
    async fn dispatch(self, cx: &mut Cx) -> Result<(), Panic> {
        let failure = match self {
            ShopCall::Double(meta, Double { n }, reply) => {
                cx.enter(meta, Reply::token(&reply));
                answer(reply, async move {
                    match n {
                        13 => Err(Fault::Typed(ShopError::Unlucky { n })),
                        666 => panic!("{n} is too much"),
                        n => Ok(n * 2),
                    }
                })
                .await?
            }
            ShopCall::Note(meta, reply) => {
                cx.enter(meta, Reply::token(&reply));
                answer(reply, async { Err(Fault::Typed(ShopError::Unlucky { n: 1 })) }).await?
            }
        };
        if let Some(failure) = failure {
            cx.fail(failure);
        }
        Ok(())
    }
}

impl Mail for ShopCall {
    fn meta(&self) -> &CallMeta {
        match self {
            ShopCall::Double(meta, ..) | ShopCall::Note(meta, _) => meta,
        }
    }
    fn is_cancelled(&self) -> bool {
        match self {
            ShopCall::Double(.., reply) => reply.as_ref().is_some_and(Reply::is_cancelled),
            ShopCall::Note(_, reply) => reply.as_ref().is_some_and(Reply::is_cancelled),
        }
    }
    fn reject(self, status: Status) {
        if let ShopCall::Double(.., Some(reply)) = self {
            reply.reject(status);
        }
    }
}

impl Params for Double {
    type Service = Shop;
    type Output = u64;
    const METHOD: usize = 0;
    fn into_call(self, meta: CallMeta, reply: Option<Reply<u64, ShopError>>) -> ShopCall {
        ShopCall::Double(meta, self, reply)
    }
}

impl Params for Note {
    type Service = Shop;
    type Output = ();
    const METHOD: usize = 1;
    fn into_call(self, meta: CallMeta, reply: Option<Reply<(), ShopError>>) -> ShopCall {
        ShopCall::Note(meta, reply)
    }
}

impl Service for Shop {
    const NAME: &'static str = "shop";
    const VERSION: &'static str = "1.0";
    const DOC: &'static str = "";
    const METHODS: &'static [MethodSpec] = &[
        MethodSpec {
            name: "Double",
            deadline: Duration::from_secs(2),
            idempotent: false,
            allow: "",
            fields: &["n"],
            params: schema_of::<Double>,
            returns: schema_of::<u64>,
            error: schema_of::<ShopError>,
            ..MethodSpec::DEFAULT
        },
        MethodSpec {
            name: "Note",
            kind: MethodKind::OneWay,
            deadline: Duration::from_secs(2),
            params: schema_of::<Note>,
            returns: schema_of::<()>,
            error: schema_of::<ShopError>,
            ..MethodSpec::DEFAULT
        },
    ];
    type Error = ShopError;
    type Call = ShopCall;
    type Client = Handle<Shop>;

    fn decode(
        method: usize,
        params: &[u8],
        meta: CallMeta,
        reply: Option<ReplyTo>,
    ) -> Result<ShopCall, (Status, Option<ReplyTo>)> {
        match method {
            0 => decode_params::<Double>(params, meta, reply),
            1 => decode_params::<Note>(params, meta, reply),
            _ => Err((no_such_method::<Self>(method), reply)),
        }
    }
}

/// A mailbox without an actor.
struct Queue {
    calls: Mutex<VecDeque<ShopCall>>,
    capacity: usize,
    closed: Mutex<bool>,
}

impl Accept<ShopCall> for Queue {
    fn accept(&self, call: ShopCall) -> Result<(), Refused<ShopCall>> {
        if *self.closed.lock() {
            return Err(Refused::Closed(call));
        }
        let mut calls = self.calls.lock();
        if calls.len() >= self.capacity {
            return Err(Refused::Full(call));
        }
        calls.push_back(call);
        Ok(())
    }
    fn depth(&self) -> usize {
        self.calls.lock().len()
    }
    fn capacity(&self) -> usize {
        self.capacity
    }
}

enum Place {
    Nowhere,
    Beside,
    OverLink,
}

/// Answers of the far side, by request id.
#[derive(Default)]
struct Link {
    slots: Mutex<Vec<Option<Arc<dyn ResponseSlot>>>>,
    cancelled: Mutex<Vec<u64>>,
}

impl Link {
    fn take(&self, id: u64) -> Option<Arc<dyn ResponseSlot>> {
        self.slots.lock().get_mut(usize::try_from(id).unwrap())?.take()
    }
}

impl Remote for Link {
    fn cancel(&self, id: u64, _reason: &str) {
        self.cancelled.lock().push(id);
    }
}

impl ResponseSink for Link {
    fn respond(&self, id: u64, result: Result<&[u8], &Status>) {
        if let Some(slot) = self.take(id) {
            // Through bytes, as a real link sends it.
            slot.complete(result.map_err(|status| {
                crate::codec::from_slice(&crate::codec::to_named(status).unwrap()).unwrap()
            }));
        }
    }
    fn is_cancelled(&self, id: u64) -> bool {
        self.cancelled.lock().contains(&id)
    }
}

/// A mesh with a clock of its own.
pub(crate) struct Fake {
    place: Mutex<Place>,
    queue: Mutex<Arc<Queue>>,
    link: Arc<Link>,
    now: Arc<Mutex<Instant>>,
    attempts: Mutex<Vec<u32>>,
    encoded: Mutex<usize>,
    changing: Mutex<bool>,
    version: Arc<Mutex<u64>>,
    cx: Mutex<Cx>,
}

impl Fake {
    fn at(place: Place, capacity: usize) -> Arc<Self> {
        let queue = Queue { calls: Mutex::default(), capacity, closed: Mutex::new(false) };
        Arc::new(Self {
            place: Mutex::new(place),
            queue: Mutex::new(Arc::new(queue)),
            link: Arc::default(),
            now: Arc::new(Mutex::new(Instant::now())),
            attempts: Mutex::default(),
            encoded: Mutex::default(),
            changing: Mutex::new(false),
            version: Arc::default(),
            cx: Mutex::new(Cx::new(ActorPath::new("shop"), None)),
        })
    }

    pub(crate) fn local(capacity: usize) -> Arc<Self> {
        Self::at(Place::Beside, capacity)
    }

    pub(crate) fn remote() -> Arc<Self> {
        Self::at(Place::OverLink, usize::MAX)
    }

    pub(crate) fn nowhere() -> Arc<Self> {
        Self::at(Place::Nowhere, 8)
    }

    /// An endpoint comes up beside.
    pub(crate) fn open(&self, capacity: usize) {
        let queue = Queue { calls: Mutex::default(), capacity, closed: Mutex::new(false) };
        *self.queue.lock() = Arc::new(queue);
        *self.place.lock() = Place::Beside;
        *self.version.lock() += 1;
    }

    pub(crate) fn close(&self) {
        *self.queue.lock().closed.lock() = true;
    }

    /// `changed` resolves at once from now on.
    pub(crate) fn keep_changing(&self) {
        *self.changing.lock() = true;
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.now.lock() += by;
    }

    /// Runs the handler of the first call that waits.
    pub(crate) fn serve_one(&self) -> Result<(), Panic> {
        let call = self.queue.lock().calls.lock().pop_front().expect("a call waits");
        let mut cx = self.cx.lock();
        let mut running = Box::pin(call.dispatch(&mut cx));
        match poll(&mut running) {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("these handlers do not wait"),
        }
    }

    /// Runs the handler of the last call that came.
    pub(crate) fn serve_last(&self) {
        let last = self.queue.lock().calls.lock().pop_back().expect("a call waits");
        self.queue.lock().calls.lock().push_front(last);
        self.serve_one().unwrap();
    }

    /// Runs all handlers; returns how many.
    pub(crate) fn serve(&self) -> usize {
        let waiting = self.waiting();
        for _ in 0..waiting {
            self.serve_one().unwrap();
        }
        waiting
    }

    /// Drops the first call.
    pub(crate) fn forget(&self) {
        drop(self.queue.lock().calls.lock().pop_front().expect("a call waits"));
    }

    /// The far side fails the last request without having run it.
    pub(crate) fn fail(&self, status: Status) {
        let _unrun = self.queue.lock().calls.lock().pop_back().expect("a call waits");
        let id = self.link.slots.lock().len() as u64 - 1;
        self.link.take(id).expect("not answered yet").complete(Err(status));
    }

    pub(crate) fn failure(&self) -> Option<Status> {
        self.cx.lock().take_failure()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue.lock().depth()
    }

    pub(crate) fn first_is_cancelled(&self) -> bool {
        self.queue.lock().calls.lock().front().is_some_and(Mail::is_cancelled)
    }

    pub(crate) fn cancelled(&self) -> Vec<u64> {
        self.link.cancelled.lock().clone()
    }

    pub(crate) fn encoded(&self) -> usize {
        *self.encoded.lock()
    }

    /// The attempt number of each call that arrived.
    pub(crate) fn attempts(&self) -> Vec<u32> {
        self.attempts.lock().clone()
    }
}

impl Caller for Fake {
    fn start(
        &self,
        target: &Target,
        method: &'static MethodSpec,
        meta: CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status> {
        let queue = Arc::clone(&*self.queue.lock());
        match *self.place.lock() {
            Place::Nowhere => Err(Status::unavailable(format!("nobody offers {}", target.service))
                .executed(Executed::No)
                .stage(Stage::Connect)),
            Place::Beside => {
                self.attempts.lock().push(meta.attempt);
                call.deliver(&LocalEndpoint::<Shop>::new(queue), meta)?;
                Ok(Started::Local)
            }
            Place::OverLink => {
                self.attempts.lock().push(meta.attempt);
                let mut params = Vec::new();
                call.encode(&mut params)?;
                *self.encoded.lock() += 1;
                let id = self.link.slots.lock().len() as u64;
                self.link.slots.lock().push(Some(call.slot()));
                let number = Shop::METHODS.iter().position(|m| m.name == method.name).unwrap();
                let reply = ReplyTo::new(Arc::clone(&self.link) as Arc<dyn ResponseSink>, id);
                match Shop::decode(number, &params, meta, Some(reply)) {
                    Ok(call) => drop(queue.accept(call)),
                    Err((status, _)) => panic!("{status}"),
                }
                Ok(Started::Remote(Arc::clone(&self.link) as Arc<dyn Remote>, id))
            }
        }
    }

    fn changed(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        if *self.changing.lock() {
            return Box::pin(std::future::ready(()));
        }
        let version = Arc::clone(&self.version);
        let seen = *version.lock();
        Box::pin(poll_fn(move |_| if *version.lock() > seen { Poll::Ready(()) } else { Poll::Pending }))
    }

    fn sleep_until(&self, at: Instant) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let now = Arc::clone(&self.now);
        Box::pin(poll_fn(move |_| if *now.lock() >= at { Poll::Ready(()) } else { Poll::Pending }))
    }

    fn now(&self) -> Instant {
        *self.now.lock()
    }
}
