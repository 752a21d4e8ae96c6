//! One call while it is answered, as the calls that its handler makes see it: who waits for them, and
//! whether their answers are still of use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use super::chain::CallChain;

/// What the calls of one handler share. It ends with the handler.
pub struct CallScope {
    chain: Option<CallChain>,
    ended: AtomicBool,
    cancelled: AtomicBool,
    /// One place for each call that waits; places are used again.
    watchers: Mutex<Vec<Place>>,
}

enum Place {
    Free,
    Taken(Option<Waker>),
}

/// A place among the watchers of a scope.
#[derive(Clone, Copy, Debug)]
pub(super) struct WatchId(usize);

impl CallScope {
    pub(super) fn new(chain: Option<CallChain>) -> Arc<Self> {
        Arc::new(Self {
            chain,
            ended: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            watchers: Mutex::default(),
        })
    }

    /// Who waits for the calls of the handler; nobody once it has ended.
    pub(super) fn chain(&self) -> Option<&CallChain> {
        self.chain.as_ref().filter(|_| !self.ended.load(Ordering::Relaxed))
    }

    /// The handler has ended: what it has left behind is nobody's any more.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// The caller has given up: the calls of its handler fail with `CANCELLED`.
    pub fn cancel(&self) {
        if self.ended.load(Ordering::Relaxed) || self.cancelled.swap(true, Ordering::AcqRel) {
            return;
        }
        let wakers: Vec<Waker> = {
            let mut watchers = self.watchers.lock();
            let taken = |place: &mut Place| match place {
                Place::Free => None,
                Place::Taken(waker) => waker.take(),
            };
            watchers.iter_mut().filter_map(taken).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Wakes this task when the scope is cancelled. Look at [`Self::is_cancelled`] behind it.
    pub(super) fn watch(&self, id: &mut Option<WatchId>, waker: &Waker) {
        let mut watchers = self.watchers.lock();
        if let Some(WatchId(at)) = *id {
            match watchers.get_mut(at) {
                Some(Place::Taken(Some(known))) if known.will_wake(waker) => {}
                Some(place) => *place = Place::Taken(Some(waker.clone())),
                None => {}
            }
            return;
        }
        let place = Place::Taken(Some(waker.clone()));
        let at = match watchers.iter().position(|place| matches!(place, Place::Free)) {
            Some(at) => {
                watchers[at] = place;
                at
            }
            None => {
                watchers.push(place);
                watchers.len() - 1
            }
        };
        *id = Some(WatchId(at));
    }

    pub(super) fn unwatch(&self, id: WatchId) {
        if let Some(place) = self.watchers.lock().get_mut(id.0) {
            *place = Place::Free;
        }
    }
}

impl std::fmt::Debug for CallScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallScope")
            .field("chain", &self.chain)
            .field("cancelled", &self.is_cancelled())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    struct Wakes(AtomicUsize);
    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn every_watcher_is_woken_once_and_places_are_used_again() {
        let wakes = Arc::new(Wakes(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&wakes));
        let scope = CallScope::new(None);
        let mut ids = [None; 3];
        for id in &mut ids {
            scope.watch(id, &waker);
            scope.watch(id, &waker);
        }
        scope.unwatch(ids[1].unwrap());
        let mut again = None;
        scope.watch(&mut again, &waker);
        assert_eq!((again.unwrap().0, scope.watchers.lock().len()), (1, 3));
        scope.cancel();
        scope.cancel();
        assert!(scope.is_cancelled());
        assert_eq!(wakes.0.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn what_a_handler_left_behind_is_not_cancelled() {
        let scope = CallScope::new(None);
        scope.end();
        scope.cancel();
        assert!(!scope.is_cancelled());
    }
}
