//! The one line that a run prints.

use hdrhistogram::Histogram;
use std::fmt::Write;

/// A value of `params`.
#[derive(Clone, Debug)]
pub enum Param {
    /// A number.
    Number(u64),
    /// A text of plain letters; it is not escaped.
    Text(&'static str),
}

/// What a run found, printed as one JSON object.
///
/// ```
/// use afflux_peers::report::{Param, Report, Work};
///
/// let report = Report {
///     bench: "stream w1".into(),
///     params: vec![("threads", Param::Number(1))],
///     work: Work::Records { records: 1000, checksum: 524, results: Some(524) },
///     wall_s: 2.0,
///     cpu_s: 0.5,
///     rss_mb: 3.0,
/// };
/// assert_eq!(
///     report.json(),
///     "{\"bench\":\"stream w1\",\"params\":{\"threads\":1},\"records\":1000,\"wall_s\":2.000000,\
///      \"cpu_s\":0.500000,\"per_cpu_s\":2000.0,\"p50_us\":null,\"p99_us\":null,\"p999_us\":null,\
///      \"rss_mb\":3.0,\"checksum\":\"000000000000020c\",\"results\":524}"
/// );
/// ```
#[derive(Clone, Debug)]
pub struct Report {
    /// The benchmark, as on our own command line: `stream w2`, `rpc r1`.
    pub bench: String,
    /// What was asked for.
    pub params: Vec<(&'static str, Param)>,
    /// What was done.
    pub work: Work,
    /// Wall time of the processing in seconds.
    pub wall_s: f64,
    /// User and system time of all processes during the processing in seconds.
    pub cpu_s: f64,
    /// Sum of the peak resident memory of all processes in MB.
    pub rss_mb: f64,
}

/// The work that was done.
#[derive(Clone, Debug)]
pub enum Work {
    /// A stream.
    Records {
        /// Source records.
        records: u64,
        /// The workload's checksum.
        checksum: u64,
        /// Result records, if known: W1 those kept, W2 keys, W3 keys times windows, W4 words.
        results: Option<u64>,
    },
    /// Calls, with their latencies in nanoseconds.
    Requests(Box<Histogram<u64>>),
}

impl Report {
    /// The line, without its end.
    #[must_use]
    pub fn json(&self) -> String {
        let mut line = format!("{{\"bench\":\"{}\",\"params\":{{", self.bench);
        for (place, (name, value)) in self.params.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = match value {
                Param::Number(number) => write!(line, "{comma}\"{name}\":{number}"),
                Param::Text(text) => write!(line, "{comma}\"{name}\":\"{text}\""),
            };
        }
        let (unit, amount) = match &self.work {
            Work::Records { records, .. } => ("records", *records),
            Work::Requests(latencies) => ("requests", latencies.len()),
        };
        let per_cpu_s = if self.cpu_s > 0.0 { amount as f64 / self.cpu_s } else { 0.0 };
        let _ = write!(
            line,
            "}},\"{unit}\":{amount},\"wall_s\":{:.6},\"cpu_s\":{:.6},\"per_cpu_s\":{per_cpu_s:.1},",
            self.wall_s, self.cpu_s
        );
        let _ = match &self.work {
            Work::Records { .. } => {
                write!(line, "\"p50_us\":null,\"p99_us\":null,\"p999_us\":null,")
            }
            Work::Requests(latencies) => {
                let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
                write!(
                    line,
                    "\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},",
                    us(0.5),
                    us(0.99),
                    us(0.999)
                )
            }
        };
        let _ = write!(line, "\"rss_mb\":{:.1},", self.rss_mb);
        let _ = match &self.work {
            Work::Records { checksum, results, .. } => {
                let results = results.map_or("null".to_owned(), |results| results.to_string());
                write!(line, "\"checksum\":\"{}\",\"results\":{results}}}", crate::workload::hex(*checksum))
            }
            Work::Requests(_) => write!(line, "\"checksum\":null}}"),
        };
        line
    }
}
