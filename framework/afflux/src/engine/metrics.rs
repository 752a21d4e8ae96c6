//! The operators' metrics: read from the tasks' counters when somebody scrapes.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, IntCounterVec, Opts};

use afflux_stream::TaskMeter;

/// Sums of one operator of one pipeline.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    records_in: u64,
    records_out: u64,
    late: u64,
    errors: u64,
    dead_errors: u64,
    dead_timeouts: u64,
    future: u64,
    busy_s: f64,
    idle_s: f64,
    backpressured_s: f64,
    /// The least watermark of the live tasks, in seconds.
    watermark_s: Option<f64>,
    /// The same of what they have handed on.
    watermark_out_s: Option<f64>,
    /// Records that sources have not read, where they know.
    lag: Option<u64>,
}

type Totals = BTreeMap<(String, String), Sums>;

#[derive(Default)]
struct State {
    live: Vec<(String, String, Arc<TaskMeter>)>,
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
    lag: GaugeVec,
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
            lag: GaugeVec::new(
                opts("source_lag_records", "Records that are there and not read by the tasks here"),
                &LABELS,
            )?,
        };
        registry.register(Box::new(metrics.clone()))?;
        Ok(metrics)
    }

    /// Counts a task from now on. `first` names the operator that carries the task's time: a chain
    /// is one actor, so its operators share it.
    pub(super) fn add(&self, pipeline: &str, first: &str, meter: &Arc<TaskMeter>) {
        self.state.lock().live.push((pipeline.to_owned(), first.to_owned(), Arc::clone(meter)));
    }

    /// Keeps what a task has counted and lets it go.
    pub(super) fn remove(&self, meter: &Arc<TaskMeter>) {
        let mut state = self.state.lock();
        let Some(index) = state.live.iter().position(|(.., known)| Arc::ptr_eq(known, meter)) else { return };
        let (pipeline, first, meter) = state.live.swap_remove(index);
        take(&mut state.gone, &pipeline, &first, &meter, false);
    }
}

fn take(totals: &mut Totals, pipeline: &str, first: &str, meter: &TaskMeter, live: bool) {
    let reading = meter.read();
    for operator in &reading.operators {
        let sums = totals.entry((pipeline.to_owned(), operator.name.clone())).or_default();
        sums.records_in += operator.records_in;
        sums.records_out += operator.records_out;
        sums.late += operator.late;
        sums.errors += operator.errors;
        sums.dead_errors += operator.dead_errors;
        sums.dead_timeouts += operator.dead_timeouts;
        sums.future += operator.future;
        if operator.name == first {
            sums.busy_s += reading.busy_s;
            sums.idle_s += reading.idle_s;
            sums.backpressured_s += reading.backpressured_s;
            if let (true, Some(lag)) = (live, reading.input_lag) {
                *sums.lag.get_or_insert(0) += lag;
            }
        }
        if live {
            least(&mut sums.watermark_s, reading.watermark_ms);
            least(&mut sums.watermark_out_s, reading.watermark_out_ms);
        }
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
        let integers =
            [&self.records_in, &self.records_out, &self.late, &self.errors, &self.future, &self.dead];
        let floats = [&self.busy, &self.idle, &self.backpressured];
        let mut all: Vec<&Desc> = integers.into_iter().flat_map(Collector::desc).collect();
        all.extend(floats.into_iter().flat_map(Collector::desc));
        all.extend(self.watermark.desc());
        all.extend(self.watermark_out.desc());
        all.extend(self.lag.desc());
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let state = self.state.lock();
        let mut totals = state.gone.clone();
        for (pipeline, first, meter) in &state.live {
            take(&mut totals, pipeline, first, meter, true);
        }
        self.watermark.reset();
        self.watermark_out.reset();
        self.lag.reset();
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
            for (reason, value) in [("error", sums.dead_errors), ("timeout", sums.dead_timeouts)] {
                // Most operators can have none: a series is made by the first.
                if value > 0 {
                    let counter = self.dead.with_label_values(&[pipeline.as_str(), operator, reason]);
                    counter.inc_by(value.saturating_sub(counter.get()));
                }
            }
            if let Some(seconds) = sums.watermark_s {
                self.watermark.with_label_values(&labels).set(seconds);
            }
            if let Some(seconds) = sums.watermark_out_s {
                self.watermark_out.with_label_values(&labels).set(seconds);
            }
            if let Some(lag) = sums.lag {
                self.lag.with_label_values(&labels).set(lag as f64);
            }
        }
        let integers =
            [&self.records_in, &self.records_out, &self.late, &self.errors, &self.future, &self.dead];
        let floats = [&self.busy, &self.idle, &self.backpressured];
        let mut all: Vec<MetricFamily> = integers.into_iter().flat_map(Collector::collect).collect();
        all.extend(floats.into_iter().flat_map(Collector::collect));
        all.extend(self.watermark.collect());
        all.extend(self.watermark_out.collect());
        all.extend(self.lag.collect());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_actor::{Clock, Threads};
    use afflux_stream::job::start_local;
    use afflux_stream::{Flow, JobSettings, generate};

    #[test]
    fn counters_of_a_task_that_is_gone_stay_and_those_of_the_next_add_up() {
        let registry = prometheus::Registry::new();
        let metrics = OperatorMetrics::new(&registry).unwrap();
        for round in 1..=2 {
            let meter = afflux_actor::test::system(|| async {
                let flow = Flow::new("p", JobSettings::default());
                flow.source("numbers", generate(100, |i| i)).untimed().count("all");
                let plan = flow.finish().unwrap();
                let clock = Clock::starting_at(std::time::SystemTime::UNIX_EPOCH);
                let run =
                    start_local(&plan, Arc::new(Threads::inline().unwrap()), clock, None, None).unwrap();
                let meter = run.meters().remove(0);
                run.finish().await.unwrap();
                meter
            });
            metrics.add("p", "numbers", &meter);
            let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
            let line = format!(
                "afflux_operator_records_in_total{{operator=\"all\",pipeline=\"p\"}} {}",
                round * 100
            );
            assert!(text.contains(&line), "{line} is not in\n{text}");
            metrics.remove(&meter);
        }
    }
}
