//! The operators' metrics: read from the tasks' counters when somebody scrapes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, IntCounterVec, Opts};

use afflux_stream::job::{Deployment, TaskId};
use afflux_stream::{SnapshotReading, TaskMeter, TaskReading};

use super::why::{Look, Looks};
use super::worker::TaskShare;

/// Sums of one operator of one pipeline.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    records_in: u64,
    records_out: u64,
    late: u64,
    errors: u64,
    dead_errors: u64,
    dead_timeouts: u64,
    dead_poison: u64,
    future: u64,
    busy_s: f64,
    idle_s: f64,
    backpressured_s: f64,
    /// The least watermark of the live tasks, in seconds.
    watermark_s: Option<f64>,
    /// The same of what they have handed on.
    watermark_out_s: Option<f64>,
    retries: u64,
    timeouts: u64,
    live: Live,
}

/// What is said of the tasks that run now.
#[derive(Clone, Copy, Debug, Default)]
struct Live {
    tasks: u64,
    /// Records that came in: of all tasks, and of the one that got most.
    records: u64,
    most: u64,
    /// Questions on their way, of an operator that asks.
    asking: Option<u64>,
    /// Of a source: how old the latest record of its slowest split is, and how many wait to be read.
    lag_s: Option<f64>,
    behind: Option<u64>,
    /// A source with a split that does not know how many wait.
    unknown: bool,
}

type Totals = BTreeMap<(String, String), Sums>;

/// A task that runs here.
struct Task {
    deployment: Arc<Deployment>,
    id: TaskId,
    meter: Arc<TaskMeter>,
}

impl Task {
    /// The operator that carries the task's time: a chain is one actor, so its operators share it.
    fn first(&self) -> &str {
        let chain = self.deployment.graph.chains.get(self.id.chain as usize);
        chain.and_then(|chain| chain.operators.first()).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct State {
    live: Vec<Task>,
    /// By job: its tasks here when they were looked at last.
    looks: BTreeMap<String, Look>,
    /// What tasks that are gone have counted: counters never fall.
    gone: Totals,
}

/// Counts the operators of all jobs that ran on this node.
#[derive(Clone)]
pub struct OperatorMetrics {
    state: Arc<Mutex<State>>,
    records_in: IntCounterVec,
    records_out: IntCounterVec,
    late: IntCounterVec,
    errors: IntCounterVec,
    dead: IntCounterVec,
    future: IntCounterVec,
    busy: CounterVec,
    idle: CounterVec,
    backpressured: CounterVec,
    watermark: GaugeVec,
    watermark_out: GaugeVec,
    retries: IntCounterVec,
    timeouts: IntCounterVec,
    asking: GaugeVec,
    lag: GaugeVec,
    behind: GaugeVec,
    skew: GaugeVec,
    bottleneck: GaugeVec,
}

const LABELS: [&str; 2] = ["pipeline", "operator"];

impl OperatorMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name that is taken already.
    pub fn new(registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let opts = |name: &str, help: &str| Opts::new(format!("afflux_{name}"), help);
        let metrics = Self {
            state: Arc::default(),
            records_in: IntCounterVec::new(
                opts("operator_records_in_total", "Records that came in"),
                &LABELS,
            )?,
            records_out: IntCounterVec::new(
                opts("operator_records_out_total", "Records that went out"),
                &LABELS,
            )?,
            late: IntCounterVec::new(
                opts(
                    "operator_late_records_dropped_total",
                    "Records that came after their window was purged",
                ),
                &LABELS,
            )?,
            errors: IntCounterVec::new(
                opts(
                    "operator_errors_total",
                    "Inputs that were skipped because they could not be read or processed",
                ),
                &LABELS,
            )?,
            dead: IntCounterVec::new(
                opts(
                    "dead_letters_total",
                    "Records that an operator could not process and gave to a side stream",
                ),
                &["pipeline", "operator", "reason"],
            )?,
            future: IntCounterVec::new(
                opts(
                    "operator_future_records_total",
                    "Records that were diverted because their event time was too far in the future",
                ),
                &LABELS,
            )?,
            busy: CounterVec::new(opts("operator_busy_seconds_total", "Time at work"), &LABELS)?,
            idle: CounterVec::new(opts("operator_idle_seconds_total", "Time without input"), &LABELS)?,
            backpressured: CounterVec::new(
                opts("operator_backpressured_seconds_total", "Time without room downstream"),
                &LABELS,
            )?,
            watermark: GaugeVec::new(
                opts(
                    "operator_input_watermark_timestamp_seconds",
                    "The least input watermark of the tasks here",
                ),
                &LABELS,
            )?,
            watermark_out: GaugeVec::new(
                opts(
                    "operator_output_watermark_timestamp_seconds",
                    "The least watermark that the tasks here have handed on",
                ),
                &LABELS,
            )?,
            retries: IntCounterVec::new(
                opts("async_retries_total", "Questions of an async_map that were asked once more"),
                &LABELS,
            )?,
            timeouts: IntCounterVec::new(
                opts("async_timeouts_total", "Attempts of an async_map without an answer in time"),
                &LABELS,
            )?,
            asking: GaugeVec::new(
                opts("async_in_flight", "Questions of an async_map on their way"),
                &LABELS,
            )?,
            lag: GaugeVec::new(
                opts("source_lag_seconds", "How old the latest record of the slowest split here is"),
                &LABELS,
            )?,
            behind: GaugeVec::new(
                opts("source_lag_records", "Records that wait in the splits read here"),
                &LABELS,
            )?,
            skew: GaugeVec::new(
                opts(
                    "operator_subtask_skew_ratio",
                    "Records of the task here that got most, over the mean of the tasks here",
                ),
                &LABELS,
            )?,
            bottleneck: GaugeVec::new(
                opts("operator_bottleneck", "1 where pressure begins, as the tasks here show it"),
                &LABELS,
            )?,
        };
        registry.register(Box::new(metrics.clone()))?;
        Ok(metrics)
    }

    /// Counts a task from now on.
    pub(super) fn add(&self, deployment: &Arc<Deployment>, id: TaskId, meter: &Arc<TaskMeter>) {
        let task = Task { deployment: Arc::clone(deployment), id, meter: Arc::clone(meter) };
        self.state.lock().live.push(task);
    }

    /// What snapshots have cost a task that runs here.
    pub(super) fn snapshots(&self, job: &str, id: TaskId) -> Option<SnapshotReading> {
        let state = self.state.lock();
        let task = state.live.iter().find(|task| task.id == id && task.deployment.job == job)?;
        Some(task.meter.read().snapshots)
    }

    /// Keeps what a task has counted and lets it go.
    pub(super) fn remove(&self, meter: &Arc<TaskMeter>) {
        let mut state = self.state.lock();
        let Some(index) = state.live.iter().position(|task| Arc::ptr_eq(&task.meter, meter)) else { return };
        let task = state.live.swap_remove(index);
        take(&mut state.gone, &task, &task.meter.read(), None);
        let job = &task.deployment.job;
        if !state.live.iter().any(|other| other.deployment.job == *job) {
            state.looks.remove(job);
        }
    }

    fn counters(&self) -> [&IntCounterVec; 8] {
        let Self { records_in, records_out, late, errors, future, dead, retries, timeouts, .. } = self;
        [records_in, records_out, late, errors, future, dead, retries, timeouts]
    }

    fn gauges(&self) -> [&GaugeVec; 7] {
        let Self { watermark, watermark_out, asking, lag, behind, skew, bottleneck, .. } = self;
        [watermark, watermark_out, asking, lag, behind, skew, bottleneck]
    }
}

/// Adds a task to the sums; one that runs with the present moment, in milliseconds since 1970.
fn take(totals: &mut Totals, task: &Task, reading: &TaskReading, now_ms: Option<i64>) {
    let (pipeline, first) = (&task.deployment.pipeline, task.first());
    for operator in &reading.operators {
        let sums = totals.entry((pipeline.clone(), operator.name.clone())).or_default();
        sums.records_in += operator.records_in;
        sums.records_out += operator.records_out;
        sums.late += operator.late;
        sums.errors += operator.errors;
        sums.dead_errors += operator.dead_errors;
        sums.dead_timeouts += operator.dead_timeouts;
        sums.dead_poison += operator.dead_poison;
        sums.future += operator.future;
        if let Some(asking) = operator.asking {
            sums.retries += asking.retries;
            sums.timeouts += asking.timeouts;
        }
        if operator.name == first {
            sums.busy_s += reading.busy_s;
            sums.idle_s += reading.idle_s;
            sums.backpressured_s += reading.backpressured_s;
        }
        let Some(now_ms) = now_ms else { continue };
        least(&mut sums.watermark_s, reading.watermark_ms);
        least(&mut sums.watermark_out_s, reading.watermark_out_ms);
        sums.live.tasks += 1;
        sums.live.records += operator.records_in;
        sums.live.most = sums.live.most.max(operator.records_in);
        if let Some(asking) = operator.asking {
            *sums.live.asking.get_or_insert(0) += asking.in_flight;
        }
        if operator.name == first {
            sums.live.source(reading, task.reads(), now_ms);
        }
    }
}

impl Task {
    /// Whether it has splits to read.
    fn reads(&self) -> bool {
        let tasks = self.deployment.splits.get(self.id.chain as usize);
        tasks.and_then(|tasks| tasks.get(self.id.subtask as usize)).is_some_and(|splits| !splits.is_empty())
    }
}

impl Live {
    /// Takes in how far the splits of a source are.
    fn source(&mut self, reading: &TaskReading, reads: bool, now_ms: i64) {
        for split in reading.splits.iter().filter(|s| !s.ended && !s.idle && s.latest_ms > i64::MIN) {
            // Of a split that has caught up, how old its latest record was when it was read.
            let at = if split.caught_up { split.read_at_ms } else { now_ms };
            let lag = at.saturating_sub(split.latest_ms).max(0) as f64 / 1e3;
            self.lag_s = Some(self.lag_s.map_or(lag, |most| most.max(lag)));
        }
        match reading.input_lag {
            _ if !reads => {}
            Some(records) => *self.behind.get_or_insert(0) += records,
            None => self.unknown = true,
        }
    }

    /// Records of the task that got most, over the mean: 1 where all got the same, or nothing came.
    fn skew(&self) -> f64 {
        if self.records == 0 { 1.0 } else { self.most as f64 * self.tasks as f64 / self.records as f64 }
    }
}

impl State {
    /// Where pressure begins in each job, since it was looked at last, as the tasks here show it.
    fn bottlenecks(&mut self, readings: &[TaskReading], now_ms: i64) -> BTreeSet<(String, String)> {
        let at = Instant::now();
        let mut found = BTreeSet::new();
        let mut jobs: BTreeMap<&str, (&Arc<Deployment>, Look)> = BTreeMap::new();
        for (task, reading) in self.live.iter().zip(readings) {
            let new = || (&task.deployment, Look { at, shares: BTreeMap::new() });
            let (_, look) = jobs.entry(&task.deployment.job).or_insert_with(new);
            look.shares.insert(task.id, TaskShare::new(task.id, reading.clone()));
        }
        for (job, (deployment, now)) in jobs {
            let looks = Looks {
                graph: &deployment.graph,
                placement: &deployment.placement,
                now: &now,
                before: self.looks.get(job),
                now_ms,
            };
            let named = looks.bottlenecks().into_iter().map(|name| (deployment.pipeline.clone(), name));
            found.extend(named);
            self.looks.insert(job.to_owned(), now);
        }
        found
    }
}

/// Lowers a gauge of seconds to a watermark; the first and the last of all are none.
fn least(seconds: &mut Option<f64>, watermark_ms: i64) {
    if watermark_ms > i64::MIN && watermark_ms < i64::MAX {
        let at = watermark_ms as f64 / 1e3;
        *seconds = Some(seconds.map_or(at, |least| least.min(at)));
    }
}

impl Collector for OperatorMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let floats = [&self.busy, &self.idle, &self.backpressured];
        let mut all: Vec<&Desc> = self.counters().into_iter().flat_map(Collector::desc).collect();
        all.extend(floats.into_iter().flat_map(Collector::desc));
        all.extend(self.gauges().into_iter().flat_map(Collector::desc));
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
        let mut state = self.state.lock();
        let readings: Vec<TaskReading> = state.live.iter().map(|task| task.meter.read()).collect();
        let mut totals = state.gone.clone();
        for (task, reading) in state.live.iter().zip(&readings) {
            take(&mut totals, task, reading, Some(now_ms));
        }
        let bottlenecks = state.bottlenecks(&readings, now_ms);
        drop(state);
        self.gauges().into_iter().for_each(GaugeVec::reset);
        for ((pipeline, operator), sums) in &totals {
            let labels = [pipeline.as_str(), operator.as_str()];
            for (counter, value) in [
                (&self.records_in, sums.records_in),
                (&self.records_out, sums.records_out),
                (&self.late, sums.late),
                (&self.errors, sums.errors),
                (&self.future, sums.future),
            ] {
                let counter = counter.with_label_values(&labels);
                counter.inc_by(value.saturating_sub(counter.get()));
            }
            for (counter, value) in [
                (&self.busy, sums.busy_s),
                (&self.idle, sums.idle_s),
                (&self.backpressured, sums.backpressured_s),
            ] {
                let counter = counter.with_label_values(&labels);
                counter.inc_by((value - counter.get()).max(0.0));
            }
            let dead =
                [("error", sums.dead_errors), ("timeout", sums.dead_timeouts), ("poison", sums.dead_poison)];
            for (reason, value) in dead {
                // Most operators can have none: a series is made by the first.
                if value > 0 {
                    let counter = self.dead.with_label_values(&[pipeline.as_str(), operator, reason]);
                    counter.inc_by(value.saturating_sub(counter.get()));
                }
            }
            let live = &sums.live;
            if live.asking.is_some() || sums.retries > 0 || sums.timeouts > 0 {
                for (counter, value) in [(&self.retries, sums.retries), (&self.timeouts, sums.timeouts)] {
                    let counter = counter.with_label_values(&labels);
                    counter.inc_by(value.saturating_sub(counter.get()));
                }
            }
            // Of tasks that are gone there is nothing to say now.
            let running = (live.tasks > 0).then_some(());
            let named = bottlenecks.contains(&(pipeline.clone(), operator.clone()));
            for (gauge, value) in [
                (&self.watermark, sums.watermark_s),
                (&self.watermark_out, sums.watermark_out_s),
                (&self.asking, live.asking.map(|n| n as f64)),
                (&self.lag, live.lag_s),
                (&self.behind, live.behind.filter(|_| !live.unknown).map(|n| n as f64)),
                (&self.skew, running.map(|()| live.skew())),
                (&self.bottleneck, running.map(|()| f64::from(u8::from(named)))),
            ] {
                if let Some(value) = value {
                    gauge.with_label_values(&labels).set(value);
                }
            }
        }
        let floats = [&self.busy, &self.idle, &self.backpressured];
        let mut all: Vec<MetricFamily> = self.counters().into_iter().flat_map(Collector::collect).collect();
        all.extend(floats.into_iter().flat_map(Collector::collect));
        all.extend(self.gauges().into_iter().flat_map(Collector::collect));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_actor::{Clock, Threads};
    use afflux_stream::job::{place, start_local};
    use afflux_stream::{AskReading, Flow, JobSettings, OperatorReading, Plan, SplitReading, generate};
    use afflux_wire::{Attempt, NodeId};

    fn plan(parallelism: u32) -> Plan {
        let flow = Flow::new("p", JobSettings { parallelism, ..JobSettings::default() });
        flow.source("numbers", generate(100, |i| i)).untimed().rebalance().count("all");
        flow.finish().unwrap()
    }

    fn task(plan: &Plan, chain: u32, subtask: u32) -> Task {
        let deployment = Deployment {
            job: "p-1".into(),
            pipeline: "p".into(),
            attempt: Attempt(1),
            settings: (**plan.settings()).clone(),
            build: String::new(),
            fingerprint: plan.graph().fingerprint(),
            graph: plan.graph().clone(),
            placement: place(&plan.widths(), &[NodeId::new("here")]),
            splits: plan.splits().unwrap(),
            restore: None,
            restore_from: None,
            ..Deployment::default()
        };
        let meter = Arc::new(TaskMeter::default());
        Task { deployment: Arc::new(deployment), id: TaskId { chain, subtask }, meter }
    }

    fn exported(registry: &prometheus::Registry, name: &str, operator: &str) -> Option<f64> {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let start = format!("afflux_{name}{{operator=\"{operator}\",pipeline=\"p\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
    }

    #[test]
    fn counters_of_a_task_that_is_gone_stay_and_those_of_the_next_add_up() {
        let registry = prometheus::Registry::new();
        let metrics = OperatorMetrics::new(&registry).unwrap();
        for round in 1..=2 {
            let plan = plan(1);
            let Task { deployment, id, .. } = task(&plan, 0, 0);
            let meter = afflux_actor::test::system(|| async move {
                let clock = Clock::starting_at(SystemTime::UNIX_EPOCH);
                let run =
                    start_local(&plan, Arc::new(Threads::inline().unwrap()), clock, None, None).unwrap();
                let meter = run.meters().remove(0);
                run.finish().await.unwrap();
                meter
            });
            metrics.add(&deployment, id, &meter);
            let all = || exported(&registry, "operator_records_in_total", "all");
            assert_eq!(all(), Some(f64::from(round * 100)));
            assert_eq!(exported(&registry, "operator_subtask_skew_ratio", "all"), Some(1.0));
            assert_eq!(exported(&registry, "source_lag_records", "numbers"), Some(0.0));
            metrics.remove(&meter);
            assert_eq!(all(), Some(f64::from(round * 100)));
            assert_eq!(exported(&registry, "operator_subtask_skew_ratio", "all"), None, "nothing runs");
        }
    }

    #[test]
    fn the_lag_of_a_source_is_that_of_its_slowest_split_and_stands_still_where_it_has_caught_up() {
        let plan = plan(2);
        let split = |latest_ms: i64, caught_up: bool| SplitReading {
            latest_ms,
            caught_up,
            read_at_ms: latest_ms + 1_500,
            ..SplitReading::default()
        };
        let reading = |splits: Vec<SplitReading>, behind: Option<u64>| TaskReading {
            operators: vec![OperatorReading {
                name: "numbers".into(),
                records_in: 30,
                asking: Some(AskReading { in_flight: 3, retries: 2, timeouts: 1 }),
                ..OperatorReading::default()
            }],
            splits,
            input_lag: behind,
            ..TaskReading::default()
        };
        let mut totals = Totals::new();
        let numbers = ("p".to_owned(), "numbers".to_owned());
        let one = reading(vec![split(10_000, true), split(i64::MIN, false)], Some(5));
        take(&mut totals, &task(&plan, 0, 0), &one, Some(60_000));
        assert_eq!(totals[&numbers].live.lag_s, Some(1.5));
        let ended = SplitReading { ended: true, ..split(1_000, false) };
        let other = reading(vec![ended, split(40_000, false)], Some(7));
        take(&mut totals, &task(&plan, 0, 1), &other, Some(60_000));
        let sums = totals[&numbers];
        assert_eq!((sums.live.lag_s, sums.live.behind), (Some(20.0), Some(12)));
        assert_eq!((sums.live.asking, sums.retries, sums.timeouts), (Some(6), 4, 2));
        assert_eq!((sums.live.tasks, sums.live.skew()), (2, 1.0));
        // What is gone has no lag, and its counts stay.
        take(&mut totals, &task(&plan, 0, 1), &reading(vec![split(0, false)], None), None);
        let sums = totals[&numbers];
        assert_eq!((sums.live.lag_s, sums.live.unknown, sums.retries), (Some(20.0), false, 6));
    }

    #[test]
    fn the_skew_is_one_where_all_get_the_same_and_the_number_of_tasks_where_one_gets_all() {
        let live = |tasks, records, most| Live { tasks, records, most, ..Live::default() };
        assert_eq!([live(3, 0, 0), live(3, 30, 10), live(3, 30, 30)].map(|l| l.skew()), [1.0, 1.0, 3.0]);
    }
}
