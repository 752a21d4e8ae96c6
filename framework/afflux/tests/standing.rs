//! `pipeline.start` and the health port: what a node does for whoever deploys it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use afflux::jobs::JobInfo;
use afflux::prelude::*;
use afflux::settings::Settings;
use afflux::stream::generate;
use afflux::{App, Node};
use afflux_mesh::{MemoryNetwork, Transport};

fn evens(flow: &Flow) -> Result<()> {
    flow.source("numbers", generate(100, |i| i)).untimed().filter(|x| x % 2 == 0).count("evens");
    Ok(())
}

fn app() -> App {
    App::new("numbers").pipeline("odds", evens).pipeline("evens", evens)
}

fn settings(id: &str, checkpoints: Option<&Path>) -> Settings {
    Settings {
        node_id: id.into(),
        node_listen: "host:0".into(),
        node_slots: 2,
        admin_listen: String::new(),
        drain_grace_ms: 200,
        pipeline_start: vec!["evens=1".into()],
        checkpoint_dir: checkpoints.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        ..Settings::default()
    }
}

async fn start(settings: Settings) -> Result<Node> {
    let transport = Transport::Memory(MemoryNetwork::default());
    app().node(settings).transport(transport).inline().start().await
}

fn run<F: Future<Output = Result<()>>>(test: impl FnOnce() -> F) {
    let limited =
        || async { tokio::time::timeout(Duration::from_secs(60), test()).await.expect("took over a minute") };
    afflux::actor::system(limited).unwrap().unwrap();
}

/// The jobs of a node, once they are as they should be.
async fn jobs(node: &Node, fits: impl Fn(&[JobInfo]) -> bool) -> Result<Vec<JobInfo>> {
    let mut seen = Vec::new();
    for _ in 0..4_000 {
        if let Ok(jobs) = node.cluster().jobs().await
            && let Ok(listed) = jobs.list().await
        {
            seen = listed;
            if fits(&seen) {
                return Ok(seen);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {seen:?}");
}

#[test]
fn a_pipeline_that_the_settings_name_runs_without_being_asked_for() {
    run(|| async {
        let node = start(settings("a", None)).await?;
        let seen = jobs(&node, |jobs| jobs.iter().any(|job| job.state == "finished")).await?;
        let named: Vec<&str> = seen.iter().map(|job| job.pipeline.as_str()).collect();
        assert_eq!(named, ["evens"]);
        assert_eq!(seen[0].tasks.len(), 1, "{:?}", seen[0].tasks);
        node.close().await;
        Ok(())
    });
}

#[test]
fn a_pipeline_whose_job_has_ended_is_not_started_by_the_next_coordinator() {
    run(|| async {
        let dir = tempfile::tempdir()?;
        let node = start(settings("a", Some(dir.path()))).await?;
        jobs(&node, |jobs| jobs.iter().any(|job| job.state == "finished")).await?;
        let ended = || std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(ended(), 1);
        node.close().await;
        // Of another pipeline there is none yet: when it has its job, the first has been looked at.
        let mut both = settings("b", Some(dir.path()));
        both.pipeline_start = vec!["evens=1".into(), "odds=1".into()];
        let node = start(both).await?;
        let seen = jobs(&node, |jobs| jobs.iter().any(|job| job.state == "finished")).await?;
        let named: Vec<&str> = seen.iter().map(|job| job.pipeline.as_str()).collect();
        assert_eq!(named, ["odds"]);
        assert_eq!(ended(), 2);
        node.close().await;
        Ok(())
    });
}

#[test]
fn a_node_that_should_start_what_it_does_not_have_does_not_start() {
    run(|| async {
        let wrong = Settings { pipeline_start: vec!["even".into()], ..settings("a", None) };
        let error = start(wrong).await.err().unwrap().to_string();
        assert!(
            error.contains("pipeline.start: `even`") && error.contains("did you mean `evens`?"),
            "{error}"
        );
        Ok(())
    });
}

/// One request over a real socket.
fn get(address: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_health_port_shows_probes_and_metrics_and_nothing_else() {
    run(|| async {
        let node = start(Settings {
            health_listen: "127.0.0.1:0".into(),
            pipeline_start: Vec::new(),
            ..settings("a", None)
        })
        .await?;
        node.ready().await;
        let address = node.health_address().unwrap();
        assert_eq!(node.admin_address(), None);
        let asked = move |path: &'static str| async move {
            tokio::task::spawn_blocking(move || get(address, path)).await.unwrap()
        };
        assert!(asked("/livez").await.starts_with("HTTP/1.1 200"));
        assert!(asked("/startupz").await.starts_with("HTTP/1.1 200"));
        assert!(asked("/readyz").await.contains("registered: ok"));
        assert!(asked("/metrics").await.contains("afflux_build_info"));
        for closed in ["/api/v1", "/api/v1/nodes", "/rpc/afflux.node/Load", "/"] {
            let answer = asked(closed).await;
            assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("admin port"), "{answer}");
        }
        node.close().await;
        assert!(TcpStream::connect(address).is_err());
        Ok(())
    });
}
