//! Every exchange, over one, two and three nodes and every backing, against a plan in one process and
//! a plain loop.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

use afflux_actor::{Clock, Threads};
use afflux_sandbox::{BACKINGS, Cluster, Collect, Collected, run};
use afflux_stream::job::run_local;
use afflux_stream::{
    BoundedOutOfOrder, Flow, Global, JobSettings, Late, Plan, Result, Timestamp, Tumbling, Window, fold,
    generate, millis_of, vec_source,
};
use serde::{Deserialize, Serialize};

/// Tasks of each operator: on two nodes each has two of them, on three some has two and some one.
const PARALLELISM: u32 = 4;

/// A record with everything that an encoding can get wrong.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Parcel {
    id: u64,
    at: i64,
    from: String,
    to: Option<String>,
    weight: Option<i64>,
    tags: Vec<String>,
    state: State,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Waiting,
    Moving { by: String, since: Option<i64> },
    Lost(Option<String>),
}

const PARCELS: u64 = 6_000;

fn parcel(id: u64) -> Parcel {
    let h = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let names = ["", "JFK", "São Paulo", "東京", "a\nb\"c,"];
    let name = |n: u64| names[(n % 5) as usize].to_owned();
    Parcel {
        id,
        at: (id / 4) as i64 - (h % 20) as i64,
        from: format!("{}{}", name(h), h % 40),
        to: (!h.is_multiple_of(3)).then(|| name(h / 7)),
        weight: (!h.is_multiple_of(4)).then_some(h as i64 - (1 << 31)),
        tags: (0..h % 3).map(name).collect(),
        state: match h % 4 {
            0 => State::Waiting,
            1 => State::Moving { by: name(h / 11), since: (h % 8 == 1).then_some(i64::MIN) },
            _ => State::Lost((h % 8 > 3).then(|| name(h / 13))),
        },
    }
}

fn parcels() -> Vec<Parcel> {
    (0..PARCELS).map(parcel).collect()
}

type Build<T> = fn(&Flow, Collect<T>) -> Result<()>;

/// Runs a plan everywhere and hands what each run collected to `check`.
fn everywhere<T>(name: &'static str, build: Build<T>, check: impl Fn(Vec<Collected<T>>, &str))
where
    T: Ord + Clone + Debug + Send + 'static,
{
    let out = Collect::default();
    let local = plan(name, build, &out);
    afflux_actor::test::system(|| async move {
        let threads = Arc::new(Threads::inline_slots(2).unwrap());
        run_local(&local, threads, Clock::starting_at(SystemTime::UNIX_EPOCH)).await.unwrap()
    });
    check(out.take(), "one process");
    for backing in BACKINGS {
        for nodes in 1..=3 {
            let sink = out.clone();
            run(|| async move {
                let cluster = Cluster::of(nodes, backing)
                    .pipeline(name, move |flow| build(flow, sink.clone()))
                    .start()
                    .await;
                let job = cluster.finish(name, PARALLELISM).await;
                assert_eq!((job.state.as_str(), job.error), ("finished", None), "{nodes} nodes, {backing}");
                let used = job
                    .tasks
                    .iter()
                    .map(|task| task.node.as_str())
                    .collect::<std::collections::BTreeSet<_>>();
                assert_eq!(used.len(), nodes, "{used:?}");
                cluster.close().await;
            });
            check(out.take(), &format!("{nodes} nodes, {backing}"));
        }
    }
}

fn plan<T>(name: &str, build: Build<T>, out: &Collect<T>) -> Plan {
    let settings = JobSettings { parallelism: PARALLELISM, ..JobSettings::default() };
    let flow = Flow::new(name, settings);
    build(&flow, out.clone()).unwrap();
    flow.finish().unwrap()
}

/// `assert_eq`, without printing thousands of rows.
fn same<T: PartialEq + Debug>(got: &[T], expected: &[T], place: &str) {
    assert_eq!(got.len(), expected.len(), "rows, {place}");
    for (got, expected) in got.iter().zip(expected) {
        assert_eq!(got, expected, "{place}");
    }
}

fn rows<T: Clone>(collected: &[Collected<T>]) -> Vec<T> {
    collected.iter().map(|c| c.row.clone()).collect()
}

/// How many rows each task wrote.
fn of_task<T>(collected: &[Collected<T>], subtask: u32) -> usize {
    collected.iter().filter(|c| c.subtask == subtask).count()
}

#[test]
fn keyed_all_records_of_a_key_meet_in_one_task() {
    // The nth record of a key carries n: missing, doubled or split keys all show.
    type Counted = (String, Option<String>, u64);
    fn build(flow: &Flow, out: Collect<Counted>) -> Result<()> {
        flow.source("parcels", generate(PARCELS, parcel))
            .untimed()
            .map(|p| (p.from, p.to, 1_u64))
            .key_by(|(from, to, _): &Counted| (from.clone(), to.clone()))
            .reduce("count", |a, b| (a.0, a.1, a.2 + b.2))
            .sink("out", out);
        Ok(())
    }
    let mut counts = BTreeMap::new();
    let mut expected: Vec<Counted> = Vec::new();
    for p in parcels() {
        let n = counts.entry((p.from.clone(), p.to.clone())).or_insert(0);
        *n += 1;
        expected.push((p.from, p.to, *n));
    }
    expected.sort_unstable();
    everywhere("keyed", build, |got, place| {
        same(&rows(&got), &expected, place);
        for subtask in 0..PARALLELISM {
            assert!(of_task(&got, subtask) > 0, "task {subtask} got no key, {place}");
        }
    });
}

#[test]
fn keyed_windows_of_event_time_close_with_the_same_sums() {
    type Sum = (i64, String, Option<i64>, u64);
    fn build(flow: &Flow, out: Collect<Sum>) -> Result<()> {
        flow.source("parcels", generate(PARCELS, parcel))
            .watermarks_by(BoundedOutOfOrder::by(millis_of(40)), |p| Timestamp::from_millis(p.at))
            .key_by(|p| p.from.clone())
            .window(Tumbling::of(millis_of(100)))
            .late(Late::Drop)
            .aggregate(
                "sum",
                fold(
                    || (None, 0),
                    |(weight, n): &mut (Option<i64>, u64), p: &Parcel| {
                        *n += 1;
                        *weight = p.weight.map(|w| w + weight.unwrap_or(0)).or(*weight);
                    },
                    |from, window: Window, (weight, n)| (window.start.millis(), from, weight, n),
                ),
            )
            .sink("out", out);
        Ok(())
    }
    let mut sums = BTreeMap::<(i64, String), (Option<i64>, u64)>::new();
    for p in parcels() {
        let sum = sums.entry((p.at.div_euclid(100) * 100, p.from)).or_default();
        sum.1 += 1;
        sum.0 = p.weight.map(|w| w + sum.0.unwrap_or(0)).or(sum.0);
    }
    let expected: Vec<Sum> = sums.into_iter().map(|((at, from), (w, n))| (at, from, w, n)).collect();
    everywhere("windows", build, |got, place| same(&rows(&got), &expected, place));
}

#[test]
fn rebalance_gives_every_task_its_part_and_each_record_once() {
    fn build(flow: &Flow, out: Collect<Parcel>) -> Result<()> {
        // One task reads all: without the exchange the others would have nothing.
        flow.source("parcels", vec_source(parcels())).untimed().rebalance().sink("out", out);
        Ok(())
    }
    let expected = parcels();
    everywhere("rebalance", build, |got, place| {
        same(&rows(&got), &expected, place);
        for subtask in 0..PARALLELISM {
            assert!(of_task(&got, subtask) > 0, "task {subtask} got nothing, {place}");
        }
    });
}

#[test]
fn broadcast_gives_every_task_all_records() {
    fn build(flow: &Flow, out: Collect<Parcel>) -> Result<()> {
        flow.source("parcels", generate(PARCELS, parcel)).untimed().broadcast().sink("out", out);
        Ok(())
    }
    let expected = parcels();
    everywhere("broadcast", build, |got, place| {
        assert_eq!(got.len(), expected.len() * PARALLELISM as usize, "{place}");
        for subtask in 0..PARALLELISM {
            let mine: Vec<_> = got.iter().filter(|c| c.subtask == subtask).cloned().collect();
            same(&rows(&mine), &expected, &format!("task {subtask}, {place}"));
        }
    });
}

#[test]
fn gather_brings_all_records_to_one_task() {
    fn build(flow: &Flow, out: Collect<Parcel>) -> Result<()> {
        flow.source("parcels", generate(PARCELS, parcel)).untimed().gather().sink("out", out);
        Ok(())
    }
    let expected = parcels();
    everywhere("gather", build, |got, place| {
        assert_eq!(of_task(&got, 0), got.len(), "{place}");
        same(&rows(&got), &expected, place);
    });
}

#[test]
fn forward_takes_late_records_aside_and_loses_none() {
    // A record is on time (true) in the result of its window, or late on the side.
    type Seen = (u64, bool);
    const LATE: u64 = 500;
    // A source tells its watermark every 16 batches of 1,024 rows.
    const ON_TIME: u64 = 20_000;
    /// The last records come long after their window; one source reads all, so its watermark decides.
    fn disordered() -> Vec<Parcel> {
        let late = |id| Parcel { at: 1, ..parcel(id) };
        (0..ON_TIME).map(parcel).chain((ON_TIME..ON_TIME + LATE).map(late)).collect()
    }
    fn build(flow: &Flow, out: Collect<Seen>) -> Result<()> {
        let (closed, late) = flow
            .source("parcels", vec_source(disordered()))
            .watermarks_by(BoundedOutOfOrder::by(millis_of(40)), |p: &Parcel| Timestamp::from_millis(p.at))
            .key_by(|p| p.from.clone())
            .window(Tumbling::of(millis_of(100)))
            .late(Late::Side)
            .aggregate("ids", fold(Vec::new, |ids, p: &Parcel| ids.push(p.id), |_, _, ids: Vec<u64>| ids));
        closed.flat_map(|ids| ids).map(|id| (id, true)).sink("on-time", out.clone());
        late.map(|p| (p.id, false)).sink("late", out);
        Ok(())
    }
    let expected: Vec<Seen> = (0..ON_TIME + LATE).map(|id| (id, id < ON_TIME)).collect();
    everywhere("forward", build, |got, place| same(&rows(&got), &expected, place));
}

#[test]
fn untimed_totals_come_at_the_end_whatever_lies_between() {
    // Three exchanges in a row.
    fn build(flow: &Flow, out: Collect<(Option<String>, u64)>) -> Result<()> {
        flow.source("parcels", generate(PARCELS, parcel))
            .untimed()
            .rebalance()
            .filter(|p| p.weight.is_some())
            .key_by(|p| p.to.clone())
            .window(Global)
            .aggregate("total", fold(|| 0_u64, |n, _: &Parcel| *n += 1, |to, _, n| (to, n)))
            .gather()
            .sink("out", out);
        Ok(())
    }
    let mut totals = BTreeMap::<Option<String>, u64>::new();
    for p in parcels().into_iter().filter(|p| p.weight.is_some()) {
        *totals.entry(p.to).or_default() += 1;
    }
    let expected: Vec<_> = totals.into_iter().collect();
    everywhere("totals", build, |got, place| same(&rows(&got), &expected, place));
}
