//! R1–R3 over the mesh: a client and a server process on loopback, each single-threaded, or both in
//! one process over memory. `--busy N` gives the server N tasks that always have work; `--rate N` makes N calls
//! a second whatever the answers do.
//!
//! Every call takes the product's whole path: client, balancer, in-flight table with its deadline,
//! frames, router, mailbox, actor, answer. The server ends when its standard input closes.

mod items;

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afflux_actor::{ActorMetrics, Clock, Serves, Spec, Threads};
use afflux_macros::{Actor, Service};
use afflux_mesh::{MemoryNetwork, Mesh, MeshConfig, MeshMetrics, Transport};
use afflux_stream::job::{LocalRun, start_local};
use afflux_stream::{Flow, JobSettings, generate};
use afflux_wire::{ActorPath, NodeId};
use hdrhistogram::Histogram;

use crate::args::Args;
use crate::kit::contract::{Cx, Fault, NoError};
use crate::open_loop::Arrivals;
use crate::report::{Param, Report, Work};
use crate::usage::{Mark, cpu_s, peak_rss_mb, rss_mb};

/// Calls before the measured window.
const WARM_UP: Duration = Duration::from_millis(500);
/// Greatest latency that is told apart, in nanoseconds.
pub(crate) const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Places of the server's mailbox: more than any `--outstanding`.
const OUTSTANDING_MAX: usize = 65_536;

/// What is called: two numbers, or bytes, come back as they went.
#[derive(Service)]
#[service(name = "bench.echo", crate = "crate::kit")]
pub(crate) enum Echo {
    /// Two numbers.
    #[rpc(returns = (u64, u64), idempotent)]
    Pair {
        /// The call's number.
        id: u64,
        /// Anything.
        v: u64,
    },
    /// Bytes.
    #[rpc(returns = Body, idempotent)]
    Bytes {
        /// Anything.
        body: Body,
    },
}

/// Bytes as MessagePack's bin.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub(crate) struct Body(
    #[serde(with = "serde_bytes")]
    #[schemars(with = "Vec<u8>")]
    Vec<u8>,
);

#[derive(Actor)]
#[actor(serves(Echo), mailbox = 65536, crate = "crate::kit")]
struct Echoer;

impl EchoHandler for Echoer {
    async fn pair(&mut self, _: &mut Cx, id: u64, v: u64) -> Result<(u64, u64), Fault<NoError>> {
        Ok((id, v))
    }
    async fn bytes(&mut self, _: &mut Cx, body: Body) -> Result<Body, Fault<NoError>> {
        Ok(body)
    }
}

pub(crate) fn mesh(
    node: &str,
    listen: Option<String>,
    threads: &Threads,
    transport: Transport,
) -> Result<Mesh, String> {
    // Client and server are this executable, as nodes of a cluster are.
    let build_fingerprint = 1;
    let config = MeshConfig { listen, build_fingerprint, ..MeshConfig::new(NodeId::new(node), "bench") };
    Mesh::start(config, transport, threads.io(), MeshMetrics::unregistered()).map_err(|e| e.to_string())
}

/// Serves [`Echo`] and what R4, R5 and large answers call on a mesh.
fn serve(mesh: &Mesh, threads: &Threads) {
    let spec = Spec::new(ActorPath::new("echo"), ActorMetrics::unregistered()).caller(mesh.caller());
    let actor = threads.io().spawn(spec, || Ok(Echoer));
    for entry in Echoer::services(actor.address()) {
        mesh.serve(entry);
    }
    items::serve(mesh, threads);
}

/// Tasks that always have work, on as many slot threads as a node would have, beside the I/O thread.
fn keep_busy(tasks: usize, threads: Threads) -> Result<LocalRun, String> {
    let settings = JobSettings { parallelism: tasks as u32, ..JobSettings::default() };
    let flow = Flow::new("busy", settings);
    flow.source("numbers", generate(u64::MAX / 2, |i| i)).untimed().map(|i| i.rotate_left(7)).count("all");
    let plan = flow.finish().map_err(|e| e.to_string())?;
    let clock = Clock::new(std::time::SystemTime::now);
    start_local(&plan, Arc::new(threads), clock, None, None).map_err(|e| e.to_string())
}

/// `rpc-server`: prints its address, then its processor seconds and peak memory for each line it reads.
pub(crate) fn server(mut args: Args) -> Result<(), String> {
    let busy: usize = args.number("busy", 0)?;
    args.finish()?;
    afflux_actor::system(|| async {
        let threads = Threads::start(0, 0).map_err(|e| e.to_string())?;
        let mesh = mesh("server", Some("127.0.0.1:0".into()), &threads, Transport::Tcp)?;
        serve(&mesh, &threads);
        let _busy = match busy {
            0 => None,
            tasks => Some(keep_busy(
                tasks,
                Threads::start(tasks.min(afflux_actor::cpu_quota()), 0).map_err(|e| e.to_string())?,
            )?),
        };
        println!("{}", mesh.local_address());
        // Standard input is read beside the event loop, so that no call waits for it.
        let (done, ended) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                if line.is_err() {
                    break;
                }
                let memory = (peak_rss_mb().unwrap_or(0.0), rss_mb().unwrap_or(0.0));
                println!("{} {} {}", cpu_s().unwrap_or(0.0), memory.0, memory.1);
            }
            let _ = done.send(());
        });
        let _ = ended.await;
        Ok(())
    })
    .map_err(|e| e.to_string())?
}

/// The server's process.
pub(crate) struct Server {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    pub(crate) address: String,
}

/// What the server has used.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) cpu_s: f64,
    pub(crate) peak_mb: f64,
    pub(crate) now_mb: f64,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) fn start(busy: usize) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut child = Command::new(program)
            .args(["rpc-server", "--busy", &busy.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start the server: {e}"))?;
        let output = child.stdout.take().ok_or("the server has no output")?;
        let mut server = Self { child, output: BufReader::new(output), address: String::new() };
        server.address = server.line()?;
        Ok(server)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err("the server ended".into()),
            Ok(_) => Ok(line.trim().to_owned()),
            Err(error) => Err(format!("the server's output: {error}")),
        }
    }

    pub(crate) fn usage(&mut self) -> Result<Used, String> {
        let input = self.child.stdin.as_mut().ok_or("the server has no input")?;
        writeln!(input).map_err(|e| e.to_string())?;
        let line = self.line()?;
        let numbers: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [cpu_s, peak_mb, now_mb] = numbers[..] else {
            return Err(format!("the server's usage cannot be read: {line}"));
        };
        Ok(Used { cpu_s, peak_mb, now_mb })
    }
}

type Shared = Rc<RefCell<(Option<Histogram<u64>>, Option<String>)>>;

async fn call_forever(client: EchoClient, mut id: u64, payload: usize, shared: Shared) {
    let body = Body((0..payload).map(|i| (i % 251) as u8).collect());
    let mut start = Instant::now();
    loop {
        id += 1;
        let answer = if payload == 16 {
            client.pair(id, !id).await.map(|pair| pair == (id, !id))
        } else {
            client.bytes(body.clone()).await.map(|back| back.0.len() == payload)
        };
        let end = Instant::now();
        let mut shared = shared.borrow_mut();
        match answer {
            Ok(true) => {}
            Ok(false) => {
                shared.1 = Some(format!("call {id} was answered with something else"));
                return;
            }
            Err(error) => {
                shared.1 = Some(format!("call {id}: {error}"));
                return;
            }
        }
        if let Some(latencies) = &mut shared.0 {
            latencies.saturating_record((end - start).as_nanos() as u64);
        }
        start = end;
    }
}

/// `rpc BENCH …`
pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let bench = args.word("a benchmark (r1 to r5, large, connections)")?;
    let (outstanding, payload) = match bench.as_str() {
        "r1" => (1, 16),
        "r2" => (256, 16),
        "r3" => (64, 1024),
        "r4" | "r5" => return items::run(&bench, args),
        "large" => return items::large(args),
        "connections" => return crate::connections::run(args),
        other => return Err(format!("unknown benchmark `{other}`: r1 to r5, large or connections")),
    };
    let outstanding = args.count("outstanding", outstanding)?;
    let payload = args.count("payload", payload)?;
    let seconds: f64 = args.number("seconds", 10.0)?;
    let transport = args.choice("transport", &["tcp", "memory"])?;
    let busy: usize = args.number("busy", 0)?;
    let rate: f64 = args.number("rate", 0.0)?;
    args.finish()?;
    if rate > 0.0 && payload != 16 {
        return Err(format!("--rate is for r1 and r2, whose payload is 16 bytes, not {payload}"));
    }
    if outstanding > OUTSTANDING_MAX {
        return Err(format!("--outstanding is {outstanding}, at most {OUTSTANDING_MAX}"));
    }
    let mut server = if transport == "tcp" { Some(Server::start(busy)?) } else { None };
    let shared: Shared = Rc::default();
    let (wall_s, cpu, rss_mb) = afflux_actor::system(|| {
        let shared = Rc::clone(&shared);
        async move {
            let threads = Threads::start(0, 0).map_err(|e| e.to_string())?;
            let network = MemoryNetwork::default();
            let (address, _beside) = match &server {
                Some(server) => (server.address.clone(), None),
                None => {
                    let transport = Transport::Memory(network.clone());
                    let beside = mesh("server", Some("server:1".into()), &threads, transport)?;
                    serve(&beside, &threads);
                    (beside.local_address(), Some(beside))
                }
            };
            let transport = if server.is_some() { Transport::Tcp } else { Transport::Memory(network) };
            let mesh = mesh("client", None, &threads, transport)?;
            let node = mesh.connect_unknown(&address).await.map_err(|e| e.to_string())?;
            let client = mesh.client_on::<Echo>(&node);
            let local = tokio::task::LocalSet::new();
            let closed_loop = if rate > 0.0 { 0 } else { outstanding as u64 };
            for number in 0..closed_loop {
                local.spawn_local(call_forever(client.clone(), number << 32, payload, Rc::clone(&shared)));
            }
            let histogram = || Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).map_err(|e| e.to_string());
            if rate > 0.0 {
                let unseen = Rc::new(RefCell::new((histogram()?, None)));
                local
                    .run_until(Arrivals::new(rate).run(std::slice::from_ref(&client), WARM_UP, &unseen))
                    .await?;
            } else {
                local.run_until(tokio::time::sleep(WARM_UP)).await;
            }
            let usage =
                |server: &mut Option<Server>| server.as_mut().map_or(Ok(Used::default()), Server::usage);
            let server_before = usage(&mut server)?.cpu_s;
            shared.borrow_mut().0 = Some(histogram()?);
            let span = Duration::from_secs_f64(seconds);
            let mark = Mark::now()?;
            if rate > 0.0 {
                let seen = Rc::new(RefCell::new((histogram()?, None)));
                local.run_until(Arrivals::new(rate).run(std::slice::from_ref(&client), span, &seen)).await?;
                shared.borrow_mut().0 = Some(seen.borrow().0.clone());
            } else {
                local.run_until(tokio::time::sleep(span)).await;
            }
            // The generator of an open loop is always busy: its own time is no cost of a call.
            let (wall, own) = mark.spent().map(|(wall, own)| (wall, if rate > 0.0 { 0.0 } else { own }))?;
            let after = usage(&mut server)?;
            Ok::<_, String>((wall, own + after.cpu_s - server_before, peak_rss_mb()? + after.peak_mb))
        }
    })
    .map_err(|e| e.to_string())??;
    let (latencies, error) = shared.take();
    if let Some(error) = error {
        return Err(error);
    }
    let report = Report {
        bench: format!("rpc {bench}"),
        params: vec![
            ("engine", Param::Text("afflux")),
            ("outstanding", Param::Number(outstanding as u64)),
            ("payload", Param::Number(payload as u64)),
            ("transport", Param::Text(transport)),
            ("busy", Param::Number(busy as u64)),
            ("rate", Param::Number(rate as u64)),
        ],
        work: Work::Requests(Box::new(latencies.ok_or("nothing was measured")?)),
        wall_s,
        cpu_s: cpu,
        rss_mb,
    };
    crate::show(&report);
    Ok(())
}
