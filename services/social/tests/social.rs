//! The pipeline against what its generator expects, in one process and over three nodes, at parallelism 1, 2
//! and 4; and the program as a user runs it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;

use afflux::testing::{TestCluster, run};
use afflux_sandbox::Program;
use afflux_social::{Expected, Feed, Guide, GuideDesk, GuideError, social_of};

/// Two hours, so that an hour of recommendations follows another.
fn feed() -> Feed {
    Feed::seeded(11, 5_000)
}

/// A cluster that writes below a directory.
async fn cluster(nodes: usize, out: &Path) -> afflux::Result<TestCluster> {
    let (feed, out) = (feed(), out.to_owned());
    let cluster = TestCluster::of(nodes).pipeline("social", move |flow| social_of(flow, &feed, &out));
    cluster.each(|_, node| node.singleton("guide", GuideDesk::open)).start().await
}

#[test]
fn the_files_equal_what_the_generator_expects_on_any_nodes_at_any_parallelism() {
    let expected = Expected::of(&feed());
    assert!(expected.trends.len() > 200 && expected.sessions.len() > 1_000, "{expected}");
    assert!(expected.recommendations.len() > 200, "{expected}");
    for nodes in [1, 3] {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().to_owned();
        let expected = expected.clone();
        run(|| async move {
            let cluster = cluster(nodes, &out).await?;
            for parallelism in [1, 2, 4] {
                let job = cluster.run("social", parallelism).await?;
                assert_eq!(job.progress.records_in, feed().posts().len() as u64);
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
fn the_guide_knows_the_latest_trends_and_recommendations_and_names_a_tag_that_nobody_knows() {
    let expected = Expected::of(&feed());
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_owned();
    run(|| async move {
        let cluster = cluster(3, &out).await?;
        let guide = cluster.client::<Guide>()?;
        assert_eq!(guide.trending().await?, []);
        cluster.run("social", 2).await?;

        let trending = guide.trending().await?;
        let lines: Vec<String> =
            trending.iter().map(|t| format!("{},{},{},{}", t.until, t.rank, t.tag, t.posts)).collect();
        assert!(!lines.is_empty() && expected.trends.ends_with(&lines), "{lines:?}");

        let last = expected.recommendations.last().unwrap();
        let tag = last.split(',').nth(1).unwrap();
        let beside = guide.beside(tag.to_owned()).await?;
        let lines: Vec<String> = beside
            .iter()
            .map(|r| format!("{},{},{},{},{}", r.hour, r.tag, r.rank, r.other, r.sessions))
            .collect();
        assert!(!lines.is_empty() && expected.recommendations.ends_with(&lines), "{lines:?}");

        let unknown = guide.beside("nothing".into()).await.unwrap_err();
        assert_eq!(unknown.typed(), Some(&GuideError::NoSuchTag { tag: "nothing".into() }));
        cluster.close().await;
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_program_says_what_is_expected_and_that_it_came_and_its_guide_can_be_called() {
    let program = Program::new(env!("CARGO_BIN_EXE_social"));
    let mut held = program.start(&["dev", "--hold"]);
    held.until_says("output equals what the generator expects");
    held.until_says("sessions of");
    let trending = program.json(&["call", "social.guide/Trending", "{}", "--json"]);
    assert_eq!(trending[0]["rank"], 1, "{trending}");
    let tag = trending[0]["tag"].as_str().unwrap();
    program.succeeds(&["call", "social.guide/Beside", &format!(r#"{{"tag":"{tag}"}}"#)]);
    held.signal("INT");
    assert_eq!(held.end().code, Some(0));
}
