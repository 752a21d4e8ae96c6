//! A service that a program declares: how its actor is started on a node and taken away again.

use std::sync::Arc;

use afflux_actor::{ActorMetrics, Address, Place, Serves, ServiceEntry, Spec, StopReason};
use afflux_wire::contract::Caller;
use afflux_wire::{ActorPath, Status};
use futures_util::future::BoxFuture;

use crate::error::Error;

/// Where the actor of a service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// One on every node.
    EveryNode,
    /// One in the cluster, on a node that holds its lock.
    Once,
}

/// Asks an actor to stop, and withdraws what it served.
pub(crate) type Stop = Box<dyn FnOnce(Status) + Send>;

/// What a node gives to its actors.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) place: Place,
    pub(crate) caller: Arc<dyn Caller>,
    pub(crate) metrics: Arc<ActorMetrics>,
}

/// A running actor and the services it offers.
pub(crate) struct Hosted {
    pub(crate) entries: Vec<ServiceEntry>,
    /// Asks the actor to stop.
    pub(crate) stop: Stop,
    /// Resolves when it has ended.
    pub(crate) ended: BoxFuture<'static, StopReason>,
}

/// A service that a program declares.
#[derive(Clone)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) spread: Spread,
    start: Arc<dyn Fn(&Surroundings) -> Hosted + Send + Sync>,
    /// What the actor will serve, by its type alone.
    contracts: fn() -> Vec<ServiceEntry>,
}

impl Declared {
    /// The actor of `factory` under this name. The factory runs again after a crash.
    pub(crate) fn new<A, E, F>(name: &str, spread: Spread, factory: F) -> Self
    where
        A: Serves,
        E: Into<Error>,
        F: Fn() -> Result<A, E> + Clone + Send + Sync + 'static,
    {
        let path = ActorPath::new(name);
        let start = move |around: &Surroundings| {
            let factory = factory.clone();
            let spec =
                Spec::new(path.clone(), Arc::clone(&around.metrics)).caller(Arc::clone(&around.caller));
            let handle =
                around.place.spawn::<A>(spec, move || factory().map_err(|error| error.into().into_status()));
            let address: &Address<A::Mail> = handle.address();
            let entries = A::services(address);
            let watch = handle.watch();
            Hosted { entries, stop: Box::new(move |reason| handle.stop(reason)), ended: Box::pin(watch) }
        };
        Self {
            name: name.to_owned(),
            spread,
            start: Arc::new(start),
            contracts: || A::services(&Address::nowhere()),
        }
    }

    /// The contracts of its services. What is sent to them comes back.
    pub(crate) fn contracts(&self) -> Vec<ServiceEntry> {
        (self.contracts)()
    }

    /// Starts the actor.
    pub(crate) fn start(&self, around: &Surroundings) -> Hosted {
        (self.start)(around)
    }
}
