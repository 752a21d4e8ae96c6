//! Where partitions and their files are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use afflux_stream::{IoContext, Result, Timestamp};
use afflux_wire::Status;
use xxhash_rust::xxh3::xxh3_64;

use super::no_name;

/// Bytes of the path of a partition below the sink's directory.
pub const PARTITION_BYTES_MAX: usize = 1_024;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// The directory that a closure gives a row.
type PartitionOf<T> = Arc<dyn Fn(&T) -> String + Send + Sync>;

/// What decides the partition of a row.
pub(super) enum By<T> {
    Day,
    Hour,
    Minute,
    Row(PartitionOf<T>),
}

impl<T> Clone for By<T> {
    fn clone(&self) -> Self {
        match self {
            By::Day => By::Day,
            By::Hour => By::Hour,
            By::Minute => By::Minute,
            By::Row(partition) => By::Row(Arc::clone(partition)),
        }
    }
}

impl<T> By<T> {
    /// How long a partition of event time is.
    pub(super) fn length(&self) -> Option<Span> {
        match self {
            By::Day => Some(Span(DAY_MS)),
            By::Hour => Some(Span(HOUR_MS)),
            By::Minute => Some(Span(MINUTE_MS)),
            By::Row(_) => None,
        }
    }
}

/// The length of a partition of event time, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) i64);

impl Span {
    /// Where the partition begins that holds a moment.
    pub(super) fn start_of(self, ms: i64) -> i64 {
        ms.div_euclid(self.0).saturating_mul(self.0)
    }

    /// The moment from which on a partition is complete.
    pub(super) fn complete_at(self, start: i64, lateness: Duration) -> i64 {
        Timestamp::from_millis(start.saturating_add(self.0)).after(lateness).millis()
    }

    /// The directory of a partition.
    pub(super) fn directory(self, start: i64) -> String {
        let text = Timestamp::from_millis(start).to_string();
        let (day, time) = text.split_once('T').unwrap_or((&text, "00:00"));
        let part = |range: std::ops::Range<usize>| time.get(range).unwrap_or("00");
        match self.0 {
            DAY_MS => format!("dt={day}"),
            HOUR_MS => format!("dt={day}/hour={}", part(0..2)),
            _ => format!("dt={day}/hour={}/minute={}", part(0..2), part(3..5)),
        }
    }

    /// Where the partition of a directory begins, if it is one.
    pub(super) fn start(self, directory: &str) -> Option<i64> {
        let mut parts = directory.split('/');
        let day = parts.next()?.strip_prefix("dt=")?;
        let hour = if self.0 == DAY_MS { "00" } else { parts.next()?.strip_prefix("hour=")? };
        let minute = if self.0 >= HOUR_MS { "00" } else { parts.next()?.strip_prefix("minute=")? };
        if parts.next().is_some() {
            return None;
        }
        let start: Timestamp = format!("{day}T{hour}:{minute}:00Z").parse().ok()?;
        Some(start.millis())
    }

    /// Directories between the sink's and a partition's, itself counted.
    pub(super) const fn depth(self) -> usize {
        match self.0 {
            DAY_MS => 1,
            HOUR_MS => 2,
            _ => 3,
        }
    }
}

/// Whether a closure may name a partition so.
pub(super) fn check_partition(partition: &str) -> Result<()> {
    let legal = |part: &str| {
        !part.is_empty() && !part.starts_with(['.', '_']) && !part.contains(['\\', '\0']) && part.len() <= 255
    };
    if partition.len() <= PARTITION_BYTES_MAX && partition.split('/').all(legal) {
        return Ok(());
    }
    let shown: String = partition.chars().take(100).collect();
    Err(Status::invalid(format!(
        "`{}` cannot be the directory of a partition: its parts, with `/` between them, must not be empty or begin \
         with `.` or `_`, and have at most 255 bytes each and {PARTITION_BYTES_MAX} together; mend the closure of \
         `.partition_by(…)`",
        shown.escape_debug()
    )))
}

/// The sink's directory, and who writes there.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) root: PathBuf,
    /// Of a file's name, in front of what tells files apart.
    stem: String,
    /// Behind it, with its dot.
    extensions: String,
    /// Which job.
    pub(super) job: String,
    pub(super) attempt: u64,
    pub(super) subtask: u32,
    pub(super) parallelism: u32,
}

/// What the name of an unfinished file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Writing {
    pub(super) attempt: u64,
    pub(super) subtask: u32,
    /// The name it will have.
    pub(super) file: String,
}

impl Place {
    pub(super) fn new(path: &Path, cx: &IoContext) -> Result<Self> {
        let name = path.file_name().and_then(OsStr::to_str).ok_or_else(|| no_name(path))?;
        let (stem, extensions) = match name.split_once('.') {
            Some((stem, rest)) if !stem.is_empty() => (stem, format!(".{rest}")),
            _ => return Err(no_name(path)),
        };
        Ok(Self {
            root: path.parent().unwrap_or(Path::new("")).to_owned(),
            stem: stem.to_owned(),
            extensions,
            job: format!("{:08x}", xxh3_64(format!("{}/{}", cx.job, cx.operator).as_bytes()) as u32),
            attempt: cx.attempt,
            subtask: cx.subtask,
            parallelism: cx.parallelism.max(1),
        })
    }

    pub(super) fn partition(&self, partition: &str) -> PathBuf {
        self.root.join(partition)
    }

    /// The name of this task's file of a number.
    pub(super) fn file(&self, number: u64) -> String {
        format!("{}-{}-{}-{}-{number:06}{}", self.stem, self.job, self.attempt, self.subtask, self.extensions)
    }

    /// Where a file is written.
    pub(super) fn part(&self, partition: &str, file: &str) -> PathBuf {
        self.partition(partition).join(format!(".{file}.part"))
    }

    /// Where it will stand.
    pub(super) fn committed(&self, partition: &str, file: &str) -> PathBuf {
        self.partition(partition).join(file)
    }

    /// Where a task of the job tells how far its committed files go.
    pub(super) fn progress(&self, subtask: u32, parallelism: u32) -> PathBuf {
        self.root.join(".progress").join(format!("{}-{}-{subtask}-of-{parallelism}", self.stem, self.job))
    }

    /// Reads the name of an unfinished file of this job and sink.
    pub(super) fn writing(&self, name: &str) -> Option<Writing> {
        let file = name.strip_prefix('.')?.strip_suffix(".part")?;
        let rest =
            file.strip_prefix(&self.stem)?.strip_prefix('-')?.strip_prefix(&self.job)?.strip_prefix('-')?;
        let mut numbers = rest.strip_suffix(&self.extensions)?.split('-');
        let attempt = numbers.next()?.parse().ok()?;
        let subtask = numbers.next()?.parse().ok()?;
        numbers.next()?.parse::<u64>().ok()?;
        numbers.next().is_none().then(|| Writing { attempt, subtask, file: file.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_a_directory_and_a_directory_its_partition() {
        let at: Timestamp = "2013-01-01T05:07:59Z".parse().unwrap();
        for (span, expected) in [
            (Span(DAY_MS), "dt=2013-01-01"),
            (Span(HOUR_MS), "dt=2013-01-01/hour=05"),
            (Span(MINUTE_MS), "dt=2013-01-01/hour=05/minute=07"),
        ] {
            let start = span.start_of(at.millis());
            assert_eq!(span.directory(start), expected);
            assert_eq!(span.start(expected), Some(start));
            assert_eq!(span.start(&format!("{expected}/x")), None);
            assert_eq!(expected.split('/').count(), span.depth());
        }
        assert_eq!(Span(HOUR_MS).start_of(-1), -HOUR_MS);
        assert_eq!(Span(HOUR_MS).start("origin=EWR/hour=05"), None);
    }

    #[test]
    fn a_file_belongs_to_job_attempt_and_task() {
        let cx =
            IoContext { job: "sales-1".into(), attempt: 3, subtask: 2, ..IoContext::new("sales", "out") };
        let place = Place::new(Path::new("out/rows.csv.gz"), &cx).unwrap();
        let file = place.file(7);
        assert!(file.starts_with("rows-") && file.ends_with("-3-2-000007.csv.gz"), "{file}");
        let part = place.part("dt=2013-01-01", &file);
        let name = part.file_name().unwrap().to_str().unwrap();
        assert_eq!(place.writing(name), Some(Writing { attempt: 3, subtask: 2, file: file.clone() }));
        assert_eq!(place.writing(&file), None);
        let other =
            Place::new(Path::new("out/rows.csv.gz"), &IoContext { job: "sales-2".into(), ..cx }).unwrap();
        assert_eq!(other.writing(name), None, "another job's");
        for path in ["out/", "rows", ".csv", "out/.."] {
            assert!(Place::new(Path::new(path), &IoContext::new("p", "s")).is_err(), "{path}");
        }
    }

    #[test]
    fn a_partition_leads_nowhere_else() {
        assert!(check_partition("origin=EWR/carrier=UA").is_ok());
        for partition in
            ["", "/etc", "a//b", "../a", "a/..", "_SUCCESS", "a/", ".a", "a\\b", &"x".repeat(256)]
        {
            assert!(check_partition(partition).is_err(), "{partition}");
        }
    }
}
