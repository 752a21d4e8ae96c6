//! How `async_map` asks: in what order, how many at once, for how long, how often.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use afflux_mesh::Backoff;
use afflux_wire::contract::{Caller, Handle, Service, Target};
use afflux_wire::{Code, Status};
use xxhash_rust::xxh3::xxh3_64;

use crate::errors::FailJob;

/// Records of one task that `async_map` asks about at once, unless it says otherwise.
pub const ASYNC_IN_FLIGHT_DEFAULT: usize = 64;
/// The largest number that [`AsyncMap::in_flight`] takes.
pub const ASYNC_IN_FLIGHT_MAX: usize = 8192;
/// How long one try of `async_map` may take, unless it says otherwise.
pub const ASYNC_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Bytes of the part of an idempotency key that is the same for all records of a task; a longer one
/// becomes its hash.
const KEY_PREFIX_BYTES_MAX: usize = 200;

/// How `async_map` asks. `X` is what becomes of a record without an answer.
///
/// ```
/// use std::time::Duration;
/// use afflux_stream::{AsyncMap, Backoff, Errors, secs};
/// let how = AsyncMap::ordered()
///     .in_flight(16)
///     .timeout(secs(2))
///     .retries(3, Backoff { first: Duration::from_millis(50), max: secs(1) })
///     .errors(Errors::DeadLetter);
/// # let _ = how;
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "give it to `.async_map(…)`"]
pub struct AsyncMap<X = FailJob> {
    pub(crate) terms: Terms,
    errors: PhantomData<X>,
}

/// What an [`AsyncMap`] says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) ordered: bool,
    pub(crate) in_flight: usize,
    pub(crate) timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) backoff: Backoff,
}

impl AsyncMap {
    /// Results in the order of the records. One slow answer holds back those behind it.
    pub fn ordered() -> Self {
        Self::new(true)
    }

    /// Results as they come. None crosses a watermark behind which, or in front of which, its record
    /// came.
    pub fn unordered() -> Self {
        Self::new(false)
    }

    fn new(ordered: bool) -> Self {
        let terms = Terms {
            ordered,
            in_flight: ASYNC_IN_FLIGHT_DEFAULT,
            timeout: ASYNC_TIMEOUT_DEFAULT,
            retries: 0,
            backoff: Backoff::default(),
        };
        Self { terms, errors: PhantomData }
    }
}

impl<X> AsyncMap<X> {
    /// Asks about this many records of a task at once, from 1 to [`ASYNC_IN_FLIGHT_MAX`]. When as many
    /// have no answer yet, the task takes no more input. (It holds them and at most one batch more.)
    pub fn in_flight(mut self, records: usize) -> Self {
        self.terms.in_flight = records;
        self
    }

    /// Gives up a try after this long. The future is dropped, which cancels a call.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.terms.timeout = timeout;
        self
    }

    /// Tries again up to this many times what failed with `UNAVAILABLE`, `DEADLINE_EXCEEDED` (a try that
    /// took too long does), `RESOURCE_EXHAUSTED` or `ABORTED`, with waits between as `backoff` says and
    /// not before the error's own `retry_after_ms`. Every other error would come again.
    pub fn retries(mut self, retries: u32, backoff: Backoff) -> Self {
        self.terms.retries = retries;
        self.terms.backoff = backoff;
        self
    }

    /// What becomes of a record without an answer: [`Errors::Fail`](crate::Errors::Fail) (when nothing
    /// is said), [`Errors::Skip`](crate::Errors::Skip) or [`Errors::DeadLetter`](crate::Errors::DeadLetter).
    pub fn errors<Y>(self, _: Y) -> AsyncMap<Y> {
        AsyncMap { terms: self.terms, errors: PhantomData }
    }
}

impl Terms {
    /// What graphs show.
    pub(crate) fn detail(&self) -> String {
        let order = if self.ordered { "ordered" } else { "unordered" };
        format!("async_map, {order}, {} in flight", self.in_flight)
    }

    /// What is wrong with it.
    pub(crate) fn problem(&self) -> Option<String> {
        if !(1..=ASYNC_IN_FLIGHT_MAX).contains(&self.in_flight) {
            return Some(format!(
                "`.in_flight({})`: from 1 to {ASYNC_IN_FLIGHT_MAX} records may be asked about at once \
                 (ASYNC_IN_FLIGHT_MAX)",
                self.in_flight
            ));
        }
        self.timeout.is_zero().then(|| "`.timeout(0)`: no answer comes in no time".to_owned())
    }

    /// When to try again after this many failed tries; never when `None`.
    pub(crate) fn again(&self, status: &Status, tries: u32, seed: u64) -> Option<Duration> {
        let passing = matches!(
            status.code,
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted
        );
        if !passing || tries > self.retries {
            return None;
        }
        let asked = status.details.as_ref().and_then(|d| d.retry_after_ms).unwrap_or(0);
        Some(self.backoff.wait(tries - 1, seed).max(Duration::from_millis(asked)))
    }
}

/// What the closure of `async_map` is given with each record: clients, and the name of this question.
#[derive(Clone)]
pub struct AsyncCx {
    pub(crate) caller: Option<Arc<dyn Caller>>,
    pub(crate) prefix: Arc<str>,
    pub(crate) sequence: u64,
    pub(crate) attempt: u32,
}

impl AsyncCx {
    /// A client of a service. Without a node every call of it fails with `FAILED_PRECONDITION`.
    pub fn client<S: Service>(&self) -> S::Client {
        S::Client::from(Handle::new(self.caller.clone(), Target::service(S::NAME)))
    }

    /// The same for every try of the same record, those after a restore too, and different for every
    /// other: give it to a call (`.idempotency_key(cx.idempotency_key())`) or a request's header.
    ///
    /// It holds job, attempt, operator, task and the record's number in that. A record that was read
    /// again because no checkpoint had it gets a new one; where a record has a natural key, take that.
    pub fn idempotency_key(&self) -> Arc<str> {
        format!("{}/{}", self.prefix, self.sequence).into()
    }

    /// Which try this is, from 1.
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The part of the key that all records of a task share.
    pub(crate) fn prefix(job: &str, attempt: u64, operator: &str, subtask: u32) -> Arc<str> {
        let name = format!("{job}/{attempt}/{operator}/{subtask}");
        if name.len() <= KEY_PREFIX_BYTES_MAX {
            return name.into();
        }
        format!("{:016x}", xxh3_64(name.as_bytes())).into()
    }
}

impl fmt::Debug for AsyncCx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncCx")
            .field("idempotency_key", &self.idempotency_key())
            .field("attempt", &self.attempt)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again_and_not_before_it_says() {
        let backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(40) };
        let terms = AsyncMap::ordered().retries(2, backoff).terms;
        let busy = Status::new(Code::ResourceExhausted, "busy");
        let wait = terms.again(&busy, 1, 0).unwrap();
        assert!(wait >= Duration::from_millis(5) && wait <= Duration::from_millis(10), "{wait:?}");
        assert_eq!(terms.again(&busy.clone().retry_after_ms(900), 2, 0), Some(Duration::from_millis(900)));
        assert_eq!(terms.again(&busy, 3, 0), None);
        assert_eq!(terms.again(&Status::invalid("wrong"), 1, 0), None);
    }

    #[test]
    fn a_key_stays_below_what_calls_take() {
        let prefix = AsyncCx::prefix(&"j".repeat(300), 1, "op", 0);
        let cx = AsyncCx { caller: None, prefix, sequence: u64::MAX, attempt: 1 };
        assert!(cx.idempotency_key().len() <= 256);
        assert_eq!(&*AsyncCx::prefix("job-1", 2, "price", 3), "job-1/2/price/3");
    }
}
