//! Records that kill their operator: named, set aside where the settings say so, and nothing else is lost.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use afflux_sandbox::{BACKINGS, Backing, Cluster, ClusterBuilder, Collect, Single, run};
use afflux_stream::{
    AsyncMap, Batch, BoundedOutOfOrder, Flow, IoContext, Late, Result, Sink, SinkWriter, Timestamp, Tumbling,
    fold, generate, millis_of,
};

const NUMBERS: u64 = 6_000;
const KEYS: u64 = 10;
/// The records that kill.
const POISON: [u64; 2] = [2_513, 4_444];

/// What came out, and what was set aside: record, operator, tries.
type Aside = (String, String, u32);

/// The operator in which a record kills.
#[derive(Clone, Copy, PartialEq)]
enum Where {
    /// In the task of the source.
    Source,
    /// Behind an exchange.
    Exchange,
    /// Keyed, with state.
    Keyed,
}

/// Panics over the records that kill, so many times.
fn taste(i: u64, here: bool, left: &AtomicU64) -> u64 {
    let kills = here && POISON.contains(&i);
    if kills && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
        panic!("it cannot be");
    }
    i
}

/// Counts the numbers of each key.
fn counts(
    flow: &Flow,
    (out, aside): (&Collect<(u64, u64)>, &Collect<Aside>),
    at: Where,
    left: &Arc<AtomicU64>,
) -> Result<()> {
    let of = |place: Where| {
        let left = Arc::clone(left);
        move |i: u64| taste(i, at == place, &left)
    };
    let (first, second, third) = (of(Where::Source), of(Where::Exchange), of(Where::Keyed));
    flow.source("numbers", generate(NUMBERS, |i| i))
        .shown()
        .untimed()
        .map(first)
        .named("first")
        .rebalance()
        .map(second)
        .named("second")
        .map(|i| (i % KEYS, 1, i))
        .key_by(|(key, ..)| *key)
        .reduce("count", move |a, b| (a.0, a.1 + b.1, third(b.2)))
        .map(|(key, count, _)| (key, count))
        .sink("out", Single(out.clone()));
    flow.dead_letters("aside")
        .map(|letter| (letter.record, letter.operator, letter.attempt))
        .sink("letters", Single(aside.clone()));
    Ok(())
}

fn cluster(backing: Backing, at: &std::path::Path, policy: &str) -> ClusterBuilder {
    Cluster::of(3, backing).checkpoints(at).settings(|settings| {
        settings.checkpoint_interval_ms = 50;
        settings.restart_backoff_initial_ms = 10;
        settings.restart_failures_max = 4;
        settings.pipeline_on_poison = policy.to_owned();
    })
}

/// Each count of each key once, without the records that kill.
fn counts_without(poison: &[u64]) -> Vec<(u64, u64)> {
    let missing = |key: u64| poison.iter().filter(|i| **i % KEYS == key).count() as u64;
    (0..KEYS).flat_map(|key| (1..=NUMBERS / KEYS - missing(key)).map(move |n| (key, n))).collect()
}

#[test]
fn records_that_always_kill_are_set_aside_and_all_others_come_out_once() {
    for backing in BACKINGS {
        for at in [Where::Source, Where::Exchange, Where::Keyed] {
            let (out, aside) = (Collect::default(), Collect::default());
            let directory = tempfile::tempdir().unwrap();
            let (sinks, path) = ((out.clone(), aside.clone()), directory.path().to_owned());
            run(|| async move {
                let always = Arc::new(AtomicU64::new(u64::MAX));
                let cluster = cluster(backing, &path, "set_aside")
                    .pipeline("counts", move |flow| counts(flow, (&sinks.0, &sinks.1), at, &always))
                    .start()
                    .await;
                let job = cluster.finish("counts", 3).await;
                assert_eq!(
                    (job.state.as_str(), &job.error),
                    ("finished", &None),
                    "{backing}: {:?}",
                    job.failures
                );
                assert_eq!(job.set_aside.len(), POISON.len(), "{backing}: {:?}", job.set_aside);
                assert!(job.restarts >= 6, "{backing}: {}", job.restarts);
                cluster.close().await;
            });
            assert!(out.take_rows() == counts_without(&POISON), "{backing}");
            let (operator, records) = match at {
                Where::Source => ("first", ["2513", "4444"]),
                Where::Exchange => ("second", ["2513", "4444"]),
                Where::Keyed => ("count", ["[3,1,2513]", "[4,1,4444]"]),
            };
            let expected = records.map(|record| (record.to_owned(), operator.to_owned(), 3));
            assert_eq!(aside.take_rows(), expected, "{backing}");
        }
    }
}

#[test]
fn a_record_that_always_kills_fails_the_job_with_its_name_and_the_cure() {
    for backing in BACKINGS {
        for (at, shown) in [(Where::Source, true), (Where::Exchange, true), (Where::Exchange, false)] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().to_owned();
            run(|| async move {
                let always = Arc::new(AtomicU64::new(u64::MAX));
                let never = (Collect::default(), Collect::default());
                let cluster = cluster(backing, &path, "fail")
                    .settings(|settings| {
                        if !shown {
                            settings.pipeline_poison_show = "off".to_owned();
                        }
                    })
                    .pipeline("counts", move |flow| counts(flow, (&never.0, &never.1), at, &always))
                    .start()
                    .await;
                let job = cluster.finish("counts", 3).await;
                let error = job.error.unwrap_or_default();
                assert_eq!(job.state, "failed", "{backing}: {error}");
                let operator =
                    if at == Where::Source { "operator first panicked" } else { "operator second panicked" };
                let cure = "pipeline.on_poison = set_aside";
                for part in [operator, "it cannot be", "3 times (pipeline.poison_failures = 3)", cure] {
                    assert!(error.contains(part), "`{part}` is missing, {backing}: {error}");
                }
                let named = POISON.iter().any(|record| error.contains(&format!("the record: {record}")));
                assert_eq!(named, shown, "{backing}: {error}");
                assert_eq!(error.contains("the record: digest "), !shown, "{backing}: {error}");
                assert_eq!(error.contains("(split "), at == Where::Source, "{backing}: {error}");
                // Two that kill may do so in turn: the first panic counts for one of them.
                assert!((3..=5).contains(&job.failures.len()), "{backing}: {:?}", job.failures);
                assert_eq!(job.set_aside, Vec::<String>::new(), "{backing}");
                cluster.close().await;
            });
        }
    }
}

/// Where a panic is of no single record.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Window,
    Sink,
}

/// A sink that dies over a batch with the first record that kills.
#[derive(Clone)]
struct Dies;

impl Sink<u64> for Dies {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<u64>>> {
        Ok(Box::new(Dies))
    }
    fn kind(&self) -> &'static str {
        "dies"
    }
}

impl SinkWriter<u64> for Dies {
    fn write(&mut self, batch: &mut Batch<u64>) -> Result<()> {
        assert!(!batch.rows.contains(&POISON[0]), "it cannot be");
        batch.clear();
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Windows of ten, or a sink behind what asks about each record: what comes to it is of many records at once.
fn many_at_once(flow: &Flow, at: At) -> Result<()> {
    let time = |i: &u64| Timestamp::from_millis(*i as i64);
    let numbers = flow
        .source("numbers", generate(NUMBERS, |i| i))
        .watermarks_by(BoundedOutOfOrder::by(millis_of(0)), time)
        .rebalance();
    match at {
        At::Window => numbers
            .key_by(|i| i % 10)
            .window(Tumbling::of(millis_of(10)))
            .late(Late::Drop)
            .aggregate(
                "sum",
                fold(
                    || 0,
                    |sum, i: &u64| *sum += i,
                    |_, _, sum| {
                        assert!(sum != POISON[0], "it cannot be");
                        sum
                    },
                ),
            )
            .count("n"),
        At::Sink => numbers
            .async_map("ask", AsyncMap::unordered().in_flight(64), |_, i| async move { Ok(i) })
            .sink("out", Dies),
    }
    flow.dead_letters("aside").count("letters");
    Ok(())
}

#[test]
fn what_is_of_no_single_record_is_named_and_fails_by_the_budget_with_what_to_do() {
    for backing in BACKINGS {
        for at in [At::Window, At::Sink] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().to_owned();
            run(|| async move {
                let cluster = cluster(backing, &path, "set_aside")
                    .pipeline("many", move |flow| many_at_once(flow, at))
                    .start()
                    .await;
                let job = cluster.finish("many", 3).await;
                let error = job.error.unwrap_or_default();
                assert_eq!(job.state, "failed", "{backing}: {error}");
                assert_eq!(job.set_aside, Vec::<String>::new(), "{backing}: {error}");
                let named = match at {
                    At::Window => {
                        "operator sum panicked: it cannot be; at work on the window [1970-01-01T00:00:02.51Z, \
                         1970-01-01T00:00:02.52Z) of key 3"
                    }
                    At::Sink => "operator out panicked: it cannot be; at work on a batch of ",
                };
                for part in [named, "restart.failures_max = 4", "none can be set aside (pipeline.on_poison)"]
                {
                    assert!(error.contains(part), "`{part}` is missing, {backing}, {at:?}: {error}");
                }
                cluster.close().await;
            });
        }
    }
}

#[test]
fn a_panic_that_does_not_come_again_sets_nothing_aside() {
    for backing in BACKINGS {
        let (out, aside) = (Collect::default(), Collect::default());
        let directory = tempfile::tempdir().unwrap();
        let (sinks, path) = ((out.clone(), aside.clone()), directory.path().to_owned());
        run(|| async move {
            let twice = Arc::new(AtomicU64::new(2));
            let cluster = cluster(backing, &path, "set_aside")
                .pipeline("counts", move |flow| counts(flow, (&sinks.0, &sinks.1), Where::Exchange, &twice))
                .start()
                .await;
            let job = cluster.finish("counts", 1).await;
            assert_eq!((job.state.as_str(), job.restarts), ("finished", 2), "{backing}: {:?}", job.error);
            assert_eq!(job.set_aside, Vec::<String>::new(), "{backing}");
            cluster.close().await;
        });
        assert!(out.take_rows() == counts_without(&[]), "{backing}");
        assert_eq!(aside.take_rows(), [], "{backing}");
    }
}

#[test]
fn a_pipeline_without_dead_letters_cannot_set_anything_aside_and_says_so_before_it_starts() {
    run(|| async move {
        let cluster = Cluster::of(1, BACKINGS[0])
            .settings(|settings| settings.pipeline_on_poison = "set_aside".to_owned())
            .pipeline("bare", |flow| {
                flow.source("numbers", generate(NUMBERS, |i| i)).untimed().count("n");
                Ok(())
            })
            .start()
            .await;
        let error = cluster.submit("bare", 1).await.unwrap_err().to_string();
        assert!(error.contains("flow.dead_letters"), "{error}");
        cluster.close().await;
    });
}
