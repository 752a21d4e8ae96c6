//! Which endpoint gets a call, and what happens when one is bad; over both transports.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU8, AtomicUsize};
use std::time::Duration;

use afflux_actor::{ServiceEntry, clock};
use afflux_mesh::{Ejection, MeshConfig, Policy};
use afflux_wire::contract::{Accept, Hedge, Mail, Refused};
use afflux_wire::{Code, Executed, Status};
use common::{Add, Net, Node, SECOND, Sums, SumsCall, over_both, until};
use parking_lot::Mutex;

const GOOD: u8 = 0;
/// Takes calls and never answers.
const FROZEN: u8 = 1;
/// Fails at once.
const FAILING: u8 = 2;
/// Answers after [`SLOW`].
const SLOW: u8 = 3;
/// Its actor has stopped.
const CLOSED: u8 = 4;
/// Its mailbox is full.
const FULL: u8 = 5;

const SLOWNESS: Duration = Duration::from_millis(30);

/// A mailbox that misbehaves as it is told.
#[derive(Default)]
struct Wayward {
    mode: AtomicU8,
    came: AtomicUsize,
    held: Mutex<Vec<SumsCall>>,
}

impl Wayward {
    fn set(&self, mode: u8) {
        self.mode.store(mode, SeqCst);
    }

    fn came(&self) -> usize {
        self.came.load(SeqCst)
    }

    fn release(&self) {
        for call in std::mem::take(&mut *self.held.lock()) {
            answer(call);
        }
    }
}

fn answer(call: SumsCall) {
    if let SumsCall::Add(_, Add { a, b }, Some(reply)) = call {
        reply.send(Ok(a + b));
    }
}

impl Accept<SumsCall> for Wayward {
    fn accept(&self, call: SumsCall) -> Result<(), Refused<SumsCall>> {
        self.came.fetch_add(1, SeqCst);
        match self.mode.load(SeqCst) {
            FROZEN => self.held.lock().push(call),
            FAILING => call.reject(Status::internal("broken")),
            SLOW => drop(tokio::spawn(async move {
                tokio::time::sleep(SLOWNESS).await;
                answer(call);
            })),
            CLOSED => return Err(Refused::Closed(call)),
            FULL => return Err(Refused::Full(call)),
            _ => answer(call),
        }
        Ok(())
    }
    fn depth(&self) -> usize {
        self.held.lock().len()
    }
    fn capacity(&self) -> usize {
        1_024
    }
}

/// A client and as many servers.
struct Scene {
    client: Node,
    servers: Vec<Node>,
    desks: Vec<Arc<Wayward>>,
}

impl Scene {
    async fn new(net: &Net, servers: usize, change: impl FnOnce(MeshConfig) -> MeshConfig) -> Self {
        let client = net.node_with(change(net.config("client")));
        let mut scene = Self { client, servers: Vec::new(), desks: Vec::new() };
        for n in 0..servers {
            scene.add(net, &format!("s{n}")).await;
        }
        scene
    }

    async fn add(&mut self, net: &Net, name: &str) {
        let (server, desk) = (net.node(name), Arc::new(Wayward::default()));
        server.mesh.serve(entry(&desk));
        self.client.link(&server).await;
        self.servers.push(server);
        self.desks.push(desk);
    }

    fn came(&self) -> Vec<usize> {
        self.desks.iter().map(|desk| desk.came()).collect()
    }

    /// Calls one after the other; returns how many failed.
    async fn call(&self, calls: usize) -> usize {
        let mut failed = 0;
        for _ in 0..calls {
            failed += usize::from(self.client.sums().add(1, 2).fail_fast().await.is_err());
        }
        failed
    }

    /// Some at the same time, again and again; returns how many failed and the longest call.
    async fn load(&self, workers: usize, calls: usize, deadline: Duration) -> (usize, Duration) {
        let work = (0..workers).map(|_| async {
            let (mut failed, mut longest) = (0, Duration::ZERO);
            for _ in 0..calls {
                let started = clock::now();
                failed += usize::from(self.client.sums().add(1, 2).deadline(deadline).await.is_err());
                longest = longest.max(clock::now() - started);
            }
            (failed, longest)
        });
        let all = futures_util::future::join_all(work).await;
        all.into_iter().fold((0, Duration::ZERO), |(n, l), (failed, longest)| (n + failed, l.max(longest)))
    }

    fn endpoints(&self, state: &str) -> f64 {
        self.client.metric("afflux_lb_endpoints", &["math.sums", state])
    }
}

fn entry(desk: &Arc<Wayward>) -> ServiceEntry {
    ServiceEntry::of::<Sums>(Arc::clone(desk) as Arc<dyn Accept<SumsCall>>)
}

fn ejecting_for(span: Duration) -> impl Fn(MeshConfig) -> MeshConfig {
    move |config| MeshConfig { ejection: Ejection { base: span, ..Ejection::default() }, ..config }
}

#[test]
fn calls_to_a_frozen_endpoint_end_at_their_deadline_and_it_gets_few() {
    over_both(async |net: Net| {
        let scene = Scene::new(&net, 3, |config| config).await;
        scene.desks[0].set(FROZEN);
        let deadline = Duration::from_millis(200);
        let (failed, longest) = scene.load(8, 150, deadline).await;
        assert!(longest < deadline + Duration::from_millis(800), "{longest:?}");
        assert!(failed <= 24 && scene.desks[0].came() <= 24, "{failed} failed of {:?}", scene.came());
    });
}

#[test]
fn an_endpoint_that_fails_fast_does_not_attract_calls() {
    over_both(async |net: Net| {
        let scene = Scene::new(&net, 3, |config| config).await;
        scene.desks[1].set(FAILING);
        let failed = scene.call(300).await;
        assert!(failed <= 15, "{failed} of 300 failed: {:?}", scene.came());
        assert!(failed > 0, "it was never tried");
    });
}

#[test]
fn a_slow_endpoint_gets_a_small_share() {
    over_both(async |net: Net| {
        let scene = Scene::new(&net, 3, |config| config).await;
        scene.desks[2].set(SLOW);
        let (failed, _) = scene.load(12, 100, 10 * SECOND).await;
        let came = scene.came();
        assert_eq!((failed, came.iter().sum::<usize>()), (0, 1_200));
        assert!(came[2] < 240, "{came:?}");
    });
}

#[test]
fn five_failures_in_a_row_eject_and_a_good_probe_brings_back() {
    over_both(async |net: Net| {
        let span = Duration::from_millis(400);
        let scene = Scene::new(&net, 3, ejecting_for(span)).await;
        scene.client.mesh.set_policy("math.sums", Policy::RoundRobin);
        scene.desks[0].set(FAILING);
        assert_eq!(scene.call(60).await, 5);
        assert_eq!(scene.desks[0].came(), 5);
        assert_eq!((scene.endpoints("ejected"), scene.endpoints("ready")), (1.0, 2.0));
        assert_eq!(scene.client.metric("afflux_lb_ejections_total", &["consecutive_failures"]), 1.0);
        scene.desks[0].set(GOOD);
        tokio::time::sleep(span).await;
        assert_eq!(scene.call(30).await, 0);
        assert_eq!(scene.endpoints("ejected"), 0.0);
        assert!(scene.desks[0].came() > 10, "{:?}", scene.came());
    });
}

#[test]
fn an_ejected_endpoint_is_used_when_nobody_else_is_left() {
    over_both(async |net: Net| {
        let scene = Scene::new(&net, 2, |config| config).await;
        scene.client.mesh.set_policy("math.sums", Policy::RoundRobin);
        scene.desks[0].set(FAILING);
        scene.call(20).await;
        assert_eq!(scene.endpoints("ejected"), 1.0);
        scene.desks[0].set(GOOD);
        scene.servers[1].mesh.close();
        until(|| scene.endpoints("ready") == 0.0).await;
        assert_eq!(scene.call(10).await, 0);
        assert_eq!(scene.desks[0].came(), 5 + 10);
    });
}

#[test]
fn a_node_that_is_not_ready_gets_calls_only_when_nobody_is() {
    over_both(async |net: Net| {
        let scene = Scene::new(&net, 2, |config| config).await;
        scene.servers[0].mesh.set_ready(false);
        // Heard of at some moment.
        for _ in 0..1_000 {
            let before = scene.desks[0].came();
            scene.call(20).await;
            if scene.desks[0].came() == before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = scene.desks[0].came();
        assert_eq!(scene.call(100).await, 0);
        assert_eq!(scene.desks[0].came(), before);
        scene.servers[1].mesh.leave();
        until(|| scene.endpoints("draining") == 1.0).await;
        let there = scene.desks[1].came();
        assert_eq!(scene.call(10).await, 0);
        assert_eq!((scene.desks[0].came(), scene.desks[1].came()), (before + 10, there));
    });
}

#[test]
fn a_node_that_said_it_is_not_ready_before_the_link_was_made_is_known_to_be_so() {
    over_both(async |net: Net| {
        let mut scene = Scene::new(&net, 1, |config| config).await;
        let (late, desk) = (net.node("late"), Arc::new(Wayward::default()));
        late.mesh.leave();
        late.mesh.serve(entry(&desk));
        scene.client.link(&late).await;
        until(|| scene.endpoints("draining") == 1.0).await;
        scene.servers.push(late);
        assert_eq!(scene.call(20).await, 0);
        assert_eq!(desk.came(), 0);
    });
}

#[test]
fn what_a_full_mailbox_beside_refuses_goes_to_another_node() {
    over_both(async |net: Net| {
        let scene = Scene::new(&net, 1, |config| config).await;
        let here = Arc::new(Wayward::default());
        scene.client.mesh.serve(entry(&here));
        assert_eq!(scene.call(5).await, 0);
        assert_eq!((here.came(), scene.came()[0]), (5, 0));
        for mode in [FULL, CLOSED] {
            here.set(mode);
            assert_eq!(scene.client.sums().add(1, 2).await.unwrap(), 3);
        }
        assert_eq!((here.came(), scene.came()[0]), (7, 2));
        // Alone it refuses at once, as before.
        scene.servers[0].mesh.close();
        until(|| scene.client.metric("afflux_lb_endpoints", &["math.sums", "ready"]) == 1.0).await;
        here.set(FULL);
        let error = scene.client.sums().add(1, 2).await.unwrap_err();
        assert_eq!((error.code(), error.status().was_executed()), (Code::ResourceExhausted, Executed::No));
    });
}

#[test]
fn a_call_is_never_tried_twice_in_a_row_at_one_place_while_there_is_another() {
    over_both(async |net: Net| {
        let scene = Scene::new(&net, 3, |config| config).await;
        for policy in [Policy::RoundRobin, Policy::LeastLoaded, Policy::Random, Policy::ConsistentHash] {
            scene.client.mesh.set_policy("math.sums", policy);
            scene.desks[0].set(CLOSED);
            assert_eq!(scene.call(20).await, 0, "{policy}");
        }
        let retries = scene.client.metric("afflux_rpc_client_retries_total", &["not_executed"]);
        assert!(retries > 0.0 && retries == scene.desks[0].came() as f64, "{retries} {:?}", scene.came());
    });
}

#[test]
fn without_budget_the_first_error_comes_back_and_says_so() {
    over_both(async |net: Net| {
        let none = |config| MeshConfig { retry_percent: 0, retries_per_second_min: 0, ..config };
        let scene = Scene::new(&net, 2, none).await;
        scene.desks.iter().for_each(|desk| desk.set(CLOSED));
        let error = scene.client.sums().add(1, 2).await.unwrap_err();
        let text = &error.status().message;
        assert!(text.contains("has stopped") && text.contains("not tried again"), "{text}");
        assert!(text.contains("math.sums") && text.contains("0 %"), "{text}");
        assert_eq!(scene.came().iter().sum::<usize>(), 1);
    });
}

#[test]
fn a_service_that_fails_as_a_whole_gets_a_fifth_more_calls_and_not_three_times_as_many() {
    over_both(async |net: Net| {
        let scene = Scene::new(&net, 3, |config| MeshConfig { retries_per_second_min: 0, ..config }).await;
        scene.desks.iter().for_each(|desk| desk.set(CLOSED));
        assert_eq!(scene.call(200).await, 200);
        let came: usize = scene.came().iter().sum();
        assert!((200..=240).contains(&came), "{came} attempts of 200 calls");
    });
}

#[test]
fn a_hedged_call_is_answered_by_the_other_node_and_cancelled_at_the_first() {
    over_both(async |net: Net| {
        let scene = Scene::new(&net, 2, |config| config).await;
        scene.client.mesh.set_policy("math.sums", Policy::RoundRobin);
        scene.desks[0].set(FROZEN);
        let hedge = Hedge::After(Duration::from_millis(20));
        for n in 0..4 {
            let call = scene.client.sums().again(n, n).hedge(hedge);
            assert_eq!(call.deadline(5 * SECOND).await.unwrap(), 2 * n);
        }
        let frozen = scene.desks[0].came();
        assert!(frozen > 0, "nobody was slow");
        assert_eq!(scene.client.metric("afflux_rpc_client_hedges_total", &["math.sums"]), frozen as f64);
        until(|| scene.desks[0].held.lock().iter().all(Mail::is_cancelled)).await;
        scene.desks[0].release();
        // With nobody else there is no second attempt.
        scene.servers[1].mesh.close();
        until(|| scene.endpoints("ready") == 1.0).await;
        let call = scene.client.sums().again(1, 1).hedge(hedge);
        let error = call.deadline(Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert_eq!(scene.desks[0].came(), frozen + 1);
    });
}

#[test]
fn a_key_keeps_its_endpoint_and_a_lost_node_moves_its_own_keys_alone() {
    over_both(async |net: Net| {
        let mut scene = Scene::new(&net, 3, |config| config).await;
        let mut homes = BTreeMap::new();
        for round in 0..2 {
            for key in 0..30_u32 {
                let before = scene.came();
                scene.client.sums().add(1, 2).route_by(&key).await.unwrap();
                let after = scene.came();
                let home = (0..3).find(|n| after[*n] > before[*n]).unwrap();
                assert_eq!(*homes.entry(key).or_insert(home), home, "round {round}");
            }
        }
        assert!(scene.came().iter().all(|came| *came > 6), "{:?}", scene.came());
        scene.servers.remove(1).mesh.close();
        until(|| scene.endpoints("ready") == 2.0).await;
        for (key, home) in homes {
            let before = scene.came();
            scene.client.sums().add(1, 2).route_by(&key).await.unwrap();
            let moved = scene.came()[home] == before[home];
            assert_eq!(moved, home == 1, "key {key}");
        }
    });
}

#[test]
fn an_endpoint_that_is_busy_with_the_calls_of_others_gets_fewer() {
    over_both(async |net: Net| {
        let scene = Scene::new(&net, 2, |config| config).await;
        let other = net.node("other");
        other.link(&scene.servers[0]).await;
        scene.desks[0].set(FROZEN);
        let busy = other.mesh.client_on::<Sums>(scene.servers[0].mesh.node());
        let work = futures_util::future::join_all((0..50).map(|n| {
            let call = busy.add(n, n);
            async move { call.await.is_ok() }
        }));
        let watched = async {
            until(|| scene.desks[0].came() == 50).await;
            scene.desks[0].set(GOOD);
            let before = scene.desks[1].came();
            assert_eq!(scene.call(200).await, 0);
            let (busy, idle) = (scene.desks[0].came() - 50, scene.desks[1].came() - before);
            assert!(busy < 40, "{busy} went to the busy one, {idle} to the idle one");
            scene.desks[0].release();
        };
        assert!(tokio::join!(work, watched).0.into_iter().all(|ok| ok));
    });
}

#[test]
fn a_client_may_have_a_policy_of_its_own() {
    over_both(async |net: Net| {
        let scene = Scene::new(&net, 3, |config| config).await;
        for _ in 0..30 {
            scene.client.sums().add(1, 2).balanced(Policy::RoundRobin).await.unwrap();
        }
        assert_eq!(scene.came(), [10, 10, 10]);
        let picked = |policy| scene.client.metric("afflux_lb_picks_total", &["math.sums", policy]);
        assert_eq!((picked("round_robin"), picked("least_loaded")), (30.0, 0.0));
    });
}
