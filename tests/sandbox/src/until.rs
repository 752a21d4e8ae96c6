//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

/// Longest wait for anything, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until there is something; blocks the thread.
///
/// ```
/// let mut looks = 0;
/// let third = afflux_sandbox::until("the third look", || {
///     looks += 1;
///     (looks == 3).then_some(looks)
/// });
/// assert_eq!(third, 3);
/// ```
///
/// # Panics
/// When nothing comes within [`PATIENCE`]: with `what`.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The same where other futures of this thread have to go on.
///
/// # Panics
/// As [`until`].
pub async fn until_async<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_what_was_found() {
        let mut left = 3;
        let found = until("zero", || {
            left -= 1;
            (left == 0).then_some("zero")
        });
        assert_eq!(found, "zero");
    }
}
