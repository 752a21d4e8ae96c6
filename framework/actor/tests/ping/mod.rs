//! A service written by hand, the actor that serves it, and a caller that knows nothing else.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "shared by a test and a benchmark")]

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afflux_actor::{Actor, Address, Serves, ServiceEntry};
use afflux_wire::codec::from_slice;
use afflux_wire::contract::*;
use afflux_wire::{Executed, Status};
use serde::{Deserialize, Serialize};

pub enum Ping {}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Echo {
    pub n: u64,
}
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wait {
    pub ms: u64,
}
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Touch {
    pub n: u64,
}

/// Makes `Echo` panic.
pub const UNLUCKY: u64 = 13;

pub enum Body {
    Echo(Echo, Option<Reply<u64, NoError>>),
    Wait(Wait, Option<Reply<(), NoError>>),
    Touch(Touch),
}

pub struct PingCall {
    meta: CallMeta,
    pub body: Body,
}

impl Mail for PingCall {
    fn meta(&self) -> &CallMeta {
        &self.meta
    }
    fn is_cancelled(&self) -> bool {
        match &self.body {
            Body::Echo(_, Some(reply)) => reply.is_cancelled(),
            Body::Wait(_, Some(reply)) => reply.is_cancelled(),
            _ => false,
        }
    }
    fn reject(self, status: Status) {
        match self.body {
            Body::Echo(_, Some(reply)) => reply.reject(status),
            Body::Wait(_, Some(reply)) => reply.reject(status),
            _ => {}
        }
    }
}

const fn method(name: &'static str, kind: MethodKind) -> MethodSpec {
    MethodSpec { name, kind, idempotent: true, ..MethodSpec::DEFAULT }
}

static METHODS: [MethodSpec; 3] = [
    method("Echo", MethodKind::Unary),
    method("Wait", MethodKind::Unary),
    method("Touch", MethodKind::OneWay),
];

impl Service for Ping {
    const NAME: &'static str = "test.ping";
    const VERSION: &'static str = "1";
    const DOC: &'static str = "";
    const METHODS: &'static [MethodSpec] = &METHODS;
    type Error = NoError;
    type Call = PingCall;
    type Client = Client;

    fn decode(
        method: usize,
        params: &[u8],
        meta: CallMeta,
        reply: Option<ReplyTo>,
    ) -> Result<PingCall, (Status, Option<ReplyTo>)> {
        let body = match method {
            0 => match from_slice::<Echo>(params) {
                Ok(params) => Body::Echo(params, reply.map(Reply::wire)),
                Err(status) => return Err((status, reply)),
            },
            1 => match from_slice::<Wait>(params) {
                Ok(params) => Body::Wait(params, reply.map(Reply::wire)),
                Err(status) => return Err((status, reply)),
            },
            _ => match from_slice::<Touch>(params) {
                Ok(params) => Body::Touch(params),
                Err(status) => return Err((status, reply)),
            },
        };
        Ok(PingCall { meta, body })
    }
}

impl Params for Echo {
    type Service = Ping;
    type Output = u64;
    const METHOD: usize = 0;
    fn into_call(self, meta: CallMeta, reply: Option<Reply<u64, NoError>>) -> PingCall {
        PingCall { meta, body: Body::Echo(self, reply) }
    }
}
impl Params for Wait {
    type Service = Ping;
    type Output = ();
    const METHOD: usize = 1;
    fn into_call(self, meta: CallMeta, reply: Option<Reply<(), NoError>>) -> PingCall {
        PingCall { meta, body: Body::Wait(self, reply) }
    }
}
impl Params for Touch {
    type Service = Ping;
    type Output = ();
    const METHOD: usize = 2;
    fn into_call(self, meta: CallMeta, _reply: Option<Reply<(), NoError>>) -> PingCall {
        PingCall { meta, body: Body::Touch(self) }
    }
}

#[derive(Clone)]
pub struct Client(pub Handle<Ping>);

impl From<Handle<Ping>> for Client {
    fn from(handle: Handle<Ping>) -> Self {
        Self(handle)
    }
}

/// Echoes, and counts what it was asked.
#[derive(Default)]
pub struct Echoer {
    pub asked: u64,
}

impl Actor for Echoer {
    type Mail = PingCall;
    const KIND: &'static str = "Echoer";

    async fn handle(&mut self, cx: &mut Cx, call: PingCall) -> Result<(), Panic> {
        self.asked += 1;
        match call.body {
            Body::Echo(params, reply) => {
                let Some(reply) = reply else { return Ok(()) };
                cx.enter(call.meta, reply.cancel_token());
                let asked = self.asked;
                reply
                    .run(async move {
                        assert!(params.n != UNLUCKY, "unlucky {}", params.n);
                        Ok(params.n * 1000 + asked)
                    })
                    .await
            }
            Body::Wait(params, reply) => {
                let Some(reply) = reply else { return Ok(()) };
                let wait = tokio::time::sleep(Duration::from_millis(params.ms));
                reply
                    .run(async move {
                        wait.await;
                        Ok(())
                    })
                    .await
            }
            Body::Touch(_) => Ok(()),
        }
    }
}

impl Serves for Echoer {
    fn services(address: &Address<PingCall>) -> Vec<ServiceEntry> {
        vec![ServiceEntry::of::<Ping>(address.accepting::<PingCall>())]
    }
}

/// Starts every call at one endpoint of this process.
pub struct Local(pub Arc<dyn Any + Send + Sync>);

impl Caller for Local {
    fn start(
        &self,
        _target: &Target,
        _method: &'static MethodSpec,
        meta: CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status> {
        call.deliver(&*self.0, meta).map(|()| Started::Local)
    }
    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
    fn sleep_until(&self, at: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep_until(at.into()))
    }
    fn now(&self) -> Instant {
        afflux_actor::clock::now()
    }
}

/// A client of the service behind `entry`.
pub fn client(entry: &ServiceEntry) -> Handle<Ping> {
    let caller: Arc<dyn Caller> = Arc::new(Local(Arc::clone(&entry.endpoint)));
    Handle::new(Some(caller), Target::service(Ping::NAME))
}

/// What a link was told of its requests.
#[derive(Default)]
pub struct Answers(pub parking_lot::Mutex<Vec<(u64, Result<u64, Status>)>>);

impl ResponseSink for Answers {
    fn respond(&self, id: u64, result: Result<&[u8], &Status>) {
        let answer = match result {
            Ok(bytes) => from_slice(bytes),
            Err(status) => Err(status.clone()),
        };
        self.0.lock().push((id, answer));
    }
    fn is_cancelled(&self, _id: u64) -> bool {
        false
    }
}

/// Whether the status says that nothing was executed.
pub fn unexecuted(status: &Status) -> bool {
    status.was_executed() == Executed::No
}
