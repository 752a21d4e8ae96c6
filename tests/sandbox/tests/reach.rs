//! A node that has not the cluster's place of checkpoints says so before it runs anything.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use afflux::NodeBuilder;
use afflux::Pipelines;
use afflux::settings::Settings;
use afflux_sandbox::{BACKINGS, Cluster, run};
use afflux_stream::job::Storage;
use afflux_stream::{Flow, Result, generate};

fn evens(flow: &Flow) -> Result<()> {
    flow.source("numbers", generate(100, |i| i)).untimed().rebalance().count("evens");
    Ok(())
}

#[test]
fn a_job_fails_at_once_where_a_node_has_another_place_for_checkpoints() {
    for backing in BACKINGS {
        run(|| async move {
            let (shared, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let (shared, own) =
                (Storage::directory(shared.path()).unwrap(), Storage::directory(other.path()).unwrap());
            let cluster = Cluster::of(3, backing)
                .pipeline("evens", evens)
                .settings(|settings| settings.checkpoint_interval_ms = 50)
                .each(move |number, node| {
                    node.checkpoints_in(if number == 2 { own.clone() } else { shared.clone() })
                })
                .start()
                .await;
            let job = cluster.finish("evens", 3).await;
            assert_eq!((job.state.as_str(), job.attempt), ("failed", 1), "{job:?}");
            let error = job.error.unwrap();
            for part in ["does not see", "/JOB.json", "checkpoint.url"] {
                assert!(error.contains(part), "{error}");
            }
            cluster.close().await;
        });
    }
}

#[test]
fn a_node_that_cannot_write_to_its_place_of_checkpoints_does_not_start() {
    run(|| async {
        let dir = tempfile::tempdir().unwrap();
        // A file where a directory would be: nobody can write below it, not even root.
        std::fs::write(dir.path().join(".afflux"), "in the way").unwrap();
        let settings = Settings {
            node_id: "node-9".into(),
            node_listen: "127.0.0.1:0".into(),
            admin_listen: String::new(),
            checkpoint_dir: dir.path().display().to_string(),
            ..Settings::default()
        };
        let mut pipelines = Pipelines::default();
        pipelines.add("evens", std::sync::Arc::new(evens));
        let builder = NodeBuilder::new(settings).pipelines(std::sync::Arc::new(pipelines)).inline();
        let error = builder.start().await.err().expect("it started").to_string();
        assert!(error.contains("node node-9 cannot use its checkpoint storage"), "{error}");
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
    });
}
