//! A mailbox without an actor behind it: each call runs at once, beside the others, up to a bound.
//!
//! For the framework's own services that wait (a long poll) or only read: an actor would answer one
//! caller after the other.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use afflux_actor::{Place, ServiceEntry};
use afflux_wire::contract::{Accept, Caller, Cx, Refused, Service};
use afflux_wire::{ActorPath, Status};

/// Calls of one service that run at once; a long poll holds its place for as long as it waits.
const CALLS_MAX: usize = 1_024;

/// Runs calls of `S` on a place.
pub(crate) struct Concurrent<S: Service, R> {
    place: Place,
    caller: Option<Arc<dyn Caller>>,
    running: Arc<AtomicUsize>,
    run: R,
    service: std::marker::PhantomData<fn() -> S>,
}

impl<S, R, F> Concurrent<S, R>
where
    S: Service,
    R: Fn(S::Call, Cx) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + 'static,
{
    /// The service entry whose calls `run` answers; it is given a context of its own each time.
    pub(crate) fn entry(place: Place, caller: Option<Arc<dyn Caller>>, run: R) -> ServiceEntry {
        ServiceEntry::of::<S>(Arc::new(Self {
            place,
            caller,
            running: Arc::default(),
            run,
            service: std::marker::PhantomData,
        }))
    }
}

/// Gives its place back, also when the call panics or its thread stops.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<S, R, F> Accept<S::Call> for Concurrent<S, R>
where
    S: Service,
    R: Fn(S::Call, Cx) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + 'static,
{
    fn accept(&self, call: S::Call) -> Result<(), Refused<S::Call>> {
        if !self.place.is_alive() {
            return Err(Refused::Closed(call));
        }
        let before = self.running.fetch_add(1, Ordering::AcqRel);
        let place = Running(Arc::clone(&self.running));
        if before >= CALLS_MAX {
            return Err(Refused::Full(call));
        }
        let run = self.run.clone();
        let cx = Cx::new(ActorPath::new(S::NAME), self.caller.clone());
        self.place.spawn_with(move || async move {
            let _place = place;
            run(call, cx).await;
        });
        Ok(())
    }

    fn depth(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    fn capacity(&self) -> usize {
        CALLS_MAX
    }
}

/// A call that nobody waits for has failed, or a handler has panicked: the log has it.
pub(crate) fn log_panic(
    service: &str,
    ended: Result<(), afflux_wire::contract::Panic>,
    failure: Option<Status>,
) {
    if let Err(panic) = ended {
        tracing::error!(service, %panic, "a handler panicked");
    }
    if let Some(status) = failure {
        tracing::warn!(service, %status, "a one-way call failed");
    }
}
