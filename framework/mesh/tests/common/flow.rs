//! A service with streams, written by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use afflux_actor::{Place, ServiceEntry};
use afflux_wire::contract::{
    Accept, Accepts, Both, Call, CallMeta, Emit, Ends, Fault, Handle, Incoming, Mail, MethodKind, MethodSpec,
    NoError, Params, Refused, Reply, ReplyTo, Service, StreamCall, StreamParams, Streams, answer,
    decode_params, decode_stream,
};
use afflux_wire::{Code, Status};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{SECOND, until};

pub struct Flow;

/// Sends 0, 1, 2 … as `how` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Count {
    pub to: u64,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum How {
    Well,
    /// An error behind the last item.
    Fails,
    Panics,
    /// Returns at once; the items are sent by somebody else.
    Later,
    /// Neither sends nor returns, until the caller gives up.
    Waits,
    /// Fails before the first item.
    Refuses,
}

/// Takes numbers; answers with their sum.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sum {
    /// Takes no more than so many.
    pub most: u64,
}

/// Sends back what comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Echo {}

/// Sends back a text, one call, one answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Same {
    pub text: String,
}

pub struct FlowCall {
    pub meta: CallMeta,
    pub body: Body,
}

pub enum Body {
    Count(Count, Ends<Streams<u64>, NoError>),
    Sum(Sum, Ends<Accepts<u64, u64>, NoError>),
    Echo(Echo, Ends<Both<String, String>, NoError>),
    Same(Same, Option<Reply<String, NoError>>),
}

impl Mail for FlowCall {
    fn meta(&self) -> &CallMeta {
        &self.meta
    }
    fn is_cancelled(&self) -> bool {
        match &self.body {
            Body::Count(_, ends) => ends.is_cancelled(),
            Body::Sum(_, ends) => ends.is_cancelled(),
            Body::Echo(_, ends) => ends.is_cancelled(),
            Body::Same(_, reply) => reply.as_ref().is_some_and(Reply::is_cancelled),
        }
    }
    fn reject(self, status: Status) {
        match self.body {
            Body::Count(_, ends) => ends.reject(status),
            Body::Sum(_, ends) => ends.reject(status),
            Body::Echo(_, ends) => ends.reject(status),
            Body::Same(_, Some(reply)) => reply.reject(status),
            Body::Same(_, None) => {}
        }
    }
}

macro_rules! stream {
    ($name:ident, $method:literal, $shape:ty) => {
        impl StreamParams for $name {
            type Service = Flow;
            type Shape = $shape;
            const METHOD: usize = $method;
            fn into_call(self, meta: CallMeta, ends: Ends<$shape, NoError>) -> FlowCall {
                FlowCall { meta, body: Body::$name(self, ends) }
            }
        }
    };
}
stream!(Count, 0, Streams<u64>);
stream!(Sum, 1, Accepts<u64, u64>);
stream!(Echo, 2, Both<String, String>);

impl Params for Same {
    type Service = Flow;
    type Output = String;
    const METHOD: usize = 3;
    fn into_call(self, meta: CallMeta, reply: Option<Reply<String, NoError>>) -> FlowCall {
        FlowCall { meta, body: Body::Same(self, reply) }
    }
}

const fn method(
    name: &'static str,
    fields: &'static [&'static str],
    kind: MethodKind,
    deadline: Duration,
) -> MethodSpec {
    MethodSpec {
        name,
        fields,
        kind,
        deadline,
        params: || schemars::schema_for!(u64),
        returns: || schemars::schema_for!(u64),
        ..MethodSpec::DEFAULT
    }
}

impl Service for Flow {
    const NAME: &'static str = "math.flow";
    const VERSION: &'static str = "1.0";
    const DOC: &'static str = "Streams.";
    const METHODS: &'static [MethodSpec] = &[
        method("Count", &["to", "how"], MethodKind::ServerStream, SECOND),
        method("Sum", &["most"], MethodKind::ClientStream, SECOND),
        method("Echo", &[], MethodKind::Duplex, SECOND),
        method("Same", &["text"], MethodKind::Unary, Duration::from_secs(10)),
    ];
    type Error = NoError;
    type Call = FlowCall;
    type Client = FlowClient;

    fn decode(
        method: usize,
        params: &[u8],
        meta: CallMeta,
        reply: Option<ReplyTo>,
    ) -> Result<FlowCall, (Status, Option<ReplyTo>)> {
        match method {
            0 => decode_stream::<Count>(params, meta, reply),
            1 => decode_stream::<Sum>(params, meta, reply),
            2 => decode_stream::<Echo>(params, meta, reply),
            _ => decode_params::<Same>(params, meta, reply),
        }
    }
}

#[derive(Clone)]
pub struct FlowClient(Handle<Flow>);

impl From<Handle<Flow>> for FlowClient {
    fn from(handle: Handle<Flow>) -> Self {
        Self(handle)
    }
}

impl FlowClient {
    pub fn count(&self, to: u64, how: How) -> StreamCall<Count> {
        self.0.open(Count { to, how })
    }
    pub fn sum(&self, most: u64) -> StreamCall<Sum> {
        self.0.open(Sum { most })
    }
    pub fn echo(&self) -> StreamCall<Echo> {
        self.0.open(Echo {})
    }
    pub fn same(&self, text: String) -> Call<Same> {
        self.0.call(Same { text })
    }
}

/// Serves, each call in a task of its own.
pub struct Desk {
    pub place: Place,
    pub sent: Arc<AtomicU64>,
    pub seen: Arc<Mutex<Vec<String>>>,
}

impl Desk {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            place: Place::current().expect("an actor has a place"),
            sent: Arc::default(),
            seen: Arc::default(),
        })
    }

    pub fn entry(self: &Arc<Self>) -> ServiceEntry {
        ServiceEntry::of::<Flow>(Arc::clone(self) as Arc<dyn Accept<FlowCall>>)
    }

    pub async fn saw(&self, what: &str) {
        until(|| self.seen.lock().iter().any(|seen| seen.contains(what))).await;
    }
}

impl Accept<FlowCall> for Desk {
    fn accept(&self, call: FlowCall) -> Result<(), Refused<FlowCall>> {
        let (place, sent, seen) = (self.place.clone(), Arc::clone(&self.sent), Arc::clone(&self.seen));
        self.place.spawn_with(move || async move {
            match call.body {
                Body::Count(count, ends) => {
                    let (_, emit, reply) = ends.split();
                    let _ = answer(Some(reply), counting(count, emit, place, sent, seen)).await;
                }
                Body::Sum(sum, ends) => {
                    let (incoming, _, reply) = ends.split();
                    let _ = answer(Some(reply), summing(sum, incoming, seen)).await;
                }
                Body::Echo(_, ends) => {
                    let (incoming, emit, reply) = ends.split();
                    let _ = answer(Some(reply), echoing(incoming, emit)).await;
                }
                Body::Same(same, reply) => {
                    let _ = answer(reply, async { Ok(same.text) }).await;
                }
            }
        });
        Ok(())
    }
    fn depth(&self) -> usize {
        0
    }
    fn capacity(&self) -> usize {
        1024
    }
}

async fn counting(
    count: Count,
    mut emit: Emit<u64>,
    place: Place,
    sent: Arc<AtomicU64>,
    seen: Arc<Mutex<Vec<String>>>,
) -> Result<(), Fault> {
    let items = async move |emit: &mut Emit<u64>| {
        for n in 0..count.to {
            if let Err(status) = emit.send(n).await {
                seen.lock().push(format!("stopped: {}", status.code));
                return Err(status);
            }
            sent.fetch_add(1, SeqCst);
        }
        Ok(())
    };
    match count.how {
        How::Refuses => return Err(Status::not_found("no numbers here").into()),
        How::Waits => {
            emit.cancelled().await;
            return Err(Status::new(Code::Aborted, "the caller is gone").into());
        }
        How::Later => {
            place.spawn_with(move || async move {
                let _ = items(&mut emit).await;
            });
            return Ok(());
        }
        How::Well | How::Fails | How::Panics => items(&mut emit).await?,
    }
    assert!(count.how != How::Panics, "boom");
    match count.how {
        How::Fails => Err(Status::new(Code::DataLoss, "the numbers are used up").into()),
        _ => Ok(()),
    }
}

async fn summing(sum: Sum, mut incoming: Incoming<u64>, seen: Arc<Mutex<Vec<String>>>) -> Result<u64, Fault> {
    let (mut total, mut taken) = (0, 0);
    while taken < sum.most {
        match incoming.next().await {
            Some(Ok(n)) => total += n,
            Some(Err(status)) => {
                seen.lock().push(format!("broke: {}", status.code));
                return Err(status.into());
            }
            None => break,
        }
        taken += 1;
    }
    Ok(total)
}

async fn echoing(mut incoming: Incoming<String>, mut emit: Emit<String>) -> Result<(), Fault> {
    while let Some(item) = incoming.next().await {
        emit.send(item?).await?;
    }
    Ok(())
}
