//! A service that a program declares: how its actor is started on a node and taken away again.

use std::sync::Arc;

use afflux_actor::{
    ActorHandle, ActorMetrics, Address, Death, Place, Serves, ServiceEntry, Spec, StopReason, Threads,
};
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
    pub(crate) threads: Arc<Threads>,
}

/// A running actor and the services it offers.
pub(crate) struct Hosted {
    pub(crate) entries: Vec<ServiceEntry>,
    /// Asks the actor to stop.
    pub(crate) stop: Stop,
    /// Resolves when it has ended.
    pub(crate) ended: BoxFuture<'static, StopReason>,
    /// What can be looked up, first of all the whole; empty once it has its names.
    pub(crate) named: Vec<Named>,
}

/// An actor, or a pool of some, that is to have a name.
pub(crate) struct Named {
    pub(crate) path: ActorPath,
    pub(crate) entries: Vec<ServiceEntry>,
    pub(crate) death: Death,
}

/// Starts the actors behind one name: one, or a pool of them over the I/O threads.
pub(crate) fn begin<A: Serves>(
    name: &str,
    around: &Surroundings,
    factory: impl Fn() -> Result<A, Status> + Clone + Send + 'static,
) -> Hosted {
    let spawn = |path: ActorPath, place: Place| {
        let spec = Spec::new(path, Arc::clone(&around.metrics)).caller(Arc::clone(&around.caller));
        place.spawn::<A>(spec, factory.clone())
    };
    let named = |handle: &ActorHandle<A::Mail>| Named {
        path: handle.path().clone(),
        entries: A::services(handle.address()),
        death: handle.death().clone(),
    };
    if A::INSTANCES <= 1 {
        let handle = spawn(ActorPath::new(name), around.place.clone());
        let entries = A::services(handle.address());
        let (named, watch) = (vec![named(&handle)], handle.watch());
        return Hosted {
            entries,
            stop: Box::new(move |reason| handle.stop(reason)),
            ended: Box::pin(watch),
            named,
        };
    }
    let handles: Vec<ActorHandle<A::Mail>> = (0..A::INSTANCES)
        .map(|i| spawn(ActorPath::new(format!("{name}/{i}")), around.threads.io()))
        .collect();
    let pool = Address::pool(handles.iter().map(|handle| handle.address().clone()).collect());
    let death = Death::new();
    let entries = A::services(&pool);
    let whole = Named { path: ActorPath::new(name), entries: entries.clone(), death: death.clone() };
    let watches = handles.iter().map(ActorHandle::watch).collect();
    let each = handles.iter().map(named);
    Hosted {
        entries,
        named: std::iter::once(whole).chain(each).collect(),
        ended: Box::pin(super::actors::all_ended(watches, death)),
        stop: Box::new(move |reason| handles.iter().for_each(|handle| handle.stop(reason.clone()))),
    }
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
        let named = name.to_owned();
        let start = move |around: &Surroundings| {
            let factory = factory.clone();
            begin::<A>(&named, around, move || factory().map_err(|error| error.into().into_status()))
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
