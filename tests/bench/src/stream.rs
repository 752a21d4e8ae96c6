//! W1–W4 on the engine, in one process or several.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use afflux_actor::{ActorMetrics, Clock, Threads};
use afflux_mesh::{Mesh, MeshConfig, MeshMetrics, Transport};
use afflux_stream::job::{Deployment, Executor, Running, place};
use afflux_stream::{
    Batch, BoundedOutOfOrder, Flow, Global, IoContext, JobSettings, Late, Plan, Sink, SinkWriter, TaskEvent,
    Timestamp, Tumbling, fold, generate, millis_of,
};
use afflux_wire::{Attempt, NodeId};

use crate::args::Args;
use crate::checkpoint::{Checkpoints, Seen, Watch};
use crate::report::{Param, Report, Work};
use crate::usage::{Mark, peak_rss_mb};
use crate::workload::*;

/// What the results of this process add up to.
#[derive(Default)]
struct Tally {
    checksum: AtomicU64,
    results: AtomicU64,
}

/// Adds up terms of the checksum.
struct Total(Arc<Tally>);

struct TotalWriter {
    tally: Arc<Tally>,
    sum: u64,
    rows: u64,
}

impl Sink<u64> for Total {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> afflux_stream::Result<Box<dyn SinkWriter<u64>>> {
        Ok(Box::new(TotalWriter { tally: Arc::clone(&self.0), sum: 0, rows: 0 }))
    }
    fn kind(&self) -> &'static str {
        "checksum"
    }
}

impl SinkWriter<u64> for TotalWriter {
    fn write(&mut self, batch: &mut Batch<u64>) -> afflux_stream::Result<()> {
        self.rows += batch.len() as u64;
        self.sum = batch.rows.drain(..).fold(self.sum, u64::wrapping_add);
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> afflux_stream::Result<Vec<u8>> {
        Ok([self.sum.to_le_bytes(), self.rows.to_le_bytes()].concat())
    }
    fn end(&mut self) -> afflux_stream::Result<()> {
        self.tally.checksum.fetch_add(self.sum, Relaxed);
        self.tally.results.fetch_add(self.rows, Relaxed);
        Ok(())
    }
}

/// Takes 1,000 records a second.
struct Slow(Total);

struct SlowWriter(Box<dyn SinkWriter<u64>>);

impl Sink<u64> for Slow {
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> afflux_stream::Result<Box<dyn SinkWriter<u64>>> {
        Ok(Box::new(SlowWriter(self.0.open(state, cx)?)))
    }
    fn kind(&self) -> &'static str {
        "slow"
    }
    fn single(&self) -> bool {
        true
    }
}

impl SinkWriter<u64> for SlowWriter {
    fn write(&mut self, batch: &mut Batch<u64>) -> afflux_stream::Result<()> {
        std::thread::sleep(std::time::Duration::from_millis(batch.len() as u64));
        self.0.write(batch)
    }
    fn snapshot(&mut self, epoch: u64) -> afflux_stream::Result<Vec<u8>> {
        self.0.snapshot(epoch)
    }
    fn end(&mut self) -> afflux_stream::Result<()> {
        self.0.end()
    }
}

/// The four pipelines.
fn plan(workload: &str, records: u64, parallelism: u32, tally: &Arc<Tally>) -> Result<Plan, String> {
    let flow = Flow::new(workload, JobSettings { parallelism, ..JobSettings::default() });
    let total = Total(Arc::clone(tally));
    match workload {
        "w1" => flow
            .source("numbers", generate(records, rnd))
            .untimed()
            .map(w1_map)
            .filter(|y| w1_keep(*y))
            .count("kept"),
        "w2" => flow
            .source("records", generate(records, w2_record))
            .untimed()
            .key_by_ref(|r| &r.0)
            .window(Global)
            .aggregate(
                "sum",
                fold(
                    || 0_u64,
                    |sum, r: &(u64, u64)| *sum = sum.wrapping_add(r.1),
                    |key, _, sum| w2_term(key, sum),
                ),
            )
            .sink("checksum", total),
        "w3" => flow
            .source("records", generate(records, w3_record))
            .watermarks_by(BoundedOutOfOrder::by(millis_of(W3_LAG_MS)), |r| {
                Timestamp::from_millis(r.2 as i64)
            })
            .map(|r| (r.0, r.1))
            .key_by_ref(|r| &r.0)
            .window(Tumbling::of(millis_of(W3_WINDOW_MS)))
            .late(Late::Drop)
            .aggregate(
                "sum",
                fold(
                    || 0_u64,
                    |sum, r: &(u64, u64)| *sum = sum.wrapping_add(r.1),
                    |key, window, sum| w3_term(w3_window(window.start.millis() as u64), key, sum),
                ),
            )
            .sink("checksum", total),
        "w4" => {
            let words = Arc::new(Words::new());
            flow.source(
                "lines",
                generate(records, move |i| {
                    let mut line = String::new();
                    words.write_line(i, &mut line);
                    line
                }),
            )
            .untimed()
            .flat_map(|line: String| line.split(' ').map(str::to_owned).collect::<Vec<String>>())
            .key_by_ref(|word| word)
            .window(Global)
            .aggregate(
                "count",
                fold(|| 0_u64, |n, _: &String| *n += 1, |word: String, _, n| w4_term(&word, n)),
            )
            .sink("checksum", total)
        }
        // Not a race: a consumer of 1,000 records a second behind an endless source. Memory must stand.
        "slow" => {
            flow.source("numbers", generate(records, rnd)).untimed().rebalance().sink("slow", Slow(total))
        }
        other => return Err(format!("unknown workload `{other}`: w1, w2, w3, w4 or slow")),
    }
    flow.finish().map_err(|e| e.to_string())
}

/// What one process found.
#[derive(serde::Serialize, serde::Deserialize)]
struct Share {
    wall_s: f64,
    cpu_s: f64,
    rss_mb: f64,
    checksum: u64,
    results: u64,
    seen: Seen,
}

/// Which of how many processes this one is.
pub(crate) type Seat = (usize, usize);

/// What a process found out by running its tasks.
pub(crate) struct Ran {
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) running: Running,
    pub(crate) seen: Seen,
}

/// Runs this node's tasks. `exchange` gives the address away and returns those of all nodes; `prepare` is
/// called before the clock starts; `share` makes of the run what this process tells about it.
pub(crate) fn drive<S: serde::Serialize>(
    plan: &Plan,
    parallelism: u32,
    (index, nodes): Seat,
    watch: Watch,
    exchange: impl FnOnce(Option<String>) -> Result<Vec<String>, String>,
    prepare: impl FnOnce(&Deployment, &NodeId),
    share: impl FnOnce(&Ran) -> Result<S, String>,
) -> Result<S, String> {
    let names: Vec<NodeId> = (0..nodes).map(|n| NodeId::new(format!("bench-{n}"))).collect();
    let node = names[index].clone();
    let slots = (parallelism as usize).div_ceil(nodes);
    let deployment = Deployment {
        job: "bench".into(),
        pipeline: plan.graph().pipeline.clone(),
        attempt: Attempt(1),
        settings: (**plan.settings()).clone(),
        build: String::new(),
        fingerprint: plan.graph().fingerprint(),
        graph: plan.graph().clone(),
        placement: place(&plan.widths(), &names),
        splits: plan.splits().map_err(|e| e.to_string())?,
        restore: None,
        restore_from: None,
        listed_parallelism: 0,
        allow_orphaned_state: false,
        started_ms: 0,
        poison: afflux_stream::Ledger::default(),
    };
    prepare(&deployment, &node);
    afflux_actor::system(|| async move {
        let threads = Arc::new(Threads::start(slots, 1).map_err(|e| e.to_string())?);
        let mesh = if nodes > 1 {
            let config =
                MeshConfig { listen: Some("127.0.0.1:0".into()), ..MeshConfig::new(node.clone(), "bench") };
            let mesh = Mesh::start(config, Transport::Tcp, threads.io(), MeshMetrics::unregistered())
                .map_err(|e| e.to_string())?;
            Some(mesh)
        } else {
            None
        };
        let addresses = exchange(mesh.as_ref().map(Mesh::local_address))?;
        if let Some(mesh) = &mesh {
            for (name, address) in names.iter().zip(&addresses) {
                if *name != node {
                    mesh.add_peer_address(name.clone(), address);
                }
            }
        }
        let executor = Executor {
            threads: Arc::clone(&threads),
            node,
            mesh: mesh.clone(),
            caller: None,
            clock: Clock::new(SystemTime::now),
            metrics: ActorMetrics::unregistered(),
            state: afflux_stream::StateRoot::default(),
        };
        let mark = Mark::now()?;
        let (sender, mut events) = tokio::sync::mpsc::channel(1024);
        let running = executor
            .deploy(
                plan,
                Arc::new(deployment),
                None,
                Arc::new(move |id, event| {
                    let _ = sender.try_send((id, event));
                }),
            )
            .map_err(|e| e.to_string())?;
        if plan.graph().pipeline == SLOW {
            return watch_memory(index).await;
        }
        let mut left = running.tasks.len();
        let mut checkpoints = Checkpoints::new(watch, index)?;
        while left > 0 && !checkpoints.enough() {
            let event = tokio::select! {
                biased;
                event = events.recv() => event,
                () = checkpoints.due() => {
                    checkpoints.tick(&running);
                    continue;
                }
            };
            match event {
                Some((_, TaskEvent::Finished(_))) => {
                    left -= 1;
                    checkpoints.finished();
                }
                Some((id, TaskEvent::Failed(status))) => return Err(format!("task {id}: {status}")),
                Some((id, TaskEvent::Panicked(kill))) => return Err(format!("task {id}: {kill}")),
                Some((id, TaskEvent::Snapshot(snapshot))) => {
                    checkpoints.take(id, &snapshot, left, &running).await?;
                }
                Some((_, TaskEvent::Closed)) => {}
                None => return Err("the tasks ended without a word".into()),
            }
        }
        let (wall_s, cpu_s) = mark.spent()?;
        let seen = checkpoints.report(&running);
        let ran = Ran { wall_s, cpu_s, running, seen };
        let share = share(&ran)?;
        if nodes > 1 {
            println!("{}", serde_json::to_string(&share).map_err(|e| e.to_string())?);
            // The others may still be reading: whoever started this process ends it.
            std::future::pending::<()>().await;
        }
        drop(ran);
        Ok(share)
    })
    .map_err(|e| e.to_string())?
}

/// The workload that is no race: see [`watch_memory`].
const SLOW: &str = "slow";

fn work(
    workload: &str,
    records: u64,
    parallelism: u32,
    every_ms: u64,
    seat: Seat,
    exchange: impl FnOnce(Option<String>) -> Result<Vec<String>, String>,
) -> Result<Share, String> {
    let tally = Arc::new(Tally::default());
    let plan = plan(workload, records, parallelism, &tally)?;
    drive(
        &plan,
        parallelism,
        seat,
        Watch { every_ms, ..Watch::default() },
        exchange,
        |_, _| {},
        |ran| {
            let summed = tally.results.load(Relaxed);
            let counted = workload_counts(&ran.running);
            let results = if counted == 0 { summed } else { counted };
            Ok(Share {
                wall_s: ran.wall_s,
                cpu_s: ran.cpu_s,
                rss_mb: peak_rss_mb()?,
                checksum: if summed == 0 { results } else { tally.checksum.load(Relaxed) },
                results,
                seen: ran.seen.clone(),
            })
        },
    )
}

/// Prints this process's resident memory after 10 and after 60 seconds and their ratio.
async fn watch_memory<S>(index: usize) -> Result<S, String> {
    let mut seen = Vec::new();
    for wait in [10, 50] {
        tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
        let status = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().map_err(|_| "VmRSS is no number")?;
        seen.push(kib / 1024.0);
    }
    eprintln!("node {index}: {:.1} MiB after 10 s, {:.1} MiB after 60 s", seen[0], seen[1]);
    let (rss_mb, seen) = (seen[1], Seen::default());
    let share = Share { wall_s: 60.0, cpu_s: 0.0, rss_mb, checksum: 0, results: 0, seen };
    println!("{}", serde_json::to_string(&share).map_err(|e| e.to_string())?);
    std::future::pending().await
}

/// Records that reached W1's counter.
fn workload_counts(running: &Running) -> u64 {
    running
        .tasks
        .iter()
        .flat_map(|t| t.meter.read().operators)
        .filter(|o| o.name == "kept")
        .map(|o| o.records_in)
        .sum()
}

/// `stream WORKLOAD …`
pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let workload = args.word("a workload (w1, w2, w3, w4, latency, slow)")?;
    if workload == "latency" {
        return crate::latency::run(args);
    }
    let records: u64 = args.number("records", 20_000_000)?;
    let parallelism = args.count("parallelism", 1)? as u32;
    let nodes = args.count("nodes", 1)?;
    let every_ms: u64 = args.number("checkpoint-ms", 0)?;
    args.finish()?;
    let shares = if nodes == 1 {
        vec![work(&workload, records, parallelism, every_ms, (0, 1), |_| Ok(Vec::new()))?]
    } else {
        let parallelism = parallelism.max(nodes as u32);
        let (records, every_ms) = (records.to_string(), every_ms.to_string());
        let words = ["stream-node", &workload, "--records", &records, "--checkpoint-ms", &every_ms];
        spawn(&words, parallelism, nodes)?
    };
    let sum = |f: fn(&Share) -> f64| shares.iter().map(f).sum::<f64>();
    let checkpoints = shares.iter().map(|s| s.seen.epochs.len() as u64).max().unwrap_or(0);
    let report = Report {
        bench: format!("stream {workload}"),
        params: vec![
            ("parallelism", Param::Number(u64::from(parallelism))),
            ("nodes", Param::Number(nodes as u64)),
            ("checkpoint_ms", Param::Number(every_ms)),
            ("checkpoints", Param::Number(checkpoints)),
        ],
        work: Work::Records {
            records,
            checksum: shares.iter().fold(0, |a, s| a.wrapping_add(s.checksum)),
            results: Some(shares.iter().map(|s| s.results).sum()),
        },
        wall_s: shares.iter().map(|s| s.wall_s).fold(0.0, f64::max),
        cpu_s: sum(|s| s.cpu_s),
        rss_mb: sum(|s| s.rss_mb),
    };
    crate::show(&report);
    Ok(())
}

/// Kills the child when the parent fails half-way.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the processes of a run with these words, and returns what each tells.
pub(crate) fn spawn<S: serde::de::DeserializeOwned>(
    words: &[&str],
    parallelism: u32,
    nodes: usize,
) -> Result<Vec<S>, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut children = Vec::new();
    for index in 0..nodes {
        let mut child = Command::new(&program)
            .args(words)
            .args(["--parallelism", &parallelism.to_string()])
            .args(["--nodes", &nodes.to_string(), "--index", &index.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start a node: {e}"))?;
        let output = child.stdout.take().ok_or("a node has no output")?;
        children.push((Node(child), BufReader::new(output)));
    }
    let mut addresses = Vec::new();
    for (_, output) in &mut children {
        addresses.push(line(output)?);
    }
    for (node, _) in &mut children {
        let input = node.0.stdin.as_mut().ok_or("a node has no input")?;
        writeln!(input, "{}", addresses.join(" ")).map_err(|e| e.to_string())?;
    }
    children
        .iter_mut()
        .map(|(_, output)| serde_json::from_str(&line(output)?).map_err(|e| e.to_string()))
        .collect()
}

fn line(input: &mut impl BufRead) -> Result<String, String> {
    let mut line = String::new();
    let bytes = input.read_line(&mut line).map_err(|e| e.to_string())?;
    if bytes == 0 { Err("a node ended before it answered".into()) } else { Ok(line.trim().to_owned()) }
}

/// `stream-node …`: one of the processes of a run.
pub(crate) fn node(mut args: Args) -> Result<(), String> {
    let workload = args.word("a workload")?;
    let records: u64 = args.number("records", 0)?;
    let parallelism = args.count("parallelism", 1)? as u32;
    let nodes = args.count("nodes", 1)?;
    let index: usize = args.number("index", 0)?;
    let every_ms: u64 = args.number("checkpoint-ms", 0)?;
    args.finish()?;
    work(&workload, records, parallelism, every_ms, (index, nodes), introduce)?;
    Ok(())
}

/// Tells whoever started this process its address and hears those of all.
pub(crate) fn introduce(address: Option<String>) -> Result<Vec<String>, String> {
    println!("{}", address.unwrap_or_default());
    let addresses = line(&mut std::io::stdin().lock())?;
    Ok(addresses.split(' ').map(str::to_owned).collect())
}
