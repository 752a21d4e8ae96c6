//! What is hosted, and how its owner holds it.

use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use afflux_wire::contract::{Caller, Cx, Mail, Panic};
use afflux_wire::{ActorPath, Status};

use crate::address::Address;
use crate::host::Stopper;
use crate::metrics::ActorMetrics;
use crate::options::{Keyed, Options};
use crate::watch::{Death, StopReason, Watch};

/// A state with one owner, which handles one message at a time.
///
/// The state need not be `Send`: it is made on the thread it lives on. A panic in any method ends this
/// state; the restart policy says whether a fresh one follows. Messages that wait survive that.
pub trait Actor: Sized + 'static {
    /// What lies in its mailbox.
    type Mail: Mail;
    /// The label of its metrics; one a type, never one an instance.
    const KIND: &'static str;
    /// How many handlers may overlap. With more than one they are [`Actor::handle_beside`], and
    /// [`Actor::poll_work`] is not polled.
    const CONCURRENT: usize = 1;

    /// How many of them stand behind one name: a pool, whose calls go to the emptier of two.
    const INSTANCES: usize = 1;
    /// How there is one for each value of a parameter, where there is.
    const KEYED: Option<Keyed> = None;

    /// Its bounds and its restart policy.
    fn options() -> Options {
        Options::default()
    }

    /// Runs before the first message, and again after every restart.
    ///
    /// # Errors
    /// A status ends this state as a failure, which counts against the restart budget.
    fn started(&mut self, _cx: &mut Cx) -> impl Future<Output = Result<(), Status>> {
        async { Ok(()) }
    }

    /// Handles one message. Never dropped half-way: a request to stop waits for it.
    ///
    /// # Errors
    /// [`Panic`] when a handler panicked and the dispatch caught it; the state is then replaced.
    fn handle(&mut self, cx: &mut Cx, mail: Self::Mail) -> impl Future<Output = Result<(), Panic>>;

    /// Handles one message beside others, where [`Actor::CONCURRENT`] allows more than one: they run on
    /// one thread and take turns where they await.
    ///
    /// # Errors
    /// [`Panic`] as of [`Actor::handle`]; the state is replaced once the others have ended.
    fn handle_beside(
        _state: &Rc<Self>,
        cx: &mut Cx,
        _mail: Self::Mail,
    ) -> impl Future<Output = Result<(), Panic>> {
        let message = format!("{} says that its handlers overlap and has no `handle_beside`", cx.path());
        async { Err(Panic { message }) }
    }

    /// Runs when this state ends, unless it panicked: a state that panicked is not asked anything.
    fn stopped(&mut self, _reason: &StopReason) {}

    /// Synchronous work offered between messages: a stream task's gate. `Ready(Ok)`: did at most one
    /// batch, ask again. `Pending`: wakers are registered. `Ready(Err)`: end for this reason.
    fn poll_work(
        &mut self,
        _cx: &mut Cx,
        _task: &mut std::task::Context<'_>,
    ) -> Poll<Result<(), StopReason>> {
        Poll::Pending
    }
}

/// What a derived actor does at its beginning and at its end: `#[actor(serves(Orders), lifecycle)]`.
///
/// ```
/// use afflux_actor::{Lifecycle, StopReason};
/// use afflux_wire::{Status, contract::Cx};
///
/// struct Desk {
///     open: bool,
/// }
///
/// impl Lifecycle for Desk {
///     async fn started(&mut self, _: &mut Cx) -> Result<(), Status> {
///         self.open = true;
///         Ok(())
///     }
///     fn stopped(&mut self, reason: &StopReason) {
///         println!("closed: {reason}");
///     }
/// }
/// ```
pub trait Lifecycle: Sized {
    /// Runs before the first call, and again after every restart; calls wait meanwhile.
    ///
    /// # Errors
    /// A status ends this state as a failure, which counts against the restart budget.
    fn started(&mut self, _cx: &mut Cx) -> impl Future<Output = Result<(), Status>> {
        async { Ok(()) }
    }

    /// Runs when this state ends, unless it panicked: a state that panicked is not asked anything.
    fn stopped(&mut self, _reason: &StopReason) {}
}

/// What an actor is spawned with, beside its factory.
#[derive(Clone)]
pub struct Spec {
    /// Where it is found.
    pub path: ActorPath,
    /// What starts the calls of its clients; without one they fail with `FAILED_PRECONDITION`.
    pub caller: Option<Arc<dyn Caller>>,
    /// Where it is counted.
    pub metrics: Arc<ActorMetrics>,
    /// The token under which it owns its key.
    pub fence: Option<u64>,
}

impl Spec {
    /// An actor at `path` that starts no calls.
    pub fn new(path: ActorPath, metrics: Arc<ActorMetrics>) -> Self {
        Self { path, caller: None, metrics, fence: None }
    }

    /// Lets it write under a fencing token, which its handlers find in their context.
    #[must_use]
    pub fn fence(mut self, fence: u64) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Lets the actor start calls.
    #[must_use]
    pub fn caller(mut self, caller: Arc<dyn Caller>) -> Self {
        self.caller = Some(caller);
        self
    }
}

/// An actor as its owner holds it. Dropping it stops nothing.
pub struct ActorHandle<M: Mail> {
    pub(crate) address: Address<M>,
    pub(crate) path: ActorPath,
    pub(crate) stopper: Stopper,
    pub(crate) death: Death,
}

impl<M: Mail> ActorHandle<M> {
    /// Where its messages are admitted.
    pub fn address(&self) -> &Address<M> {
        &self.address
    }

    /// Where it is found.
    pub fn path(&self) -> &ActorPath {
        &self.path
    }

    /// Asks it to stop: after the message it is handling, before all that wait. Those are answered
    /// `UNAVAILABLE`, not executed. The first reason stands.
    pub fn stop(&self, reason: impl Into<StopReason>) {
        self.stopper.stop(reason.into());
    }

    /// A future of its end; resolves at once when it has ended.
    pub fn watch(&self) -> Watch {
        self.death.watch()
    }

    /// The announcement of its end, for whoever tells others of it.
    pub fn death(&self) -> &Death {
        &self.death
    }

    /// Why it ended, if it has.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.death.reason()
    }
}

impl<M: Mail> Clone for ActorHandle<M> {
    fn clone(&self) -> Self {
        Self {
            address: self.address.clone(),
            path: self.path.clone(),
            stopper: self.stopper.clone(),
            death: self.death.clone(),
        }
    }
}

impl<M: Mail> fmt::Debug for ActorHandle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorHandle({}, {:?})", self.path, self.death.reason())
    }
}
