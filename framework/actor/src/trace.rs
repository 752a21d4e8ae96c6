//! Traces as they are recorded: which calls are sampled, the ids of spans, and spans of `tracing`.
//!
//! Whoever exports listens to spans of the target [`TRACE_TARGET`]; each carries `trace_id`, `span_id`,
//! `parent_id` (hex, as in W3C Trace Context), `kind` (`client`, `queue`, `server`) and `rpc`. A span of
//! kind `queue` is written when it is over and says how long it was in `wait_us`.
//!
//! Ids are made from a seed by splitmix64 (Steele, Lea, Flood 2014): they are no secrets, and a test that
//! gives its own seed gets the same ones.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use afflux_wire::Status;
use afflux_wire::contract::{CallSpan, Cx, Mail, TraceParent, polled_in};
use tracing::field::{Empty, display};

/// The target of all spans and events of this module.
pub const TRACE_TARGET: &str = "afflux::trace";

/// One span id after another; every [`Tracer`] of the process stirs it.
static SPANS: AtomicU64 = AtomicU64::new(0);
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

std::thread_local! {
    /// Where the coin that samples calls stands on this thread.
    static COIN: Cell<u64> = const { Cell::new(0) };
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn random() -> u64 {
    mix(SPANS.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN)).max(1)
}

/// An id for a span, not zero.
fn span_id() -> [u8; 8] {
    random().to_be_bytes()
}

/// Decides which calls begin a trace.
#[derive(Debug)]
pub struct Tracer {
    /// A coin below this is heads; nothing: never.
    below: u64,
    seed: u64,
}

impl Tracer {
    /// Samples this part of the calls that begin outside any trace; ids come from `seed`.
    ///
    /// ```
    /// assert!(afflux_actor::Tracer::new(7, 1.0).root().is_some_and(|trace| trace.is_sampled()));
    /// assert!(afflux_actor::Tracer::new(7, 0.0).root().is_none());
    /// ```
    pub fn new(seed: u64, ratio: f64) -> Self {
        SPANS.fetch_add(mix(seed | 1), Ordering::Relaxed);
        let below = match ratio {
            ratio if ratio >= 1.0 => u64::MAX,
            // NaN samples nothing.
            ratio if ratio > 0.0 => (ratio * u64::MAX as f64) as u64,
            _ => 0,
        };
        Self { below, seed }
    }

    /// A new trace, if the coin says so. Its parent id stands for nobody: there is no span above.
    #[inline]
    pub fn root(&self) -> Option<TraceParent> {
        if self.below == 0 {
            return None;
        }
        let at = COIN.get().wrapping_add(GOLDEN);
        COIN.set(at);
        // Threads begin alike: the seed and the turn tell two nodes apart, which is all that is needed.
        (mix(at ^ self.seed) <= self.below).then(|| self.fresh())
    }

    #[cold]
    fn fresh(&self) -> TraceParent {
        let mut trace_id = [0; 16];
        let (high, low) = trace_id.split_at_mut(8);
        high.copy_from_slice(&mix(self.seed ^ random()).max(1).to_be_bytes());
        low.copy_from_slice(&random().to_be_bytes());
        TraceParent { trace_id, parent_id: [0; 8], flags: 1 }
    }

    /// The span of a call: in the sampled trace of `parent`, or in a new one if the coin says so.
    #[inline]
    pub fn call(
        &self,
        parent: Option<&TraceParent>,
        service: &str,
        method: &str,
    ) -> Option<Box<dyn CallSpan>> {
        let parent = match parent {
            Some(parent) => *parent,
            // What the framework's own services say to each other is nobody's request.
            None => self.root().filter(|_| !service.starts_with("afflux."))?,
        };
        parent.is_sampled().then(|| client(&parent, service, method))
    }
}

struct Client {
    context: TraceParent,
    span: tracing::Span,
}

#[cold]
fn client(parent: &TraceParent, service: &str, method: &str) -> Box<dyn CallSpan> {
    let context = parent.under(span_id());
    let span = tracing::info_span!(
        target: TRACE_TARGET,
        "call",
        trace_id = %Hex(&context.trace_id),
        span_id = %Hex(&context.parent_id),
        parent_id = %Hex(&parent.parent_id),
        kind = "client",
        rpc = %format_args!("{service}/{method}"),
        attempts = Empty,
        code = Empty,
        error = Empty,
    );
    Box::new(Client { context, span })
}

impl CallSpan for Client {
    fn context(&self) -> TraceParent {
        self.context
    }

    fn attempt(&self, failure: Option<&Status>) {
        let after = failure.map(|status| status.code.as_str()).unwrap_or_default();
        tracing::info!(target: TRACE_TARGET, parent: &self.span, after, "attempt");
    }

    fn ended(&self, outcome: Result<(), &Status>) {
        match outcome {
            Ok(()) => self.span.record("code", "OK"),
            Err(status) => {
                self.span.record("code", status.code.as_str());
                self.span.record("error", display(&status.message))
            }
        };
    }
}

/// Bytes as lower case hex.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A handler that runs in a sampled trace.
pub(crate) struct Handling {
    pub(crate) context: TraceParent,
    span: tracing::Span,
}

/// The spans of a message that is about to be handled: the one of its wait, and the one that begins.
#[inline]
pub(crate) fn handling<M: Mail>(
    mail: &M,
    cx: &mut Cx,
    admitted_at: Option<Instant>,
    now: Instant,
) -> Option<Handling> {
    let handling = mail.meta().trace.filter(TraceParent::is_sampled).map(|parent| {
        begin(&parent, mail.method(), cx, admitted_at.map(|at| now.saturating_duration_since(at)))
    });
    cx.spanned(handling.as_ref().map(|handling| handling.context));
    handling
}

#[cold]
fn begin(parent: &TraceParent, method: &str, cx: &Cx, waited: Option<Duration>) -> Handling {
    let context = parent.under(span_id());
    let path = cx.path();
    if let Some(waited) = waited {
        tracing::info_span!(
            target: TRACE_TARGET,
            "queue",
            trace_id = %Hex(&parent.trace_id),
            span_id = %Hex(&span_id()),
            parent_id = %Hex(&parent.parent_id),
            kind = "queue",
            rpc = %format_args!("{path}/{method}"),
            wait_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
        );
    }
    let span = tracing::info_span!(
        target: TRACE_TARGET,
        "handle",
        trace_id = %Hex(&context.trace_id),
        span_id = %Hex(&context.parent_id),
        parent_id = %Hex(&parent.parent_id),
        kind = "server",
        rpc = %format_args!("{path}/{method}"),
    );
    Handling { context, span }
}

/// Runs a handler inside its span, so that its log lines carry the trace.
pub(crate) async fn inside<F: Future>(handling: Option<Handling>, handler: F) -> F::Output {
    let mut handler = pin!(handler);
    poll_fn(|task| match &handling {
        None => handler.as_mut().poll(task),
        Some(Handling { context, span }) => {
            let _entered = span.enter();
            polled_in(*context, || handler.as_mut().poll(task))
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_ratio_of_calls_begins_a_trace_and_no_two_traces_are_the_same() {
        let tracer = Tracer::new(3, 0.1);
        let roots: Vec<_> = (0..10_000).filter_map(|_| tracer.root()).collect();
        assert!((800..1_200).contains(&roots.len()), "{}", roots.len());
        let ids: std::collections::BTreeSet<_> = roots.iter().map(|trace| trace.trace_id).collect();
        assert_eq!(ids.len(), roots.len());
        assert!(Tracer::new(3, f64::NAN).root().is_none());
    }

    #[test]
    fn a_call_in_a_sampled_trace_is_recorded_whatever_the_ratio_and_an_unsampled_one_never() {
        let (never, always) = (Tracer::new(1, 0.0), Tracer::new(1, 1.0));
        let parent = TraceParent { trace_id: [1; 16], parent_id: [2; 8], flags: 1 };
        let span = never.call(Some(&parent), "a", "B").unwrap();
        assert_eq!(span.context().trace_id, parent.trace_id);
        assert_ne!(span.context().parent_id, parent.parent_id);
        let unsampled = TraceParent { flags: 0, ..parent };
        assert!(always.call(Some(&unsampled), "a", "B").is_none());
        assert!(never.call(None, "a", "B").is_none());
    }
}
