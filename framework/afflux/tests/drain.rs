//! A node that is asked to drain: its tasks go on elsewhere, its calls are answered, and it ends.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use afflux::prelude::*;
use afflux::registry_service::{Home, serve};
use afflux::settings::Settings;
use afflux::stream::generate;
use afflux::{App, Node};
use afflux_mesh::{MemoryNetwork, Mesh, MeshConfig, MeshMetrics, Transport};
use afflux_registry::MemoryRegistry;
use tokio::sync::Notify;

/// Answers when it is let.
#[derive(Service)]
#[service(name = "test.gate", version = "1.0")]
pub enum Gate {
    /// Waits.
    #[rpc(returns = String, idempotent, deadline = "60s")]
    Pass,
}

#[derive(Actor)]
#[actor(serves(Gate))]
struct GateActor {
    entered: Arc<Notify>,
    open: Arc<Notify>,
}

impl GateHandler for GateActor {
    async fn pass(&mut self, _: &mut Cx) -> Result<String, Fault> {
        self.entered.notify_one();
        self.open.notified().await;
        Ok("through".to_owned())
    }
}

/// Longer than any test.
fn endless(flow: &Flow) -> Result<()> {
    flow.source("numbers", generate(u64::MAX / 2, |i| i)).untimed().filter(|x| x % 2 == 0).count("evens");
    Ok(())
}

fn settings(id: &str, join: &str, checkpoints: Option<&Path>) -> Settings {
    Settings {
        node_id: id.into(),
        node_listen: "host:0".into(),
        node_join: join.into(),
        node_slots: 1,
        admin_listen: String::new(),
        drain_grace_ms: 30_000,
        checkpoint_dir: checkpoints.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        ..Settings::default()
    }
}

fn run<F: Future<Output = Result<()>>>(test: impl FnOnce() -> F) {
    let limited =
        || async { tokio::time::timeout(Duration::from_secs(60), test()).await.expect("took over a minute") };
    afflux::actor::system(limited).unwrap().unwrap();
}

/// Asks again and again; the test's own bound ends it.
async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Nodes `a` (with the registry), `b` and `c`, and a job with tasks on each. `c` has the gate.
async fn cluster(checkpoints: Option<&Path>, entered: &Arc<Notify>, open: &Arc<Notify>) -> Result<[Node; 3]> {
    cluster_with(checkpoints, entered, open, |settings| settings).await
}

/// The same, whose nodes have other settings.
async fn cluster_with(
    checkpoints: Option<&Path>,
    entered: &Arc<Notify>,
    open: &Arc<Notify>,
    change: impl Fn(Settings) -> Settings,
) -> Result<[Node; 3]> {
    let transport = Transport::Memory(MemoryNetwork::default());
    let app = App::new("numbers").pipeline("endless", endless);
    let builder = |id: &str, join: &str| {
        app.node(change(settings(id, join, checkpoints))).transport(transport.clone()).inline()
    };
    let a = builder("a", "").start().await?;
    let b = builder("b", &a.address()).start().await?;
    let (entered, open) = (Arc::clone(entered), Arc::clone(open));
    let gate = move || Ok::<_, Status>(GateActor { entered: Arc::clone(&entered), open: Arc::clone(&open) });
    let c = builder("c", &a.address()).service("gate", gate).start().await?;
    for node in [&a, &b, &c] {
        node.ready().await;
    }
    let request = afflux::jobs::JobRequest {
        pipeline: "endless".into(),
        settings: [("pipeline.parallelism".to_owned(), "3".to_owned())].into(),
        nodes_min: 3,
        ..Default::default()
    };
    let jobs = until(async || a.cluster().jobs().await.ok()).await;
    let job = jobs.submit(request).await?;
    assert_eq!(job.nodes(), ["a", "b", "c"], "{job:?}");
    Ok([a, b, c])
}

#[test]
fn tasks_go_on_elsewhere_calls_are_answered_and_the_node_leaves() {
    run(|| async {
        let dir = tempfile::tempdir()?;
        let (entered, open) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let [a, b, c] = cluster(Some(dir.path()), &entered, &open).await?;
        let (client, id) = (a.client::<Gate>(), c.id().clone());
        let (call, seen) = (async { client.pass().await }, async {
            entered.notified().await;
            let begun = a.cluster().node(&id).drain().await?;
            assert_eq!(begun.state, "draining");
            assert!(begun.drain.is_some_and(|drain| drain.phase == "tasks"));
            // The tasks are gone before the last call is.
            let waits = until(async || {
                let info = a.cluster().node(&id).info().await.ok()?;
                info.drain.filter(|drain| drain.phase == "calls" && drain.calls == 1)
            });
            let drain = waits.await;
            assert!(drain.tasks == 0 && drain.tasks_max >= 1 && drain.kept.is_empty(), "{drain:?}");
            let again = a.cluster().node(&id).drain().await?;
            assert_eq!(again.drain, Some(drain), "a second request changes nothing");
            open.notify_one();
            Ok::<_, afflux::Error>(())
        });
        let (answer, seen) = futures_util::future::join(call, seen).await;
        seen?;
        assert_eq!(answer?, "through");
        c.closed().await;
        until(async || a.cluster().view().await.ok()?.instance(c.id()).is_none().then_some(())).await;

        let job = a.cluster().jobs().await?.list().await?.remove(0);
        assert_eq!((job.state.as_str(), job.nodes()), ("running", vec!["a", "b"]), "{job:?}");
        assert!(job.last_checkpoint.is_some(), "it goes on from a checkpoint that was taken for it");
        assert!(job.failures.is_empty(), "nothing was lost: {:?}", job.failures);
        b.close().await;
        a.close().await;
        Ok(())
    });
}

#[test]
fn a_job_without_checkpoints_is_named_and_the_node_leaves_all_the_same() {
    run(|| async {
        let (entered, open) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let [a, b, c] = cluster(None, &entered, &open).await?;
        a.cluster().node(c.id()).drain().await?;
        let kept = until(async || {
            let info = a.cluster().node(c.id()).info().await.ok()?;
            info.drain?.kept.pop()
        });
        // It may be gone before anybody has seen it: then the node has ended.
        tokio::select! {
            biased;
            kept = kept => assert!(kept.contains("endless") && kept.contains("checkpoint.dir"), "{kept}"),
            () = c.closed() => {}
        }
        c.closed().await;
        b.close().await;
        a.close().await;
        Ok(())
    });
}

#[test]
fn a_node_that_leaves_hands_its_tasks_over() {
    run(|| async {
        let dir = tempfile::tempdir()?;
        let [a, b, c] = cluster(Some(dir.path()), &Arc::default(), &Arc::default()).await?;
        c.leave().await;
        let jobs = a.cluster().jobs().await?;
        let job = until(async || jobs.list().await.ok()?.pop().filter(|job| job.state == "running")).await;
        assert_eq!(job.nodes(), ["a", "b"], "{job:?}");
        assert!(job.last_checkpoint.is_some(), "it goes on from a checkpoint that was taken for it");
        assert!(job.failures.is_empty(), "nothing was lost: {:?}", job.failures);
        b.leave().await;
        a.leave().await;
        Ok(())
    });
}

/// A registry that is none of the nodes; its address.
fn registry(transport: &Transport) -> Result<(Mesh, String)> {
    let place = afflux_actor::Place::current().expect("tests run in a system");
    let config = MeshConfig {
        incarnation: afflux_wire::Incarnation(1),
        listen: Some("registry:0".into()),
        ..MeshConfig::new("registry", "afflux")
    };
    let mesh = Mesh::start(config, transport.clone(), place.clone(), MeshMetrics::unregistered())?;
    let address = mesh.local_address();
    let home = Home { node: "registry".into(), address: address.clone() };
    mesh.serve(serve(Arc::new(MemoryRegistry::new()), home, place));
    Ok((mesh, address))
}

#[test]
fn a_coordinator_leaves_and_the_next_one_knows_the_jobs_past() {
    run(|| async {
        let dir = tempfile::tempdir()?;
        let transport = Transport::Memory(MemoryNetwork::default());
        let (registry, address) = registry(&transport)?;
        let app = App::new("numbers").pipeline("endless", endless);
        let node = async |id: &str| {
            let settings =
                Settings { checkpoint_interval_ms: 50, ..settings(id, &address, Some(dir.path())) };
            app.node(settings).transport(transport.clone()).inline().start().await
        };
        let a = node("a").await?;
        // Alone, it coordinates.
        let jobs = until(async || a.cluster().jobs().await.ok()).await;
        let request = afflux::jobs::JobRequest { pipeline: "endless".into(), ..Default::default() };
        let id = until(async || jobs.submit(request.clone()).await.ok()).await.id;
        until(async || jobs.list().await.ok()?.pop()?.last_checkpoint).await;
        let kept = jobs.savepoint(id.clone()).await?;
        let b = node("b").await?;
        b.ready().await;
        until(async || a.cluster().view().await.ok()?.instance(b.id()).map(|_| ())).await;
        a.leave().await;

        let past = until(async || {
            let detail = b.cluster().jobs().await.ok()?.detail(id.clone()).await.ok()?;
            let known = detail.checkpoints.iter().any(|known| known.epoch == kept.epoch && known.savepoint);
            (known && detail.info.state == "running").then_some(detail)
        });
        let past = past.await;
        assert!(past.info.failures.is_empty(), "it was handed over: {:?}", past.info.failures);
        let first = &past.events[0];
        assert_eq!((first.attempt, first.state.as_str()), (1, "deploying"), "{:?}", past.events);
        assert!(past.checkpoints.is_sorted_by_key(|known| known.epoch), "{:?}", past.checkpoints);
        b.close().await;
        registry.close();
        Ok(())
    });
}

#[test]
fn a_node_that_is_given_no_time_leaves_and_the_job_notices_a_loss() {
    run(|| async {
        let dir = tempfile::tempdir()?;
        let at_once = |settings| Settings { drain_hand_over_ms: 0, checkpoint_interval_ms: 100, ..settings };
        let [a, b, c] = cluster_with(Some(dir.path()), &Arc::default(), &Arc::default(), at_once).await?;
        c.leave().await;
        let jobs = a.cluster().jobs().await?;
        let job = until(async || {
            let job = jobs.list().await.ok()?.pop()?;
            (job.state == "running" && job.nodes() == ["a", "b"]).then_some(job)
        });
        let job = job.await;
        assert!(!job.failures.is_empty(), "{job:?}");
        b.close().await;
        a.close().await;
        Ok(())
    });
}

#[test]
fn a_node_that_others_cannot_do_without_is_not_drained() {
    run(|| async {
        let transport = Transport::Memory(MemoryNetwork::default());
        let node = |id: &str, join: &str| {
            App::new("none").node(settings(id, join, None)).transport(transport.clone()).inline()
        };
        let a = node("a", "").start().await?;
        a.ready().await;
        let alone = a.cluster().node(a.id()).drain().await.unwrap_err().to_string();
        assert!(alone.contains("a is the only node that is ready"), "{alone}");
        let b = node("b", &a.address()).start().await?;
        b.ready().await;
        until(async || a.cluster().view().await.ok()?.instance(b.id()).map(|_| ())).await;
        let home = a.cluster().node(a.id()).drain().await.unwrap_err().to_string();
        assert!(home.contains("holds the registry of the cluster"), "{home}");
        assert_eq!(a.cluster().node(a.id()).info().await?.state, "ready");
        a.cluster().node(b.id()).drain().await?;
        b.closed().await;
        a.close().await;
        Ok(())
    });
}
