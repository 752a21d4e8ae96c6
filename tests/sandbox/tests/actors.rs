//! Actors by name and pools, on several nodes: one suite over every backing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use afflux::actor::{Lifecycle, StopReason};
use afflux::prelude::*;
use afflux_mesh::DownReason;
use afflux_sandbox::{BACKINGS, Cluster, run, until_async};

#[derive(Service)]
#[service(name = "test.desk")]
enum Desk {
    /// Adds to what this actor has counted.
    #[rpc(returns = u64)]
    Add { n: u64 },
    /// Calls another actor, through a reference that came in a message.
    #[rpc(returns = u64)]
    Pass { to: ActorRef<Desk>, n: u64 },
    #[rpc(oneway)]
    Die,
}

#[derive(Actor, Default)]
#[actor(serves(Desk), restart(policy = "temporary"))]
struct Counter(u64);

impl DeskHandler for Counter {
    async fn add(&mut self, _: &mut Cx, n: u64) -> Result<u64, Fault> {
        self.0 += n;
        Ok(self.0)
    }
    async fn pass(&mut self, cx: &mut Cx, to: ActorRef<Desk>, n: u64) -> Result<u64, Fault> {
        match n {
            // Inherits the deadline and the place in the call chain.
            0 => Ok(to.via(cx).add(n).await?),
            n => Ok(to.add(n).await?),
        }
    }
    async fn die(&mut self, _: &mut Cx) -> Result<(), Fault> {
        panic!("on purpose");
    }
}

fn counter() -> Result<Counter, Error> {
    Ok(Counter::default())
}

#[test]
fn an_actor_is_looked_up_called_and_watched_from_every_node() {
    for backing in BACKINGS {
        run(|| async move {
            let cluster = Cluster::of(3, backing).start().await;
            let [first, second, third] = cluster.nodes() else { panic!("three nodes") };
            let near = first.spawn("till", counter).unwrap().actor::<Desk>().unwrap();
            let far = second.spawn("safe", counter).unwrap().actor::<Desk>().unwrap();
            for (at, node) in cluster.nodes().iter().enumerate() {
                let found = node.lookup::<Desk>("safe").await.unwrap();
                assert_eq!(found, far);
                assert_eq!(found.via(node).add(1).await.unwrap(), at as u64 + 1);
            }
            // A reference that travels in a message is called by the node that it has come to.
            assert_eq!(near.via(third).pass(far.clone(), 7).await.unwrap(), 10);
            // An actor that calls itself would wait for itself: that is found at once.
            let error = far.via(third).pass(far.clone(), 0).await.unwrap_err();
            assert_eq!(error.code(), Code::FailedPrecondition, "{backing}: {error}");
            // The watch is on its way before the call: it begins when it is first polled.
            let (down, died) = tokio::join!(third.watch(&far), far.via(third).die());
            died.unwrap();
            assert!(matches!(down.reason, DownReason::Panicked(_)), "{backing}: {down:?}");
            let error = far.via(third).add(1).await.unwrap_err();
            assert_eq!(error.code(), Code::NotFound, "{backing}: {error}");
            let error = third.lookup::<Desk>("safe").await.unwrap_err().to_string();
            assert!(error.contains("none of 3 nodes has an actor `safe`"), "{backing}: {error}");
            // The name is free again, for another life.
            let again = second.spawn("safe", counter).unwrap().actor::<Desk>().unwrap();
            assert_ne!(again, far);
            assert_eq!(again.via(first).add(1).await.unwrap(), 1);
            cluster.close().await;
        });
    }
}

#[test]
fn a_service_on_every_node_is_looked_up_by_its_name_on_each() {
    run(|| async {
        let backing = BACKINGS[0];
        let each = |_, builder: afflux::NodeBuilder| builder.service("desk", counter);
        let cluster = Cluster::of(2, backing).each(each).start().await;
        let all = cluster.nodes()[0].lookup_all::<Desk>("desk").await.unwrap();
        let nodes: Vec<&str> = all.iter().map(|desk| desk.node().as_str()).collect();
        assert_eq!(nodes, ["node-1", "node-2"]);
        for desk in &all {
            assert_eq!(desk.via(&cluster.nodes()[0]).add(5).await.unwrap(), 5);
        }
        let own = cluster.nodes()[1].lookup::<Desk>("desk").await.unwrap();
        assert_eq!(own, all[1]);
        cluster.close().await;
    });
}

#[test]
fn a_name_is_taken_while_its_actor_lives_and_free_when_it_was_stopped() {
    run(|| async {
        let cluster = Cluster::of(1, BACKINGS[0]).start().await;
        let node = &cluster.nodes()[0];
        let till = node.spawn("till", counter).unwrap();
        let error = node.spawn("till", counter).unwrap_err().to_string();
        assert!(error.contains("an actor till already"), "{error}");
        till.stop("the day is over");
        assert!(matches!(till.watch().await, StopReason::Asked(_)));
        until_async("the name is free", async || node.spawn("till", counter).ok()).await;
        cluster.close().await;
    });
}

/// Waits in its handler until as many handlers run as there are instances.
#[derive(Actor)]
#[actor(serves(Desk), instances = 4, mailbox = 2, lifecycle)]
struct Clerk {
    together: Arc<tokio::sync::Barrier>,
    opened: Arc<AtomicUsize>,
    served: u64,
}

impl Lifecycle for Clerk {
    async fn started(&mut self, _: &mut Cx) -> Result<(), Status> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl DeskHandler for Clerk {
    async fn add(&mut self, _: &mut Cx, n: u64) -> Result<u64, Fault> {
        if n == 0 {
            self.together.wait().await;
        }
        self.served += 1;
        Ok(self.served)
    }
    async fn pass(&mut self, _: &mut Cx, _: ActorRef<Desk>, _: u64) -> Result<u64, Fault> {
        Ok(self.served)
    }
    async fn die(&mut self, _: &mut Cx) -> Result<(), Fault> {
        panic!("on purpose");
    }
}

#[test]
fn the_actors_of_a_pool_work_beside_each_other_and_restart_one_by_one() {
    for backing in BACKINGS {
        run(|| async move {
            let (together, opened) = (Arc::new(tokio::sync::Barrier::new(4)), Arc::new(AtomicUsize::new(0)));
            let starts = Arc::clone(&opened);
            let each = move |_, builder: afflux::NodeBuilder| {
                let (together, opened) = (Arc::clone(&together), Arc::clone(&starts));
                builder.service("clerks", move || {
                    Ok::<_, Error>(Clerk { together: together.clone(), opened: opened.clone(), served: 0 })
                })
            };
            let cluster = Cluster::of(1, backing).each(each).start().await;
            let node = &cluster.nodes()[0];
            let clerks = node.client::<Desk>();
            // Four handlers at once: one actor would wait for ever.
            let calls = (0..4).map(|_| clerks.add(0).into_future());
            let answers = futures_util::future::join_all(calls).await;
            let served: Vec<u64> = answers.into_iter().map(|answer| answer.unwrap()).collect();
            assert_eq!(served, [1; 4], "{backing}: each clerk has served one");
            // One of them restarts; the others keep what they know.
            let third = node.lookup::<Desk>("clerks/2").await.unwrap();
            third.via(node).die().await.unwrap();
            until_async("a fresh clerk", async || (opened.load(Ordering::SeqCst) == 5).then_some(())).await;
            assert_eq!(third.via(node).add(1).await.unwrap(), 1, "{backing}: a fresh state, the same actor");
            let first = node.lookup::<Desk>("clerks/0").await.unwrap();
            assert_eq!(first.via(node).add(1).await.unwrap(), 2, "{backing}");
            cluster.close().await;
        });
    }
}
