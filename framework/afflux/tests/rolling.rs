//! Nodes as real processes that are restarted one after the other while they are called: this test
//! binary is the program, too. With the command `node` as its first argument it is a node.

#![allow(clippy::unwrap_used, reason = "these are tests, without libtest")]

mod harness;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use afflux::prelude::*;
use afflux::settings::Settings;
use afflux::{Node, NodeBuilder};
use tokio::time::Instant;

/// Where the nodes note what they execute, in their working directory.
const EXECUTED: &str = "executed.log";
/// Limits every wait.
const PATIENCE: Duration = Duration::from_secs(30);
/// Calls of each kind at the same time.
const WORKERS: u64 = 8;

/// Notes what it executes.
#[derive(Service)]
#[service(name = "test.ledger", version = "1.0")]
pub enum Ledger {
    /// May be executed twice.
    #[rpc(returns = u64, idempotent)]
    Put {
        /// Which.
        id: u64,
    },
    /// Must not be executed twice.
    #[rpc(returns = u64)]
    Add {
        /// Which.
        id: u64,
    },
}

#[derive(Actor)]
#[actor(serves(Ledger), mailbox = 1024)]
struct LedgerActor {
    executed: std::fs::File,
}

impl LedgerActor {
    fn open() -> std::io::Result<Self> {
        let executed = std::fs::File::options().append(true).create(true).open(EXECUTED)?;
        Ok(Self { executed })
    }

    /// One write a line: lines of several processes do not mix.
    async fn note(&mut self, kind: &str, id: u64) -> Result<u64, Fault> {
        self.executed
            .write_all(format!("{kind} {id}\n").as_bytes())
            .map_err(|e| Status::internal(e.to_string()))?;
        // So that there are always some under way.
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(id)
    }
}

impl LedgerHandler for LedgerActor {
    async fn put(&mut self, _: &mut Cx, id: u64) -> Result<u64, Fault> {
        self.note("put", id).await
    }
    async fn add(&mut self, _: &mut Cx, id: u64) -> Result<u64, Fault> {
        self.note("add", id).await
    }
}

/// A node in a process of its own; killed with the test.
struct Process {
    child: Child,
}

impl Process {
    fn start(directory: &Path, seed: &Node, id: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AFFLUX_")) {
            command.env_remove(name);
        }
        let child = command
            .args(["node", "--id", id, "--join", &seed.address(), "--slots", "1"])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child }
    }

    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    async fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "a node does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three nodes beside the one in this process, which holds the registry and calls.
struct Cluster {
    directory: tempfile::TempDir,
    seed: Node,
    nodes: Vec<Process>,
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings =
            Settings { node_id: "seed".into(), admin_listen: String::new(), ..Settings::default() };
        let seed = NodeBuilder::new(settings).start().await.unwrap();
        let mut cluster = Self { directory, seed, nodes: Vec::new() };
        for n in 0..3 {
            let node = Process::start(cluster.directory.path(), &cluster.seed, &format!("n{n}"));
            cluster.nodes.push(node);
        }
        for n in 0..3 {
            cluster.linked(n, 0).await;
        }
        cluster
    }

    /// Waits for a link to a life of a node after this one; returns which.
    async fn linked(&self, n: usize, after: u64) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        let name = format!("n{n}");
        loop {
            let peers = self.seed.mesh().peers();
            let up = |peer: &&afflux_mesh::PeerInfo| {
                peer.node.as_str() == name && peer.state == afflux_mesh::PeerState::Up
            };
            let life = peers.iter().find(up).and_then(|peer| peer.incarnation).map_or(0, |life| life.0);
            if life > after {
                return life;
            }
            assert!(Instant::now() < deadline, "{name} does not come: {peers:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn restart(&mut self, n: usize, signal: &str) -> Option<i32> {
        let before = self.linked(n, 0).await;
        self.nodes[n].signal(signal);
        let code = self.nodes[n].ended().await;
        self.nodes[n] = Process::start(self.directory.path(), &self.seed, &format!("n{n}"));
        self.linked(n, before).await;
        code
    }

    /// How often each call of a kind was executed.
    fn executed(&self, kind: &str) -> BTreeMap<u64, u32> {
        let text = std::fs::read_to_string(self.directory.path().join(EXECUTED)).unwrap();
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            let (found, id) = line.split_once(' ').unwrap();
            if found == kind {
                *counts.entry(id.parse().unwrap()).or_insert(0) += 1;
            }
        }
        counts
    }
}

/// What became of the calls.
#[derive(Default)]
struct Outcome {
    answered: Vec<u64>,
    failed: Vec<String>,
}

/// Calls until it is told to stop.
async fn load(ledger: LedgerClient, idempotent: bool, ids: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Outcome {
    let mut outcome = Outcome::default();
    while !stop.load(Ordering::Relaxed) {
        let id = ids.fetch_add(1, Ordering::Relaxed);
        let answer = if idempotent { ledger.put(id).await } else { ledger.add(id).await };
        match answer {
            Ok(_) => outcome.answered.push(id),
            Err(error) => outcome.failed.push(format!("{id}: {error}")),
        }
    }
    outcome
}

/// Runs something while the nodes are called; returns what became of the idempotent calls and of the others.
async fn under_load<F: Future<Output = ()>>(seed: &Node, work: F) -> (Outcome, Outcome) {
    let (ids, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let calls = |idempotent: bool| {
        let each = (0..WORKERS)
            .map(|_| load(seed.client::<Ledger>(), idempotent, Arc::clone(&ids), Arc::clone(&stop)));
        futures_util::future::join_all(each.collect::<Vec<_>>())
    };
    let watched = async {
        work.await;
        stop.store(true, Ordering::Relaxed);
    };
    let (idempotent, others, ()) = tokio::join!(calls(true), calls(false), watched);
    let merge = |all: Vec<Outcome>| {
        all.into_iter().fold(Outcome::default(), |mut sum, one| {
            sum.answered.extend(one.answered);
            sum.failed.extend(one.failed);
            sum
        })
    };
    (merge(idempotent), merge(others))
}

async fn a_while() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

async fn a_rolling_restart_of_three_nodes_under_load_fails_no_call() {
    let mut cluster = Cluster::start().await;
    let seed = cluster.seed.clone();
    let (puts, adds) = under_load(&seed, async {
        a_while().await;
        for n in 0..3 {
            let started = Instant::now();
            assert_eq!(cluster.restart(n, "-TERM").await, Some(0));
            println!("  n{n} restarted in {:?}", started.elapsed());
            a_while().await;
        }
    })
    .await;
    println!("  {} idempotent calls, {} others", puts.answered.len(), adds.answered.len());
    assert_eq!(puts.failed, Vec::<String>::new());
    assert_eq!(adds.failed, Vec::<String>::new());
    let (put, added) = (cluster.executed("put"), cluster.executed("add"));
    assert!(puts.answered.iter().all(|id| put.contains_key(id)));
    assert!(adds.answered.iter().all(|id| added.get(id) == Some(&1)));
    assert!(added.values().all(|times| *times == 1), "executed twice: {added:?}");
    assert!(puts.answered.len() > 100 && adds.answered.len() > 100, "hardly any load");
    seed.close().await;
}

async fn a_killed_node_fails_no_idempotent_call_and_nothing_else_runs_twice() {
    let mut cluster = Cluster::start().await;
    let seed = cluster.seed.clone();
    let (puts, adds) = under_load(&seed, async {
        a_while().await;
        assert_eq!(cluster.restart(1, "-KILL").await, None);
        a_while().await;
    })
    .await;
    println!(
        "  {} idempotent calls, {} others, {} failed",
        puts.answered.len(),
        adds.answered.len(),
        adds.failed.len()
    );
    assert_eq!(puts.failed, Vec::<String>::new());
    let added = cluster.executed("add");
    assert!(added.values().all(|times| *times == 1), "executed twice: {added:?}");
    assert!(adds.answered.iter().all(|id| added.get(id) == Some(&1)));
    // Those that were under way there, at most.
    assert!(adds.failed.len() as u64 <= WORKERS, "{:?}", adds.failed);
    seed.close().await;
}

async fn a_node_that_others_ask_for_its_view_ends_long_before_its_grace() {
    let grace = 20_000;
    let of = |id: &str, join: String| Settings {
        node_id: id.into(),
        node_join: join,
        node_slots: 1,
        admin_listen: String::new(),
        drain_grace_ms: grace,
        ..Settings::default()
    };
    let start = async |settings| NodeBuilder::new(settings).inline().start().await.unwrap();
    let home = start(of("home", String::new())).await;
    let other = start(of("other", home.address())).await;
    other.ready().await;
    // Both long polls are under way by now: one asks, the other is asked.
    a_while().await;
    for node in [other, home] {
        let started = Instant::now();
        node.close().await;
        let took = started.elapsed();
        assert!(took < Duration::from_millis(grace / 4), "{} took {took:?}", node.id());
    }
}

fn app() -> App {
    App::new("ledger").service("ledger", LedgerActor::open)
}

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let limited = || async { tokio::time::timeout(4 * PATIENCE, test()).await.expect("took too long") };
    afflux::actor::system(limited).unwrap();
}

fn main() -> ExitCode {
    let first = std::env::args().nth(1).unwrap_or_default();
    if first == "node" {
        return afflux::__private::run_main(app().run());
    }
    let tests: &[(&str, fn())] = &[
        ("a_rolling_restart_of_three_nodes_under_load_fails_no_call", || {
            run(a_rolling_restart_of_three_nodes_under_load_fails_no_call)
        }),
        ("a_killed_node_fails_no_idempotent_call_and_nothing_else_runs_twice", || {
            run(a_killed_node_fails_no_idempotent_call_and_nothing_else_runs_twice)
        }),
        ("a_node_that_others_ask_for_its_view_ends_long_before_its_grace", || {
            run(a_node_that_others_ask_for_its_view_ends_long_before_its_grace)
        }),
    ];
    harness::run(&first, tests)
}
