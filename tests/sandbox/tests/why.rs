//! `why` over several nodes: the split, the edge and the key that keep an operator.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use afflux_sandbox::{BACKINGS, Cluster, run, until_async};
use afflux_stream::{
    Batch, BoundedOutOfOrder, IoContext, ReadState, Result, Sink, SinkWriter, Source, Split, SplitReader,
    Timestamp, secs,
};
use afflux_wire::Code;

/// A split that goes on and on, and one that has said a single thing.
struct Uneven;

/// Event time in milliseconds, and an airport: one in two is JFK.
type Row = (i64, String);

struct Endless(i64);
struct Quiet(bool);

impl Source for Uneven {
    type Item = Row;
    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        let split = |id: &str| Split { id: id.into(), payload: Vec::new(), size: None };
        Ok(vec![split("busy.csv"), split("quiet.csv")])
    }
    fn open(&self, split: &Split, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SplitReader<Row>>> {
        Ok(if split.id == "busy.csv" { Box::new(Endless(0)) } else { Box::new(Quiet(false)) })
    }
    fn kind(&self) -> &'static str {
        "uneven"
    }
}

impl SplitReader<Row> for Endless {
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        batch: &mut Batch<Row>,
        max: usize,
    ) -> Poll<Result<ReadState>> {
        for _ in 0..max {
            self.0 += 1;
            let hot = (self.0 as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63 == 0;
            let airport = if hot { "JFK".to_owned() } else { format!("X{}", self.0) };
            batch.rows.push((60_000 + self.0, airport));
        }
        Poll::Ready(Ok(ReadState::More))
    }
    fn position(&self) -> Vec<u8> {
        Vec::new()
    }
}

impl SplitReader<Row> for Quiet {
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        batch: &mut Batch<Row>,
        _: usize,
    ) -> Poll<Result<ReadState>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Pending;
        }
        batch.rows.push((5_000, "LGA".to_owned()));
        Poll::Ready(Ok(ReadState::More))
    }
    fn position(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// Takes rows until it is stuck, and then none.
#[derive(Clone, Default)]
struct Stuck(Arc<AtomicBool>);

impl Sink<Row> for Stuck {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<Row>>> {
        Ok(Box::new(self.clone()))
    }
    fn kind(&self) -> &'static str {
        "stuck"
    }
}

impl SinkWriter<Row> for Stuck {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        if self.0.load(Relaxed) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
    fn write(&mut self, batch: &mut Batch<Row>) -> Result<()> {
        self.0.store(true, Relaxed);
        batch.clear();
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn why_names_the_split_the_edge_and_the_key_that_keep_an_operator() {
    for backing in BACKINGS {
        run(|| async move {
            let cluster = Cluster::of(2, backing)
                .pipeline("airports", move |flow| {
                    flow.source("rows", Uneven)
                        .watermarks_by(BoundedOutOfOrder::by(secs(1)), |row: &Row| {
                            Timestamp::from_millis(row.0)
                        })
                        .key_by(|row| row.1.clone())
                        .reduce("latest", |_, now| now)
                        .gather()
                        .sink("out", Stuck::default());
                    Ok(())
                })
                .start()
                .await;
            let job = cluster.submit("airports", 2).await.unwrap();
            let jobs = cluster.jobs();
            let why = until_async("all is named", async || {
                let why = jobs.why(String::new(), "latest".into()).await.unwrap();
                let whole = why.held_by.is_some() && !why.pressure.is_empty() && !why.hot_keys.is_empty();
                // The rows in front of the watermark fill the exchange, or it came just before they did.
                let stuck = why.held_by.as_ref().and_then(|h| h.stuck_at.as_deref()) == Some("rows → latest");
                let whole = whole && (stuck || why.watermark_ms == Some(4_000));
                (whole && why.span_s >= 0.2 && why.backpressured_ratio > 0.9).then_some(why)
            })
            .await;
            assert_eq!((why.job.as_str(), why.operator.as_str()), (job.id.as_str(), "latest"));
            let holder = why.held_by.as_ref().unwrap();
            assert_eq!((holder.source.as_str(), holder.split.as_str()), ("rows", "quiet.csv"), "{why:?}");
            assert_eq!((holder.latest_ms, holder.watermark_ms), (Some(5_000), Some(4_000)));
            let place = job.tasks.iter().find(|t| t.operators[0] == "rows" && t.subtask == 1).unwrap();
            assert_eq!((&holder.task, &holder.node), (&place.path, &place.node));
            let pressure = &why.pressure[0];
            assert_eq!((pressure.from.as_str(), pressure.to.as_str()), ("latest", "out"), "{why:?}");
            assert!(pressure.outside_ratio > pressure.busy_ratio, "{why:?}");
            let hot = &why.hot_keys[0];
            assert_eq!((hot.key.as_str(), hot.to.as_str()), ("\"JFK\"", "latest"), "{why:?}");
            assert!((0.25..0.75).contains(&hot.share), "{why:?}");
            let text = why.text();
            for part in ["`quiet.csv`", "latest → out (gather)", "\"JFK\" is"] {
                assert!(text.contains(part), "`{part}` is missing: {text}");
            }
            let error = jobs.why(String::new(), "lastest".into()).await.unwrap_err().into_status();
            assert_eq!(error.code, Code::NotFound);
            assert!(error.message.contains("did you mean `latest`?"), "{error}");
            let error = jobs.why("nothing".into(), "latest".into()).await.unwrap_err().into_status();
            assert!(error.code == Code::NotFound && error.message.contains("`nothing`"), "{error}");
            jobs.cancel(job.id).await.unwrap();
            cluster.close().await;
        });
    }
}
