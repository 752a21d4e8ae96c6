//! `rescale`: another number of tasks, once by hand or again and again by what the job's tasks count.

use std::time::Duration;

use afflux_stream::Doing;
use tokio::time::Instant;

use super::args::{Global, RescaleArgs};
use super::jobs::{found, show};
use super::output::print_line;
use crate::autoscale::{Autoscaler, ChainLoad, Decision, JobLoad, Policy, SourceLoad};
use crate::client::{Client, called};
use crate::engine::{ChainCounts, JobCounts, TaskShare};
use crate::error::{Error, Result};
use crate::signals::Signals;

/// Questions in a row that may go unanswered.
const SILENCES_MAX: u32 = 20;

pub(crate) async fn rescale(global: &Global, args: &RescaleArgs) -> Result<()> {
    let client = super::connect(global, &args.cluster).await?;
    match args.parallelism {
        Some(parallelism) => {
            let answer = client.jobs().await?.rescale(args.job.clone(), parallelism).await;
            show(global, &found(&client, &args.job, answer).await?)
        }
        None => follow(global, args, &client).await,
    }
}

/// Looks at the job again and again, and does what the policy says, until the job has ended or Ctrl-C.
async fn follow(global: &Global, args: &RescaleArgs, client: &Client) -> Result<()> {
    if args.min > args.max.unwrap_or(u32::MAX) {
        let (min, max) = (args.min, args.max.unwrap_or_default());
        return Err(Error::usage(format!("--min {min} is more than --max {max}")));
    }
    let mut signals = Signals::catch()?;
    let begun = Instant::now();
    let first = counts(client, &args.job).await?;
    let mut before = (begun.elapsed(), first);
    let mut scaler = Autoscaler::new(Policy {
        min: args.min,
        max: args.max.unwrap_or(0),
        lag_s: args.lag,
        catch_up_s: args.catch_up,
        cooldown: Duration::from_secs_f64(args.cooldown),
        agreed: args.agreed,
    });
    let mut silences = 0;
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs_f64(args.interval)) => {}
        }
        let now = match counts(client, &args.job).await {
            Ok(counts) => (begun.elapsed(), counts),
            // A coordinator that is lost is followed by another.
            Err(error) if silences < SILENCES_MAX && error.exit_code() != 2 => {
                silences += 1;
                tracing::warn!(%error, "the coordinator does not answer");
                continue;
            }
            Err(error) => return Err(error),
        };
        silences = 0;
        if matches!(now.1.state.as_str(), "finished" | "failed" | "cancelled") {
            return print_line(&format!("{} {}", args.job, now.1.state));
        }
        // No more tasks than there are slots, unless somebody says how many there may be.
        scaler.limit(args.max.unwrap_or(now.1.slots).max(args.min));
        let load = load(&before, &now);
        let decision = scaler.decide(now.0, &load);
        report(global, &now, &decision, args.dry_run)?;
        if let (Decision::Rescale { parallelism, .. }, false) = (&decision, args.dry_run) {
            called(client.jobs().await?.rescale(args.job.clone(), *parallelism).await)?;
        }
        before = now;
    }
}

async fn counts(client: &Client, job: &str) -> Result<JobCounts> {
    let answer = client.jobs().await?.counts(job.to_owned()).await;
    match answer {
        Err(error) if error.code() == afflux_wire::Code::NotFound => {
            Err(Error::usage(error.into_status().message))
        }
        answer => called(answer),
    }
}

fn report(global: &Global, (at, now): &(Duration, JobCounts), decision: &Decision, dry: bool) -> Result<()> {
    if global.json {
        let told = serde_json::json!({
            "at_s": at.as_secs_f64(), "job": now.job, "attempt": now.attempt, "parallelism": now.parallelism,
            "decision": decision, "dry_run": dry,
        });
        return print_line(&told.to_string());
    }
    let tasks = now.parallelism;
    print_line(&match decision {
        Decision::Stay { needed: 0, why } => format!("{tasks} tasks stay: {why}"),
        Decision::Stay { needed, why } => format!("{tasks} tasks stay, {needed} would do: {why}"),
        Decision::Rescale { parallelism, why } if dry => {
            format!("{tasks} tasks, {parallelism} were better: {why}")
        }
        Decision::Rescale { parallelism, why } => format!("{tasks} → {parallelism} tasks: {why}"),
    })
}

/// What two looks say of the time between them.
fn load((then, before): &(Duration, JobCounts), (at, now): &(Duration, JobCounts)) -> JobLoad {
    let span_s = at.saturating_sub(*then).as_secs_f64();
    let comparable = before.attempt == now.attempt && now.state == "running";
    let chains = now.chains.iter().enumerate().map(|(index, chain)| {
        let old = before.chains.get(index).filter(|_| comparable);
        chain_load(chain, old, span_s, before.now_ms, now.now_ms)
    });
    JobLoad { attempt: now.attempt, parallelism: now.parallelism, span_s, chains: chains.collect() }
}

fn chain_load(
    chain: &ChainCounts,
    before: Option<&ChainCounts>,
    span_s: f64,
    then_ms: i64,
    now_ms: i64,
) -> ChainLoad {
    let mut load = ChainLoad {
        name: chain.operators.first().cloned().unwrap_or_default(),
        tasks: chain.tasks,
        scales: chain.scales,
        feeds: chain.feeds.iter().map(|fed| *fed as usize).collect(),
        ..ChainLoad::default()
    };
    let mut waiting: f64 = 0.0;
    for task in &chain.counted {
        let old = before.and_then(|chain| chain.counted.iter().find(|old| old.subtask == task.subtask));
        let Some(old) = old else { continue };
        load.seen += 1;
        let [busy, waited] = times(old, task, span_s);
        load.busy += busy;
        waiting = waiting.max(waited);
    }
    if chain.reads {
        let lag_s = match before.map(|before| (lag(&before.counted, then_ms), lag(&chain.counted, now_ms))) {
            Some((Some(before), Some(now))) => Some((before, now)),
            _ => None,
        };
        load.source = Some(SourceLoad { lag_s, waiting });
    }
    load
}

/// Shares of the time between two looks in which a task worked, and in which it waited for room.
fn times(old: &TaskShare, new: &TaskShare, span_s: f64) -> [f64; 2] {
    let gained = |of: fn(&TaskShare) -> f64| of(new) - of(old);
    let (mut busy, mut waited) = (gained(|t| t.busy_s), gained(|t| t.backpressured_s));
    // What a task has been doing since its last change is not counted yet.
    let rest = (span_s - busy - waited - gained(|t| t.idle_s)).max(0.0);
    match new.doing {
        Doing::Busy => busy += rest,
        Doing::Backpressured => waited += rest,
        Doing::Idle => {}
    }
    // The two ends of a change may lie on both sides of a look.
    [busy, waited].map(|seconds| (seconds / span_s.max(1e-9)).clamp(0.0, 1.0))
}

/// Seconds that the slowest split of a source is behind; nothing of a source without event times.
fn lag(tasks: &[TaskShare], now_ms: i64) -> Option<f64> {
    let splits = || tasks.iter().flat_map(|task| &task.splits);
    if splits().all(|split| split.latest_ms == i64::MIN) && splits().any(|split| !split.ended) {
        return None;
    }
    let live = splits().filter(|s| !s.ended && !s.idle && s.latest_ms > i64::MIN);
    let behind = live.map(|split| {
        let at = if split.caught_up { split.read_at_ms } else { now_ms };
        at.saturating_sub(split.latest_ms).max(0) as f64 / 1e3
    });
    // Nothing is left to read, or nothing comes: nobody is behind.
    Some(behind.fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use afflux_stream::SplitReading;

    use super::*;

    fn task(subtask: u32, busy_s: f64, idle_s: f64, latest_ms: i64) -> TaskShare {
        let split = SplitReading { latest_ms, read_at_ms: latest_ms, ..SplitReading::default() };
        TaskShare { subtask, busy_s, idle_s, splits: vec![split], ..TaskShare::default() }
    }

    fn counted(attempt: u64, now_ms: i64, tasks: Vec<TaskShare>) -> JobCounts {
        let chain = ChainCounts {
            operators: vec!["in".into()],
            tasks: 2,
            scales: true,
            reads: true,
            counted: tasks,
            ..ChainCounts::default()
        };
        JobCounts {
            state: "running".into(),
            attempt,
            now_ms,
            parallelism: 2,
            chains: vec![chain],
            ..JobCounts::default()
        }
    }

    #[test]
    fn what_is_between_two_looks_counts_and_what_a_task_does_now_as_well() {
        let before =
            (Duration::ZERO, counted(1, 50_000, vec![task(0, 1.0, 9.0, 49_000), task(1, 0.0, 10.0, 40_000)]));
        let mut later = vec![task(0, 6.0, 14.0, 58_000), task(1, 0.0, 10.0, 40_000)];
        later[1].doing = Doing::Busy;
        let now = (Duration::from_secs(10), counted(1, 60_000, later));
        let load = load(&before, &now);
        let chain = &load.chains[0];
        assert_eq!((chain.seen, chain.tasks, chain.busy), (2, 2, 1.5));
        assert_eq!(chain.source, Some(SourceLoad { lag_s: Some((10.0, 20.0)), waiting: 0.0 }));
    }

    #[test]
    fn a_task_that_has_not_answered_and_another_attempt_are_missing_data() {
        let whole = vec![task(0, 1.0, 9.0, 1), task(1, 1.0, 9.0, 1)];
        let before = (Duration::ZERO, counted(1, 0, whole.clone()));
        let part = (Duration::from_secs(10), counted(1, 10_000, whole[..1].to_vec()));
        assert_eq!(load(&before, &part).chains[0].seen, 1);
        let other = (Duration::from_secs(10), counted(2, 10_000, whole));
        assert_eq!(load(&before, &other).chains[0].seen, 0);
    }

    #[test]
    fn a_source_that_has_read_all_is_not_behind_and_one_without_times_tells_nothing() {
        let mut ended = task(0, 0.0, 0.0, i64::MIN);
        ended.splits[0].ended = true;
        assert_eq!(lag(&[ended], 1_000), Some(0.0));
        assert_eq!(lag(&[task(0, 0.0, 0.0, i64::MIN)], 1_000), None);
        let mut caught = task(0, 0.0, 0.0, 4_000);
        (caught.splits[0].caught_up, caught.splits[0].read_at_ms) = (true, 4_500);
        assert_eq!(lag(&[caught], 900_000), Some(0.5), "what has come was read at once");
    }
}
