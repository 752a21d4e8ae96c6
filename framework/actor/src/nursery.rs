//! Futures that handlers start: they run on the actor's thread and end with the actor.

use std::future::Future as _;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use afflux_wire::contract::{BoxFuture, Caller, Spawner, within};
use afflux_wire::{Code, Status};
use tokio::sync::Semaphore;

use crate::metrics::KindMetrics;
use crate::place::Place;

/// Futures of one actor that run at a time.
const SPAWNED_MAX: usize = 16_384;

/// What runs beside one actor.
pub(crate) struct Nursery {
    me: Weak<Nursery>,
    place: Place,
    caller: Option<Arc<dyn Caller>>,
    kind: Arc<KindMetrics>,
    running: AtomicUsize,
    /// Closed when the actor ends.
    gone: Semaphore,
}

impl Nursery {
    pub(crate) fn new(place: Place, caller: Option<Arc<dyn Caller>>, kind: &Arc<KindMetrics>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            place,
            caller,
            kind: Arc::clone(kind),
            running: AtomicUsize::new(0),
            gone: Semaphore::new(0),
        })
    }

    /// The actor has ended: everything is dropped at its next turn.
    pub(crate) fn close(&self) {
        self.gone.close();
    }
}

/// Counts one future for as long as it is there.
struct Counted(Arc<Nursery>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.kind.spawned.dec();
    }
}

impl Spawner for Nursery {
    fn spawn(&self, future: BoxFuture<()>) -> Result<(), Status> {
        let Some(me) = self.me.upgrade().filter(|_| !self.gone.is_closed()) else {
            return Err(Status::unavailable("the actor has ended: it starts nothing more"));
        };
        if self.running.fetch_add(1, Ordering::AcqRel) >= SPAWNED_MAX {
            self.running.fetch_sub(1, Ordering::AcqRel);
            let text = format!("{SPAWNED_MAX} futures of this actor run already: let some of them end");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        self.kind.spawned.inc();
        let counted = Counted(Arc::clone(&me));
        let running = within(self.caller.clone(), future);
        self.place.spawn_future(async move {
            let _counted = counted;
            let (mut gone, mut running) = (pin!(me.gone.acquire()), pin!(running));
            std::future::poll_fn(|cx| {
                // A closed semaphore is all that it ever says.
                if gone.as_mut().poll(cx).is_ready() {
                    return std::task::Poll::Ready(());
                }
                running.as_mut().poll(cx)
            })
            .await;
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::{Actor, Spec};
    use crate::metrics::ActorMetrics;
    use crate::test::{paused, turns};
    use afflux_wire::ActorPath;
    use afflux_wire::contract::{CallMeta, Cx, Mail, Panic};
    use parking_lot::Mutex;

    struct Start(CallMeta);

    impl Mail for Start {
        fn meta(&self) -> &CallMeta {
            &self.0
        }
        fn reject(self, _: Status) {}
    }

    struct Parent(Arc<Mutex<Vec<&'static str>>>);

    struct Says(Arc<Mutex<Vec<&'static str>>>);

    impl Drop for Says {
        fn drop(&mut self) {
            self.0.lock().push("dropped");
        }
    }

    impl Actor for Parent {
        type Mail = Start;
        const KIND: &'static str = "Parent";

        async fn handle(&mut self, cx: &mut Cx, _: Start) -> Result<(), Panic> {
            let says = Says(Arc::clone(&self.0));
            cx.spawn(async move {
                says.0.lock().push("runs");
                std::future::pending::<()>().await;
                drop(says);
            })
            .unwrap();
            Ok(())
        }
    }

    #[test]
    fn what_a_handler_spawned_runs_on_and_ends_with_its_actor() {
        paused(|| async {
            let log = Arc::new(Mutex::new(Vec::new()));
            let metrics = ActorMetrics::unregistered();
            let spec = Spec::new(ActorPath::new("parent"), Arc::clone(&metrics));
            let parent = Place::current().unwrap().spawn(spec, {
                let log = Arc::clone(&log);
                move || Ok(Parent(Arc::clone(&log)))
            });
            parent.address().try_send(Start(CallMeta::default())).ok().unwrap();
            turns(50).await;
            assert_eq!(*log.lock(), ["runs"]);
            assert_eq!(metrics.kind("Parent").spawned.get(), 1);
            parent.stop(Status::unavailable("enough"));
            turns(50).await;
            assert_eq!(*log.lock(), ["runs", "dropped"]);
            assert_eq!(metrics.kind("Parent").spawned.get(), 0);
        });
    }

    #[test]
    fn outside_an_actor_nothing_can_be_spawned() {
        let cx = Cx::new(ActorPath::new("nobody"), None);
        assert_eq!(cx.spawn(async {}).unwrap_err().code, Code::FailedPrecondition);
    }
}
