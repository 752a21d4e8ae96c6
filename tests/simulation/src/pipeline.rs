//! The pipeline of the simulation: numbered records by key, counted and gathered in windows.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use afflux_actor::Clock;
use afflux_mesh::bugs::{self, Bug};
use afflux_stream::{
    Batch, Committer, Event, Flow, IoContext, Late, Monotonous, ReadState, Result, Source, Split,
    SplitReader, Timestamp, Transaction, Tumbling, TwoPhaseSink, TwoPhaseWriter, Window, two_phase,
};
use afflux_wire::{Code, Status};
use serde::{Deserialize, Serialize};

use crate::ledger::{Counted, Ledger, Row, Summed, Txn};
use crate::seed::mix;

/// The pipeline's name.
pub(crate) const PIPELINE: &str = "counts";
/// Splits of its source.
pub(crate) const SPLITS: u64 = 4;
/// Keys of its records.
pub(crate) const KEYS: u64 = 24;
/// Length of its windows, in event time.
pub(crate) const WINDOW: Duration = Duration::from_millis(40);

/// What the source makes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Records of each split.
    pub records: u64,
    /// Records that a split gives at once.
    pub burst: u64,
    /// Between two of these.
    pub every: Duration,
}

impl Load {
    /// The key of a record.
    pub fn key(split: u64, index: u64) -> u32 {
        (mix(split << 32 | index) % KEYS) as u32
    }

    /// Every record's split, number and key.
    pub fn all(&self) -> impl Iterator<Item = (u64, u64, u32)> + use<> {
        let records = self.records;
        (0..SPLITS).flat_map(move |split| (0..records).map(move |i| (split, i, Self::key(split, i))))
    }
}

/// One record.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Numbered {
    /// Its key.
    pub key: u32,
    /// Its count, once it is counted.
    pub count: u64,
    /// When it happened, in milliseconds.
    pub at: i64,
}

impl Event for Numbered {
    fn event_time(&self) -> Timestamp {
        Timestamp::from_millis(self.at)
    }
}

/// A source that can be read again, gives its records little by little, and never ends: the simulation
/// ends when all that it gives has been committed.
struct Numbers(Load);

impl Source for Numbers {
    type Item = Numbered;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        let split = |id: u64| Split { id: id.to_string(), payload: Vec::new(), size: Some(self.0.records) };
        Ok((0..SPLITS).map(split).collect())
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<Numbered>>> {
        let bad = |what: &str| Status::new(Code::DataLoss, format!("split {}: bad {what}", split.id));
        let next = match position {
            None => 0,
            Some(bytes) => u64::from_le_bytes(bytes.try_into().map_err(|_| bad("position"))?),
        };
        let split = split.id.parse().map_err(|_| bad("id"))?;
        Ok(Box::new(Reader { split, next, load: self.0, clock: cx.clock.clone(), due: None }))
    }

    fn kind(&self) -> &'static str {
        "numbers"
    }
}

struct Reader {
    split: u64,
    next: u64,
    load: Load,
    clock: Clock,
    due: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl SplitReader<Numbered> for Reader {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<Numbered>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        if self.next >= self.load.records {
            return Poll::Pending;
        }
        let (clock, every) = (&self.clock, self.load.every);
        let due = self.due.get_or_insert_with(|| Box::pin(clock.sleep(every)));
        std::task::ready!(due.as_mut().poll(cx));
        self.due = None;
        let rows = self.load.burst.min(rows_max as u64).min(self.load.records - self.next);
        for index in self.next..self.next + rows {
            let key = Load::key(self.split, index);
            batch.rows.push(Numbered { key, count: 1, at: index as i64 });
        }
        self.next += rows;
        Poll::Ready(Ok(ReadState::More))
    }

    fn position(&self) -> Vec<u8> {
        self.next.to_le_bytes().to_vec()
    }
}

/// Writes to the ledger in two phases.
struct InLedger<T> {
    ledger: Ledger,
    machine: String,
    row: fn(&T) -> Row,
}

impl<T: Send + 'static> TwoPhaseSink<T> for InLedger<T> {
    type Committable = Txn;
    type State = ();

    fn writer(&self, _: Vec<()>, cx: &IoContext) -> Result<Box<dyn TwoPhaseWriter<T, Txn, ()>>> {
        Ok(Box::new(Writer {
            ledger: self.ledger.clone(),
            row: self.row,
            machine: self.machine.clone(),
            next: Txn {
                writer: self.ledger.writer(),
                sink: cx.operator.clone(),
                subtask: cx.subtask,
                epoch: 0,
            },
            rows: Vec::new(),
        }))
    }

    fn committer(&self, _: &IoContext) -> Result<Box<dyn Committer<Txn>>> {
        Ok(Box::new(Commits(self.ledger.clone())))
    }

    fn kind(&self) -> &'static str {
        "ledger"
    }
}

struct Commits(Ledger);

impl Committer<Txn> for Commits {
    fn poll_commit(&mut self, due: &mut Vec<Transaction<Txn>>, _: &mut Context<'_>) -> Poll<Result<()>> {
        for transaction in due.drain(..) {
            self.0.commit(&transaction.committable);
        }
        Poll::Ready(Ok(()))
    }
}

struct Writer<T> {
    ledger: Ledger,
    row: fn(&T) -> Row,
    machine: String,
    next: Txn,
    rows: Vec<Row>,
}

impl<T: Send> TwoPhaseWriter<T, Txn, ()> for Writer<T> {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.rows.extend(batch.rows.iter().map(self.row));
        batch.clear();
        Ok(())
    }

    fn prepare(&mut self, epoch: u64) -> Result<Vec<Txn>> {
        let txn = Txn { epoch, ..self.next.clone() };
        self.ledger.write(&txn, &self.machine, std::mem::take(&mut self.rows));
        if !bugs::on(Bug::SkippedSync) {
            self.ledger.sync(&txn);
        }
        Ok(vec![txn])
    }

    fn state(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Builds the pipeline for one machine.
///
/// # Errors
/// None that is expected.
pub(crate) fn build(flow: &Flow, load: Load, ledger: &Ledger, machine: &str) -> Result<()> {
    let numbers = flow.source("numbers", Numbers(load)).watermarks(Monotonous::times());
    let (counted, gathered) = numbers.tee();
    counted
        .key_by(|n: &Numbered| n.key)
        .reduce("counter", |a, b| Numbered { count: a.count + b.count, ..b })
        .sink(
            "counts",
            two_phase(InLedger {
                ledger: ledger.clone(),
                machine: machine.to_owned(),
                row: |n: &Numbered| Row::Counted(Counted { key: n.key, count: n.count }),
            }),
        );
    gathered
        .key_by(|n: &Numbered| n.key)
        .window(Tumbling::of(WINDOW))
        .late(Late::Drop)
        .count("windows")
        .sink(
            "sums",
            two_phase(InLedger {
                ledger: ledger.clone(),
                machine: machine.to_owned(),
                row: |(key, window, count): &(u32, Window, u64)| {
                    Row::Summed(Summed { key: *key, start: window.start.millis(), count: *count })
                },
            }),
        );
    Ok(())
}

/// What must have been committed when all has been.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The last count of each key.
    pub counts: BTreeMap<u32, u64>,
    /// The records of each key's windows that the last watermark closes.
    pub windows: BTreeMap<(u32, i64), u64>,
}

impl Expected {
    /// What this load comes to.
    pub fn of(load: Load) -> Self {
        let mut expected = Self::default();
        let length = WINDOW.as_millis() as i64;
        let watermark = load.records as i64 - 1;
        for (_, index, key) in load.all() {
            *expected.counts.entry(key).or_default() += 1;
            let start = index as i64 / length * length;
            if start + length <= watermark {
                *expected.windows.entry((key, start)).or_default() += 1;
            }
        }
        expected
    }

    /// Rows that are committed in the end.
    pub fn rows(&self) -> u64 {
        self.counts.values().sum::<u64>() + self.windows.len() as u64
    }

    /// Where the ledger differs from this.
    pub fn differs(&self, ledger: &Ledger) -> Option<String> {
        let (counts, windows) = (ledger.counts(), ledger.windows());
        if counts != self.counts {
            let key = self.counts.iter().find(|(key, count)| counts.get(key) != Some(count));
            return Some(match key {
                Some((key, count)) => {
                    format!("key {key} should count {count}, and has {:?}", counts.get(key))
                }
                None => "there are keys that no record has".to_owned(),
            });
        }
        if windows == self.windows {
            return None;
        }
        let wrong = self.windows.iter().find(|(window, count)| windows.get(window) != Some(count));
        Some(match wrong {
            Some(((key, start), count)) => {
                let has = windows.get(&(*key, *start));
                format!("window {start} of key {key} should have {count} records, and has {has:?}")
            }
            None => "there are windows that should not have fired".to_owned(),
        })
    }
}
