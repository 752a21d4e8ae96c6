//! Calls that leave over a link: their frames, their slots, their end.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use afflux_actor::clock;
use afflux_wire::contract::{
    CANCEL_HEDGED, CallChain, CallMeta, MethodSpec, Outgoing, Passed, Remote, ResponseSlot, Started,
};
use afflux_wire::{
    CancelReason, Code, Executed, Meta, Method, NodeId, RareMeta, Stage, Status, put_cancel, put_notify,
    put_open, put_request,
};
use bytes::Bytes;

use super::{ControlState, DRAINING, Link, UP};
use crate::ejection::{Health, Verdict};
use crate::inflight::Pending;
use crate::metrics::{CalledMetrics, SAMPLE_EVERY_CALLS};
use crate::services::full_name;
use crate::stream::{Body, Stream};
use crate::traffic::Run;

/// The deadline of a stream that has none: ten years.
const DEADLINE_NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Methods of a peer whose number and metrics are kept.
const BOUND_METHODS_MAX: usize = 4_096;
/// An encoding buffer that once held a large call is given back to the allocator.
const SCRATCH_BYTES_KEPT_MAX: usize = 256 << 10;

/// A method of the peer as this side calls it.
pub(super) struct Bound {
    pub(super) service: Arc<str>,
    pub(super) method: Arc<str>,
    full: Box<str>,
    pub(super) number: Option<u32>,
    metrics: CalledMetrics,
    /// What becomes of its calls says something of the endpoint.
    health: Option<Arc<Health>>,
    /// The next method with the same spec: of another service.
    same_spec: Option<u32>,
}

/// A method by its spec of this process, or by a name that somebody typed.
#[derive(Clone, Copy)]
pub(crate) enum MethodName<'a> {
    Spec(&'static MethodSpec),
    Typed(&'a str),
}

impl<'a> MethodName<'a> {
    pub(crate) fn name(self) -> &'a str {
        match self {
            Self::Spec(spec) => spec.name,
            Self::Typed(name) => name,
        }
    }
}

impl Link {
    /// Sends a call. `spec` is the identity of the method in this process, where it has one.
    pub(crate) fn start(
        self: &Arc<Self>,
        service: &Arc<str>,
        method: MethodName<'_>,
        one_way: bool,
        meta: &CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status> {
        let now = clock::now();
        let streaming = call.is_stream();
        // A stream without a deadline may last as long as it likes.
        let default = if streaming { DEADLINE_NEVER } else { Duration::from_secs(3600) };
        let deadline = meta.deadline.unwrap_or(now + default);
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(Status::new(
                Code::DeadlineExceeded,
                format!("{service}/{}: the deadline passed before the call left", method.name()),
            )
            .executed(Executed::No)
            .stage(Stage::Connect));
        }
        let wire_meta = Meta {
            // Rounded up: a call with half a millisecond left is not refused by the other side.
            deadline_ms: (!streaming || meta.deadline.is_some())
                .then(|| left.as_nanos().div_ceil(1_000_000) as u64),
            traceparent: meta.trace,
            attempt: meta.attempt,
            priority: meta.priority.to_wire(),
            load: 0,
            // A raw caller has no type to read rows as.
            rows: streaming && self.same_build && matches!(method, MethodName::Spec(_)),
            rare: rare_meta(meta)?,
        };
        let rare_bytes = wire_meta.rare().map_or(0, |rare| {
            [&rare.idempotency_key, &rare.chain, &rare.to, &rare.token, &rare.baggage, &rare.tracestate]
                .into_iter()
                .flatten()
                .map(Bytes::len)
                .sum()
        });
        with_scratch(|params| {
            call.encode(params)?;
            let what = || format!("{service}/{}: the params", method.name());
            let refused =
                |status: Status| status.executed(Executed::No).stage(Stage::Connect).node(&self.peer);
            self.check_message(params.len() + rare_bytes, what).map_err(refused)?;
            if streaming {
                self.check_streams().map_err(|status| status.stage(Stage::Admission))?;
            }
            let mut slot = if one_way || streaming { None } else { Some(call.slot()) };
            // Copied before the lock is taken for good.
            let large = match params.len() > self.large_bytes() {
                true => Some(self.large_call(service, method, (one_way, streaming), params, &wire_meta)?),
                false => None,
            };
            let mut state = self.control.lock();
            if state.closed || state.buf.len() > self.write_buffer_bytes_max {
                return Err(self.cannot_send(&state));
            }
            let at = self.bind(&mut state, service, method);
            if let Some(refusal) = self.judged.refusal(service, method.name())
                && matches!(method, MethodName::Spec(_))
            {
                return Err(Status::clone(&refusal));
            }
            let in_flight_max = self.limits.in_flight_max as usize;
            if !one_way && state.in_flight.len() >= in_flight_max {
                return Err(Status::new(
                    Code::ResourceExhausted,
                    format!(
                        "{in_flight_max} calls to node {} are unanswered, which is its in_flight_max: \
                         call less often, or raise it there",
                        self.peer
                    ),
                )
                .executed(Executed::No)
                .stage(Stage::Connect)
                .node(&self.peer)
                .retry_after_ms(10));
            }
            let id = large.as_ref().map_or(state.next_id, |(id, _)| *id);
            let full;
            let name = match state.bound.get(at as usize) {
                Some(Bound { number: Some(number), .. }) => Method::Number(*number),
                Some(bound) => {
                    full = bound.full.clone();
                    Method::Name(&full)
                }
                None => {
                    full = full_name(service, method.name()).into();
                    Method::Name(&full)
                }
            };
            let put = |buf: &mut Vec<u8>| match one_way {
                true => put_notify(buf, name, params, &wire_meta),
                false => put_request(buf, id, name, params, &wire_meta),
            };
            let traffic = || state.bound.get(at as usize).map(|bound| bound.metrics.traffic.clone());
            let stream = streaming.then(|| Stream::called(self, id, wire_meta.rows, traffic()));
            if let Some(stream) = &stream {
                slot = Some(Arc::clone(stream) as Arc<dyn ResponseSlot>);
                self.add_stream(id, stream);
            }
            // The lock is held until the frame is queued, so that ids leave in their order.
            let on_data = streaming || large.is_some();
            let sent = if let Some((_, body)) = large {
                self.push_large(body)
            } else if streaming {
                let mut result = Ok(());
                self.data.push(Bytes::new(), |buf| result = put_open(buf, id, name, params, &wire_meta));
                result.map_err(Status::from)
            } else {
                state.append(put).map_err(Status::from)
            };
            if let Err(status) = sent {
                self.forget_stream(id);
                return Err(refused(status));
            }
            if id == state.next_id {
                state.next_id += 2;
            }
            let ControlState { bound, asked, .. } = &mut *state;
            if let Some(bound) = bound.get(at as usize) {
                asked.add(&bound.metrics.traffic.left, &bound.service, params.len());
                if on_data {
                    // The control connection's writer may have nothing to do for a while.
                    asked.flush();
                }
            }
            state.calls += 1;
            let mut earlier = false;
            if let Some(slot) = slot {
                let sampled = state.calls.is_multiple_of(SAMPLE_EVERY_CALLS);
                let pending = Pending {
                    slot,
                    deadline,
                    // What leaves on the data connection is not followed to the wire.
                    end: if on_data { 0 } else { state.appended },
                    method: at,
                    started: sampled.then_some(now),
                };
                earlier = state.in_flight.insert(id, pending);
                self.in_flight.store(state.in_flight.len() as u32, Ordering::Relaxed);
            } else if let Some(bound) = state.bound.get(at as usize) {
                // A link that loses it says so in a counter: nobody waits for it.
                bound.metrics.answered(&bound.service, &bound.method, None);
            }
            if one_way {
                state.one_way[0] += 1;
            }
            let writer = state.writer.take();
            drop(state);
            Self::wake(writer);
            if earlier {
                self.rearm.notify_one();
            }
            if let Some(stream) = stream {
                call.opened(stream);
            }
            Ok(Started::Remote(Arc::clone(self) as Arc<dyn Remote>, id))
        })
    }

    /// A call that is sent in parts, with its id.
    fn large_call(
        &self,
        service: &Arc<str>,
        method: MethodName<'_>,
        (one_way, streaming): (bool, bool),
        params: &[u8],
        meta: &Meta,
    ) -> Result<(u64, Body), Status> {
        let id = {
            let mut state = self.control.lock();
            let id = state.next_id;
            state.next_id += 2;
            id
        };
        let full = full_name(service, method.name());
        let name = Method::Name(&full);
        let body = Body::new(id, |buf| match (one_way, streaming) {
            (true, _) => put_notify(buf, name, params, meta),
            (_, true) => put_open(buf, id, name, params, meta),
            _ => put_request(buf, id, name, params, meta),
        });
        Ok((id, body.map_err(|error| Status::from(error).executed(Executed::No))?))
    }

    fn cannot_send(&self, state: &ControlState) -> Status {
        if let Some(lost) = self.lost_status.get() {
            return lost.clone().executed(Executed::No).stage(Stage::Connect);
        }
        if state.closed {
            return Status::unavailable(format!("the link to node {} is closing", self.peer))
                .executed(Executed::No)
                .stage(Stage::Connect)
                .node(&self.peer);
        }
        Status::new(
            Code::ResourceExhausted,
            format!(
                "{} bytes wait for node {} to read them, at most {} may (write_buffer_bytes_max)",
                state.buf.len(),
                self.peer,
                self.write_buffer_bytes_max
            ),
        )
        .executed(Executed::No)
        .stage(Stage::Connect)
        .node(&self.peer)
        .retry_after_ms(50)
    }

    /// The index of a method in `bound`; `u32::MAX` when there are too many.
    fn bind(self: &Arc<Self>, state: &mut ControlState, service: &Arc<str>, method: MethodName<'_>) -> u32 {
        if let MethodName::Spec(spec) = method {
            let address = std::ptr::from_ref(spec) as usize;
            let first = state.bound_by_spec.get(&address).copied();
            // Two services with equal methods may share one slice of specs.
            let mut next = first;
            while let Some(at) = next {
                let Some(bound) = state.bound.get(at as usize) else { break };
                if Arc::ptr_eq(&bound.service, service) || bound.service == *service {
                    return at;
                }
                next = bound.same_spec;
            }
            let at = self.bind_name(state, service, spec.name);
            if let Some(bound) = state.bound.get_mut(at as usize) {
                bound.same_spec = first.filter(|first| *first != at);
                state.bound_by_spec.insert(address, at);
            }
            if let Some(schemas) = self.schemas.get() {
                schemas.first_call(self, service, spec);
            }
            return at;
        }
        self.bind_name(state, service, method.name())
    }

    fn bind_name(&self, state: &mut ControlState, service: &Arc<str>, method: &str) -> u32 {
        let known = |bound: &Bound| bound.service == *service && *bound.method == *method;
        if let Some(at) = state.bound.iter().position(known) {
            return at as u32;
        }
        if state.bound.len() >= BOUND_METHODS_MAX {
            return u32::MAX;
        }
        state.bound.push(Bound {
            service: Arc::clone(service),
            method: method.into(),
            full: full_name(service, method).into(),
            number: self.number(service, method),
            metrics: self.metrics.called(service, method),
            health: self.health(service),
            same_spec: None,
        });
        (state.bound.len() - 1) as u32
    }

    /// The number that the peer bound to a method.
    pub(super) fn number(&self, service: &str, method: &str) -> Option<u32> {
        self.offers.read().get(service)?.get(method).copied().filter(|number| *number > 0)
    }

    /// An answer came.
    pub(crate) fn answered(
        &self,
        id: u64,
        result: Result<&[u8], Status>,
        load: u32,
        now: Instant,
        came: &mut Run,
    ) {
        let mut state = self.control.lock();
        // An answer to a call that was cancelled meanwhile: nobody waits.
        let Some(pending) = state.in_flight.remove(id) else { return };
        let own = state.in_flight.len() as u32;
        self.in_flight.store(own, Ordering::Relaxed);
        self.count(&state, &pending, result.as_ref().err().map(|status| status.code), now);
        if let (Ok(bytes), Some(bound)) = (&result, state.bound.get(pending.method as usize)) {
            came.add(&bound.metrics.traffic.came, &bound.service, bytes.len());
        }
        if let Some(Bound { health: Some(health), .. }) = state.bound.get(pending.method as usize) {
            health.ended(verdict(result.as_ref().err()), now);
            if load > 0 {
                health.reported(load, own, now);
            }
        }
        drop(state);
        pending.slot.complete(result);
    }

    pub(super) fn count(&self, state: &ControlState, pending: &Pending, code: Option<Code>, now: Instant) {
        if let Some(bound) = state.bound.get(pending.method as usize) {
            bound.metrics.answered(&bound.service, &bound.method, code);
            if let Some(started) = pending.started {
                bound.metrics.seconds.observe((now - started).as_secs_f64());
                if code.is_none() {
                    bound.metrics.latency.observe(now - started);
                }
            }
        }
    }

    /// Fails calls that were taken out of the table. What the peer cannot have seen was not executed.
    pub(super) fn fail_calls(&self, calls: Vec<(u64, Pending)>, known: Option<Executed>, status: &Status) {
        let written = self.written.load(Ordering::Acquire);
        for (_, pending) in calls {
            let executed = known.unwrap_or(match pending.end > written {
                true => Executed::No,
                false => Executed::Maybe,
            });
            let stage = if executed == Executed::No { Stage::Connect } else { Stage::Running };
            let status = status.clone().executed(executed).stage(stage).node(&self.peer);
            pending.slot.complete(Err(status));
        }
    }

    /// GOAWAY came: what is above `last_id` was not admitted and never will be.
    pub(crate) fn goaway_received(&self, last_id: u64, code: u32, reason: &str) {
        let _ = self.state.compare_exchange(UP, DRAINING, Ordering::AcqRel, Ordering::Acquire);
        let now = clock::now();
        let mut state = self.control.lock();
        let refused = state.in_flight.take_if(|id, _| id > last_id);
        self.in_flight.store(state.in_flight.len() as u32, Ordering::Relaxed);
        for (_, pending) in &refused {
            self.count(&state, pending, Some(Code::Unavailable), now);
        }
        drop(state);
        let code = Code::from_number(u8::try_from(code).unwrap_or(u8::MAX));
        let status = Status::unavailable(format!("node {} is going away: {reason} ({code})", self.peer));
        self.fail_calls(refused, Some(Executed::No), &status);
    }

    /// Fails the calls whose deadline passed; says when to look again, and when a closing is over.
    pub(super) fn expire(&self, now: Instant) -> (Option<Instant>, Option<Instant>) {
        let mut state = self.control.lock();
        let expired = state.in_flight.expire(now);
        let next = (state.in_flight.earliest(), state.closing_at);
        if expired.is_empty() {
            return next;
        }
        self.in_flight.store(state.in_flight.len() as u32, Ordering::Relaxed);
        let mut names = Vec::with_capacity(expired.len());
        for (id, pending) in &expired {
            self.count(&state, pending, Some(Code::DeadlineExceeded), now);
            if let Some(Bound { health: Some(health), .. }) = state.bound.get(pending.method as usize) {
                health.ended(Verdict::Bad, now);
            }
            let name = state.bound.get(pending.method as usize).map(|bound| bound.full.clone());
            names.push(name.unwrap_or_else(|| "call".into()));
            if !state.closed {
                state.append(|buf| put_cancel(buf, *id, CancelReason::Deadline));
            }
        }
        let writer = state.writer.take();
        drop(state);
        Self::wake(writer);
        for (call, name) in expired.into_iter().zip(names) {
            let status = Status::new(
                Code::DeadlineExceeded,
                format!("{name}: no answer of node {} before the deadline", self.peer),
            );
            self.fail_calls(vec![call], None, &status);
        }
        next
    }
}

/// What an answer says of the endpoint that gave it.
#[inline]
fn verdict(error: Option<&Status>) -> Verdict {
    error.map_or(Verdict::Good, verdict_of)
}

#[cold]
fn verdict_of(error: &Status) -> Verdict {
    // The service's own error is an answer like any other.
    if error.details.as_ref().is_some_and(|details| details.kind.is_some()) || error.redirected().is_some() {
        return Verdict::Good;
    }
    match error.code {
        Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unknown | Code::DataLoss => {
            Verdict::Bad
        }
        Code::ResourceExhausted => Verdict::Busy,
        _ => Verdict::Good,
    }
}

impl Remote for Link {
    fn node(&self) -> Option<&NodeId> {
        Some(&self.peer)
    }

    fn cancel(&self, id: u64, reason: &str) {
        let mut state = self.control.lock();
        let Some(pending) = state.in_flight.remove(id) else { return };
        self.in_flight.store(state.in_flight.len() as u32, Ordering::Relaxed);
        self.count(&state, &pending, Some(Code::Cancelled), pending.started.unwrap_or(self.established));
        let writer = if state.closed {
            None
        } else {
            let reason = if reason == CANCEL_HEDGED { CancelReason::Hedged } else { CancelReason::Dropped };
            state.append(|buf| put_cancel(buf, id, reason));
            state.writer.take()
        };
        drop(state);
        Self::wake(writer);
    }
}

/// What few calls carry; nothing is allocated for the others.
#[inline]
fn rare_meta(meta: &CallMeta) -> Result<Option<Box<RareMeta>>, Status> {
    let CallMeta { idempotency_key, chain, to, token, passed, .. } = meta;
    if idempotency_key.is_none() && chain.is_none() && to.is_none() && token.is_none() && passed.is_none() {
        return Ok(None);
    }
    let text = |text: Option<&str>| text.map(|text| Bytes::copy_from_slice(text.as_bytes()));
    Ok(Some(Box::new(RareMeta {
        baggage: text(passed.as_deref().and_then(Passed::baggage)),
        tracestate: text(passed.as_deref().and_then(Passed::tracestate)),
        idempotency_key: idempotency_key.as_deref().map(Bytes::copy_from_slice),
        chain: chain.as_ref().map(CallChain::to_wire).transpose()?.map(Bytes::from),
        // Names and numbers always encode.
        to: to.as_deref().and_then(|to| afflux_wire::codec::to_named(to).ok()).map(Bytes::from),
        token: token.as_deref().map(|token| Bytes::copy_from_slice(token.as_bytes())),
        ..RareMeta::default()
    })))
}

/// Lends a buffer of this thread to encode into. A call that starts another while it is encoded gets
/// a buffer of its own.
fn with_scratch<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with(|cell| match cell.try_borrow_mut() {
        Ok(mut scratch) => {
            scratch.clear();
            let result = f(&mut scratch);
            if scratch.capacity() > SCRATCH_BYTES_KEPT_MAX {
                *scratch = Vec::new();
            }
            result
        }
        Err(_) => f(&mut Vec::new()),
    })
}
