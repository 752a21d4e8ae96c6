//! Sums per key over more keys than memory holds: state in memory or on disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use afflux_stream::{
    Batch, Flow, Global, IoContext, JobSettings, Plan, Sink, SinkWriter, StateBackend, fold, generate,
};

use crate::args::Args;
use crate::checkpoint::{Seen, Watch};
use crate::stream::drive;
use crate::usage::peak_rss_mb;
use crate::workload::{rnd, w2_term};

/// Between two looks at the bytes on disk.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Adds up terms of the checksum.
#[derive(Clone, Default)]
struct Total(Arc<(AtomicU64, AtomicU64)>);

struct TotalWriter(Total, u64, u64);

impl Sink<u64> for Total {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> afflux_stream::Result<Box<dyn SinkWriter<u64>>> {
        Ok(Box::new(TotalWriter(self.clone(), 0, 0)))
    }
    fn kind(&self) -> &'static str {
        "checksum"
    }
}

impl SinkWriter<u64> for TotalWriter {
    fn write(&mut self, batch: &mut Batch<u64>) -> afflux_stream::Result<()> {
        self.2 += batch.len() as u64;
        self.1 = batch.rows.drain(..).fold(self.1, u64::wrapping_add);
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> afflux_stream::Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn end(&mut self) -> afflux_stream::Result<()> {
        self.0.0.0.fetch_add(self.1, Relaxed);
        self.0.0.1.fetch_add(self.2, Relaxed);
        Ok(())
    }
}

/// Record `i`: every key once, in no order, then any of them.
fn record(i: u64, keys: u64) -> (u64, u64) {
    let r = rnd(i);
    // An odd factor that shares none with the number of keys would do as well; keys are hashed anyway.
    (if i < keys { i } else { (r >> 1) % keys }, r >> 32)
}

fn plan(records: u64, keys: u64, settings: JobSettings, total: &Total) -> Result<Plan, String> {
    let flow = Flow::new("state", settings);
    flow.source("records", generate(records, move |i| record(i, keys)))
        .untimed()
        .key_by_ref(|r: &(u64, u64)| &r.0)
        .window(Global)
        .aggregate(
            "sum",
            fold(
                || 0_u64,
                |sum, r: &(u64, u64)| *sum = sum.wrapping_add(r.1),
                |key, _, sum| w2_term(key, sum),
            ),
        )
        .sink("checksum", total.clone());
    flow.finish().map_err(|e| e.to_string())
}

/// What the run found.
#[derive(serde::Serialize)]
struct Share {
    wall_s: f64,
    cpu_s: f64,
    rss_mb: f64,
    seen: Seen,
}

fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// `state …`
pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let disk = args.choice("state", &["memory", "disk"])? == "disk";
    let keys: u64 = args.number("keys", 1_000_000)?;
    let records: u64 = args.number("records", keys + keys / 5)?;
    let parallelism = args.count("parallelism", 1)? as u32;
    let cache_mb: u64 = args.number("cache", 256)?;
    let every_ms: u64 = args.number("checkpoint-ms", 0)?;
    // 0: as many as there is time for.
    let epochs_max: usize = args.number("epochs", 0)?;
    args.finish()?;
    let directory = std::env::temp_dir().join(format!("afflux-bench-state-{}", std::process::id()));
    let settings = JobSettings {
        parallelism,
        state_backend: if disk { StateBackend::Disk } else { StateBackend::Memory },
        state_dir: Some(directory.to_string_lossy().into_owned()),
        state_cache_bytes: Some(cache_mb << 20),
        ..JobSettings::default()
    };
    let total = Total::default();
    let plan = plan(records, keys, settings, &total)?;
    let disk_bytes = Arc::new(AtomicU64::new(0));
    let (seen, looked_at) = (Arc::clone(&disk_bytes), directory.clone());
    std::thread::spawn(move || {
        loop {
            seen.fetch_max(bytes_below(&looked_at), Relaxed);
            std::thread::sleep(LOOK_EVERY);
        }
    });
    // Checkpoints begin when every key is there.
    let watch = Watch { every_ms, after_records: keys, begun_max: epochs_max, ..Watch::default() };
    let ran = drive(
        &plan,
        parallelism,
        (0, 1),
        watch,
        |_| Ok(Vec::new()),
        |_, _| {},
        |ran| {
            Ok(Share { wall_s: ran.wall_s, cpu_s: ran.cpu_s, rss_mb: peak_rss_mb()?, seen: ran.seen.clone() })
        },
    );
    let _ = std::fs::remove_dir_all(&directory);
    let ran = ran?;
    let expected = (0..records)
        .map(|i| record(i, keys))
        .fold(0_u64, |sum, (key, value)| sum.wrapping_add(w2_term(key, value)));
    let found = total.0.0.load(Relaxed);
    if found != expected {
        return Err(format!("the checksum is {found:016x} and should be {expected:016x}"));
    }
    crate::show_line(
        &serde_json::json!({
            "bench": "state",
            "state": if disk { "disk" } else { "memory" },
            "keys": keys,
            "records": records,
            "parallelism": parallelism,
            "cache_mb": if disk { Some(cache_mb) } else { None },
            "results": total.0.1.load(Relaxed),
            "wall_s": ran.wall_s,
            "cpu_s": ran.cpu_s,
            "records_per_s": (records as f64 / ran.wall_s).round(),
            "rss_mb": ran.rss_mb,
            "epochs": ran.seen.epochs,
            "pause_max_ms": ran.seen.pause_max_ms,
            "turn_max_ms": ran.seen.turn_max_ms,
            "calm_records_per_s": ran.seen.calm_rate.round(),
            "disk_mb": disk_bytes.load(Relaxed) >> 20,
        })
        .to_string(),
    );
    Ok(())
}
