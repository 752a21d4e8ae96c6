//! One thread as the rest of the framework sees it: something that runs actors and futures.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use afflux_wire::Status;
use afflux_wire::contract::Panic;
use futures_util::FutureExt;

use crate::actor::{Actor, ActorHandle, Spec};
use crate::host;
use crate::options::Options;

/// A thread that runs actors and futures. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Place {
    runs_on: RunsOn,
}

#[derive(Clone)]
enum RunsOn {
    Arbiter(actix_rt::ArbiterHandle),
    #[cfg(feature = "simulated")]
    Machine(crate::simulated::Machine),
}

impl Place {
    pub(crate) fn new(arbiter: actix_rt::ArbiterHandle) -> Self {
        Self { runs_on: RunsOn::Arbiter(arbiter) }
    }

    /// The thread this is called on, inside [`system`](crate::system).
    pub fn current() -> Option<Self> {
        #[cfg(feature = "simulated")]
        if let Some(machine) = crate::simulated::here() {
            return Some(Self { runs_on: RunsOn::Machine(machine) });
        }
        actix_rt::Arbiter::try_current().map(Self::new)
    }

    /// Whether its thread still runs what it is given.
    pub fn is_alive(&self) -> bool {
        match &self.runs_on {
            RunsOn::Arbiter(arbiter) => arbiter.alive(),
            #[cfg(feature = "simulated")]
            RunsOn::Machine(machine) => machine.is_alive(),
        }
    }

    /// Runs a function on this thread; whether it was taken.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) -> bool {
        match &self.runs_on {
            RunsOn::Arbiter(arbiter) => arbiter.spawn_fn(work),
            #[cfg(feature = "simulated")]
            RunsOn::Machine(machine) => machine.run(work),
        }
    }

    /// Starts an actor here with the options of its type. `factory` makes its state, on this place's
    /// thread, and a fresh one after every restart.
    ///
    /// Never fails: an actor whose factory fails ends as its restart policy says, which
    /// [`ActorHandle::watch`] tells; on a thread that has stopped it ends at once.
    pub fn spawn<A: Actor>(
        &self,
        spec: Spec,
        factory: impl FnMut() -> Result<A, Status> + Send + 'static,
    ) -> ActorHandle<A::Mail> {
        self.spawn_with_options(spec, A::options(), factory)
    }

    /// The same with other options, such as those of a settings file.
    pub fn spawn_with_options<A: Actor>(
        &self,
        spec: Spec,
        options: Options,
        factory: impl FnMut() -> Result<A, Status> + Send + 'static,
    ) -> ActorHandle<A::Mail> {
        host::spawn(self, spec, options, factory)
    }

    /// Runs a future here: a link, a timer. A panic in it is logged and ends it alone.
    pub fn spawn_future(&self, future: impl Future<Output = ()> + Send + 'static) {
        let sent = match &self.runs_on {
            RunsOn::Arbiter(arbiter) => arbiter.spawn(guarded(future)),
            #[cfg(feature = "simulated")]
            RunsOn::Machine(machine) => machine.run(move || {
                actix_rt::spawn(guarded(future));
            }),
        };
        if !sent {
            tracing::warn!("a future was dropped: its thread has stopped");
        }
    }

    /// Runs a future here that is made here and need not be `Send`.
    pub fn spawn_with<F: Future<Output = ()> + 'static>(&self, make: impl FnOnce() -> F + Send + 'static) {
        let sent = self.run(move || {
            actix_rt::spawn(guarded(async move { make().await }));
        });
        if !sent {
            tracing::warn!("a future was dropped: its thread has stopped");
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place(alive: {})", self.is_alive())
    }
}

/// A task's panic would vanish with its handle.
async fn guarded(future: impl Future<Output = ()>) {
    if let Err(payload) = AssertUnwindSafe(future).catch_unwind().await {
        let panic = Panic::from_payload(&*payload);
        tracing::error!(%panic, "a background future panicked");
    }
}
