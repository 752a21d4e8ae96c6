//! Machines that are only played: each place is the runtime of whoever simulates, without a thread.
//!
//! A simulation runs several machines by turns on one thread, each with a runtime and a local set of
//! its own, so that a seed decides everything. actix finds its thread by a thread-local, which all of
//! these machines would share; a [`Place`](crate::Place) made here remembers its machine instead.

use std::cell::Cell;

use tokio::sync::mpsc;

/// Starts that wait for their machine's turn.
pub const STARTS_MAX: usize = 1 << 16;

type Start = Box<dyn FnOnce() + Send>;

thread_local! {
    static SIMULATES: Cell<bool> = const { Cell::new(false) };
}

/// From now on [`Place::current`](crate::Place::current), on this thread, is the machine whose local set
/// is polled at the time, and no longer an actix arbiter. Outside of one it panics.
pub fn begin() {
    SIMULATES.set(true);
}

/// Whether this thread simulates.
pub fn has_begun() -> bool {
    SIMULATES.get()
}

/// Where a machine takes what is to run on it.
#[derive(Clone)]
pub(crate) struct Machine {
    starts: mpsc::Sender<Start>,
}

/// The machine whose turn it is; nothing on a thread that does not simulate.
pub(crate) fn here() -> Option<Machine> {
    if !has_begun() {
        return None;
    }
    let (starts, mut waiting) = mpsc::channel::<Start>(STARTS_MAX);
    tokio::task::spawn_local(async move {
        while let Some(start) = waiting.recv().await {
            start();
        }
    });
    Some(Machine { starts })
}

impl Machine {
    pub(crate) fn is_alive(&self) -> bool {
        !self.starts.is_closed()
    }

    pub(crate) fn run(&self, start: impl FnOnce() + Send + 'static) -> bool {
        self.starts.try_send(Box::new(start)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Place;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_place_runs_what_it_is_given_on_its_own_machine_although_another_has_the_turn() {
        // A thread of its own: `begin` has no end.
        let said = std::thread::spawn(|| {
            begin();
            let said = Arc::new(Mutex::new(Vec::new()));
            let machine = || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                (runtime, tokio::task::LocalSet::new())
            };
            let (a, b) = (machine(), machine());
            let place = a.0.block_on(a.1.run_until(async { Place::current().unwrap() }));
            b.0.block_on(b.1.run_until(async {
                let said = Arc::clone(&said);
                place.spawn_future(async move { said.lock().unwrap().push("ran") });
                tokio::task::yield_now().await;
            }));
            assert!(said.lock().unwrap().is_empty(), "it is not b's to run");
            a.0.block_on(a.1.run_until(async {
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            }));
            let said = said.lock().unwrap().clone();
            drop(a);
            assert!(!place.is_alive());
            said
        });
        assert_eq!(said.join().unwrap(), ["ran"]);
    }
}
