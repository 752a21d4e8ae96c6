//! The Nexmark queries, in one process or several.

use std::path::{Path, PathBuf};

use afflux_nexmark::queries::{QUERIES, build, q10_written};
use afflux_nexmark::{Digest, Log, Tally};
use afflux_stream::{Flow, JobSettings, StateBackend};

use crate::args::Args;
use crate::checkpoint::Watch;
use crate::stream::{Seat, drive, introduce, spawn};
use crate::usage::peak_rss_mb;

/// Makes the sink add up a digest; without it rows are counted.
pub(crate) const DIGEST: &str = "--digest";

/// What one process found.
#[derive(serde::Serialize, serde::Deserialize)]
struct Share {
    wall_s: f64,
    cpu_s: f64,
    rss_mb: f64,
    digest: Digest,
}

/// What is asked for.
struct Params {
    query: String,
    events: usize,
    rate: usize,
    parallelism: u32,
    digest: bool,
    every_ms: u64,
    /// Where q10 writes.
    files: PathBuf,
    /// Where state is kept; none: in memory.
    state: Option<PathBuf>,
}

/// Memory for state on disk: little, so that it is used.
const STATE_CACHE_BYTES: u64 = 1 << 20;

impl Params {
    fn take(query: String, args: &mut Args) -> Result<Self, String> {
        Ok(Self {
            query,
            events: args.number("events", 5_000_000)?,
            rate: args.number("rate", 10_000)?,
            parallelism: args.count("parallelism", 1)? as u32,
            every_ms: args.number("checkpoint-ms", 0)?,
            digest: std::env::args().any(|word| word == DIGEST),
            files: args.text("files").unwrap_or_else(|| "out/nexmark-q10".to_owned()).into(),
            state: args.text("state-dir").map(PathBuf::from),
        })
    }

    /// `seat`: each process has a directory of its own.
    fn settings(&self, seat: Seat) -> JobSettings {
        let parallelism = self.parallelism;
        match &self.state {
            None => JobSettings { parallelism, ..JobSettings::default() },
            Some(directory) => JobSettings {
                parallelism,
                state_backend: StateBackend::Disk,
                state_dir: Some(directory.join(seat.0.to_string()).to_string_lossy().into_owned()),
                state_cache_bytes: Some(STATE_CACHE_BYTES),
                ..JobSettings::default()
            },
        }
    }
}

fn work(
    params: &Params,
    seat: Seat,
    exchange: impl FnOnce(Option<String>) -> Result<Vec<String>, String>,
) -> Result<Share, String> {
    let tally = if params.digest { Tally::default() } else { Tally::of_rows_only() };
    let log = Log::new(params.events, params.rate);
    let parallelism = params.parallelism;
    let flow = Flow::new(&params.query, params.settings(seat));
    build(&params.query, &flow, &log, tally.clone(), &params.files).map_err(|e| e.to_string())?;
    let plan = flow.finish().map_err(|e| e.to_string())?;
    drive(
        &plan,
        parallelism,
        seat,
        Watch { every_ms: params.every_ms, ..Watch::default() },
        exchange,
        |deployment, node| {
            // The events of this node's splits are in memory before the clock starts.
            for (tasks, places) in deployment.splits.iter().zip(&deployment.placement) {
                for (splits, _) in tasks.iter().zip(places).filter(|(_, place)| *place == node) {
                    for (partition, partitions) in splits.iter().filter_map(|s| Log::partition(&s.id)) {
                        log.prepare(partition, partitions);
                    }
                }
            }
        },
        |ran| {
            Ok(Share { wall_s: ran.wall_s, cpu_s: ran.cpu_s, rss_mb: peak_rss_mb()?, digest: tally.digest() })
        },
    )
}

/// `nexmark QUERY …`
pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let query = args.word(&format!("a query ({}), or `events`", QUERIES.join(", ")))?;
    let mut params = Params::take(query, &mut args)?;
    let nodes = args.count("nodes", 1)?;
    if args.choice("state", &["memory", "disk"])? == "disk" {
        let name = format!("afflux-bench-nexmark-{}", std::process::id());
        params.state = Some(std::env::temp_dir().join(name));
    }
    let out = args.text("out").unwrap_or_default();
    args.finish()?;
    if params.query == "events" {
        if out.is_empty() {
            return Err(
                "option --out is missing: the directory for bid.json, auction.json, person.json".into()
            );
        }
        return Log::new(params.events, params.rate)
            .write_json(Path::new(&out))
            .map_err(|e| format!("{out}: {e}"));
    }
    if params.query == "q10" && params.files.exists() {
        std::fs::remove_dir_all(&params.files).map_err(|e| format!("{}: {e}", params.files.display()))?;
    }
    let shares = if nodes == 1 {
        vec![work(&params, (0, 1), |_| Ok(Vec::new()))?]
    } else {
        params.parallelism = params.parallelism.max(nodes as u32);
        let (events, rate) = (params.events.to_string(), params.rate.to_string());
        let mut words = vec!["nexmark-node", &params.query, "--events", &events, "--rate", &rate];
        let every = params.every_ms.to_string();
        words.extend(["--checkpoint-ms", &every]);
        let files = params.files.to_string_lossy();
        words.extend(["--files", &files]);
        words.extend(params.digest.then_some(DIGEST));
        let state = params.state.as_ref().map(|directory| directory.to_string_lossy());
        words.extend(state.iter().flat_map(|directory| ["--state-dir", directory]));
        spawn::<Share>(&words, params.parallelism, nodes)?
    };
    if let Some(directory) = &params.state {
        let _ = std::fs::remove_dir_all(directory);
    }
    let mut digest = Digest::default();
    for share in &shares {
        digest.merge(&share.digest);
    }
    if params.query == "q10" {
        digest = q10_written(&params.files).map_err(|e| e.to_string())?;
    }
    let sum = |f: fn(&Share) -> f64| shares.iter().map(f).sum::<f64>();
    let (wall_s, cpu_s) = (shares.iter().map(|s| s.wall_s).fold(0.0, f64::max), sum(|s| s.cpu_s));
    let written = if params.digest { digest.to_string() } else { "null".to_owned() };
    crate::show_line(&format!(
        "{{\"query\":\"{}\",\"digest\":{written},\"events\":{},\"params\":{{\"rate\":{},\"parallelism\":{},\
         \"nodes\":{nodes}}},\"wall_s\":{wall_s:.6},\"cpu_s\":{cpu_s:.6},\"per_cpu_s\":{:.1},\"rss_mb\":{:.1},\
         \"results\":{}}}",
        params.query,
        params.events,
        params.rate,
        params.parallelism,
        if cpu_s > 0.0 { params.events as f64 / cpu_s } else { 0.0 },
        sum(|s| s.rss_mb),
        digest.rows(),
    ));
    Ok(())
}

/// `nexmark-node QUERY …`: one of the processes of a run.
pub(crate) fn node(mut args: Args) -> Result<(), String> {
    let query = args.word("a query")?;
    let params = Params::take(query, &mut args)?;
    let nodes = args.count("nodes", 1)?;
    let index: usize = args.number("index", 0)?;
    args.finish()?;
    work(&params, (index, nodes), introduce)?;
    Ok(())
}
