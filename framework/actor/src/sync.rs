//! The lock and the atomics of what many threads share, which a model checker may play.
//!
//! With the feature `shuttle` every use of them is a point where another thread may run, and tests named
//! `interleavings` try many schedules. Never in a release: outside such a test these panic.

#[cfg(not(feature = "shuttle"))]
mod real {
    pub use parking_lot::{Mutex, MutexGuard};
    pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
}

#[cfg(feature = "shuttle")]
mod played {
    pub use shuttle::sync::MutexGuard;
    pub use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
    use std::sync::PoisonError;

    /// A played lock with the methods of the real one.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// A lock on `value`.
        pub fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        /// Waits for the lock.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[cfg(feature = "shuttle")]
pub use played::*;
#[cfg(not(feature = "shuttle"))]
pub use real::*;
