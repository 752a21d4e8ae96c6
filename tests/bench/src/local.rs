//! L1 (ask) and L2 (tell) beside: caller and actor in one process, on one thread or on two.
//!
//! Every call takes the product's whole local path: client, router, mailbox, actor, answer. What is
//! counted are answers (L1) and handled messages (L2), so nothing that was only queued is in a figure.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use afflux_actor::{ActorMetrics, Serves, Spec, Threads};
use afflux_macros::{Actor, Service};
use afflux_mesh::{MemoryNetwork, Mesh, MeshConfig, MeshMetrics, Transport};
use afflux_wire::{ActorPath, Code, NodeId};

use crate::args::Args;
use crate::kit::contract::{Cx, Fault, NoError};
use crate::report::{Param, Report, Work};
use crate::usage::{Mark, peak_rss_mb};

/// Calls before the measured window.
const WARM_UP: Duration = Duration::from_millis(500);
/// Messages told before the actor has a turn on its teller's thread.
const TELLS_PER_TURN: u64 = 1_024;
/// Places of the mailbox: more than any `--outstanding`.
const OUTSTANDING_MAX: usize = 65_536;

/// What is called and told.
#[derive(Service)]
#[service(name = "bench.tally", crate = "crate::kit")]
pub(crate) enum Tally {
    /// Adds, and answers with the number itself.
    #[rpc(returns = u64, idempotent)]
    Ask {
        /// Anything.
        n: u64,
    },
    /// Adds.
    #[rpc(oneway)]
    Tell {
        /// Anything.
        n: u64,
    },
}

#[derive(Actor)]
#[actor(serves(Tally), mailbox = 65536, crate = "crate::kit")]
struct Counter {
    sum: u64,
    handled: Arc<AtomicU64>,
}

impl Counter {
    fn add(&mut self, n: u64) {
        self.sum = self.sum.wrapping_add(n);
        // One writer: no read-modify-write.
        self.handled.store(self.handled.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl TallyHandler for Counter {
    async fn ask(&mut self, _: &mut Cx, n: u64) -> Result<u64, Fault<NoError>> {
        self.add(n);
        Ok(n)
    }
    async fn tell(&mut self, _: &mut Cx, n: u64) -> Result<(), Fault<NoError>> {
        self.add(n);
        Ok(())
    }
}

async fn ask_forever(client: TallyClient, mut n: u64, failed: Rc<Cell<Option<String>>>) {
    loop {
        n += 1;
        match client.ask(n).await {
            Ok(back) if back == n => {}
            Ok(_) => return failed.set(Some(format!("call {n} was answered with another number"))),
            Err(error) => return failed.set(Some(format!("call {n}: {error}"))),
        }
    }
}

async fn tell_forever(client: TallyClient, failed: Rc<Cell<Option<String>>>) {
    let mut n = 0;
    loop {
        n += 1;
        match client.tell(n).await {
            Ok(()) if n % TELLS_PER_TURN != 0 => {}
            Ok(()) => tokio::task::yield_now().await,
            Err(error) if error.code() == Code::ResourceExhausted => tokio::task::yield_now().await,
            Err(error) => return failed.set(Some(format!("message {n}: {error}"))),
        }
    }
}

/// `local BENCH …`
pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let bench = args.word("a benchmark (l1, l2)")?;
    let asks = match bench.as_str() {
        "l1" => true,
        "l2" => false,
        other => return Err(format!("unknown benchmark `{other}`: l1 (ask) or l2 (tell)")),
    };
    let outstanding = if asks { args.count("outstanding", 1)? } else { 1 };
    let threads_used: usize = args.number("threads", 1)?;
    let seconds: f64 = args.number("seconds", 10.0)?;
    args.finish()?;
    if outstanding > OUTSTANDING_MAX {
        return Err(format!("--outstanding is {outstanding}, at most {OUTSTANDING_MAX}"));
    }
    if !(1..=2).contains(&threads_used) {
        return Err(format!("--threads is {threads_used}: 1 (caller and actor share it) or 2"));
    }
    let (handled, wall_s, cpu_s) = afflux_actor::system(|| async move {
        let threads = Threads::start(threads_used - 1, 0).map_err(|e| e.to_string())?;
        let config = MeshConfig { listen: None, ..MeshConfig::new(NodeId::new("local"), "bench") };
        let transport = Transport::Memory(MemoryNetwork::default());
        let mesh = Mesh::start(config, transport, threads.io(), MeshMetrics::unregistered())
            .map_err(|e| e.to_string())?;
        let handled = Arc::new(AtomicU64::new(0));
        let spec = Spec::new(ActorPath::new("tally"), ActorMetrics::unregistered()).caller(mesh.caller());
        let place = if threads_used == 2 { threads.slot(0) } else { threads.io() };
        let actor = place.spawn(spec, {
            let handled = Arc::clone(&handled);
            move || Ok(Counter { sum: 0, handled: Arc::clone(&handled) })
        });
        for entry in Counter::services(actor.address()) {
            mesh.serve(entry);
        }
        let failed: Rc<Cell<Option<String>>> = Rc::default();
        for number in 0..outstanding as u64 {
            let (client, failed) = (mesh.client::<Tally>(), Rc::clone(&failed));
            if asks {
                // On the thread's own queue of tasks, beside its actors: where a node's callers are.
                tokio::task::spawn_local(ask_forever(client, number << 32, failed));
            } else {
                tokio::task::spawn_local(tell_forever(client, failed));
            }
        }
        tokio::time::sleep(WARM_UP).await;
        let (before, mark) = (handled.load(Ordering::Relaxed), Mark::now()?);
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        let (wall, cpu) = mark.spent()?;
        let done = handled.load(Ordering::Relaxed) - before;
        match failed.take() {
            Some(error) => Err(error),
            None => Ok((done, wall, cpu)),
        }
    })
    .map_err(|e| e.to_string())??;
    let report = Report {
        bench: format!("local {bench}"),
        params: vec![
            ("engine", Param::Text("afflux")),
            ("outstanding", Param::Number(outstanding as u64)),
            ("threads", Param::Number(threads_used as u64)),
            ("ns", Param::Number((wall_s * 1e9 / handled.max(1) as f64) as u64)),
        ],
        work: Work::Records { records: handled, checksum: 0, results: None },
        wall_s,
        cpu_s,
        rss_mb: peak_rss_mb()?,
    };
    crate::show(&report);
    Ok(())
}
