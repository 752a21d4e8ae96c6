//! What goes with a call over several nodes: who waits for it, how long, and whether anybody still does.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use afflux::actor::{ActorHandle, ActorMetrics, ActorPath, Place, Spec};
use afflux::contract::{Executed, Priority, Stage};
use afflux::prelude::*;
use afflux_actor::clock;
use afflux_mesh::{MemoryNetwork, Mesh, MeshConfig, MeshMetrics, Transport};

// ---- Three services that call one another by a route, and one that nobody waits for.

#[derive(Service)]
#[service(name = "test.alpha")]
enum Alpha {
    #[rpc(returns = u64)]
    Go { route: Vec<String> },
    #[rpc(returns = u64, detached)]
    GoOn { route: Vec<String> },
    #[rpc(returns = u64)]
    Count { n: u64 },
    #[rpc(oneway)]
    Tell { route: Vec<String> },
    #[rpc(oneway, ack)]
    Note { n: u64 },
    #[rpc(oneway, priority = "high")]
    Urgent { n: u64 },
    #[rpc(oneway, priority = "low")]
    Idle { n: u64 },
}

#[derive(Service)]
#[service(name = "test.beta")]
enum Beta {
    #[rpc(returns = u64)]
    Go { route: Vec<String> },
}

/// Served by an actor whose handlers overlap.
#[derive(Service)]
#[service(name = "test.delta")]
enum Delta {
    #[rpc(returns = u64)]
    Go { route: Vec<String> },
}

#[derive(Service)]
#[service(name = "test.gamma")]
enum Gamma {
    #[rpc(returns = u64)]
    Go { route: Vec<String> },
}

/// What the actors tell the test.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    held: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
}

impl Log {
    fn line(&self, text: impl Into<String>) {
        self.lines.lock().unwrap().push(text.into());
    }
    fn has(&self, part: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|line| line.contains(part))
    }
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

/// Goes where the route says: through a service, until the caller gives up (`hold`), or until the test
/// opens the door (`door`).
async fn go(cx: &mut Cx, log: &Log, name: &str, mut route: Vec<String>) -> Result<u64, Fault> {
    log.line(format!("{name} has {} ms", cx.remaining().unwrap().as_millis()));
    let next = if route.is_empty() { String::new() } else { route.remove(0) };
    let answer = match next.as_str() {
        "alpha" => cx.client::<Alpha>().go(route).await,
        "beta" => cx.client::<Beta>().go(route).await,
        "delta" => cx.client::<Delta>().go(route).await,
        "gamma" => cx.client::<Gamma>().go(route).await,
        "tell" => {
            cx.client::<Alpha>().tell(route).await?;
            return Ok(0);
        }
        "hold" | "door" => {
            log.held.fetch_add(1, SeqCst);
            while next == "hold" || log.open.load(SeqCst) == 0 {
                if cx.cancelled() {
                    log.line(format!("{name} is cancelled"));
                    return Err(Status::new(Code::Cancelled, "seen").into());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            return Ok(7);
        }
        _ => return Ok(1),
    };
    if let Err(error) = &answer {
        log.line(format!("{name} got {}", error.code()));
    }
    Ok(answer? + 1)
}

#[derive(Actor)]
#[actor(serves(Alpha), mailbox = 4)]
struct Alice {
    log: Log,
    count: u64,
}

impl AlphaHandler for Alice {
    async fn go(&mut self, cx: &mut Cx, route: Vec<String>) -> Result<u64, Fault> {
        go(cx, &self.log, "alpha", route).await
    }
    async fn go_on(&mut self, cx: &mut Cx, route: Vec<String>) -> Result<u64, Fault> {
        go(cx, &self.log, "alpha", route).await
    }
    async fn count(&mut self, _cx: &mut Cx, n: u64) -> Result<u64, Fault> {
        self.count += n;
        Ok(self.count)
    }
    async fn tell(&mut self, cx: &mut Cx, route: Vec<String>) -> Result<(), Fault> {
        go(cx, &self.log, "alpha", route).await.map(|_| ())
    }
    async fn note(&mut self, _cx: &mut Cx, n: u64) -> Result<(), Fault> {
        self.log.line(format!("note {n}"));
        Ok(())
    }
    async fn urgent(&mut self, _cx: &mut Cx, n: u64) -> Result<(), Fault> {
        self.log.line(format!("urgent {n}"));
        Ok(())
    }
    async fn idle(&mut self, _cx: &mut Cx, n: u64) -> Result<(), Fault> {
        self.log.line(format!("idle {n}"));
        Ok(())
    }
}

#[derive(Actor)]
#[actor(serves(Beta))]
struct Bob {
    log: Log,
}

impl BetaHandler for Bob {
    async fn go(&mut self, cx: &mut Cx, route: Vec<String>) -> Result<u64, Fault> {
        go(cx, &self.log, "beta", route).await
    }
}

#[derive(Actor)]
#[actor(serves(Delta), concurrent = 4)]
struct Dora {
    log: Log,
}

impl DeltaShared for Dora {
    async fn go(&self, cx: &mut Cx, route: Vec<String>) -> Result<u64, Fault> {
        go(cx, &self.log, "delta", route).await
    }
}

#[derive(Actor)]
#[actor(serves(Gamma))]
struct Carol {
    log: Log,
}

impl GammaHandler for Carol {
    async fn go(&mut self, cx: &mut Cx, route: Vec<String>) -> Result<u64, Fault> {
        go(cx, &self.log, "gamma", route).await
    }
}

// ---- Nodes.

/// Nodes `n1`, `n2` and `n3`, linked with one another, with `alpha`, `beta` and `gamma` dealt out to them.
struct Nodes {
    meshes: Vec<Mesh>,
    log: Log,
    paused: bool,
    alpha: ActorHandle<AliceMail>,
}

impl Nodes {
    async fn start(nodes: usize, transport: Transport, paused: bool) -> Self {
        let mut meshes: Vec<Mesh> = Vec::new();
        for n in 1..=nodes {
            let config = MeshConfig {
                listen: Some("127.0.0.1:0".into()),
                ..MeshConfig::new(format!("n{n}").as_str(), "test")
            };
            let place = Place::current().unwrap();
            meshes.push(Mesh::start(config, transport.clone(), place, MeshMetrics::unregistered()).unwrap());
        }
        let log = Log::default();
        let alpha = serve(&meshes[0], "test.alpha", {
            let log = log.clone();
            move || Ok(Alice { log: log.clone(), count: 0 })
        });
        serve(&meshes[1 % nodes], "test.beta", {
            let log = log.clone();
            move || Ok(Bob { log: log.clone() })
        });
        serve(&meshes[1 % nodes], "test.delta", {
            let log = log.clone();
            move || Ok(Dora { log: log.clone() })
        });
        serve(&meshes[2 % nodes], "test.gamma", {
            let log = log.clone();
            move || Ok(Carol { log: log.clone() })
        });
        for (n, from) in meshes.iter().enumerate() {
            for to in &meshes[..n] {
                from.connect_unknown(&to.local_address()).await.unwrap();
            }
        }
        let all = Self { meshes, log, paused, alpha };
        // Every node knows every service.
        for mesh in &all.meshes {
            for service in ["test.alpha", "test.beta", "test.gamma", "test.delta"] {
                until(|| mesh.services().iter().any(|known| known == service)).await;
            }
        }
        all
    }

    fn alpha(&self, node: usize) -> AlphaClient {
        self.meshes[node].client::<Alpha>()
    }
}

fn serve<A: Serves>(
    mesh: &Mesh,
    path: &str,
    factory: impl FnMut() -> Result<A, Status> + Send + 'static,
) -> ActorHandle<A::Mail> {
    let spec = Spec::new(ActorPath::new(path), ActorMetrics::unregistered()).caller(mesh.caller());
    let handle = Place::current().unwrap().spawn(spec, factory);
    for entry in A::services(handle.address()) {
        mesh.serve(entry);
    }
    handle
}

fn route(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

async fn until(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the condition never held");
}

/// Over one, two or three nodes; over pipes with a clock that leaps, and over TCP with the real one.
fn over<F: Future<Output = ()>>(nodes: &[usize], test: impl Fn(Nodes) -> F) {
    for &n in nodes {
        afflux_actor::test::paused(|| async {
            test(Nodes::start(n, Transport::Memory(MemoryNetwork::default()), true).await).await;
        });
        afflux_actor::test::system(|| async {
            let limit = Duration::from_secs(30);
            let run = async { test(Nodes::start(n, Transport::Tcp, false).await).await };
            tokio::time::timeout(limit, run).await.expect("30 s over TCP");
        });
    }
}

// ---- Call cycles.

#[test]
fn a_call_cycle_fails_at_once_and_names_all_who_wait() {
    over(&[1, 2, 3], async |nodes| {
        let before = clock::now();
        let error = nodes.alpha(0).go(route("beta alpha")).await.unwrap_err();
        let took = clock::now() - before;
        assert!(!nodes.paused || took < Duration::from_millis(50), "{took:?}");
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        let (a, b) = match nodes.meshes.len() {
            1 => ("n1", "n1"),
            _ => ("n1", "n2"),
        };
        let chain = format!(
            "call cycle: test.alpha/Go on {a} → test.beta/Go on {b} → test.alpha/Go on {a}: an actor answers \
             one call at a time"
        );
        assert!(error.status().message.contains(&chain), "{error}");
        // Nobody is stuck.
        assert_eq!(nodes.alpha(0).go(route("beta gamma")).await.unwrap(), 3);
    });
}

#[test]
fn an_actor_that_calls_itself_and_a_cycle_over_three_fail_as_well() {
    over(&[1, 3], async |nodes| {
        for cycle in ["alpha", "beta gamma beta", "beta gamma alpha", "beta beta"] {
            let error = nodes.alpha(0).go(route(cycle)).await.unwrap_err();
            assert_eq!(error.code(), Code::FailedPrecondition, "{cycle}: {error}");
            assert!(error.status().message.contains("call cycle: test.alpha/Go on n1 → "), "{error}");
        }
        assert_eq!(nodes.alpha(0).count(1).await.unwrap(), 1);
    });
}

#[test]
fn a_one_way_call_back_is_no_cycle() {
    over(&[1, 2], async |nodes| {
        assert_eq!(nodes.alpha(0).go(route("beta tell gamma")).await.unwrap(), 1);
        until(|| nodes.log.has("gamma has")).await;
    });
}

#[test]
fn an_actor_whose_handlers_overlap_is_no_cycle_but_does_not_hide_one() {
    over(&[1, 2], async |nodes| {
        let client = nodes.meshes[0].client::<Delta>();
        assert_eq!(client.go(route("beta delta delta gamma")).await.unwrap(), 5);
        let error = nodes.alpha(0).go(route("delta alpha")).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.status().message.contains(" → test.delta/Go on n"), "{error}");
    });
}

/// Four handlers of delta overlap, so the fifth waits for the first: not the chain, its deadline ends it.
#[test]
fn more_calls_within_one_another_than_handlers_overlap_end_with_their_deadline() {
    over(&[1], async |nodes| {
        if nodes.paused {
            let words = "delta ".repeat(5);
            let error = nodes.meshes[0].client::<Delta>().go(route(&words)).await.unwrap_err();
            assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        }
    });
}

#[test]
fn two_calls_at_once_to_one_actor_are_no_cycle() {
    over(&[2], async |nodes| {
        let client = nodes.alpha(1);
        let (one, two) = tokio::join!(async { client.go(route("beta gamma")).await }, async {
            client.go(route("gamma beta")).await
        });
        assert_eq!((one.unwrap(), two.unwrap()), (3, 3));
    });
}

// ---- Deadlines and cancellation.

#[test]
fn a_deadline_shrinks_over_three_nodes() {
    over(&[3], async |nodes| {
        let deadline = Duration::from_millis(1_500);
        assert_eq!(nodes.alpha(2).go(route("beta gamma")).deadline(deadline).await.unwrap(), 3);
        let left: Vec<u64> = nodes
            .log
            .lines()
            .iter()
            .map(|line| line.split_whitespace().nth(2).unwrap().parse().unwrap())
            .collect();
        assert_eq!(left.len(), 3, "{left:?}");
        // A millisecond is rounded up at every hop.
        assert!(left[0] <= 1_501 && left.windows(2).all(|two| two[1] <= two[0] + 1), "{left:?}");
        assert!(left[2] > 100, "{left:?}");
    });
}

#[test]
fn a_caller_that_gives_up_cancels_all_that_its_call_has_led_to() {
    over(&[1, 3], async |nodes| {
        let client = nodes.alpha(nodes.meshes.len() - 1);
        let call = async { client.go(route("beta gamma hold")).await };
        tokio::select! {
            biased;
            _ = call => panic!("nobody answers"),
            () = until(|| nodes.log.held.load(SeqCst) == 1) => {}
        }
        until(|| nodes.log.has("gamma is cancelled")).await;
        until(|| nodes.log.has("alpha got CANCELLED") && nodes.log.has("beta got CANCELLED")).await;
        // They are free again at once, long before the deadline of ten seconds.
        assert_eq!(nodes.alpha(0).go(route("beta gamma")).await.unwrap(), 3);
    });
}

#[test]
fn a_deadline_that_passes_ends_the_calls_of_every_hop() {
    over(&[3], async |nodes| {
        let call = nodes.alpha(0).go(route("beta gamma hold")).deadline(Duration::from_millis(200));
        let error = call.await.unwrap_err();
        assert_eq!((error.code(), error.status().was_executed()), (Code::DeadlineExceeded, Executed::Maybe));
        until(|| nodes.log.has("gamma is cancelled")).await;
        until(|| nodes.log.has("alpha got") && nodes.log.has("beta got")).await;
        assert_eq!(nodes.alpha(0).go(route("beta gamma")).await.unwrap(), 3);
    });
}

#[test]
fn the_calls_of_a_detached_method_go_on_when_the_caller_gives_up() {
    over(&[1, 3], async |nodes| {
        let client = nodes.alpha(nodes.meshes.len() - 1);
        let call = async { client.go_on(route("beta door")).await };
        tokio::select! {
            biased;
            _ = call => panic!("the door is shut"),
            () = until(|| nodes.log.held.load(SeqCst) == 1) => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        nodes.log.open.store(1, SeqCst);
        // Alpha waits for beta's answer before it takes the next call.
        assert_eq!(nodes.alpha(0).count(1).await.unwrap(), 1);
        assert!(!nodes.log.has("cancelled") && !nodes.log.has("got"), "{:?}", nodes.log.lines());
    });
}

// ---- Idempotency keys.

#[test]
fn a_key_that_comes_back_is_answered_from_memory() {
    over(&[1, 2], async |nodes| {
        let client = nodes.alpha(nodes.meshes.len() - 1);
        let key = || b"order-7".to_vec();
        assert_eq!(client.count(5).idempotency_key(key()).await.unwrap(), 5);
        assert_eq!(client.count(5).idempotency_key(key()).await.unwrap(), 5);
        // From another node, and without a key: the first is the same call, the second a new one.
        assert_eq!(nodes.alpha(0).count(5).idempotency_key(key()).await.unwrap(), 5);
        assert_eq!(client.count(5).await.unwrap(), 10);
        let error = client.count(6).idempotency_key(key()).await.unwrap_err();
        assert_eq!((error.code(), error.status().was_executed()), (Code::InvalidArgument, Executed::No));
        assert!(error.status().message.contains("a new call needs a new key"), "{error}");
        let long = client.count(6).idempotency_key(vec![0; 257]).await.unwrap_err();
        assert!(long.status().message.contains("257 bytes, at most 256"), "{long}");
        if nodes.paused {
            tokio::time::sleep(Duration::from_secs(301)).await;
            assert_eq!(client.count(5).idempotency_key(key()).await.unwrap(), 15);
        }
    });
}

#[test]
fn a_repeat_of_a_running_call_waits_for_its_answer_even_when_the_first_caller_is_gone() {
    over(&[1, 2], async |nodes| {
        let client = nodes.alpha(nodes.meshes.len() - 1);
        let call = || client.go(route("door")).idempotency_key(b"k".to_vec());
        tokio::select! {
            biased;
            _ = async { call().await } => panic!("the door is shut"),
            () = until(|| nodes.log.held.load(SeqCst) == 1) => {}
        }
        let open = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            nodes.log.open.store(1, SeqCst);
        };
        let (one, two, ()) = tokio::join!(async { call().await }, async { call().await }, open);
        assert_eq!((one.unwrap(), two.unwrap()), (7, 7));
        assert_eq!(nodes.log.held.load(SeqCst), 1, "it ran once");
    });
}

// ---- One-way calls, priorities, refusals.

/// Keeps alpha busy until the door opens.
async fn shut(nodes: &Nodes) {
    nodes.alpha(0).tell(route("door")).await.unwrap();
    until(|| nodes.log.held.load(SeqCst) == 1).await;
}

#[test]
fn an_acknowledged_one_way_call_is_done_when_the_mailbox_has_it_and_fails_when_it_has_no_room() {
    over(&[1, 2], async |nodes| {
        shut(&nodes).await;
        let client = nodes.alpha(nodes.meshes.len() - 1);
        for n in 0..4 {
            client.note(n).await.unwrap();
        }
        assert_eq!(nodes.alpha.address().depth(), 4);
        let error = client.note(4).fail_fast().await.unwrap_err();
        assert_eq!((error.code(), error.status().was_executed()), (Code::ResourceExhausted, Executed::No));
        let details = error.status().details.clone().unwrap();
        assert_eq!((details.stage, details.queue_depth), (Some(Stage::Admission), Some(4)));
        assert_eq!(details.node.unwrap().as_str(), "n1");
        assert!(details.retry_after_ms.is_some());
        nodes.log.open.store(1, SeqCst);
        until(|| nodes.log.has("note 3")).await;
        assert!(!nodes.log.has("note 4"));
    });
}

#[test]
fn a_mailbox_runs_the_urgent_first_and_the_idle_last() {
    over(&[1, 2], async |nodes| {
        shut(&nodes).await;
        let client = nodes.alpha(nodes.meshes.len() - 1);
        client.idle(1).await.unwrap();
        client.note(2).await.unwrap();
        client.note(3).priority(Priority::High).await.unwrap();
        client.urgent(4).await.unwrap();
        until(|| nodes.alpha.address().depth() == 4).await;
        nodes.log.open.store(1, SeqCst);
        until(|| nodes.log.has("idle 1")).await;
        let lines = nodes.log.lines();
        assert_eq!(lines[lines.len() - 4..], ["note 3", "urgent 4", "note 2", "idle 1"]);
    });
}

#[test]
fn a_node_is_known_to_its_callers() {
    over(&[2], async |nodes| {
        let caller = nodes.meshes[1].caller();
        assert_eq!(caller.node().unwrap().as_str(), "n2");
        assert_eq!(caller.incarnation(), nodes.meshes[1].incarnation());
    });
}
