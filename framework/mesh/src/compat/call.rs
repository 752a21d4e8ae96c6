//! One call of a client, from its name to its answer.

use std::sync::Arc;
use std::time::Instant;

use afflux_actor::clock;
use afflux_wire::compat::Params;
use afflux_wire::contract::{CallMeta, Identity};
use afflux_wire::{Code, Executed, Stage, Status};
use bytes::Bytes;

use super::budget::Lease;
use super::catalog::{Method, resolve};
use super::{Running, asks_who, builtin};
use crate::mesh::{Mesh, Shared};
use crate::stream::RawStream;

/// What a client has said of itself.
#[derive(Clone, Default)]
pub(super) struct Who {
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) token: Option<Arc<str>>,
}

/// A message that was read.
pub(super) struct Asked {
    /// Nothing for a notification.
    pub(super) id: Option<u64>,
    /// The whole message, of which these are parts.
    pub(super) message: Bytes,
    pub(super) method: std::ops::Range<usize>,
    pub(super) params: std::ops::Range<usize>,
    pub(super) who: Who,
    pub(super) _lease: Lease,
    pub(super) _running: Running,
}

/// What a call has come to.
pub(super) enum Answer {
    Value(Vec<u8>),
    Stream(RawStream),
}

/// What a client is told.
pub(super) struct Answered {
    pub(super) id: Option<u64>,
    pub(super) result: Result<Answer, Status>,
    pub(super) one_way: bool,
}

/// Runs a call; dropping it cancels it.
pub(super) async fn run(shared: Arc<Shared>, asked: Asked) -> Answered {
    let mut one_way = false;
    let result = execute(&shared, &asked, &mut one_way).await;
    Answered { id: asked.id, result, one_way }
}

async fn execute(shared: &Arc<Shared>, asked: &Asked, one_way: &mut bool) -> Result<Answer, Status> {
    let (name, params) = (asked.method(), asked.params());
    let builtin = name.starts_with(builtin::PREFIX);
    if asks_who(shared) && asked.who.identity.is_none() && name != "rpc.health" {
        shared.metrics.rejected("unknown", "unauthenticated");
        return Err(Status::new(
            Code::Unauthenticated,
            format!("{name}: this node asks who calls: call rpc.auth with a token first, on this connection"),
        )
        .executed(Executed::No)
        .stage(Stage::Admission));
    }
    if builtin {
        return builtin::answer(shared, name, params).await.map(Answer::Value).inspect_err(|status| {
            if status.code == Code::Unimplemented {
                shared.metrics.rejected("unknown", "unknown_method");
            }
        });
    }
    if shared.compat.is_draining() {
        shared.metrics.rejected("unknown", "draining");
        let text = format!("node {} is draining: connect to another", shared.config.node);
        return Err(Status::unavailable(text).executed(Executed::No).stage(Stage::Admission));
    }
    let method = resolve(shared, name).await.inspect_err(|status| {
        let forbidden = status.code == Code::PermissionDenied;
        shared.metrics.rejected("unknown", if forbidden { "forbidden" } else { "unknown_method" });
    })?;
    *one_way = method.one_way;
    let service = &*method.target.service;
    let identity = asked.who.identity.as_deref();
    shared.guard.check(identity, service, &method.name, method.allow).inspect_err(|status| {
        let unknown = status.code == Code::Unauthenticated;
        shared.metrics.rejected(service, if unknown { "unauthenticated" } else { "forbidden" });
    })?;
    let params = Params::read(params).and_then(|params| match &method.wanted {
        Some(wanted) => params.for_method(wanted),
        None => Ok(params.as_they_are()),
    });
    let params = params.map_err(|mut status| {
        status.message = format!("{service}/{}: {}", method.name, status.message);
        status.stage(Stage::Admission)
    })?;
    let meta = CallMeta {
        deadline: Some(clock::now() + method.deadline),
        identity: asked.who.identity.clone(),
        token: asked.who.token.clone(),
        ..CallMeta::default()
    };
    let served = Served::begin(&method, params.len());
    let result = if method.one_way {
        shared.tell_raw(&method.target, &method.name, params, meta).map(|()| Answer::Value(vec![0xc0]))
    } else if method.is_stream {
        let mesh = Mesh::of(Arc::clone(shared));
        // The method's deadline is for the answer that it is open; a stream then lives as long as its client.
        let meta = CallMeta { deadline: None, ..meta };
        let opened = mesh.open_raw_with(&method.target, &method.name, params, meta, method.deadline).await;
        opened.map(Answer::Stream)
    } else {
        shared.call_raw_with(&method.target, &method.name, params, meta).await.map(Answer::Value)
    };
    let bytes = if let Ok(Answer::Value(value)) = &result { value.len() } else { 0 };
    served.end(result.as_ref().err().map(|status| status.code), bytes);
    result
}

impl Asked {
    fn method(&self) -> &str {
        // It was a `str` when it was read.
        std::str::from_utf8(self.message.get(self.method.clone()).unwrap_or_default()).unwrap_or_default()
    }

    fn params(&self) -> &[u8] {
        self.message.get(self.params.clone()).unwrap_or_default()
    }
}

/// Counts a call of a method that is served here, also when it is dropped.
struct Served<'a> {
    method: &'a Method,
    started: Instant,
    ended: bool,
}

impl<'a> Served<'a> {
    fn begin(method: &'a Method, bytes: usize) -> Self {
        if let Some(metrics) = &method.metrics {
            metrics.traffic.came.inc_by(bytes as u64);
            metrics.in_flight.inc();
        }
        Self { method, started: clock::now(), ended: false }
    }

    fn end(mut self, code: Option<Code>, bytes: usize) {
        self.ended = true;
        if let Some(metrics) = &self.method.metrics {
            metrics.traffic.left.inc_by(bytes as u64);
            metrics.answered(code);
            metrics.seconds.observe((clock::now() - self.started).as_secs_f64());
        }
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = &self.method.metrics {
            metrics.in_flight.dec();
            if !self.ended {
                metrics.answered(Some(Code::Cancelled));
            }
        }
    }
}
