//! What the operating system says of this process.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts, Registry};

use crate::error::Result;

/// Ticks of a processor second in `/proc`: fixed by Linux for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Bytes of a page; only x86-64 and aarch64 kernels with 4 KiB pages are asked here.
const PAGE_BYTES: f64 = 4_096.0;

/// Processor and memory use at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time since the start, of all threads.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: f64,
    /// Threads.
    pub threads: f64,
}

/// The use of this process; zeros where there is no `/proc`.
pub fn usage() -> Usage {
    std::fs::read_to_string("/proc/self/stat").ok().and_then(|text| parse(&text)).unwrap_or_default()
}

/// User and system time of this process since its start.
pub fn cpu_seconds() -> f64 {
    // Played machines have no processor, and two runs of a seed the same bytes.
    #[cfg(feature = "simulated")]
    if afflux_actor::simulated::has_begun() {
        return 0.0;
    }
    usage().cpu_seconds
}

/// Fields of `proc(5)`, counted behind the closing parenthesis of the name, which may hold anything.
fn parse(text: &str) -> Option<Usage> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some(Usage {
        cpu_seconds: (number(11)? + number(12)?) / TICKS_PER_SECOND,
        resident_bytes: number(21)? * PAGE_BYTES,
        threads: number(17)?,
    })
}

/// Raises the number of files that this process may have open as far as it may, and says what it got.
///
/// Each connection is one; the limit that shells give, 1,024, is that of a few hundred peers.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok((soft, hard))
    });
    match raised {
        Ok((before, now)) => tracing::info!(before, now, "files that may be open"),
        Err(error) => tracing::warn!(%error, "the number of files that may be open cannot be raised"),
    }
}

/// How many files this process may have open; 0 where that is not known.
fn file_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

/// How many files this process has open; 0 where there is no `/proc`.
fn open_files() -> usize {
    // One of them is the directory that is read here.
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1))
}

/// Registers `afflux_config_hash_info`: nodes of one configuration show one hash. Secrets are left out of it.
///
/// # Errors
/// A name that is taken already.
pub(crate) fn register_config(metrics: &Registry, settings: &crate::settings::Settings) -> Result<()> {
    let shown = crate::settings::Settings {
        token: String::new(),
        registry_password: String::new(),
        // What differs from node to node.
        node_id: String::new(),
        node_listen: String::new(),
        node_advertise: String::new(),
        node_join: String::new(),
        admin_listen: String::new(),
        health_listen: String::new(),
        ..settings.clone()
    };
    let hash = xxhash_rust::xxh3::xxh3_64(format!("{shown:?}").as_bytes());
    let info = Gauge::with_opts(
        Opts::new("afflux_config_hash_info", "Always 1; the label is a hash of the settings.")
            .const_label("hash", format!("{hash:016x}")),
    )?;
    info.set(1.0);
    metrics.register(Box::new(info))?;
    Ok(())
}

/// The build of this executable: a hash of its file, in 16 hexadecimal digits.
///
/// Two processes of one build build the same graphs from the same settings.
pub fn build_id() -> &'static str {
    static BUILD: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    BUILD.get_or_init(|| match std::env::current_exe().and_then(std::fs::File::open).and_then(hash) {
        Ok(hash) => format!("{hash:016x}"),
        Err(error) => {
            tracing::warn!(%error, "this executable cannot be read: its build is known by its version alone");
            format!("version-{}", env!("CARGO_PKG_VERSION"))
        }
    })
}

fn hash(mut file: std::fs::File) -> std::io::Result<u64> {
    use std::io::Read;
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut part = vec![0; 1 << 20];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hasher.digest()),
            bytes => hasher.update(&part[..bytes]),
        }
    }
}

/// Registers `process_*` and `afflux_build_info`.
///
/// # Errors
/// A name that is taken already.
pub fn register(metrics: &Registry, build: &str) -> Result<()> {
    let info = Gauge::with_opts(
        Opts::new("afflux_build_info", "Always 1; the labels say what runs.")
            .const_label("version", env!("CARGO_PKG_VERSION"))
            .const_label("build", build),
    )?;
    info.set(1.0);
    metrics.register(Box::new(info))?;
    metrics.register(Box::new(ProcessMetrics::new()?))?;
    Ok(())
}

struct ProcessMetrics {
    cpu: Counter,
    resident: Gauge,
    threads: Gauge,
    started: Gauge,
    max_fds: Gauge,
    open_fds: Gauge,
}

impl ProcessMetrics {
    fn new() -> Result<Self> {
        let started = Gauge::new("process_start_time_seconds", "Start of the process since 1970.")?;
        started.set(jiff::Timestamp::now().as_millisecond() as f64 / 1e3);
        Ok(Self {
            cpu: Counter::new("process_cpu_seconds_total", "User and system processor time.")?,
            resident: Gauge::new("process_resident_memory_bytes", "Resident memory.")?,
            threads: Gauge::new("process_threads", "Threads of the operating system.")?,
            started,
            max_fds: Gauge::new("process_max_fds", "Files that may be open.")?,
            open_fds: Gauge::new("process_open_fds", "Files that are open.")?,
        })
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [
            self.cpu.desc(),
            self.resident.desc(),
            self.threads.desc(),
            self.started.desc(),
            self.max_fds.desc(),
            self.open_fds.desc(),
        ]
        .concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = usage();
        self.cpu.inc_by((now.cpu_seconds - self.cpu.get()).max(0.0));
        self.resident.set(now.resident_bytes);
        self.threads.set(now.threads);
        self.max_fds.set(file_limit() as f64);
        self.open_fds.set(open_files() as f64);
        [
            self.cpu.collect(),
            self.resident.collect(),
            self.threads.collect(),
            self.started.collect(),
            self.max_fds.collect(),
            self.open_fds.collect(),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 100 1000000 256 0";
        let usage = parse(text).unwrap();
        assert_eq!(usage, Usage { cpu_seconds: 2.0, resident_bytes: 1_048_576.0, threads: 3.0 });
    }

    #[test]
    fn a_build_is_the_hash_of_the_executable() {
        let executable = std::env::current_exe().unwrap();
        let copy = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(&executable, copy.path()).unwrap();
        assert_eq!(build_id(), format!("{:016x}", hash(std::fs::File::open(copy.path()).unwrap()).unwrap()));
        std::fs::OpenOptions::new()
            .append(true)
            .open(copy.path())
            .and_then(|mut f| std::io::Write::write_all(&mut f, b"x"))
            .unwrap();
        assert_ne!(build_id(), format!("{:016x}", hash(std::fs::File::open(copy.path()).unwrap()).unwrap()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_memory_and_time_never_runs_back() {
        let metrics = Registry::new();
        register(&metrics, "b1").unwrap();
        let cpu = |metrics: &Registry| {
            let families = metrics.gather();
            let family = families.iter().find(|f| f.name() == "process_cpu_seconds_total").unwrap();
            family.get_metric()[0].get_counter().get_value()
        };
        let first = cpu(&metrics);
        assert!(cpu(&metrics) >= first);
        assert!(usage().resident_bytes > 100_000.0);
    }
}
