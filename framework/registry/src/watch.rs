//! The last value of something, for whoever waits until it changes.
//!
//! What `tokio::sync::watch` is, but for one thing: that wakes its receivers in an order that no seed
//! decides, and here they are woken in the order in which they began to wait.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

/// Every sender is gone: the value is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody is left who could change it")
    }
}

impl std::error::Error for Closed {}

struct State<T> {
    value: T,
    version: u64,
}

struct Shared<T> {
    state: RwLock<State<T>>,
    changed: Notify,
    senders: AtomicUsize,
}

impl<T> Shared<T> {
    fn is_closed(&self) -> bool {
        self.senders.load(Ordering::Acquire) == 0
    }
}

/// Where the value is changed. Clones change the same.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Where changes are waited for. A clone has seen what this one has.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// The value as it is now; nobody changes it while this is there.
pub struct Ref<'a, T>(RwLockReadGuard<'a, State<T>>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Ref<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Both ends; the receiver has seen the first value.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (sender, mut receiver) = afflux_registry::watch::channel(1);
/// sender.send_replace(2);
/// assert!(receiver.changed().await.is_ok());
/// assert_eq!(*receiver.borrow(), 2);
/// drop(sender);
/// assert!(receiver.changed().await.is_err());
/// # });
/// ```
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// A sender without a receiver.
    pub fn new(value: T) -> Self {
        let state = RwLock::new(State { value, version: 0 });
        Self { shared: Arc::new(Shared { state, changed: Notify::new(), senders: AtomicUsize::new(1) }) }
    }

    /// A receiver that has seen what there is.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.shared.state.read().version;
        Receiver { shared: Arc::clone(&self.shared), seen }
    }

    /// Puts another value there; returns the one before.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_modify(|there| std::mem::swap(there, &mut value));
        value
    }

    /// Changes the value.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Changes the value, and tells receivers if the closure says that it did; returns what it said.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = {
            let mut state = self.shared.state.write();
            let modified = change(&mut state.value);
            state.version += u64::from(modified);
            modified
        };
        if modified {
            self.shared.changed.notify_waiters();
        }
        modified
    }

    /// The value.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.state.read())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.fetch_add(1, Ordering::AcqRel);
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.changed.notify_waiters();
        }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&*self.borrow()).finish()
    }
}

impl<T> Receiver<T> {
    /// Resolves when there is a value that this receiver has not seen, which it then has.
    ///
    /// Safe to drop while it waits: nothing is missed.
    ///
    /// # Errors
    /// [`Closed`] when there is none and all senders are gone.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Made before the look: a change in between wakes it.
            let changed = self.shared.changed.notified();
            let closed = self.shared.is_closed();
            let version = self.shared.state.read().version;
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if closed {
                return Err(Closed);
            }
            changed.await;
        }
    }

    /// Resolves with the value when it meets a condition, now or later; it has then been seen.
    ///
    /// # Errors
    /// [`Closed`] when the last value does not meet it and all senders are gone.
    pub async fn wait_for(&mut self, mut fits: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, Closed> {
        loop {
            let changed = self.shared.changed.notified();
            let closed = self.shared.is_closed();
            {
                let state = self.shared.state.read();
                self.seen = state.version;
                if fits(&state.value) {
                    return Ok(Ref(state));
                }
            }
            if closed {
                return Err(Closed);
            }
            changed.await;
        }
    }

    /// The value, without having seen it.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.state.read())
    }

    /// The value, which has then been seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let state = self.shared.state.read();
        self.seen = state.version;
        Ref(state)
    }

    /// As if the value had not been seen.
    pub fn mark_changed(&mut self) {
        // No version is the greatest.
        self.seen = u64::MAX;
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T: fmt::Debug> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&*self.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[tokio::test]
    async fn receivers_are_woken_in_the_order_in_which_they_began_to_wait() {
        let sender = Sender::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..40)
            .map(|number| {
                let (mut receiver, order) = (sender.subscribe(), Arc::clone(&order));
                tokio::spawn(async move {
                    receiver.changed().await.unwrap();
                    order.lock().push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        sender.send_replace(1);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), (0..40).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_has_not_been_seen_is_told_at_once_and_the_last_value_outlives_its_sender() {
        let (sender, mut receiver) = channel(1);
        receiver.mark_changed();
        receiver.changed().await.unwrap();
        assert!(!sender.send_if_modified(|_| false));
        assert_eq!(sender.send_replace(2), 1);
        let mut other = receiver.clone();
        assert_eq!(*receiver.wait_for(|value| *value == 2).await.unwrap(), 2);
        let second = sender.clone();
        drop(sender);
        second.send_modify(|value| *value += 1);
        drop(second);
        assert_eq!(receiver.changed().await, Ok(()), "the last change comes before the end");
        assert_eq!(receiver.changed().await, Err(Closed));
        assert_eq!(*other.borrow_and_update(), 3);
        assert_eq!(other.wait_for(|value| *value == 9).await.err(), Some(Closed));
    }

    #[tokio::test]
    async fn a_change_and_an_end_wake_who_waits() {
        let (sender, mut receiver) = channel(0);
        let waits = tokio::spawn(async move {
            let seen = *receiver.wait_for(|value| *value == 3).await.unwrap();
            (seen, receiver.changed().await)
        });
        for value in 1..=3 {
            tokio::task::yield_now().await;
            sender.send_replace(value);
        }
        tokio::task::yield_now().await;
        drop(sender);
        assert_eq!(waits.await.unwrap(), (3, Err(Closed)));
    }
}
