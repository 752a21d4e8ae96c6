//! A source of a pipeline becomes the input of tasks: splits opened where a checkpoint left them.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use crate::Result;
use crate::context::TaskContext;
use crate::flow::{Aside, Open, SourceSpec};
use crate::gate::source::{
    OpenFound, POSITIONS, SavedPosition, SourceInput, SourceParts, TimePolicy, WATERMARKS,
};
use crate::gate::split::OpenSplit;
use crate::source::{IoContext, Source, Split};
use crate::stage::Next;
use crate::stage::ahead::AheadStage;
use crate::stage::sieve::sieved;
use crate::stream::{SourceStream, Stream};
use crate::task::Chain;

impl<S: Source> SourceStream<S> {
    /// Says how its time is found; `aside` takes the records from the future.
    pub(crate) fn open(
        self,
        time: Option<TimePolicy<S::Item>>,
        aside: Option<Aside<S::Item>>,
    ) -> Stream<S::Item> {
        let Self { flow, name, chain, source, show } = self;
        let lister = Arc::clone(&source);
        flow.add_source(SourceSpec {
            operator: name.clone(),
            chain,
            acknowledges: source.acknowledges(),
            recall: source.recall(),
            aligned: time.as_ref().is_some_and(|time| time.align_ms.is_some()),
            splits: Arc::new(move |cx| lister.splits(cx)),
        });
        let asked = Arc::clone(&source);
        flow.add_outside(&name, Arc::new(move |cx| asked.reach(cx)));
        let timed = time.is_some();
        let open: Open<S::Item> = Arc::new(move |cx, first| {
            let meter = cx.meter.operator(&name);
            let limit = Arc::new(AtomicI64::new(i64::MAX));
            let guarded = time.as_ref().is_some_and(|time| time.skew_ms.is_some());
            let first: Next<S::Item> = if guarded {
                let aside = aside.as_ref().map(|aside| aside(cx)).transpose()?;
                Box::new(AheadStage::new(Arc::clone(&limit), Arc::clone(&meter), first, aside))
            } else {
                first
            };
            let saved = Saved::of(&name, cx)?;
            let io = IoContext { restored: saved.known, ..cx.io(&name) };
            let parts = SourceParts {
                operator: name.clone(),
                subtask: cx.subtask,
                splits: splits(&cx.splits, &*source, &saved, &io)?,
                open: opener(&source, io),
                replay: cx.settings.replay,
                board: time.as_ref().filter(|time| time.align_ms.is_some()).map(|_| cx.align(&name)),
                time: time.clone(),
                limit,
                clock: cx.clock.clone(),
                meter,
                task: Arc::clone(&cx.meter),
                single: cx.watch.rows,
            };
            let first = sieved(first, cx, show)?;
            Ok(Box::new(Chain::new(Box::new(SourceInput::new(parts)), first, cx)))
        });
        Stream::new(flow, chain, timed, open)
    }
}

/// Opens splits that appear while the task runs.
fn opener<S: Source>(source: &Arc<S>, io: IoContext) -> OpenFound<S::Item> {
    let source = Arc::clone(source);
    Box::new(move |split| {
        let reader = source.open(&split, None, &io)?;
        Ok(OpenSplit::new(split, reader))
    })
}

/// What a checkpoint has of a source.
#[derive(Default)]
struct Saved {
    positions: Vec<SavedPosition>,
    watermarks: Vec<(String, i64)>,
    /// Whether it knows the source at all: one that was added since begins like any other.
    known: bool,
}

impl Saved {
    fn of(name: &str, cx: &TaskContext) -> Result<Self> {
        let Some(restore) = &cx.restore else { return Ok(Self::default()) };
        let positions = restore.get::<Vec<SavedPosition>>(name, POSITIONS)?;
        let watermarks = restore.get::<Vec<(String, i64)>>(name, WATERMARKS)?;
        Ok(Self {
            known: !positions.is_empty(),
            positions: positions.into_iter().flat_map(|(_, rows)| rows).collect(),
            watermarks: watermarks.into_iter().flat_map(|(_, rows)| rows).collect(),
        })
    }
}

/// The splits of a task, each at its beginning or where the checkpoint left it.
fn splits<S: Source>(
    splits: &[Split],
    source: &S,
    saved: &Saved,
    io: &IoContext,
) -> Result<Vec<OpenSplit<S::Item>>> {
    let opened = splits.iter().map(|split| {
        let known = saved.positions.iter().find(|(id, ..)| *id == split.id);
        let watermark = saved.watermarks.iter().find(|(id, _)| *id == split.id).map_or(i64::MIN, |w| w.1);
        let reader = source.open(split, known.map(|(_, position, ..)| position.as_slice()), io)?;
        let opened = OpenSplit::new(split.clone(), reader);
        Ok(match known {
            Some((_, _, latest, ended)) => opened.at(*latest, watermark, *ended),
            None => opened,
        })
    });
    opened.collect()
}
