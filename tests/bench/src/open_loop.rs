//! Calls at a given rate, whatever the answers do: latency counts from the moment a call was due, so that a
//! call that waits behind a slow one is seen (no coordinated omission).
//!
//! The generator never sleeps, since a timer's millisecond would be the latency that is measured: it takes a
//! whole core, and the processor seconds of its process say nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::rpc::EchoClient;

/// Unanswered calls at which a run ends: the server is slower than the rate.
const IN_FLIGHT_MAX: usize = 60_000;

/// The latencies, in nanoseconds, and what went wrong first.
pub(crate) type Seen = Rc<RefCell<(Histogram<u64>, Option<String>)>>;

/// When calls are due: a Poisson process.
pub(crate) struct Arrivals {
    gap_ns: f64,
    seed: u64,
}

impl Arrivals {
    /// So many a second.
    pub(crate) fn new(per_s: f64) -> Self {
        Self { gap_ns: 1e9 / per_s, seed: 0x5EED_1234_ABCD_0001 }
    }

    /// Until the next call is due.
    fn gap(&mut self) -> Duration {
        self.seed = self.seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        let uniform = ((self.seed >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        Duration::from_nanos((-uniform.ln() * self.gap_ns) as u64)
    }

    /// Calls each client in turn for so long, and waits for all answers. Must run beside a `LocalSet`.
    pub(crate) async fn run(
        mut self,
        clients: &[EchoClient],
        span: Duration,
        seen: &Seen,
    ) -> Result<(), String> {
        let in_flight = Rc::new(Cell::new(0usize));
        let start = Instant::now();
        let (mut due, mut id) = (start + self.gap(), 0u64);
        while due < start + span {
            let now = Instant::now();
            while due <= now {
                if in_flight.get() >= IN_FLIGHT_MAX {
                    return Err(format!(
                        "{IN_FLIGHT_MAX} calls wait for their answers: the rate is above the capacity"
                    ));
                }
                id += 1;
                in_flight.set(in_flight.get() + 1);
                let client = clients[(id % clients.len() as u64) as usize].clone();
                let (seen, in_flight) = (Rc::clone(seen), Rc::clone(&in_flight));
                tokio::task::spawn_local(async move {
                    let answer = client.pair(id, !id).await;
                    let latency = due.elapsed().as_nanos() as u64;
                    in_flight.set(in_flight.get() - 1);
                    let mut seen = seen.borrow_mut();
                    match answer {
                        Ok(pair) if pair == (id, !id) => seen.0.saturating_record(latency),
                        Ok(_) => seen.1 = Some(format!("call {id} was answered with something else")),
                        Err(error) => seen.1 = Some(format!("call {id}: {error}")),
                    }
                });
                due += self.gap();
            }
            tokio::task::yield_now().await;
        }
        while in_flight.get() > 0 {
            tokio::task::yield_now().await;
        }
        seen.borrow_mut().1.take().map_or(Ok(()), Err)
    }
}
