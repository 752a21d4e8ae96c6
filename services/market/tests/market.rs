//! The pipeline against what its generator expects, in one process and over three nodes, at parallelism 1, 2
//! and 4; and the program as a user runs it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;

use afflux::contract::{CallError, Code};
use afflux::testing::{TestCluster, run};
use afflux_market::{AlertDesk, Alerts, AlertsError, Expected, Feed, market_of};
use afflux_sandbox::Program;

/// Some minutes, with layering, what only looks like it, and a burst.
fn feed() -> Feed {
    Feed::seeded(11, 6_000)
}

/// A cluster that writes below a directory.
async fn cluster(nodes: usize, out: &Path) -> afflux::Result<TestCluster> {
    let (feed, out) = (feed(), out.to_owned());
    let cluster = TestCluster::of(nodes).pipeline("market", move |flow| market_of(flow, &feed, &out));
    cluster.each(|_, node| node.singleton("desk", AlertDesk::open)).start().await
}

#[test]
fn the_files_equal_what_the_generator_expects_on_any_nodes_at_any_parallelism() {
    let expected = Expected::of(&feed());
    assert!(expected.bars.len() > 100 && expected.alerts.len() > 5, "{expected}");
    for nodes in [1, 3] {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().to_owned();
        let expected = expected.clone();
        run(|| async move {
            let cluster = cluster(nodes, &out).await?;
            for parallelism in [1, 2, 4] {
                let job = cluster.run("market", parallelism).await?;
                assert_eq!(job.progress.records_in, feed().entries().len() as u64);
                expected.compare(&out)?;
                std::fs::remove_dir_all(&out)?;
            }
            cluster.close().await;
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn the_desk_knows_every_alert_and_answers_wrong_questions_with_the_cure() {
    let expected = Expected::of(&feed());
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_owned();
    run(|| async move {
        let cluster = cluster(3, &out).await?;
        // Told twice, by two jobs, and yet there once.
        cluster.run("market", 2).await?;
        cluster.run("market", 2).await?;
        let desk = cluster.client::<Alerts>()?;
        let latest = desk.latest(1_000).await?;
        assert_eq!(latest.len(), expected.alerts.len() - 1);
        let last = &latest[0];
        assert!(expected.alerts.last().unwrap().starts_with(&format!("{},{},", last.at, last.account)));
        assert_eq!(desk.latest(1).await?, latest[..1]);
        let mut against = latest.clone();
        against.retain(|alert| alert.account == last.account);
        against.reverse();
        assert_eq!(desk.against(last.account).await?, against);

        let unknown = desk.against(0).await.unwrap_err();
        assert_eq!(unknown.typed(), Some(&AlertsError::NoAlert { account: 0 }));
        let none: CallError<_> = desk.latest(0).await.unwrap_err();
        assert_eq!(none.code(), Code::InvalidArgument);
        assert!(none.to_string().contains("1 to 1000"), "{none}");
        cluster.close().await;
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_program_says_what_is_expected_and_that_it_came_and_its_desk_can_be_called() {
    let program = Program::new(env!("CARGO_BIN_EXE_market"));
    let mut held = program.start(&["dev", "--hold"]);
    held.until_says("output equals what the generator expects");
    held.until_says("bars of");
    let latest = program.json(&["call", "market.alerts/Latest", r#"{"count":3}"#, "--json"]);
    assert_eq!(latest.as_array().unwrap().len(), 3, "{latest}");
    let account = latest[0]["account"].to_string();
    let against = format!(r#"{{"account":{account}}}"#);
    program.succeeds(&["call", "market.alerts/Against", &against]);
    held.signal("INT");
    assert_eq!(held.end().code, Some(0));
}
