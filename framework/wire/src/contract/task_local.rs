//! Which node the running code belongs to: how a call through an [`ActorRef`](super::ActorRef), which
//! is plain data, finds its way out.
//!
//! The host of an actor sets it around everything that the actor runs. There is no runtime here, so it
//! is kept by the thread and set anew at every poll.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

use super::caller::Caller;

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Caller>>> = const { RefCell::new(None) };
}

/// What starts calls for the code that runs now; nothing outside a node.
#[must_use]
pub fn current_caller() -> Option<Arc<dyn Caller>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Puts the caller in for the time of one poll; a panic takes it out as well.
struct Entered<'a> {
    own: &'a mut Option<Arc<dyn Caller>>,
}

impl<'a> Entered<'a> {
    fn swap(own: &'a mut Option<Arc<dyn Caller>>) -> Self {
        CURRENT.with(|current| std::mem::swap(&mut *current.borrow_mut(), own));
        Self { own }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.with(|current| std::mem::swap(&mut *current.borrow_mut(), self.own));
    }
}

/// Runs a future so that calls through an [`ActorRef`](super::ActorRef) in it go out by `caller`.
///
/// ```
/// # use std::sync::Arc;
/// # use afflux_wire::contract::{Caller, current_caller, within};
/// # async fn example(caller: Arc<dyn Caller>) {
/// within(Some(caller), async { assert!(current_caller().is_some()) }).await;
/// assert!(current_caller().is_none());
/// # }
/// ```
pub async fn within<F: Future>(caller: Option<Arc<dyn Caller>>, future: F) -> F::Output {
    let mut own = caller;
    let mut future = pin!(future);
    poll_fn(|task| {
        let _entered = Entered::swap(&mut own);
        future.as_mut().poll(task)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::super::testing::Fake;
    use super::*;

    #[test]
    fn a_caller_is_there_while_its_future_is_polled_and_never_beside_it() {
        let (one, other): (Arc<dyn Caller>, Arc<dyn Caller>) = (Fake::nowhere(), Fake::nowhere());
        let is = |caller: &Arc<dyn Caller>| {
            current_caller().is_some_and(|now| std::ptr::addr_eq(Arc::as_ptr(&now), Arc::as_ptr(caller)))
        };
        let mut future = pin!(within(Some(Arc::clone(&one)), async {
            assert!(is(&one));
            within(Some(Arc::clone(&other)), async { assert!(is(&other)) }).await;
            assert!(is(&one));
            std::future::pending::<()>().await;
        }));
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(current_caller().is_none());
    }

    #[test]
    fn a_panic_leaves_no_caller_behind() {
        let one: Arc<dyn Caller> = Fake::nowhere();
        let poll = || {
            let mut future = pin!(within(Some(one), async { panic!("on purpose") }));
            let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll)).is_err());
        assert!(current_caller().is_none());
    }
}
