//! The pipeline that is killed: numbered records, counted by key, committed as files with each checkpoint.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use afflux_actor::Clock;
use afflux_connectors::PartitionedFiles;
use afflux_stream::{Batch, Flow, IoContext, ReadState, Result, Source, Split, SplitReader};
use afflux_wire::{Code, Status};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::seed::mix;

/// The pipeline's name.
pub(crate) const PIPELINE: &str = "counts";
/// Where its files are, below the working directory of its nodes.
pub(crate) const OUT: &str = "out/all";
/// The file that ends its source: the number of records that each split has in all.
pub(crate) const STOP: &str = "stop";
/// Splits of the source.
pub(crate) const SPLITS: u32 = 6;
/// Keys of the records.
const KEYS: u64 = 64;
/// Records that a split gives at once.
const BURST: u64 = 4;
/// Between two of these.
const EVERY: Duration = Duration::from_millis(10);
/// Records of a split in a second, if nothing disturbs it.
pub(crate) const RATE: u64 = BURST * (1_000 / EVERY.as_millis() as u64);

/// What is wrong on purpose: the environment variable of nodes that says it.
pub(crate) const MISTAKE: &str = "CHAOS_MISTAKE";

/// A mistake that is made on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mistake {
    /// A restored source leaves a record out.
    Skip,
    /// A restored source gives a record again.
    Repeat,
}

impl Mistake {
    /// As it is typed.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Repeat => "repeat",
        }
    }

    /// Where a restored source begins.
    fn position(next: u64) -> u64 {
        match std::env::var(MISTAKE).as_deref() {
            Ok("skip") => next + 1,
            Ok("repeat") => next.saturating_sub(1),
            _ => next,
        }
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Its key.
    pub(crate) key: u64,
    /// How many of its key there have been, itself included; 1 until it is counted.
    pub(crate) count: u64,
    /// The split that it is of.
    pub(crate) split: u32,
    /// Its number there, from 0.
    pub(crate) index: u64,
    /// When the source gave it, in milliseconds since 1970.
    pub(crate) made_ms: i64,
}

impl Row {
    /// The key of a record.
    fn key(split: u32, index: u64) -> u64 {
        mix(u64::from(split) << 40 | index) % KEYS
    }

    /// A record, not counted yet.
    pub(crate) fn of(split: u32, index: u64, made_ms: i64) -> Self {
        Self { key: Self::key(split, index), count: 1, split, index, made_ms }
    }
}

/// A source that can be read again, and gives its records little by little until the file [`STOP`] is there.
struct Numbers;

impl Source for Numbers {
    type Item = Row;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        let split = |id: u32| Split { id: id.to_string(), payload: Vec::new(), size: None };
        Ok((0..SPLITS).map(split).collect())
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<Row>>> {
        let bad = |what: &str| Status::new(Code::DataLoss, format!("split {}: bad {what}", split.id));
        let next = match position {
            None => 0,
            Some(bytes) => {
                Mistake::position(u64::from_le_bytes(bytes.try_into().map_err(|_| bad("position"))?))
            }
        };
        let split = split.id.parse().map_err(|_| bad("id"))?;
        Ok(Box::new(Reader { split, next, end: None, clock: cx.clock.clone(), due: None }))
    }

    fn kind(&self) -> &'static str {
        "numbers"
    }
}

struct Reader {
    split: u32,
    next: u64,
    /// Records in all, once it is known.
    end: Option<u64>,
    clock: Clock,
    due: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl SplitReader<Row> for Reader {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<Row>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let clock = &self.clock;
        let due = self.due.get_or_insert_with(|| Box::pin(clock.sleep(EVERY)));
        std::task::ready!(due.as_mut().poll(cx));
        self.due = None;
        if self.end.is_none() {
            self.end = std::fs::read_to_string(STOP).ok().and_then(|text| text.trim().parse().ok());
        }
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.next));
        if left == 0 {
            return Poll::Ready(Ok(ReadState::End));
        }
        let made = self.clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        let made_ms = i64::try_from(made.as_millis()).unwrap_or(i64::MAX);
        let rows = BURST.min(rows_max as u64).min(left);
        for index in self.next..self.next + rows {
            batch.rows.push(Row::of(self.split, index, made_ms));
        }
        self.next += rows;
        Poll::Ready(Ok(ReadState::More))
    }

    fn position(&self) -> Vec<u8> {
        self.next.to_le_bytes().to_vec()
    }
}

/// Builds the pipeline.
///
/// # Errors
/// None that is expected.
pub(crate) fn build(flow: &Flow) -> afflux::Result<()> {
    let out = Path::new(OUT);
    let (directory, partition) = (out.parent().unwrap_or(out), out.file_name().unwrap_or_default());
    let partition = partition.to_string_lossy().into_owned();
    flow.source("numbers", Numbers)
        .untimed()
        .key_by(|row: &Row| row.key)
        .reduce("counter", |a, b| Row { count: a.count + b.count, ..b })
        .sink(
            "files",
            // Whoever checks them takes them away, so that a long run does not fill the disk.
            PartitionedFiles::json(directory.join("rows.ndjson"))
                .partition_by(move |_: &Row| partition.clone())
                .roll_after(Duration::ZERO)
                .may_be_moved(),
        );
    Ok(())
}
