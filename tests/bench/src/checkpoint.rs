//! Checkpoints under way: their cost beside a workload, their pause with much state, their alignment under
//! backpressure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use afflux_stream::job::{Running, Storage, TaskId};
use afflux_stream::{Batch, Flow, IoContext, JobSettings, Plan, Sink, SinkWriter, TaskSnapshot, generate};

use crate::args::Args;
use crate::stream::{Seat, drive, introduce, spawn};
use crate::usage::peak_rss_mb;
use crate::workload::rnd;

/// What is to be seen of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    /// Milliseconds between checkpoints; 0: there are none.
    pub(crate) every_ms: u64,
    /// Checkpoints begin when the operator `sum` has taken in so many records and has gone on for
    /// [`CALM`].
    pub(crate) after_records: u64,
    /// The run ends after so many checkpoints; 0: with its input.
    pub(crate) epochs_max: usize,
    /// No more checkpoints than these begin; 0: any number.
    pub(crate) begun_max: usize,
    /// Checkpoints refer to files of earlier ones, which stay.
    pub(crate) incremental: bool,
}

/// The time without checkpoints that a rate is taken from, where checkpoints begin late.
const CALM: Duration = Duration::from_secs(3);
/// How often it is looked whether checkpoints may begin.
const LOOK: Duration = Duration::from_millis(20);

/// One checkpoint that is complete, as one process sees it.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Epoch {
    /// From the trigger until the last task's part was stored.
    duration_ms: f64,
    bytes: u64,
    /// The longest turn of a task.
    pause_ms: f64,
    /// The longest wait of a barrier for the slowest channel.
    align_ms: f64,
    /// The longest time that a task wrote while it went on.
    write_ms: f64,
}

struct Under {
    epoch: u64,
    began: Instant,
    stored: BTreeMap<TaskId, u64>,
}

/// Takes checkpoints of a run, one at a time, as a job's coordinator and workers do.
pub(crate) struct Checkpoints {
    every: Duration,
    watch: Watch,
    storage: Option<Storage>,
    dir: PathBuf,
    next: Instant,
    loaded: Option<(Instant, u64)>,
    under: Option<Under>,
    epoch: u64,
    done: Vec<Epoch>,
    /// Records of `sum` per second before the first checkpoint.
    calm_rate: f64,
    began: Option<(Instant, u64)>,
}

/// Records that the operator `sum` has taken in.
fn taken(running: &Running) -> u64 {
    let readings = running.tasks.iter().flat_map(|t| t.meter.read().operators);
    readings.filter(|o| o.name == "sum").map(|o| o.records_in).sum()
}

impl Checkpoints {
    /// None where [`Watch::every_ms`] is 0.
    pub(crate) fn new(watch: Watch, node: usize) -> Result<Self, String> {
        let dir = std::env::temp_dir().join(format!("afflux-bench-{}-{node}", std::process::id()));
        let storage = match watch.every_ms {
            0 => None,
            _ => Some(Storage::directory(&dir).map_err(|e| e.to_string())?),
        };
        let every = Duration::from_millis(watch.every_ms);
        Ok(Self {
            every,
            watch,
            storage,
            dir,
            next: Instant::now() + every,
            loaded: None,
            under: None,
            epoch: 0,
            done: Vec::new(),
            calm_rate: 0.0,
            began: None,
        })
    }

    /// Ready when there is something to do.
    pub(crate) async fn due(&self) {
        let begun = usize::try_from(self.epoch).unwrap_or(usize::MAX);
        let enough = self.watch.begun_max > 0 && begun >= self.watch.begun_max;
        if self.storage.is_none() || self.under.is_some() || enough {
            return std::future::pending().await;
        }
        let at = if self.began.is_some() { self.next } else { Instant::now() + LOOK };
        tokio::time::sleep_until(at.into()).await;
    }

    /// Starts a checkpoint, if it is time.
    pub(crate) fn tick(&mut self, running: &Running) {
        let now = Instant::now();
        if self.began.is_none() {
            let records = taken(running);
            if records < self.watch.after_records {
                return;
            }
            let (since, at) = *self.loaded.get_or_insert((now, records));
            let calm = if self.watch.after_records > 0 { CALM } else { self.every };
            if now - since < calm {
                return;
            }
            self.calm_rate = (records - at) as f64 / (now - since).as_secs_f64();
            self.began = Some((now, records));
        }
        self.epoch += 1;
        self.next = now + self.every;
        self.under = Some(Under { epoch: self.epoch, began: now, stored: BTreeMap::new() });
        running.trigger(self.epoch);
    }

    /// Stores a task's part. `left`: tasks that have not finished.
    pub(crate) async fn take(
        &mut self,
        id: TaskId,
        snapshot: &TaskSnapshot,
        left: usize,
        running: &Running,
    ) -> Result<(), String> {
        let (Some(storage), Some(under)) = (&self.storage, &mut self.under) else { return Ok(()) };
        let file = storage.put("bench", 1, id, snapshot).await.map_err(|e| e.to_string())?;
        under.stored.insert(id, file.bytes);
        if under.stored.len() < left {
            return Ok(());
        }
        let mut epoch = Epoch {
            duration_ms: under.began.elapsed().as_secs_f64() * 1e3,
            bytes: under.stored.values().sum(),
            ..Epoch::default()
        };
        for reading in running.tasks.iter().map(|t| t.meter.read().snapshots) {
            epoch.pause_ms = epoch.pause_ms.max(reading.last_pause_s * 1e3);
            epoch.align_ms = epoch.align_ms.max(reading.last_align_s * 1e3);
            epoch.write_ms = epoch.write_ms.max(reading.last_write_s * 1e3);
        }
        running.completed(under.epoch);
        if !self.watch.incremental {
            // The one before is not needed any more.
            let old = self.dir.join("bench").join(format!("epoch-{:08}", under.epoch.saturating_sub(1)));
            let _ = std::fs::remove_dir_all(old);
        }
        self.under = None;
        self.done.push(epoch);
        Ok(())
    }

    /// A task has finished: it saves nothing any more, and a checkpoint that waits for it is given up.
    pub(crate) fn finished(&mut self) {
        self.under = None;
    }

    /// Whether enough has been seen.
    pub(crate) fn enough(&self) -> bool {
        self.watch.epochs_max > 0 && self.done.len() >= self.watch.epochs_max
    }

    /// What was seen.
    pub(crate) fn report(self, running: &Running) -> Seen {
        let rate = self
            .began
            .map_or(0.0, |(at, records)| (taken(running) - records) as f64 / at.elapsed().as_secs_f64());
        let _ = std::fs::remove_dir_all(&self.dir);
        let snapshots = || running.tasks.iter().map(|t| t.meter.read().snapshots);
        let turn_max_ms = snapshots().map(|s| s.turn_max_s * 1e3).fold(0.0, f64::max);
        let pause_max_ms = snapshots().map(|s| s.pause_max_s * 1e3).fold(0.0, f64::max);
        Seen { epochs: self.done, calm_rate: self.calm_rate, rate, turn_max_ms, pause_max_ms }
    }
}

/// The checkpoints of a run, as one process saw them.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Seen {
    pub(crate) epochs: Vec<Epoch>,
    /// Records per second before the first, and from then on.
    pub(crate) calm_rate: f64,
    pub(crate) rate: f64,
    /// The longest turn of any task at any time.
    pub(crate) turn_max_ms: f64,
    /// The longest turn of any task from the barrier to the end of a snapshot.
    pub(crate) pause_max_ms: f64,
}

/// The `share` largest of these numbers begin here: 0.5 the median, 1 the maximum.
fn quantile(numbers: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Sums of so many keys: every key once, then the changed ones again and again.
fn keys_plan(params: &Params, parallelism: u32) -> Result<Plan, String> {
    let Params { keys, changed, incremental, .. } = *params;
    let settings = JobSettings { parallelism, checkpoint_incremental: incremental, ..JobSettings::default() };
    let flow = Flow::new("checkpoint", settings);
    let (hot, step) = (((keys as f64 * changed) as u64).max(1), (1.0 / changed) as u64);
    flow.source(
        "records",
        generate(u64::MAX, move |i| {
            let r = rnd(i);
            (if i < keys { i } else { ((r >> 1) % hot * step) % keys }, r >> 32)
        }),
    )
    .untimed()
    .key_by_ref(|r| &r.0)
    .fold("sum", || 0_u64, |sum, r: &(u64, u64)| *sum = sum.wrapping_add(r.1))
    .count("results");
    flow.finish().map_err(|e| e.to_string())
}

/// Takes so many rows a second.
struct Slow {
    rows_per_s: f64,
    rows: Arc<AtomicU64>,
}

struct SlowWriter {
    rows_per_s: f64,
    rows: Arc<AtomicU64>,
    busy: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
    until: tokio::time::Instant,
}

impl Sink<u64> for Slow {
    fn open(&self, _: Option<&[u8]>, cx: &IoContext) -> afflux_stream::Result<Box<dyn SinkWriter<u64>>> {
        let rows_per_s = self.rows_per_s / f64::from(cx.parallelism);
        let until = tokio::time::Instant::now();
        Ok(Box::new(SlowWriter { rows_per_s, rows: Arc::clone(&self.rows), busy: None, until }))
    }
    fn kind(&self) -> &'static str {
        "slow"
    }
}

impl SinkWriter<u64> for SlowWriter {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<afflux_stream::Result<()>> {
        if let Some(busy) = &mut self.busy
            && busy.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        self.busy = None;
        Poll::Ready(Ok(()))
    }
    fn write(&mut self, batch: &mut Batch<u64>) -> afflux_stream::Result<()> {
        let now = tokio::time::Instant::now();
        self.until = self.until.max(now) + Duration::from_secs_f64(batch.len() as f64 / self.rows_per_s);
        self.busy = (self.until > now).then(|| Box::pin(tokio::time::sleep_until(self.until)));
        self.rows.fetch_add(batch.len() as u64, Relaxed);
        batch.clear();
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> afflux_stream::Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn end(&mut self) -> afflux_stream::Result<()> {
        Ok(())
    }
}

/// A source as fast as it can be, an exchange by key, another one, and a sink of so many rows a second.
fn slow_plan(params: &Params, parallelism: u32) -> Result<Plan, String> {
    let flow = Flow::new("backpressure", JobSettings { parallelism, ..JobSettings::default() });
    let rows = Arc::new(AtomicU64::new(0));
    let slow = Slow { rows_per_s: params.sink_rate as f64, rows };
    flow.source("records", generate(params.sink_rate * params.seconds, |i| rnd(i) % 1000))
        .untimed()
        .key_by_ref(|r| r)
        .fold("sum", || 0_u64, |sum, r: &u64| *sum = sum.wrapping_add(*r))
        .map(|r| r.1)
        .rebalance()
        .sink("slow", slow);
    flow.finish().map_err(|e| e.to_string())
}

/// What is asked for.
struct Params {
    keys: u64,
    changed: f64,
    incremental: bool,
    epochs: usize,
    every_ms: u64,
    sink_rate: u64,
    seconds: u64,
}

impl Params {
    fn take(args: &mut Args) -> Result<Self, String> {
        Ok(Self {
            keys: args.number("keys", 1_000_000)?,
            changed: args.number("changed", 1.0)?,
            incremental: args.choice("incremental", &["off", "on"])? == "on",
            epochs: args.count("epochs", 10)?,
            every_ms: args.number("checkpoint-ms", 1000)?,
            sink_rate: args.number("sink-rate", 100_000)?,
            seconds: args.number("seconds", 30)?,
        })
    }
}

/// What one process found.
#[derive(serde::Serialize, serde::Deserialize)]
struct Share {
    seen: Seen,
    rss_mb: f64,
}

fn work(
    plan: &Plan,
    parallelism: u32,
    seat: Seat,
    watch: Watch,
    exchange: impl FnOnce(Option<String>) -> Result<Vec<String>, String>,
) -> Result<Share, String> {
    drive(
        plan,
        parallelism,
        seat,
        watch,
        exchange,
        |_, _| {},
        |ran| Ok(Share { seen: ran.seen.clone(), rss_mb: peak_rss_mb()? }),
    )
}

/// The word that asks for the sink that is too slow.
pub(crate) const BACKPRESSURE: &str = "--backpressure";

/// `checkpoint …`
pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let params = Params::take(&mut args)?;
    let parallelism = args.count("parallelism", 1)? as u32;
    let nodes = args.count("nodes", if slow() { 2 } else { 1 })?;
    args.finish()?;
    if !(params.changed > 0.0 && params.changed <= 1.0) {
        return Err(format!("--changed is {}, expected more than 0 and at most 1", params.changed));
    }
    if slow() {
        return backpressure(&params, parallelism.max(nodes as u32), nodes);
    }
    let plan = keys_plan(&params, parallelism)?;
    let watch = Watch {
        every_ms: params.every_ms,
        after_records: params.keys,
        epochs_max: params.epochs,
        incremental: params.incremental,
        ..Watch::default()
    };
    let share = work(&plan, parallelism, (0, 1), watch, |_| Ok(Vec::new()))?;
    let epochs = &share.seen.epochs;
    let of = |f: fn(&Epoch) -> f64, share: f64| quantile(epochs.iter().map(f), share);
    crate::show_line(&format!(
        "{{\"bench\":\"checkpoint\",\"params\":{{\"keys\":{},\"changed\":{},\"incremental\":{},\
         \"parallelism\":{parallelism},\"checkpoint_ms\":{}}},\"epochs\":{},\"pause_ms\":{:.3},\"pause_max_ms\":{:.3},\"duration_ms\":{:.1},\
         \"write_ms\":{:.1},\"bytes\":{},\"bytes_first\":{},\"turn_max_ms\":{:.3},\"records_per_s\":{:.0},\
         \"records_per_s_without\":{:.0},\"rss_mb\":{:.1}}}",
        params.keys,
        params.changed,
        params.incremental,
        params.every_ms,
        epochs.len(),
        of(|e| e.pause_ms, 0.5),
        of(|e| e.pause_ms, 1.0),
        of(|e| e.duration_ms, 0.5),
        of(|e| e.write_ms, 0.5),
        of(|e| e.bytes as f64, 0.5) as u64,
        epochs.first().map_or(0, |e| e.bytes),
        share.seen.turn_max_ms,
        share.seen.rate,
        share.seen.calm_rate,
        share.rss_mb,
    ));
    Ok(())
}

fn slow() -> bool {
    std::env::args().any(|word| word == BACKPRESSURE)
}

fn backpressure(params: &Params, parallelism: u32, nodes: usize) -> Result<(), String> {
    let shares = if nodes == 1 {
        let plan = slow_plan(params, parallelism)?;
        vec![work(
            &plan,
            parallelism,
            (0, 1),
            Watch { every_ms: params.every_ms, ..Watch::default() },
            |_| Ok(Vec::new()),
        )?]
    } else {
        let (rate, seconds) = (params.sink_rate.to_string(), params.seconds.to_string());
        let every = params.every_ms.to_string();
        let words =
            ["checkpoint-node", "--sink-rate", &rate, "--seconds", &seconds, "--checkpoint-ms", &every];
        spawn::<Share>(&words, parallelism, nodes)?
    };
    let epochs: Vec<Epoch> = shares.iter().flat_map(|s| s.seen.epochs.iter().copied()).collect();
    let of = |f: fn(&Epoch) -> f64, share: f64| quantile(epochs.iter().map(f), share);
    crate::show_line(&format!(
        "{{\"bench\":\"checkpoint backpressure\",\"params\":{{\"sink_rate\":{},\"parallelism\":{parallelism},\
         \"nodes\":{nodes},\"checkpoint_ms\":{}}},\"epochs\":{},\"align_p50_ms\":{:.1},\"align_p99_ms\":{:.1},\
         \"align_max_ms\":{:.1},\"duration_p50_ms\":{:.1},\"duration_p99_ms\":{:.1},\"duration_max_ms\":{:.1}}}",
        params.sink_rate,
        params.every_ms,
        epochs.len(),
        of(|e| e.align_ms, 0.5),
        of(|e| e.align_ms, 0.99),
        of(|e| e.align_ms, 1.0),
        of(|e| e.duration_ms, 0.5),
        of(|e| e.duration_ms, 0.99),
        of(|e| e.duration_ms, 1.0),
    ));
    Ok(())
}

/// `checkpoint-node …`: one of the processes of a run under backpressure.
pub(crate) fn node(mut args: Args) -> Result<(), String> {
    let params = Params::take(&mut args)?;
    let parallelism = args.count("parallelism", 1)? as u32;
    let nodes = args.count("nodes", 1)?;
    let index: usize = args.number("index", 0)?;
    args.finish()?;
    let plan = slow_plan(&params, parallelism)?;
    work(
        &plan,
        parallelism,
        (index, nodes),
        Watch { every_ms: params.every_ms, ..Watch::default() },
        introduce,
    )?;
    Ok(())
}
