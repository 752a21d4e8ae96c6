//! How far the clocks of nodes are from this machine's.
//!
//! Estimated as NTP does (RFC 5905, section 8): a node is asked for its calendar, and what it answers was true half
//! of the round trip ago, give or take that half. Of some questions the one with the shortest way counts.

use std::time::Duration;

use afflux_wire::NodeId;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::client::Client;

/// Clocks that differ by more are warned about.
pub(super) const CLOCK_SKEW_WARN: Duration = Duration::from_secs(1);
/// Questions to each node.
const QUESTIONS: usize = 4;
/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A node's clock against this machine's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Skew {
    node: String,
    /// Milliseconds that the node's clock is ahead; negative where it is behind.
    ahead_ms: f64,
    /// By so much that may be wrong.
    error_ms: f64,
}

/// One question: when it was asked by this machine's calendar, how long the answer took, and what it was.
#[derive(Clone, Copy, Debug)]
struct Sample {
    asked_ms: f64,
    took_ms: f64,
    told_ms: f64,
}

impl Skew {
    fn of(node: &str, samples: &[Sample]) -> Option<Self> {
        let best = samples.iter().min_by(|a, b| a.took_ms.total_cmp(&b.took_ms))?;
        let half = best.took_ms / 2.0;
        // A calendar told in whole milliseconds was half of one further on average.
        Some(Self {
            node: node.to_owned(),
            ahead_ms: best.told_ms + 0.5 - (best.asked_ms + half),
            error_ms: half + 0.5,
        })
    }

    /// What is certain of it.
    fn at_least_ms(&self) -> f64 {
        (self.ahead_ms.abs() - self.error_ms).max(0.0)
    }

    fn text(&self) -> String {
        let side = if self.ahead_ms < 0.0 { "behind" } else { "ahead of" };
        let (far, near) = (self.ahead_ms.abs() / 1e3, self.error_ms / 1e3);
        format!("the clock of {} is {far:.3} s (± {near:.3} s) {side} this machine's", self.node)
    }
}

/// What clocks say of a cluster.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// In a line.
    pub(super) said: String,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Vec<String>,
}

/// Asks each of these nodes, all at the same time. Those that do not answer are left out.
pub(super) async fn measure(client: &Client, nodes: &[NodeId], now_ms: fn() -> f64) -> Vec<Skew> {
    let asked = nodes.iter().map(|node| async move {
        let clock = client.node(node);
        let mut samples = Vec::with_capacity(QUESTIONS);
        for _ in 0..QUESTIONS {
            let (asked_ms, asked) = (now_ms(), Instant::now());
            // Who does not answer is not asked again.
            let Ok(told) = clock.clock().deadline(ANSWER_MAX).await else { break };
            let took_ms = asked.elapsed().as_secs_f64() * 1e3;
            samples.push(Sample { asked_ms, took_ms, told_ms: told as f64 });
        }
        Skew::of(node.as_str(), &samples)
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What is to be said of these clocks, where a lease lasts so long.
pub(super) fn judge(skews: &[Skew], lease: Duration) -> Verdict {
    let Some(worst) = skews.iter().max_by(|a, b| a.ahead_ms.abs().total_cmp(&b.ahead_ms.abs())) else {
        return Verdict { said: "no node tells its time".to_owned(), ..Verdict::default() };
    };
    let mut verdict =
        Verdict { said: format!("ok, {} compared; {}", skews.len(), worst.text()), ..Verdict::default() };
    let warn_ms = CLOCK_SKEW_WARN.as_secs_f64() * 1e3;
    let [least, most] = [f64::min, f64::max]
        .map(|pick| skews.iter().map(|skew| skew.ahead_ms).reduce(pick).unwrap_or_default());
    let cure = match skews.len() > 1 && most - least <= warn_ms {
        true => "the nodes agree, so this machine's is the one to be set (chrony, systemd-timesyncd)",
        false => "have both follow NTP (chrony, systemd-timesyncd)",
    };
    for skew in skews.iter().filter(|skew| skew.at_least_ms() > warn_ms) {
        match skew.at_least_ms() > lease.as_secs_f64() * 1e3 {
            true => verdict.problems.push(format!(
                "{}, more than a lease of {:.1} s (registry.ttl_ms): leases on Kubernetes, certificates and restarted nodes \
                 are judged by the calendar; {cure}",
                skew.text(),
                lease.as_secs_f64(),
            )),
            false => verdict.warnings.push(format!(
                "{}, more than {} s: times in logs, events and checkpoints do not fit together; {cure}",
                skew.text(),
                CLOCK_SKEW_WARN.as_secs()
            )),
        }
    }
    if !verdict.problems.is_empty() {
        verdict.said = "FAILED".to_owned();
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use afflux_actor::Clock;
    use afflux_mesh::{MemoryNetwork, Transport};

    use super::*;
    use crate::settings::Settings;
    use crate::{Endpoint, NodeBuilder};

    fn skew(node: &str, ahead_ms: f64) -> Skew {
        Skew { node: node.into(), ahead_ms, error_ms: 2.0 }
    }

    #[test]
    fn the_shortest_way_counts_and_half_of_it_is_the_error() {
        let sample = |took_ms: f64, told_ms: f64| Sample { asked_ms: 1_000.0, took_ms, told_ms };
        // 5 s ahead; the slow answer was told late in its way.
        let found = Skew::of("a", &[sample(900.0, 6_800.0), sample(4.0, 6_002.0), sample(60.0, 6_001.0)]);
        assert_eq!(found, Some(Skew { node: "a".into(), ahead_ms: 5_000.5, error_ms: 2.5 }));
        assert_eq!(Skew::of("a", &[]), None);
    }

    #[test]
    fn a_second_is_warned_about_and_a_lease_is_a_problem_and_the_odd_clock_is_named() {
        let lease = Duration::from_secs(5);
        let fine = judge(&[skew("a", 3.0), skew("b", -900.0)], lease);
        assert!(fine.warnings.is_empty() && fine.problems.is_empty(), "{fine:?}");
        assert!(fine.said.contains("2 compared") && fine.said.contains("b is 0.900 s"), "{}", fine.said);
        let warned = judge(&[skew("a", 3.0), skew("b", -1_500.0)], lease);
        assert_eq!((warned.warnings.len(), warned.problems.len()), (1, 0));
        assert!(warned.warnings[0].contains("b is 1.500 s (± 0.002 s) behind"), "{warned:?}");
        let broken = judge(&[skew("a", 3.0), skew("b", 7_000.0)], lease);
        assert_eq!((broken.warnings.len(), broken.problems.len()), (0, 1));
        assert!(
            broken.problems[0].contains("b is 7.000 s") && broken.problems[0].contains("NTP"),
            "{broken:?}"
        );
        let own = judge(&[skew("a", 7_000.0), skew("b", 7_100.0)], lease);
        assert!(own.problems[0].contains("this machine's is the one to be set"), "{own:?}");
        // What may be the way of the question is no skew.
        let far = Skew { error_ms: 600.0, ..skew("a", 1_500.0) };
        assert!(judge(&[far], lease).warnings.is_empty());
        assert_eq!(judge(&[], lease).said, "no node tells its time");
    }

    #[test]
    fn a_node_whose_clock_is_an_hour_ahead_is_found_by_asking() {
        fn now_ms() -> f64 {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() * 1e3
        }
        afflux_actor::system(|| async {
            let transport = Transport::Memory(MemoryNetwork::default());
            let builder = |id: &str, join: String| {
                let settings = Settings {
                    node_id: id.into(),
                    node_listen: "host:0".into(),
                    node_join: join,
                    node_slots: 1,
                    admin_listen: String::new(),
                    drain_grace_ms: 100,
                    ..Settings::default()
                };
                NodeBuilder::new(settings).transport(transport.clone()).inline()
            };
            let right = builder("right", String::new()).start().await.unwrap();
            let ahead = Clock::new(|| SystemTime::now() + Duration::from_secs(3_600));
            let wrong = builder("wrong", right.address()).clock(ahead).start().await.unwrap();
            right.ready().await;
            wrong.ready().await;
            let endpoint =
                Endpoint { address: right.address(), cluster: "afflux".into(), ..Endpoint::default() };
            let client = Client::connect_over(&endpoint, transport.clone()).await.unwrap();
            let nodes = [NodeId::new("right"), NodeId::new("wrong"), NodeId::new("nobody")];
            let found = measure(&client, &nodes, now_ms).await;
            let names: Vec<&str> = found.iter().map(|skew| skew.node.as_str()).collect();
            assert_eq!(names, ["right", "wrong"]);
            assert!(found[0].at_least_ms() < 1_000.0, "{found:?}");
            let off = found[1].ahead_ms - 3_600_000.0;
            assert!(off.abs() <= found[1].error_ms + 50.0, "{found:?}");
            assert_eq!(judge(&found, Duration::from_secs(5)).problems.len(), 1);
            client.close();
            wrong.close().await;
            right.close().await;
        })
        .unwrap();
    }
}
