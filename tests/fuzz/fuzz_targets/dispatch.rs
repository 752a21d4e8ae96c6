//! What a peer can do to a service of a derive: params of every kind of method, and items of streams, through the decoder
//! that the derive writes to a handler and back. Never a panic; each call is answered once; what is refused says where.
//!
//! Byte 0 is the method, byte 1 the number of items that the frame claims, byte 2 the length of the params in
//! eights; the rest are params and items.
#![no_main]

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use afflux::contract::{Block, CallMeta, Code, Cx, EncodeItem, Fault, ItemForm, Mail, MethodKind, ReplyTo, ResponseSink, Service, Status, StreamWire};
use afflux::prelude::*;
use afflux_wire::ActorPath;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
struct Line {
    sku: String,
    quantity: u32,
    note: Option<String>,
    #[serde(default)]
    parts: Vec<Line>,
    size: Size,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
enum Size {
    Small,
    Of { width: f64, height: f32 },
    Named(String),
    Both(i8, u64),
}

#[derive(Service)]
#[service(name = "fuzz.orders", version = "1.0")]
enum Orders {
    #[rpc(returns = Line)]
    Place { line: Line, rush: Option<bool> },
    #[rpc(returns = std::collections::BTreeMap<String, i64>)]
    Sum { numbers: std::collections::BTreeMap<String, Vec<i64>> },
    #[rpc(oneway)]
    Touch { id: u64 },
    #[rpc(streams = Line)]
    Watch { since: i32, like: Line },
    #[rpc(accepts = Line, returns = u64)]
    Import { batch: String },
    #[rpc(accepts = String, streams = u32)]
    Chat,
    Nothing,
}

#[derive(Default)]
struct Desk {
    handled: u32,
}

impl OrdersHandler for Desk {
    async fn place(&mut self, _: &mut Cx, line: Line, _: Option<bool>) -> Result<Line, Fault> {
        self.handled += 1;
        Ok(line)
    }
    async fn sum(
        &mut self,
        _: &mut Cx,
        numbers: std::collections::BTreeMap<String, Vec<i64>>,
    ) -> Result<std::collections::BTreeMap<String, i64>, Fault> {
        self.handled += 1;
        Ok(numbers.into_iter().map(|(key, all)| (key, all.into_iter().fold(0, i64::wrapping_add))).collect())
    }
    async fn touch(&mut self, _: &mut Cx, _: u64) -> Result<(), Fault> {
        self.handled += 1;
        Ok(())
    }
    async fn watch(&mut self, _: &mut Cx, _: i32, like: Line, mut out: Emit<Line>) -> Result<(), Fault> {
        self.handled += 1;
        for _ in 0..3 {
            out.send(like.clone()).await?;
        }
        out.finish();
        Ok(())
    }
    async fn import(&mut self, _: &mut Cx, _: String, mut lines: Incoming<Line>) -> Result<u64, Fault> {
        self.handled += 1;
        let mut sum = 0;
        while let Some(line) = lines.next().await {
            sum += u64::from(line?.quantity);
        }
        Ok(sum)
    }
    async fn chat(&mut self, _: &mut Cx, mut asked: Incoming<String>, mut out: Emit<u32>) -> Result<(), Fault> {
        self.handled += 1;
        while let Some(text) = asked.next().await {
            out.send(text?.len() as u32).await?;
        }
        out.finish();
        Ok(())
    }
    async fn nothing(&mut self, _: &mut Cx) -> Result<(), Fault> {
        self.handled += 1;
        Ok(())
    }
}

/// A link that is always ready: one block of items comes, and what leaves is counted.
struct Peer {
    count: u32,
    items: parking_lot::Mutex<Option<Bytes>>,
    answers: AtomicU32,
    sent: AtomicU32,
}

impl ResponseSink for Peer {
    fn respond(&self, _: u64, result: Result<&[u8], &Status>) {
        assert_eq!(self.answers.fetch_add(1, Relaxed), 0, "a second answer");
        if let Ok(bytes) = result {
            let decoded = afflux_wire::skip_value(bytes, 64);
            assert_eq!(decoded, Ok(bytes.len()), "an answer is one value");
        }
    }
    fn is_cancelled(&self, _: u64) -> bool {
        false
    }
}

impl StreamWire for Peer {
    fn takes_rows(&self) -> bool {
        false
    }

    fn put(&self, encode: EncodeItem<'_>) -> Result<bool, Status> {
        let mut item = Vec::new();
        encode(&mut item, ItemForm::Named)?;
        assert_eq!(afflux_wire::skip_value(&item, 64), Ok(item.len()), "an item is one value");
        self.sent.fetch_add(1, Relaxed);
        Ok(true)
    }
    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }
    fn finish(&self, _: Result<(), &Status>) {}
    fn abandon(&self, _: &Status) {}
    fn stopped(&self) -> Option<Status> {
        None
    }
    fn poll_stopped(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
    fn poll_block(&self, _: &mut Context<'_>) -> Poll<Option<Result<Block, Status>>> {
        let items = self.items.lock().take();
        Poll::Ready(items.map(|items| Ok(Block { count: self.count, credits: u64::from(self.count), items })))
    }
    fn consumed(&self, credits: u64) {
        assert!(credits <= u64::from(self.count), "more credit is given back than was taken");
    }
    fn stop(&self, _: &Status) {}
    fn poll_opened(&self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }
    fn poll_result(&self, _: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        Poll::Pending
    }
}

fuzz_target!(|data: &[u8]| {
    let [method, count, eights, rest @ ..] = data else { return };
    // One more than there are: a number that nothing is bound to.
    let method = usize::from(*method) % (Orders::METHODS.len() + 1);
    let (params, items) = rest.split_at((usize::from(*eights) * 8).min(rest.len()));
    let peer = Arc::new(Peer {
        count: u32::from(*count).max(1),
        items: parking_lot::Mutex::new((!items.is_empty()).then(|| Bytes::copy_from_slice(items))),
        answers: AtomicU32::new(0),
        sent: AtomicU32::new(0),
    });
    let spec = Orders::METHODS.get(method);
    let reply = match spec.map(|spec| spec.kind) {
        Some(MethodKind::OneWay) => None,
        None | Some(MethodKind::Unary) => Some(ReplyTo::new(Arc::clone(&peer) as Arc<dyn ResponseSink>, 1)),
        Some(_) => Some(ReplyTo::stream(Arc::clone(&peer) as Arc<dyn StreamWire>)),
    };
    let expects = u32::from(reply.is_some());
    match Orders::decode(method, params, CallMeta::default(), reply) {
        Ok(call) => {
            assert_eq!(Some(call.method()), spec.map(|spec| spec.name));
            let mut desk = Desk::default();
            let mut cx = Cx::new(ActorPath::new("fuzzed"), None);
            let done = pin!(call.dispatch(&mut desk, &mut cx)).poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(done, Poll::Ready(Ok(()))), "the handler panicked, or waits for what is there");
            assert_eq!(desk.handled, 1);
            assert_eq!(peer.answers.load(Relaxed), expects, "a call is answered once");
        }
        Err((status, reply)) => {
            assert!(matches!(status.code, Code::InvalidArgument | Code::Unimplemented), "{status}");
            assert!(status.message.starts_with("fuzz.orders"), "{status}");
            assert_eq!(u32::from(reply.is_some()), expects, "the reply comes back");
            if let Some(reply) = reply {
                reply.respond(Err(&status));
            }
            assert_eq!(peer.answers.load(Relaxed), expects);
        }
    }
});
