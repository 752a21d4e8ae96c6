//! The threads of a process: slots that run tasks, and others that run links, timers and services.
//!
//! They are kept apart because an always-ready stream beside a socket on one thread delays an echo
//! from 16 µs to 25–96 ms.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use afflux_wire::Status;

use crate::clock;
use crate::metrics::ActorMetrics;
use crate::place::Place;
use crate::quota::cpu_quota;

/// Threads of one kind at most.
pub const THREADS_MAX: usize = 1024;

/// How often each thread is probed for its delay.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// The threads of a process. Dropping them asks them to stop; see also [`Threads::join`].
pub struct Threads {
    arbiters: Vec<actix_rt::Arbiter>,
    slots: Vec<Place>,
    io: Vec<Place>,
    next_io: AtomicUsize,
}

impl Threads {
    /// Starts `slots` threads for tasks (0: as many as [`cpu_quota`]) and `io` threads for everything
    /// else (0: that is done on the calling thread).
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` outside [`system`](crate::system); `INVALID_ARGUMENT` above
    /// [`THREADS_MAX`]; `RESOURCE_EXHAUSTED` when the operating system refuses a thread.
    pub fn start(slots: usize, io: usize) -> Result<Self, Status> {
        for (name, n) in [("slots", slots), ("io", io)] {
            if n > THREADS_MAX {
                return Err(Status::invalid(format!(
                    "{name} = {n} threads: at most {THREADS_MAX}; 0 takes the CPU quota, which is {}",
                    cpu_quota()
                )));
            }
        }
        let here = here()?;
        let mut threads =
            Self { arbiters: Vec::new(), slots: Vec::new(), io: Vec::new(), next_io: AtomicUsize::new(0) };
        let slots = if slots == 0 { cpu_quota().min(THREADS_MAX) } else { slots };
        for _ in 0..slots {
            let place = threads.thread()?;
            threads.slots.push(place);
        }
        for _ in 0..io {
            let place = threads.thread()?;
            threads.io.push(place);
        }
        if threads.io.is_empty() {
            threads.io.push(here);
        }
        Ok(threads)
    }

    /// One slot and all I/O on the calling thread: no thread is started. What a simulation runs on.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` outside [`system`](crate::system).
    pub fn inline() -> Result<Self, Status> {
        Self::inline_slots(1)
    }

    /// The same with `slots` slots, all of them the calling thread; at least one.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` outside [`system`](crate::system).
    pub fn inline_slots(slots: usize) -> Result<Self, Status> {
        let here = here()?;
        Ok(Self {
            arbiters: Vec::new(),
            slots: vec![here.clone(); slots.clamp(1, THREADS_MAX)],
            io: vec![here],
            next_io: AtomicUsize::new(0),
        })
    }

    fn thread(&mut self) -> Result<Place, Status> {
        let arbiter = actix_rt::Arbiter::try_new().map_err(|error| {
            Status::new(
                afflux_wire::Code::ResourceExhausted,
                format!(
                    "thread {} cannot be started: {error}; ask for fewer slots or raise the limit",
                    self.arbiters.len() + 1
                ),
            )
        })?;
        let place = Place::new(arbiter.handle());
        self.arbiters.push(arbiter);
        Ok(place)
    }

    /// Slots, at least one.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Slot number `i`, counted round: `slot(slots())` is `slot(0)`.
    pub fn slot(&self, i: usize) -> Place {
        self.slots[i % self.slots.len()].clone()
    }

    /// The I/O threads.
    pub fn all_io(&self) -> Vec<Place> {
        self.io.clone()
    }

    /// A place for links, timers and services: the next of the I/O threads in turn.
    pub fn io(&self) -> Place {
        let i = self.next_io.fetch_add(1, Ordering::Relaxed);
        self.io[i % self.io.len()].clone()
    }

    /// Measures on each thread, four times a second, how long a woken task waits for its turn.
    pub fn probe(&self, metrics: &Arc<ActorMetrics>) {
        metrics.workers.set(i64::try_from(self.arbiters.len().max(1)).unwrap_or(i64::MAX));
        let mut places: Vec<_> = self.arbiters.iter().map(|a| Place::new(a.handle())).collect();
        if places.is_empty() {
            places.extend(self.io.first().cloned());
        }
        for place in places {
            let delay = metrics.poll_delay.clone();
            place.spawn_future(async move {
                loop {
                    tokio::time::sleep(PROBE_INTERVAL).await;
                    let woken = clock::now();
                    tokio::task::yield_now().await;
                    delay.observe(clock::now().saturating_duration_since(woken).as_secs_f64());
                }
            });
        }
    }

    /// Asks all threads to stop and waits for them. What runs there is dropped: actors answer their
    /// waiting messages, futures end. Not to be called on one of these threads.
    pub fn join(mut self) {
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
        for arbiter in std::mem::take(&mut self.arbiters) {
            if arbiter.join().is_err() {
                tracing::error!("a thread of actors ended by a panic");
            }
        }
    }
}

fn here() -> Result<Place, Status> {
    Place::current().ok_or_else(|| {
        Status::precondition("threads are started inside `afflux_actor::system`, and this is outside")
    })
}

impl Drop for Threads {
    fn drop(&mut self) {
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Threads({} slots, {} io)", self.slots.len(), self.io.len())
    }
}
