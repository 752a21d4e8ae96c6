//! A pipeline that has nothing to do with the one that is struck, and must not feel it.
//!
//! Its only task is on the first node, which is left alone. It writes down how often it was begun, and the
//! longest pause between two of its records.

use std::fs;
use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use afflux_actor::Clock;
use afflux_stream::{
    Batch, Flow, IoContext, ReadState, Result, Sink, SinkWriter, Source, Split, SplitReader,
};
use afflux_wire::Status;
use serde::{Deserialize, Serialize};

/// The pipeline's name.
pub(crate) const BESIDE: &str = "beside";
/// Between two records.
const EVERY: Duration = Duration::from_millis(10);
/// Between two of its notes.
const NOTE_EVERY: Duration = Duration::from_millis(100);
/// A longer pause between two records is one that it should not have had.
pub(crate) const PAUSE_MS_MAX: u64 = 1_000;
/// Where a line stands for each time that it was begun.
const BEGUN: &str = "beside.begun";
/// Where its last note is.
const NOTE: &str = "beside.json";

/// What it has written down.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Note {
    /// Records so far.
    pub(crate) records: u64,
    /// The longest pause between two, in milliseconds.
    pub(crate) pause_ms: u64,
    /// How often it was begun.
    #[serde(default)]
    pub(crate) begun: usize,
}

impl Note {
    /// What there is in the working directory of nodes.
    pub(crate) fn read(directory: &Path) -> Self {
        let note = fs::read(directory.join(NOTE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let begun = fs::read_to_string(directory.join(BEGUN)).unwrap_or_default().lines().count();
        Self { begun, ..note.unwrap_or_default() }
    }
}

struct Ticks;

impl Source for Ticks {
    type Item = u64;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        Ok(vec![Split { id: "0".to_owned(), ..Split::default() }])
    }

    fn open(&self, _: &Split, _: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SplitReader<u64>>> {
        Ok(Box::new(Reader { next: 0, clock: cx.clock.clone(), due: None }))
    }

    fn kind(&self) -> &'static str {
        "ticks"
    }
}

struct Reader {
    next: u64,
    clock: Clock,
    due: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl SplitReader<u64> for Reader {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<u64>,
        _: usize,
    ) -> Poll<Result<ReadState>> {
        let clock = &self.clock;
        let due = self.due.get_or_insert_with(|| Box::pin(clock.sleep(EVERY)));
        std::task::ready!(due.as_mut().poll(cx));
        self.due = None;
        batch.rows.push(self.next);
        self.next += 1;
        Poll::Ready(Ok(ReadState::More))
    }

    fn position(&self) -> Vec<u8> {
        self.next.to_le_bytes().to_vec()
    }
}

struct Notes;

impl Sink<u64> for Notes {
    fn open(&self, _: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<u64>>> {
        let failed = |error: std::io::Error| Status::internal(format!("{BEGUN}: {error}"));
        let mut begun = fs::File::options().create(true).append(true).open(BEGUN).map_err(failed)?;
        writeln!(begun, "{}", cx.attempt).map_err(failed)?;
        let now = cx.clock.now();
        Ok(Box::new(Writer { clock: cx.clock.clone(), last: now, noted: now, note: Note::default() }))
    }

    fn kind(&self) -> &'static str {
        "notes"
    }
}

struct Writer {
    clock: Clock,
    last: Instant,
    noted: Instant,
    note: Note,
}

impl SinkWriter<u64> for Writer {
    fn write(&mut self, batch: &mut Batch<u64>) -> Result<()> {
        let now = self.clock.now();
        let pause = u64::try_from(now.duration_since(self.last).as_millis()).unwrap_or(u64::MAX);
        self.note.pause_ms = self.note.pause_ms.max(pause);
        self.note.records += batch.rows.len() as u64;
        self.last = now;
        batch.clear();
        if now.duration_since(self.noted) >= NOTE_EVERY {
            self.noted = now;
            let failed = |error: std::io::Error| Status::internal(format!("{NOTE}: {error}"));
            let text = serde_json::to_vec(&self.note).unwrap_or_default();
            fs::write("beside.new", text).and_then(|()| fs::rename("beside.new", NOTE)).map_err(failed)?;
        }
        Ok(())
    }

    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Builds the pipeline.
///
/// # Errors
/// None that is expected.
pub(crate) fn build(flow: &Flow) -> afflux::Result<()> {
    flow.source("ticks", Ticks).untimed().sink("notes", Notes);
    Ok(())
}
