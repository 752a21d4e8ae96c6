//! What time it is: tokio's clock for spans and deadlines, an injected function for the calendar.
//!
//! In a test whose runtime is paused this clock stands still until nothing else can run.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The clock of a process.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use afflux_actor::Clock;
/// let clock = Clock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(5));
/// assert!(clock.wall() >= SystemTime::UNIX_EPOCH + Duration::from_secs(5));
/// ```
#[derive(Clone)]
pub struct Clock {
    wall: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Clock {
    /// A clock whose calendar time comes from `wall`.
    pub fn new(wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { wall: Arc::new(wall) }
    }

    /// A clock whose calendar starts at `start` and advances with tokio's time: what tests use.
    pub fn starting_at(start: SystemTime) -> Self {
        let origin = now();
        Self::new(move || start + now().saturating_duration_since(origin))
    }

    /// This moment, for spans and deadlines.
    pub fn now(&self) -> Instant {
        now()
    }

    /// This moment in the calendar.
    pub fn wall(&self) -> SystemTime {
        (self.wall)()
    }

    /// Resolves after this long; 1 ms is the resolution.
    pub fn sleep(&self, span: Duration) -> impl Future<Output = ()> + Send + 'static {
        tokio::time::sleep(span)
    }

    /// Resolves at this moment; 1 ms is the resolution.
    pub fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + 'static {
        tokio::time::sleep_until(at.into())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// This moment on tokio's clock.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hands_of_the_clock_move_with_tokios_time() {
        crate::test::paused(|| async {
            let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
            let clock = Clock::starting_at(start);
            let before = clock.now();
            clock.sleep(Duration::from_secs(3600)).await;
            assert_eq!(clock.now() - before, Duration::from_secs(3600));
            assert_eq!(clock.wall(), start + Duration::from_secs(3600));
            clock.sleep_until(before).await;
            assert_eq!(clock.now() - before, Duration::from_secs(3600));
        });
    }
}
