//! What a task counts: a relaxed add a batch, read by whoever asks.

mod snapshots;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::errors::DeadReason;
use crate::poison::{Origin, is_of};

use snapshots::SnapshotMeter;
pub use snapshots::SnapshotReading;

thread_local! {
    /// Where a panic that is being unwound came from.
    static CULPRIT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Says, while a panic unwinds, in which operator it arose: the innermost one that was entered.
#[must_use = "the operator is left when this is dropped"]
pub(crate) struct Entered(Arc<Meter>);

impl Drop for Entered {
    fn drop(&mut self) {
        if std::thread::panicking() {
            CULPRIT.with(|culprit| {
                culprit.borrow_mut().get_or_insert_with(|| self.0.name.clone());
            });
        }
    }
}

/// The operator in which the panic that was just caught arose, if it was entered.
pub(crate) fn culprit() -> Option<String> {
    CULPRIT.with(|culprit| culprit.borrow_mut().take())
}

/// Counters of one operator in one task.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    name: String,
    records_in: AtomicU64,
    records_out: AtomicU64,
    late: AtomicU64,
    errors: AtomicU64,
    unread: AtomicU64,
    dead_errors: AtomicU64,
    dead_timeouts: AtomicU64,
    dead_poison: AtomicU64,
    future: AtomicU64,
    /// Of an operator that asks; nobody reads them of another.
    asks: AtomicBool,
    asking: AtomicU64,
    asked_again: AtomicU64,
    timed_out: AtomicU64,
}

impl Meter {
    /// Questions on their way now, of an operator that asks about records.
    pub(crate) fn asking(&self, n: usize) {
        self.asks.store(true, Relaxed);
        self.asking.store(n as u64, Relaxed);
    }
    /// A question that got an error, or no answer in time, is asked once more.
    pub(crate) fn asked_again(&self) {
        self.asked_again.fetch_add(1, Relaxed);
    }
    /// An attempt that got no answer in time.
    pub(crate) fn timed_out(&self) {
        self.timed_out.fetch_add(1, Relaxed);
    }
    fn asked(&self) -> Option<AskReading> {
        self.asks.load(Relaxed).then(|| AskReading {
            in_flight: self.asking.load(Relaxed),
            retries: self.asked_again.load(Relaxed),
            timeouts: self.timed_out.load(Relaxed),
        })
    }
    /// To be held while a closure of the user runs.
    pub(crate) fn enter(self: &Arc<Self>) -> Entered {
        Entered(Arc::clone(self))
    }
    pub(crate) fn future(&self, n: usize) {
        self.future.fetch_add(n as u64, Relaxed);
    }
    pub(crate) fn records_in(&self, n: usize) {
        self.records_in.fetch_add(n as u64, Relaxed);
    }
    pub(crate) fn records_out(&self, n: usize) {
        self.records_out.fetch_add(n as u64, Relaxed);
    }
    pub(crate) fn late(&self, n: usize) {
        self.late.fetch_add(n as u64, Relaxed);
    }
    /// Rows for side outputs that nobody reads.
    pub(crate) fn unread(&self, n: usize) {
        self.unread.fetch_add(n as u64, Relaxed);
    }
    pub(crate) fn errors(&self, n: usize) {
        self.errors.fetch_add(n as u64, Relaxed);
    }
    pub(crate) fn dead_letter(&self, reason: DeadReason) {
        let counter = match reason {
            DeadReason::Error => &self.dead_errors,
            DeadReason::Timeout => &self.dead_timeouts,
            DeadReason::Poison => &self.dead_poison,
        };
        counter.fetch_add(1, Relaxed);
    }
    pub(crate) fn set_errors(&self, n: u64) {
        self.errors.store(n, Relaxed);
    }
}

/// What a task does at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// Waits for input.
    #[default]
    Idle,
    /// Waits for room in an output.
    Backpressured,
    /// Works.
    Busy,
}

/// Where a task's time goes; the three sum to the time since it started.
#[derive(Debug, Default)]
pub(crate) struct TimeMeter {
    /// What it does now: a number of [`Doing`].
    doing: AtomicU8,
    pub(crate) busy_ns: AtomicU64,
    pub(crate) idle_ns: AtomicU64,
    pub(crate) backpressured_ns: AtomicU64,
}

impl TimeMeter {
    pub(crate) fn doing(&self, doing: Doing) {
        self.doing.store(doing as u8, Relaxed);
    }
}

/// The hottest keys of one exchange, as one producing task sees them.
#[derive(Debug)]
pub(crate) struct EdgeMeter {
    edge: u32,
    reading: parking_lot::Mutex<EdgeReading>,
}

impl EdgeMeter {
    pub(crate) fn new(edge: u32) -> Arc<Self> {
        let reading = EdgeReading { edge, ..EdgeReading::default() };
        Arc::new(Self { edge, reading: parking_lot::Mutex::new(reading) })
    }
    pub(crate) fn edge(&self) -> u32 {
        self.edge
    }
    pub(crate) fn tell(&self, reading: EdgeReading) {
        *self.reading.lock() = reading;
    }
    pub(crate) fn read(&self) -> EdgeReading {
        self.reading.lock().clone()
    }
}

/// The hottest keys of one exchange, as one producing task sees them: of the last two to four seconds in
/// which rows crossed it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct EdgeReading {
    /// The exchange.
    pub edge: u32,
    /// Rows that crossed it in that time.
    pub rows: u64,
    /// The hottest keys, at most five, each with a twentieth of the rows or more.
    pub keys: Vec<KeyShare>,
}

/// A key and its share of the rows of an exchange.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct KeyShare {
    /// The key as JSON, cut at 64 characters.
    pub key: String,
    /// Its share of the rows, 0 to 1, from a sample.
    pub share: f64,
}

/// Where one split of a source is in event time.
#[derive(Debug)]
pub(crate) struct SplitMeter {
    id: String,
    latest_ms: AtomicI64,
    watermark_ms: AtomicI64,
    /// Bits: ended, idle, caught up.
    state: AtomicU8,
    read_at_ms: AtomicI64,
}

impl SplitMeter {
    pub(crate) fn new(id: &str) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            latest_ms: AtomicI64::new(i64::MIN),
            watermark_ms: AtomicI64::new(i64::MIN),
            state: AtomicU8::new(0),
            read_at_ms: AtomicI64::new(i64::MIN),
        })
    }

    pub(crate) fn tell(
        &self,
        latest_ms: i64,
        watermark_ms: i64,
        (ended, idle, caught_up): (bool, bool, bool),
        read_at_ms: Option<i64>,
    ) {
        self.latest_ms.store(latest_ms, Relaxed);
        self.watermark_ms.store(watermark_ms, Relaxed);
        self.state.store(u8::from(ended) | u8::from(idle) << 1 | u8::from(caught_up) << 2, Relaxed);
        if let Some(at) = read_at_ms {
            self.read_at_ms.store(at, Relaxed);
        }
    }

    fn read(&self) -> SplitReading {
        let state = self.state.load(Relaxed);
        SplitReading {
            id: self.id.clone(),
            watermark_ms: self.watermark_ms.load(Relaxed),
            latest_ms: self.latest_ms.load(Relaxed),
            ended: state & 1 != 0,
            idle: state & 2 != 0,
            caught_up: state & 4 != 0,
            read_at_ms: self.read_at_ms.load(Relaxed),
        }
    }
}

/// Splits that a task's reading shows: the slowest.
pub const SPLITS_SHOWN_MAX: usize = 8;

/// Where one split of a source is in event time. All times are in milliseconds since 1970, and
/// `i64::MIN` before the first record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct SplitReading {
    /// The split.
    pub id: String,
    /// No later record of the split is before this.
    pub watermark_ms: i64,
    /// The latest event time that was believed.
    pub latest_ms: i64,
    /// It has been read to its end.
    pub ended: bool,
    /// It is silent and holds no watermark back.
    pub idle: bool,
    /// Its reader has everything there is for now.
    pub caught_up: bool,
    /// When its last record was read, on the node's calendar.
    pub read_at_ms: i64,
}

/// The counters of one task.
#[derive(Debug, Default)]
pub struct TaskMeter {
    splits: parking_lot::Mutex<Vec<Arc<SplitMeter>>>,
    edges: parking_lot::Mutex<Vec<Arc<EdgeMeter>>>,
    /// It feeds other tasks, whose watermark is `watermark_out_ms`.
    feeds: AtomicBool,
    pub(crate) watermark_out_ms: AtomicI64,
    operators: parking_lot::Mutex<Vec<(String, Arc<Meter>)>>,
    /// Where the row in hand was read, where rows are looked at one by one.
    pub(crate) origin: parking_lot::Mutex<Option<Origin>>,
    pub(crate) time: TimeMeter,
    pub(crate) watermark_ms: AtomicI64,
    pub(crate) input_done: AtomicU64,
    pub(crate) input_total: AtomicU64,
    /// Records that are there and not read; `u64::MAX` when unknown.
    pub(crate) input_lag: AtomicU64,
    pub(crate) snapshots: SnapshotMeter,
    /// Records that the task has taken, and had when the barrier of the last durable epoch passed.
    pub(crate) taken: AtomicU64,
    pub(crate) saved: AtomicU64,
    /// Messages show no records and keys.
    hides: bool,
}

/// What an operator that asks about every record has on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AskReading {
    /// Questions on their way now.
    pub in_flight: u64,
    /// Questions that were asked once more.
    pub retries: u64,
    /// Attempts that got no answer in time.
    pub timeouts: u64,
}

/// What one operator of one task has counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperatorReading {
    /// The operator's name.
    pub name: String,
    /// Records that came in.
    pub records_in: u64,
    /// Records that went out.
    pub records_out: u64,
    /// Records that came after their window was purged.
    pub late: u64,
    /// Inputs that were skipped because they could not be read or processed.
    pub errors: u64,
    /// Rows given to side outputs that nobody reads.
    #[serde(default)]
    pub unread: u64,
    /// Dead letters for which a closure gave an error.
    #[serde(default)]
    pub dead_errors: u64,
    /// Dead letters for which no answer came in time.
    #[serde(default)]
    pub dead_timeouts: u64,
    /// Dead letters of records that killed the operator again and again.
    #[serde(default)]
    pub dead_poison: u64,
    /// Records that were diverted because their event time was too far in the future.
    #[serde(default)]
    pub future: u64,
    /// Of an operator that asks about every record.
    #[serde(default)]
    pub asking: Option<AskReading>,
}

/// What one task has counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskReading {
    /// Its operators, in the order of the chain.
    pub operators: Vec<OperatorReading>,
    /// Seconds spent working.
    pub busy_s: f64,
    /// Seconds without input.
    pub idle_s: f64,
    /// Seconds without room in the output.
    pub backpressured_s: f64,
    /// The input watermark in milliseconds; `i64::MIN` before the first.
    pub watermark_ms: i64,
    /// How much of the input is read, in the source's unit.
    pub input_done: u64,
    /// How much input there is, when known, else 0.
    pub input_total: u64,
    /// The slowest splits of a source, at most [`SPLITS_SHOWN_MAX`], those that hold the watermark
    /// first.
    #[serde(default)]
    pub splits: Vec<SplitReading>,
    /// What it does now. The time since the last change is not in the seconds yet.
    #[serde(default)]
    pub doing: Doing,
    /// The watermark that it has handed on, in milliseconds; `i64::MIN` before the first. That of a
    /// task that feeds no other is its input's.
    #[serde(default)]
    pub watermark_out_ms: i64,
    /// The exchanges by key that it feeds.
    #[serde(default)]
    pub edges: Vec<EdgeReading>,
    /// Records that a source's splits have and that were not read, when all of them know.
    #[serde(default)]
    pub input_lag: Option<u64>,
    /// What snapshots have cost it.
    #[serde(default)]
    pub snapshots: SnapshotReading,
    /// Records that it has taken behind the last durable epoch: after a failure a source reads them again.
    #[serde(default)]
    pub unsaved: u64,
}

impl TaskMeter {
    /// `shows`: messages show records and keys.
    pub(crate) fn new(shows: bool) -> Arc<Self> {
        let meter = Self { hides: !shows, ..Self::default() };
        meter.watermark_ms.store(i64::MIN, Relaxed);
        meter.watermark_out_ms.store(i64::MIN, Relaxed);
        meter.input_lag.store(u64::MAX, Relaxed);
        Arc::new(meter)
    }

    pub(crate) fn operator(&self, name: &str) -> Arc<Meter> {
        let meter = Arc::new(Meter { name: name.to_owned(), ..Meter::default() });
        self.operators.lock().push((name.to_owned(), Arc::clone(&meter)));
        meter
    }

    /// Whether messages show records and keys.
    pub(crate) const fn shows(&self) -> bool {
        !self.hides
    }

    /// The names of the operators, for messages.
    pub(crate) fn names(&self) -> String {
        let operators = self.operators.lock();
        operators.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// A record was set aside that had killed this operator.
    pub(crate) fn poisoned(&self, operator: &str) {
        let operators = self.operators.lock();
        if let Some((_, meter)) = operators.iter().find(|(name, _)| is_of(operator, name)) {
            meter.dead_letter(DeadReason::Poison);
        }
    }

    pub(crate) fn split(&self, meter: &Arc<SplitMeter>) {
        self.splits.lock().push(Arc::clone(meter));
    }

    pub(crate) fn edge(&self, edge: u32) -> Arc<EdgeMeter> {
        let meter = EdgeMeter::new(edge);
        self.edges.lock().push(Arc::clone(&meter));
        meter
    }

    pub(crate) fn has_output(&self) {
        self.feeds.store(true, Relaxed);
    }

    fn slowest_splits(&self) -> Vec<SplitReading> {
        let mut splits: Vec<SplitReading> = self.splits.lock().iter().map(|s| s.read()).collect();
        splits.sort_by_key(|s| (s.ended, s.idle, s.watermark_ms));
        splits.truncate(SPLITS_SHOWN_MAX);
        splits
    }

    /// The counts now.
    pub fn read(&self) -> TaskReading {
        let seconds = |ns: &AtomicU64| ns.load(Relaxed) as f64 / 1e9;
        TaskReading {
            operators: self
                .operators
                .lock()
                .iter()
                .map(|(name, m)| OperatorReading {
                    name: name.clone(),
                    records_in: m.records_in.load(Relaxed),
                    records_out: m.records_out.load(Relaxed),
                    late: m.late.load(Relaxed),
                    errors: m.errors.load(Relaxed),
                    unread: m.unread.load(Relaxed),
                    dead_errors: m.dead_errors.load(Relaxed),
                    dead_timeouts: m.dead_timeouts.load(Relaxed),
                    dead_poison: m.dead_poison.load(Relaxed),
                    future: m.future.load(Relaxed),
                    asking: m.asked(),
                })
                .collect(),
            busy_s: seconds(&self.time.busy_ns),
            idle_s: seconds(&self.time.idle_ns),
            backpressured_s: seconds(&self.time.backpressured_ns),
            watermark_ms: self.watermark_ms.load(Relaxed),
            input_done: self.input_done.load(Relaxed),
            input_total: self.input_total.load(Relaxed),
            splits: self.slowest_splits(),
            doing: match self.time.doing.load(Relaxed) {
                0 => Doing::Idle,
                1 => Doing::Backpressured,
                _ => Doing::Busy,
            },
            watermark_out_ms: if self.feeds.load(Relaxed) {
                self.watermark_out_ms.load(Relaxed)
            } else {
                self.watermark_ms.load(Relaxed)
            },
            edges: self.edges.lock().iter().map(|e| e.read()).collect(),
            input_lag: Some(self.input_lag.load(Relaxed)).filter(|lag| *lag < u64::MAX),
            snapshots: self.snapshots.read(),
            unsaved: self.taken.load(Relaxed).saturating_sub(self.saved.load(Relaxed)),
        }
    }
}
