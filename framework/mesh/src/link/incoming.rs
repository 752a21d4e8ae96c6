//! Requests that come over a link: admission, cancellation, answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use afflux_actor::clock;
use afflux_wire::contract::{CallScope, ResponseSink};
use afflux_wire::{
    Code, Executed, Meta, NodeId, Stage, Status, put_redirect, put_response_err, put_response_ok,
};
use bytes::Bytes;

use super::Link;
use crate::metrics::SAMPLE_EVERY_CALLS;
use crate::services::ServedMethod;
use crate::stream::Body;

/// A request of the peer without its answer.
pub(super) struct Incoming {
    pub(super) method: Arc<ServedMethod>,
    cancelled: bool,
    /// What the handler's own calls share, cancelled with the request.
    pub(super) scope: Option<Arc<CallScope>>,
    /// Set for the requests whose duration is observed.
    started: Option<Instant>,
}

impl Link {
    /// Admits a request, or says why not and under which metric's reason.
    pub(crate) fn admit(
        &self,
        id: u64,
        method: &Arc<ServedMethod>,
        now: Instant,
    ) -> Result<(), (Status, &'static str)> {
        let mut state = self.control.lock();
        if let Some(last) = state.goaway
            && id > last
        {
            let status = Status::unavailable(format!("node {} is draining", self.node));
            return Err((status, "draining"));
        }
        let in_flight_max = self.own_limits.in_flight_max as usize;
        if state.incoming.len() >= in_flight_max {
            let status = Status::new(
                Code::ResourceExhausted,
                format!("in_flight_max = {in_flight_max} requests of node {} run here", self.peer),
            );
            return Err((status.retry_after_ms(20), "overload"));
        }
        if state.buf.len() > self.write_buffer_bytes_max {
            let status = Status::new(
                Code::ResourceExhausted,
                format!(
                    "{} bytes of answers wait for node {} to read them, at most {} may \
                     (write_buffer_bytes_max)",
                    state.buf.len(),
                    self.peer,
                    self.write_buffer_bytes_max
                ),
            );
            return Err((status.retry_after_ms(50), "overload"));
        }
        state.requests += 1;
        let sampled = state.requests.is_multiple_of(SAMPLE_EVERY_CALLS);
        state.last_admitted = id;
        method.metrics.in_flight.inc();
        let incoming = Incoming {
            method: Arc::clone(method),
            cancelled: false,
            scope: None,
            started: sampled.then_some(now),
        };
        state.incoming.insert(id, incoming);
        Ok(())
    }

    /// Whether a request's id is the peer's, and above all before it.
    pub(crate) fn check_request_id(&self, id: u64, last: u64) -> Result<(), String> {
        let parity = if self.dialled { 0 } else { 1 };
        if id % 2 != parity || id <= last {
            return Err(format!("REQUEST.id {id} behind {last}: ids of a side count up, in steps of two"));
        }
        Ok(())
    }

    /// The same for a request that came in parts, which later ones may have overtaken: its id is in no use.
    pub(crate) fn check_id_of_parts(&self, id: u64) -> Result<(), String> {
        self.check_request_id(id, 0)?;
        if self.control.lock().incoming.contains_key(&id) {
            return Err(format!("REQUEST.id {id}, in parts, is that of a call which runs"));
        }
        Ok(())
    }

    /// Answers a request that was not admitted.
    pub(crate) fn refuse(&self, id: u64, status: &Status) {
        self.append(|buf| put_error(buf, id, status));
    }

    /// CANCEL came.
    pub(crate) fn cancel_received(&self, id: u64) {
        let mut state = self.control.lock();
        if let Some(incoming) = state.incoming.get_mut(&id)
            && !incoming.cancelled
        {
            incoming.cancelled = true;
            let scope = incoming.scope.take();
            self.cancelled.fetch_add(1, Ordering::Release);
            drop(state);
            if let Some(scope) = scope {
                scope.cancel();
            }
        }
    }

    /// The code under which an answer is counted.
    pub(super) fn uncancel(&self, incoming: &Incoming, code: Option<Code>) -> Option<Code> {
        if !incoming.cancelled {
            return code;
        }
        self.cancelled.fetch_sub(1, Ordering::Release);
        Some(Code::Cancelled)
    }

    pub(super) fn count_answer(&self, incoming: &Incoming, code: Option<Code>) {
        incoming.method.metrics.answered(code);
        incoming.method.metrics.in_flight.dec();
        if let Some(started) = incoming.started {
            incoming.method.metrics.seconds.observe((clock::now() - started).as_secs_f64());
        }
    }

    /// An answer that is sent in parts.
    fn large_answer(&self, id: u64, bytes: Bytes) -> Result<Body, Status> {
        self.check_message(bytes.len(), || "an answer".to_owned())?;
        Ok(Body::answer(id, bytes)?)
    }

    /// Queues the answer of a request; `large`: the frame of a result that travels in parts.
    fn answer(&self, id: u64, result: Result<&[u8], &Status>, large: Option<Result<Body, Status>>) {
        let mut state = self.control.lock();
        let Some(incoming) = state.incoming.remove(&id) else { return };
        let mut code = self.uncancel(&incoming, result.err().map(|status| status.code));
        if !incoming.cancelled && !state.closed {
            match (result, large) {
                (Ok(bytes), Some(large)) => {
                    incoming.method.metrics.traffic.left.inc_by(bytes.len() as u64);
                    if let Err(status) = large.and_then(|body| self.push_large(body)) {
                        code = Some(status.code);
                        let status = status.executed(Executed::Yes).stage(Stage::Reply).node(&self.node);
                        state.append(|buf| put_error(buf, id, &status));
                    }
                }
                // Cannot fail: the length is below the limit.
                (Ok(bytes), None) => {
                    let load = if tells_load(id) { incoming.method.metrics.in_flight.get() - 1 } else { 0 };
                    let meta = Meta { load: u32::try_from(load).unwrap_or(0), ..Meta::default() };
                    drop(state.append(|buf| put_response_ok(buf, id, bytes, &meta)));
                    let method = &incoming.method;
                    state.answers.add(&method.metrics.traffic.left, method.service, bytes.len());
                }
                (Err(status), _) => {
                    let status = located(status, &self.node);
                    state.append(|buf| put_error(buf, id, &status));
                }
            }
        }
        let (bytes, idle) = (state.buf.len(), state.incoming.is_empty());
        let writer = state.writer.take();
        let draining = state.goaway.is_some();
        drop(state);
        Self::wake(writer);
        self.count_answer(&incoming, code);
        if idle && draining {
            self.idle.notify_waiters();
        }
        self.check_backlog(bytes);
    }

    /// Requests of the peer without an answer.
    pub(crate) fn incoming(&self) -> usize {
        self.control.lock().incoming.len()
    }
}

/// One answer in four says how much there is to do, if there is anything: ids come in steps of two.
fn tells_load(id: u64) -> bool {
    id & 0b110 == 0
}

fn put_error(buf: &mut Vec<u8>, id: u64, status: &Status) {
    if let Some(redirect) = status.redirected()
        && status.was_executed() == Executed::No
        && put_redirect(buf, id, redirect.node.as_str(), redirect.incarnation.0).is_ok()
    {
        return;
    }
    if let Err(error) = put_response_err(buf, id, status, &Meta::default()) {
        let plain = Status::new(status.code, error.message);
        let _ = put_response_err(buf, id, &plain, &Meta::default());
    }
}

/// An error that names its node, and how far the call had come: an answer without it is the handler's.
fn located(status: &Status, node: &NodeId) -> Status {
    let mut status = status.clone();
    let details = status.details_mut();
    details.node.get_or_insert_with(|| node.clone());
    details.stage.get_or_insert(Stage::Running);
    status
}

impl ResponseSink for Link {
    fn respond(&self, id: u64, result: Result<&[u8], &Status>) {
        // Copied before the lock is taken.
        let large = match result {
            Ok(bytes) if bytes.len() > self.large_bytes() => {
                Some(self.large_answer(id, Bytes::copy_from_slice(bytes)))
            }
            _ => None,
        };
        self.answer(id, result, large);
    }

    fn respond_owned(&self, id: u64, result: Vec<u8>) {
        if result.len() <= self.large_bytes() {
            return self.respond(id, Ok(&result));
        }
        let result = Bytes::from(result);
        self.answer(id, Ok(&result), Some(self.large_answer(id, result.clone())));
    }

    fn on_cancel(&self, id: u64, scope: &Arc<CallScope>) {
        let mut state = self.control.lock();
        let gone = match state.incoming.get_mut(&id) {
            Some(incoming) if !incoming.cancelled => {
                incoming.scope = Some(Arc::clone(scope));
                false
            }
            Some(_) => true,
            None => self.is_lost(),
        };
        drop(state);
        if gone {
            scope.cancel();
        }
    }

    fn is_cancelled(&self, id: u64) -> bool {
        if self.is_lost() {
            return true;
        }
        self.cancelled.load(Ordering::Acquire) > 0
            && self.control.lock().incoming.get(&id).is_some_and(|incoming| incoming.cancelled)
    }
}
