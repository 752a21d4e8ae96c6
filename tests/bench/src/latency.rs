//! How long a record takes through three operators on several nodes, at a rate.
//!
//! Each record is due at a moment; its latency is from that moment to the sink, so that a record that
//! waits behind a slow one counts, too (no coordinated omission).

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use afflux_stream::{
    Batch, Flow, IoContext, JobSettings, Plan, ReadState, Sink, SinkWriter, Source, Split, SplitReader,
};
use hdrhistogram::Histogram;

use crate::args::Args;
use crate::checkpoint::Watch;
use crate::stream::{Seat, drive, introduce, spawn};
use crate::usage::peak_rss_mb;

/// Latencies above this are counted as this, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;
/// What the first seconds show is the start of processes and links.
const WARM_UP: Duration = Duration::from_secs(1);

/// A record: when it was due, in microseconds since 1970, and its number.
type Due = (u64, u64);

fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

/// Records at a rate, dealt out over the tasks.
struct Paced {
    per_s: f64,
    seconds: f64,
}

impl Source for Paced {
    type Item = Due;
    fn splits(&self, cx: &IoContext) -> afflux_stream::Result<Vec<Split>> {
        let split = |p| Split { id: format!("{p}"), payload: Vec::new(), size: None };
        Ok((0..cx.parallelism).map(split).collect())
    }
    fn open(
        &self,
        _: &Split,
        _: Option<&[u8]>,
        cx: &IoContext,
    ) -> afflux_stream::Result<Box<dyn SplitReader<Due>>> {
        let gap_us = f64::from(cx.parallelism) * 1e6 / self.per_s;
        let count = (self.seconds * 1e6 / gap_us) as u64;
        Ok(Box::new(Pacer { begun_us: None, gap_us, next: 0, count, sleep: None }))
    }
    fn kind(&self) -> &'static str {
        "paced"
    }
}

struct Pacer {
    begun_us: Option<u64>,
    gap_us: f64,
    next: u64,
    count: u64,
    sleep: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl SplitReader<Due> for Pacer {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<Due>,
        rows_max: usize,
    ) -> Poll<afflux_stream::Result<ReadState>> {
        loop {
            let now = now_us();
            let begun = *self.begun_us.get_or_insert(now);
            let due = |i: u64| begun + (i as f64 * self.gap_us) as u64;
            while self.next < self.count && batch.rows.len() < rows_max && due(self.next) <= now {
                batch.rows.push((due(self.next), self.next));
                self.next += 1;
            }
            if self.next >= self.count {
                return Poll::Ready(Ok(ReadState::End));
            }
            if !batch.rows.is_empty() {
                return Poll::Ready(Ok(ReadState::More));
            }
            let wait = Duration::from_micros(due(self.next).saturating_sub(now));
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
        }
    }
    fn position(&self) -> Vec<u8> {
        self.next.to_le_bytes().to_vec()
    }
}

/// The latencies of this process.
#[derive(Clone)]
struct Seen(Arc<Mutex<Histogram<u64>>>);

struct SeenWriter {
    all: Seen,
    mine: Histogram<u64>,
    from_us: u64,
}

fn histogram() -> Histogram<u64> {
    // Three digits over a minute: the arguments are in range.
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).unwrap_or_else(|_| unreachable!("bounds are in range"))
}

impl Sink<Due> for Seen {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> afflux_stream::Result<Box<dyn SinkWriter<Due>>> {
        let from_us = now_us() + WARM_UP.as_micros() as u64;
        Ok(Box::new(SeenWriter { all: self.clone(), mine: histogram(), from_us }))
    }
    fn kind(&self) -> &'static str {
        "latency"
    }
}

impl SinkWriter<Due> for SeenWriter {
    fn write(&mut self, batch: &mut Batch<Due>) -> afflux_stream::Result<()> {
        let now = now_us();
        for (due, _) in batch.rows.drain(..).filter(|r| r.0 >= self.from_us) {
            self.mine.saturating_record(now.saturating_sub(due).max(1));
        }
        batch.clear();
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> afflux_stream::Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn end(&mut self) -> afflux_stream::Result<()> {
        if let Ok(mut all) = self.all.0.lock() {
            // Of the same bounds.
            let _ = all.add(&self.mine);
        }
        Ok(())
    }
}

fn plan(per_s: f64, seconds: f64, parallelism: u32, seen: &Seen) -> Result<Plan, String> {
    let flow = Flow::new("latency", JobSettings { parallelism, ..JobSettings::default() });
    flow.source("paced", Paced { per_s, seconds })
        .untimed()
        .map(|(due, i)| (due, i.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
        .key_by(|r| r.1 % 10_000)
        .reduce("latest", |_, new| new)
        .rebalance()
        .sink("latency", seen.clone());
    flow.finish().map_err(|e| e.to_string())
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Share {
    wall_s: f64,
    cpu_s: f64,
    rss_mb: f64,
    /// Microseconds and how many.
    latencies: Vec<(u64, u64)>,
}

fn work(
    (per_s, seconds, parallelism): (f64, f64, u32),
    seat: Seat,
    exchange: impl FnOnce(Option<String>) -> Result<Vec<String>, String>,
) -> Result<Share, String> {
    let seen = Seen(Arc::new(Mutex::new(histogram())));
    let plan = plan(per_s, seconds, parallelism, &seen)?;
    drive(
        &plan,
        parallelism,
        seat,
        Watch::default(),
        exchange,
        |_, _| {},
        |ran| {
            let all = seen.0.lock().map_err(|e| e.to_string())?;
            let latencies =
                all.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect();
            Ok(Share { wall_s: ran.wall_s, cpu_s: ran.cpu_s, rss_mb: peak_rss_mb()?, latencies })
        },
    )
}

/// `stream latency …`
pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let rate: u64 = args.number("rate", 10_000)?;
    let seconds: u64 = args.number("seconds", 10)?;
    let nodes = args.count("nodes", 2)?;
    let parallelism = (args.count("parallelism", nodes)? as u32).max(nodes as u32);
    args.finish()?;
    let shares: Vec<Share> = if nodes == 1 {
        vec![work((rate as f64, seconds as f64, parallelism), (0, 1), |_| Ok(Vec::new()))?]
    } else {
        let (rate, seconds) = (rate.to_string(), seconds.to_string());
        spawn(&["latency-node", "--rate", &rate, "--seconds", &seconds], parallelism, nodes)?
    };
    let mut all = histogram();
    for (value, count) in shares.iter().flat_map(|s| &s.latencies) {
        all.saturating_record_n((*value).clamp(1, LATENCY_US_MAX), *count);
    }
    let sum = |f: fn(&Share) -> f64| shares.iter().map(f).sum::<f64>();
    crate::show_line(&format!(
        "{{\"bench\":\"stream latency\",\"params\":{{\"rate\":{rate},\"parallelism\":{parallelism},\"nodes\":{nodes}}},\
         \"records\":{},\"wall_s\":{:.3},\"cpu_s\":{:.3},\"p50_us\":{},\"p99_us\":{},\"p999_us\":{},\"rss_mb\":{:.1}}}",
        all.len(),
        shares.iter().map(|s| s.wall_s).fold(0.0, f64::max),
        sum(|s| s.cpu_s),
        all.value_at_quantile(0.5),
        all.value_at_quantile(0.99),
        all.value_at_quantile(0.999),
        sum(|s| s.rss_mb),
    ));
    Ok(())
}

/// `latency-node …`: one of the processes of a run.
pub(crate) fn node(mut args: Args) -> Result<(), String> {
    let rate: u64 = args.number("rate", 10_000)?;
    let seconds: u64 = args.number("seconds", 10)?;
    let parallelism = args.count("parallelism", 1)? as u32;
    let nodes = args.count("nodes", 1)?;
    let index: usize = args.number("index", 0)?;
    args.finish()?;
    work((rate as f64, seconds as f64, parallelism), (index, nodes), introduce)?;
    Ok(())
}
