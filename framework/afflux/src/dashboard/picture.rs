//! A picture of the cluster, as JSON: what the page draws each second. Made from two looks, without asking anybody.

use std::collections::BTreeMap;

use afflux_stream::Graph;
use serde::Serialize;
use serde_json::{Value, json};

use super::Dashboard;
use super::counters::{nodes, services};
use super::log::{LoggedEvent, leader};
use super::look::Look;
use crate::job_detail::{JobDetail, TaskDetail};

/// A chain counts as hindered, or as at its limit, from this share of its time on.
const PRESSURED_RATIO_MIN: f64 = 0.5;
/// Events in a picture, the newest.
const EVENTS_MAX: usize = 60;
/// Checkpoints of a job in a picture, the newest.
const CHECKPOINTS_MAX: usize = 20;

/// Draws what was seen; rates are those since `before`.
pub(super) fn draw(before: Option<&Look>, now: &Look, dashboard: &Dashboard) -> Value {
    let inner = &dashboard.inner;
    let leader = leader(&now.view);
    let jobs: Vec<JobPicture> =
        now.jobs.iter().map(|job| JobPicture::of(before_of(before, job), job)).collect();
    let (methods, actors) = services(before, now);
    let mut events = events(&inner.log.all(), &now.jobs);
    let excess = events.len().saturating_sub(EVENTS_MAX);
    events.drain(..excess);
    json!({
        "at_ms": now.at_ms,
        "node": inner.client.mesh().node().as_str(),
        "cluster": inner.cluster,
        "build": inner.build,
        "secured": inner.client.mesh().guard().is_on(),
        "health": health(now, &jobs, leader.as_deref()),
        "leader": leader,
        "registry": { "reachable": now.view.reachable, "version": now.view.version },
        "pipelines": inner.pipelines,
        "nodes": nodes(before, now),
        "jobs": jobs,
        "methods": methods,
        "actors": actors,
        "events": events,
        "tiles": now.tiles,
    })
}

fn before_of<'a>(before: Option<&'a Look>, job: &JobDetail) -> Option<&'a JobDetail> {
    let same = |known: &&JobDetail| known.info.id == job.info.id && known.info.attempt == job.info.attempt;
    before?.jobs.iter().find(same).filter(|known| known.at_ms < job.at_ms)
}

/// What happened to nodes and to jobs, in the order of time.
pub(super) fn events(log: &[LoggedEvent], jobs: &[JobDetail]) -> Vec<LoggedEvent> {
    let mut events = log.to_vec();
    for job in jobs {
        let id = &job.info.id;
        events.extend(job.events.iter().map(|event| LoggedEvent {
            at_ms: event.at_ms,
            severity: match event.state.as_str() {
                "failed" => "bad",
                "restarting" | "cancelled" => "warning",
                "running" | "finished" => "good",
                _ => "note",
            },
            kind: "job",
            subject: id.clone(),
            text: match event.text.as_str() {
                "" => format!("{id} is {} (attempt {})", event.state, event.attempt),
                why => format!("{id} is {} (attempt {}): {why}", event.state, event.attempt),
            },
        }));
        let failed = job.checkpoints.iter().filter(|c| c.state == "failed");
        events.extend(failed.map(|c| LoggedEvent {
            at_ms: c.started_ms + i64::try_from(c.took_ms.unwrap_or_default()).unwrap_or_default(),
            severity: "warning",
            kind: "job",
            subject: id.clone(),
            text: format!(
                "checkpoint {} of {id} failed: {}",
                c.epoch,
                c.error.as_deref().unwrap_or("no reason told")
            ),
        }));
    }
    events.sort_by_key(|event| event.at_ms);
    events
}

/// How the cluster is, in a sentence.
fn health(now: &Look, jobs: &[JobPicture], leader: Option<&str>) -> Value {
    let mut bad = Vec::new();
    let mut warning = Vec::new();
    if !now.view.reachable {
        bad.push("the registry does not answer, and what is shown of it was seen last".to_owned());
    }
    let mut newest = BTreeMap::new();
    for job in jobs {
        newest.entry(job.pipeline.as_str()).or_insert(job);
    }
    for job in newest.values() {
        match job.state.as_str() {
            "failed" => bad.push(format!(
                "{} has failed: {}",
                job.pipeline,
                job.error.as_deref().unwrap_or("no reason told")
            )),
            "restarting" => warning.push(format!("{} restarts", job.pipeline)),
            _ => {}
        }
        let ended = |c: &&crate::job_detail::CheckpointInfo| c.state != "in_progress";
        if job.state == "running"
            && job.checkpoints.iter().rev().find(ended).is_some_and(|c| c.state == "failed")
        {
            warning.push(format!("the last checkpoint of {} failed", job.pipeline));
        }
        if let Some(slow) = &job.bottleneck {
            warning.push(format!("{slow} holds {} up", job.pipeline));
        }
    }
    let silent = now.nodes.iter().filter(|node| node.state == "unreachable").map(|node| node.id.as_str());
    warning.extend(silent.map(|node| format!("{node} does not answer")));
    if let Some(error) = &now.jobs_error {
        warning.push(format!("the coordinator does not tell its jobs: {error}"));
    }
    let running = newest.values().filter(|job| job.state == "running").count();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let there = format!(
        "{}, {} running, {}",
        count(now.nodes.len(), "node"),
        count(running, "pipeline"),
        leader.map_or_else(|| "nobody coordinates jobs".to_owned(), |node| format!("{node} coordinates")),
    );
    let (state, text) = match (bad.is_empty(), warning.is_empty()) {
        (false, _) => ("bad", format!("Something is wrong: {}.", [bad, warning].concat().join("; "))),
        (true, false) => ("warning", format!("Working, but {}.", warning.join("; "))),
        (true, true) => ("good", format!("All is well: {there}.")),
    };
    json!({ "state": state, "text": text, "there": there })
}

#[derive(Serialize)]
pub(super) struct JobPicture {
    id: String,
    pipeline: String,
    state: String,
    error: Option<String>,
    started_ms: i64,
    wall_s: f64,
    cpu_s: f64,
    attempt: u64,
    restarts: u64,
    restartable: bool,
    failures: Vec<String>,
    output: String,
    nodes: Vec<String>,
    tasks: usize,
    input_done: u64,
    input_total: Option<u64>,
    records_in: u64,
    records_out: u64,
    in_rate: f64,
    out_rate: f64,
    late: u64,
    skipped: u64,
    watermark_ms: Option<i64>,
    last_checkpoint: Option<u64>,
    operators: Vec<OperatorPicture>,
    edges: Vec<EdgePicture>,
    /// The first busy operator below those that wait for room.
    bottleneck: Option<String>,
    checkpoints: Vec<crate::job_detail::CheckpointInfo>,
}

#[derive(Serialize)]
struct OperatorPicture {
    name: String,
    kind: Value,
    detail: String,
    chain: u32,
    tasks: usize,
    records_in: u64,
    records_out: u64,
    in_rate: f64,
    out_rate: f64,
    late: u64,
    errors: u64,
    /// Shares of the tasks' time since the last picture; together at most 1.
    busy: f64,
    idle: f64,
    backpressured: f64,
    watermark_ms: Option<i64>,
    /// Behind the furthest watermark of the job.
    lag_ms: Option<i64>,
    /// Records of the task that got most, over the mean.
    skew: f64,
}

#[derive(Serialize)]
struct EdgePicture {
    from: String,
    to: String,
    exchange: String,
    rate: f64,
}

/// Where the time of a chain's tasks went, as shares of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Times {
    busy: f64,
    idle: f64,
    backpressured: f64,
}

impl Times {
    fn of(before: Option<&JobDetail>, now: &JobDetail, chain: u32) -> Self {
        // Without an earlier look, of the longest life: a task without input ends at once.
        let lives = now.tasks.iter().map(|task| task.busy_s + task.idle_s + task.backpressured_s);
        let span = before.map_or_else(|| lives.fold(0.0, f64::max), |before| seconds(before, now));
        let mut sum = Self::default();
        let mut tasks = 0.0;
        for task in now.tasks.iter().filter(|task| task.chain == chain) {
            let old =
                before.and_then(|b| b.tasks.iter().find(|o| (o.chain, o.subtask) == (chain, task.subtask)));
            let gained = |of: fn(&TaskDetail) -> f64| (of(task) - old.map_or(0.0, of)).max(0.0);
            let mut times = Self {
                busy: gained(|t| t.busy_s),
                idle: gained(|t| t.idle_s),
                backpressured: gained(|t| t.backpressured_s),
            };
            let counted = times.busy + times.idle + times.backpressured;
            // What it has been doing since its last change is not counted yet.
            let rest = (span - counted).max(0.0);
            match task.doing.as_str() {
                "busy" if before.is_some() => times.busy += rest,
                "backpressured" if before.is_some() => times.backpressured += rest,
                _ => times.idle += rest,
            }
            let whole = counted + rest;
            if whole > 0.0 {
                tasks += 1.0;
                sum.busy += times.busy / whole;
                sum.idle += times.idle / whole;
                sum.backpressured += times.backpressured / whole;
            }
        }
        if tasks > 0.0 {
            sum = Self {
                busy: sum.busy / tasks,
                idle: sum.idle / tasks,
                backpressured: sum.backpressured / tasks,
            };
        }
        sum
    }
}

fn seconds(before: &JobDetail, now: &JobDetail) -> f64 {
    (now.at_ms - before.at_ms).max(1) as f64 / 1e3
}

/// In, out, late, errors of an operator over its tasks.
fn counts(job: &JobDetail, operator: &str) -> [u64; 4] {
    let told = job.tasks.iter().flat_map(|task| &task.operators).filter(|o| o.name == operator);
    told.fold([0; 4], |sum, o| {
        [sum[0] + o.records_in, sum[1] + o.records_out, sum[2] + o.late, sum[3] + o.errors]
    })
}

/// The first operators behind the exchanges at which pressure begins, the busiest first.
fn bottleneck(graph: &Graph, times: &[Times]) -> Option<String> {
    let of = |chain: u32| times.get(chain as usize).copied().unwrap_or_default();
    let begins = |edge: &&afflux_stream::Edge| {
        let feeds_others = graph.edges.iter().any(|other| other.from_chain == edge.to_chain);
        let passes_on = feeds_others && of(edge.to_chain).backpressured >= PRESSURED_RATIO_MIN;
        of(edge.from_chain).backpressured >= PRESSURED_RATIO_MIN && !passes_on
    };
    let slow = graph.edges.iter().filter(begins).map(|edge| edge.to_chain);
    let slowest = slow.max_by(|a, b| of(*a).busy.total_cmp(&of(*b).busy))?;
    graph.chains.get(slowest as usize)?.operators.first().cloned()
}

impl JobPicture {
    pub(super) fn of(before: Option<&JobDetail>, now: &JobDetail) -> Self {
        let graph: Graph = serde_json::from_value(now.graph.clone()).unwrap_or_default();
        let span = before.map(|before| seconds(before, now));
        let rate = |now: u64, then: u64| span.map_or(0.0, |span| now.saturating_sub(then) as f64 / span);
        let times: Vec<Times> =
            graph.chains.iter().map(|chain| Times::of(before, now, chain.index)).collect();
        let furthest = now.tasks.iter().filter_map(|task| task.watermark_out_ms).max();
        let mut operators = Vec::with_capacity(graph.operators.len());
        for operator in &graph.operators {
            let tasks = || now.tasks.iter().filter(|task| task.chain == operator.chain);
            let [records_in, records_out, late, errors] = counts(now, &operator.name);
            let old = before.map_or([0; 4], |before| counts(before, &operator.name));
            let of_chain = times.get(operator.chain as usize).copied().unwrap_or_default();
            let watermark_ms = tasks().filter_map(|task| task.watermark_ms.or(task.watermark_out_ms)).min();
            let shares = tasks().flat_map(|t| &t.operators).filter(|o| o.name == operator.name);
            let most = shares.map(|o| o.records_in).max().unwrap_or(0);
            let parallelism = graph.chains.get(operator.chain as usize).map_or(0, |chain| chain.parallelism);
            operators.push(OperatorPicture {
                name: operator.name.clone(),
                kind: serde_json::to_value(operator.kind).unwrap_or_default(),
                detail: operator.detail.clone(),
                chain: operator.chain,
                tasks: parallelism as usize,
                records_in,
                records_out,
                in_rate: rate(records_in, old[0]),
                out_rate: rate(records_out, old[1]),
                late,
                errors,
                busy: of_chain.busy,
                idle: of_chain.idle,
                backpressured: of_chain.backpressured,
                watermark_ms,
                lag_ms: furthest.zip(watermark_ms).map(|(furthest, own)| (furthest - own).max(0)),
                skew: if records_in == 0 {
                    1.0
                } else {
                    most as f64 * f64::from(parallelism) / records_in as f64
                },
            });
        }
        let out = |name: &str| operators.iter().find(|o| o.name == name).map_or(0.0, |o| o.out_rate);
        let mut edges = Vec::new();
        for chain in &graph.chains {
            for pair in chain.operators.windows(2) {
                let [from, to] = pair else { continue };
                let exchange = "fused".to_owned();
                edges.push(EdgePicture { from: from.clone(), to: to.clone(), exchange, rate: out(from) });
            }
        }
        for edge in &graph.edges {
            let chain =
                |index: u32| graph.chains.get(index as usize).map_or(&[][..], |chain| &chain.operators);
            let (Some(from), Some(to)) = (chain(edge.from_chain).last(), chain(edge.to_chain).first()) else {
                continue;
            };
            let exchange = format!("{:?}", edge.exchange).to_lowercase();
            edges.push(EdgePicture { from: from.clone(), to: to.clone(), exchange, rate: out(from) });
        }
        let (info, progress) = (&now.info, &now.info.progress);
        let mut nodes: Vec<String> = info.nodes().into_iter().map(str::to_owned).collect();
        nodes.dedup();
        let older = before.map(|before| &before.info.progress);
        Self {
            id: info.id.clone(),
            pipeline: info.pipeline.clone(),
            state: info.state.clone(),
            error: info.error.clone(),
            started_ms: info.started_ms,
            wall_s: info.wall_s,
            cpu_s: info.cpu_s,
            attempt: info.attempt,
            restarts: info.restarts,
            restartable: info.restartable,
            failures: info.failures.clone(),
            output: info.output.clone(),
            nodes,
            tasks: info.tasks.len(),
            input_done: progress.input_done,
            input_total: progress.input_total,
            records_in: progress.records_in,
            records_out: progress.records_out,
            in_rate: rate(progress.records_in, older.map_or(0, |older| older.records_in)),
            out_rate: rate(progress.records_out, older.map_or(0, |older| older.records_out)),
            late: progress.late,
            skipped: progress.skipped,
            watermark_ms: progress.watermark_ms,
            last_checkpoint: info.last_checkpoint,
            bottleneck: bottleneck(&graph, &times).filter(|_| info.state == "running"),
            operators,
            edges,
            checkpoints: now.checkpoints.iter().rev().take(CHECKPOINTS_MAX).rev().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job_detail::{CheckpointInfo, OperatorCounts};
    use crate::jobs::JobInfo;

    /// Three chains in a row: `read` waits, `sum` works, `write` is idle.
    fn job(at_ms: i64, factor: u64) -> JobDetail {
        let chain = |index: u32, name: &str| json!({ "index": index, "parallelism": 1, "operators": [name] });
        let operator =
            |index: u32, name: &str| json!({ "name": name, "kind": "keyed", "detail": "", "chain": index });
        let edge = |index: u32| json!({ "index": index, "from_chain": index, "to_chain": index + 1, "exchange": "hash" });
        let task = |chain: u32, name: &str, times: [f64; 3]| TaskDetail {
            chain,
            node: "a".into(),
            operators: vec![OperatorCounts {
                name: name.into(),
                records_in: 100 * factor,
                records_out: 50 * factor,
                ..OperatorCounts::default()
            }],
            busy_s: times[0] * factor as f64,
            idle_s: times[1] * factor as f64,
            backpressured_s: times[2] * factor as f64,
            doing: "idle".into(),
            watermark_ms: (chain > 0).then_some(1_000 - i64::from(chain) * 100),
            watermark_out_ms: Some(1_000 - i64::from(chain) * 100),
            ..TaskDetail::default()
        };
        JobDetail {
            info: JobInfo {
                id: "p-1".into(),
                pipeline: "p".into(),
                state: "running".into(),
                ..JobInfo::default()
            },
            graph: json!({
                "pipeline": "p",
                "operators": [operator(0, "read"), operator(1, "sum"), operator(2, "write")],
                "chains": [chain(0, "read"), chain(1, "sum"), chain(2, "write")],
                "edges": [edge(0), edge(1)],
            }),
            at_ms,
            tasks: vec![
                task(0, "read", [0.1, 0.0, 0.9]),
                task(1, "sum", [1.0, 0.0, 0.0]),
                task(2, "write", [0.2, 0.8, 0.0]),
            ],
            ..JobDetail::default()
        }
    }

    #[test]
    fn rates_and_shares_are_those_since_the_picture_before_and_the_first_busy_operator_is_found() {
        let (before, now) = (job(1_000, 1), job(2_000, 2));
        let picture = JobPicture::of(Some(&before), &now);
        let of = |name: &str| picture.operators.iter().find(|o| o.name == name).unwrap();
        assert_eq!((of("sum").in_rate, of("sum").out_rate, of("sum").records_in), (100.0, 50.0, 200));
        assert!((of("read").backpressured - 0.9).abs() < 1e-9 && (of("write").idle - 0.8).abs() < 1e-9);
        for operator in &picture.operators {
            assert!((operator.busy + operator.idle + operator.backpressured - 1.0).abs() < 1e-9);
        }
        assert_eq!(picture.bottleneck.as_deref(), Some("sum"));
        assert_eq!((of("read").lag_ms, of("write").lag_ms), (Some(0), Some(200)));
        assert_eq!((picture.edges[0].from.as_str(), picture.edges[0].rate), ("read", 50.0));
    }

    #[test]
    fn another_attempt_has_no_rates_until_its_second_picture() {
        let before = Look { jobs: vec![job(1_000, 9)], ..Look::default() };
        let mut now = job(2_000, 1);
        now.info.attempt = 2;
        assert!(before_of(Some(&before), &now).is_none());
        assert_eq!(JobPicture::of(None, &now).operators[0].in_rate, 0.0);
        assert!(before_of(Some(&before), &job(2_000, 10)).is_some());
        assert!(before_of(Some(&before), &job(1_000, 10)).is_none(), "it was not asked again");
    }

    #[test]
    fn the_sentence_names_what_is_wrong_first() {
        let mut look = Look {
            view: afflux_registry::View { reachable: true, ..Default::default() }.into(),
            ..Look::default()
        };
        let told = |look: &Look, jobs: &[JobPicture]| {
            health(look, jobs, Some("a"))["text"].as_str().unwrap().to_owned()
        };
        let well = JobPicture { bottleneck: None, ..JobPicture::of(None, &job(1, 1)) };
        assert_eq!(told(&look, &[well]), "All is well: 0 nodes, 1 pipeline running, a coordinates.");
        let mut failed = job(1, 1);
        failed.info.state = "failed".into();
        failed.info.error = Some("the disk is full".into());
        let text = told(&look, &[JobPicture::of(None, &failed)]);
        assert_eq!(text, "Something is wrong: p has failed: the disk is full.");
        let mut costly = job(1, 1);
        let failed = CheckpointInfo { state: "failed".into(), ..CheckpointInfo::default() };
        costly.checkpoints =
            vec![failed, CheckpointInfo { state: "in_progress".into(), ..CheckpointInfo::default() }];
        let text =
            told(&look, &[JobPicture { bottleneck: Some("sum".into()), ..JobPicture::of(None, &costly) }]);
        assert_eq!(text, "Working, but the last checkpoint of p failed; sum holds p up.");
        look.view = afflux_registry::View::default().into();
        assert!(told(&look, &[]).starts_with("Something is wrong: the registry does not answer"));
    }

    #[test]
    fn what_happens_to_nodes_and_jobs_stands_in_one_row_of_time() {
        let mut told = job(1, 1);
        told.events = vec![crate::job_detail::JobEvent {
            at_ms: 5,
            attempt: 2,
            state: "restarting".into(),
            text: "node b is gone".into(),
        }];
        let log = [3, 9].map(|at_ms| LoggedEvent {
            at_ms,
            severity: "note",
            kind: "node",
            subject: "b".into(),
            text: "x".into(),
        });
        let all = events(&log, &[told]);
        assert_eq!(all.iter().map(|e| e.at_ms).collect::<Vec<_>>(), [3, 5, 9]);
        assert_eq!(
            (all[1].severity, all[1].text.as_str()),
            ("warning", "p-1 is restarting (attempt 2): node b is gone")
        );
    }
}
