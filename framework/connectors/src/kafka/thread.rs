//! Threads for the calls of librdkafka that block: listing partitions, beginning and ending transactions,
//! closing a client. The library has threads of its own for each client; none of ours touches a record.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Runs work that may block beside the tasks.
pub(super) fn apart(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name(format!("kafka-{name}")).spawn(work) {
        tracing::error!(name, %error, "no thread for a client of Kafka: it is left as it is");
    }
}

/// Waits that end at once when there is nobody any more who waits for the result.
#[derive(Debug, Default)]
pub(super) struct Pause {
    over: Mutex<bool>,
    changed: Condvar,
}

impl Pause {
    /// Ends all waits, now and later.
    pub(super) fn end(&self) {
        *self.over.lock() = true;
        self.changed.notify_all();
    }

    #[cfg(test)]
    fn is_over(&self) -> bool {
        *self.over.lock()
    }

    /// Waits so long; `false` when all waits are over.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let mut over = self.over.lock();
        if !*over {
            self.changed.wait_for(&mut over, time);
        }
        !*over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_wait_ends_when_nobody_waits_for_its_result() {
        let pause = Arc::new(Pause::default());
        assert!(pause.wait(Duration::from_millis(1)));
        let ended = Arc::clone(&pause);
        apart("test", move || ended.end());
        // Without the end it would be an hour.
        while pause.wait(Duration::from_secs(3600)) {}
        assert!(pause.is_over());
    }
}
