//! How far a job has come: bars on a terminal, plain lines elsewhere, a summary at the end.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::telemetry::bars;

/// What a running job says of itself.
///
/// ```
/// use afflux::progress::{JobProgress, line};
///
/// let now = JobProgress { pipeline: "hourly".into(), input_done: 50, input_total: Some(200), ..JobProgress::default() };
/// assert!(line(&now, 1_000.0).contains("25 %"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JobProgress {
    /// The pipeline's name.
    pub pipeline: String,
    /// The job's state, such as `RUNNING`.
    pub state: String,
    /// Units of input that have been read: bytes of files, records of a generator.
    pub input_done: u64,
    /// Units of input there are, when that is known.
    pub input_total: Option<u64>,
    /// Records that the sources have read.
    pub records_in: u64,
    /// Records that the sinks have taken.
    pub records_out: u64,
    /// Records that came too late for their window.
    pub late: u64,
    /// Inputs that were skipped because they could not be read.
    pub skipped: u64,
    /// The lowest watermark of the sinks, milliseconds since 1970.
    pub watermark_ms: Option<i64>,
    /// The operators, sources first.
    pub operators: Vec<OperatorProgress>,
}

/// What one operator says of itself, over all of its tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OperatorProgress {
    /// The operator's name.
    pub name: String,
    /// Its tasks.
    pub tasks: u32,
    /// Records that came in.
    pub records_in: u64,
    /// Records that went out.
    pub records_out: u64,
    /// Share of the time in which it worked, 0 to 1, the busiest task.
    pub busy_ratio: f64,
    /// Share of the time in which it waited for room downstream, 0 to 1, the most hindered task.
    pub backpressured_ratio: f64,
    /// The lowest watermark of its tasks, milliseconds since 1970.
    pub watermark_ms: Option<i64>,
}

/// What a finished job leaves behind; `--json` prints it as one line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The pipeline's name.
    pub pipeline: String,
    /// Nodes that ran it.
    pub nodes: usize,
    /// Records read.
    pub records_in: u64,
    /// Records written.
    pub records_out: u64,
    /// Records that came too late.
    pub late: u64,
    /// Inputs that were skipped because they could not be read; told to people only.
    #[serde(skip)]
    pub skipped: u64,
    /// Seconds from running to finished.
    pub wall_s: f64,
    /// Processor seconds of all nodes in that time, user and system.
    pub cpu_s: f64,
    /// What the sinks wrote to.
    pub output: String,
}

impl Summary {
    /// The summary for people, several lines.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}: finished on {} node{} in {}\n  in     {} records, {}/s\n  out    {} records",
            self.pipeline,
            self.nodes,
            if self.nodes == 1 { "" } else { "s" },
            seconds(self.wall_s),
            thousands(self.records_in),
            short(rate(self.records_in, self.wall_s)),
            thousands(self.records_out),
        );
        if !self.output.is_empty() {
            let _ = write!(text, " to {}", self.output);
        }
        let _ = write!(text, "\n  late   {} records", thousands(self.late));
        if self.skipped > 0 {
            let _ = write!(text, "\n  skip   {} inputs that could not be read", thousands(self.skipped));
        }
        let _ = write!(text, "\n  cpu    {}", seconds(self.cpu_s));
        text
    }
}

/// The plain line of a moment; `rate` in records per second.
pub fn line(now: &JobProgress, rate: f64) -> String {
    let mut text = now.pipeline.clone();
    if let Some(total) = now.input_total.filter(|total| *total > 0) {
        let _ = write!(text, "  {:.0} %", 100.0 * now.input_done as f64 / total as f64);
    }
    let _ = write!(text, "  {} records  {}/s", thousands(now.records_in), short(rate));
    if let Some(at) = now.watermark_ms.and_then(instant) {
        let _ = write!(text, "  watermark {at}");
    }
    if now.late > 0 {
        let _ = write!(text, "  late {}", thousands(now.late));
    }
    if let Some(slow) = bottleneck(&now.operators) {
        let _ = write!(text, "  slowest {slow}");
    }
    text
}

/// The line of an operator; `rate` in records per second.
pub fn operator_line(operator: &OperatorProgress, rate: f64, name_columns: usize) -> String {
    let mut text = format!(
        "{:name_columns$}  ×{:<3} {:>8}/s  busy {:>3.0} %  waiting for room {:>3.0} %",
        operator.name,
        operator.tasks,
        short(rate),
        100.0 * operator.busy_ratio,
        100.0 * operator.backpressured_ratio,
    );
    if let Some(at) = operator.watermark_ms.and_then(instant) {
        let _ = write!(text, "  {at}");
    }
    text
}

/// An operator counts as hindered from here on.
const PRESSURED_RATIO_MIN: f64 = 0.5;

/// The first operator that works behind one that waits for room.
fn bottleneck(operators: &[OperatorProgress]) -> Option<&str> {
    let pressured = operators.iter().rposition(|o| o.backpressured_ratio >= PRESSURED_RATIO_MIN)?;
    operators.get(pressured + 1).map(|o| o.name.as_str())
}

/// A shorter span says nothing about speed.
const RATE_SECONDS_MIN: f64 = 0.01;

fn rate(records: u64, seconds: f64) -> f64 {
    if seconds >= RATE_SECONDS_MIN { records as f64 / seconds } else { 0.0 }
}

fn instant(ms: i64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(ms).ok()?;
    Some(at.strftime("%Y-%m-%d %H:%M").to_string())
}

fn seconds(s: f64) -> String {
    if s < 10.0 { format!("{s:.2} s") } else { format!("{s:.1} s") }
}

/// `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.2 M`.
pub fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1} G", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// Between two plain lines.
pub const PLAIN_EVERY: Duration = Duration::from_secs(1);

/// Shows a job on stderr while it runs.
///
/// It has no clock of its own: each sample comes with the time since the start.
pub struct Show {
    form: Form,
    last: Option<(Duration, JobProgress)>,
    printed: Option<Duration>,
}

enum Form {
    Bars { input: ProgressBar, operators: Vec<ProgressBar> },
    Plain,
    Silent,
}

impl Show {
    /// Bars on a terminal, lines elsewhere.
    pub fn new() -> Self {
        if std::io::stderr().is_terminal() {
            let input = bars().add(ProgressBar::no_length());
            Self::with(Form::Bars { input, operators: Vec::new() })
        } else {
            Self::plain()
        }
    }

    /// Lines, whatever stderr is.
    pub fn plain() -> Self {
        Self::with(Form::Plain)
    }

    /// Nothing at all.
    pub fn silent() -> Self {
        Self::with(Form::Silent)
    }

    fn with(form: Form) -> Self {
        Self { form, last: None, printed: None }
    }

    /// Shows the state of the job `elapsed` after its start.
    pub fn update(&mut self, elapsed: Duration, now: &JobProgress) {
        let text = self.sample(elapsed, now);
        if let Some(text) = text {
            // A closed stderr is no reason to stop a job.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Moves the bars; in the plain form gives the line that is due.
    fn sample(&mut self, elapsed: Duration, now: &JobProgress) -> Option<String> {
        let (since, before) = match &self.last {
            Some((at, before)) => (elapsed.saturating_sub(*at), Some(before)),
            None => (elapsed, None),
        };
        let span = since.as_secs_f64();
        let gained = |now: u64, before: u64| rate(now.saturating_sub(before), span);
        let total = gained(now.records_in, before.map_or(0, |b| b.records_in));
        let due = match &mut self.form {
            Form::Silent => None,
            Form::Plain => {
                let due = self.printed.is_none_or(|at| elapsed.saturating_sub(at) >= PLAIN_EVERY);
                (due && before != Some(now)).then(|| line(now, total))
            }
            Form::Bars { input, operators } => {
                while operators.len() < now.operators.len() {
                    let bar = bars().add(ProgressBar::new_spinner());
                    bar.set_style(style("  {msg}"));
                    operators.push(bar);
                }
                match now.input_total {
                    Some(length) => {
                        input.set_style(style("{prefix} [{bar:30}] {percent:>3} %  {msg}"));
                        input.set_length(length);
                        input.set_position(now.input_done.min(length));
                    }
                    None => input.set_style(style("{prefix} {spinner} {msg}")),
                }
                input.set_prefix(now.pipeline.clone());
                let mut text = format!("{} records  {}/s", thousands(now.records_in), short(total));
                if let Some(at) = now.watermark_ms.and_then(instant) {
                    let _ = write!(text, "  {at}");
                }
                input.set_message(text);
                let columns = now.operators.iter().map(|o| o.name.chars().count()).max().unwrap_or(0);
                for (index, (bar, operator)) in operators.iter().zip(&now.operators).enumerate() {
                    let earlier = before
                        .and_then(|b| b.operators.get(index))
                        .map_or(0, |o| o.records_in.max(o.records_out));
                    let rate = gained(operator.records_in.max(operator.records_out), earlier);
                    bar.set_message(operator_line(operator, rate, columns));
                    bar.tick();
                }
                None
            }
        };
        if due.is_some() {
            self.printed = Some(elapsed);
        }
        if span >= RATE_SECONDS_MIN {
            self.last = Some((elapsed, now.clone()));
        }
        due
    }

    /// Takes the bars away, for the summary or an error.
    pub fn clear(&mut self) {
        if let Form::Bars { input, operators } = &mut self.form {
            input.finish_and_clear();
            for bar in operators.drain(..) {
                bar.finish_and_clear();
            }
        }
    }
}

impl Default for Show {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(records: u64) -> JobProgress {
        JobProgress {
            pipeline: "hourly".into(),
            input_done: records,
            input_total: Some(1_000),
            records_in: records,
            ..JobProgress::default()
        }
    }

    #[test]
    fn a_line_says_share_rate_watermark_and_late() {
        let now = JobProgress { watermark_ms: Some(1_357_034_400_000), late: 3, ..at(250) };
        assert_eq!(
            line(&now, 12_345.0),
            "hourly  25 %  250 records  12.3 k/s  watermark 2013-01-01 10:00  late 3"
        );
    }

    #[test]
    fn plain_lines_come_once_a_second_and_only_on_change() {
        let mut show = Show::plain();
        let ms = Duration::from_millis;
        assert!(show.sample(ms(100), &at(10)).is_some());
        assert_eq!(show.sample(ms(600), &at(500)), None);
        let line = show.sample(ms(1_100), &at(600)).unwrap();
        assert!(line.contains("600 records  200/s"), "{line}");
        assert_eq!(show.sample(ms(2_200), &at(600)), None);
        assert!(show.sample(ms(3_300), &at(700)).is_some());
    }

    #[test]
    fn a_job_that_had_ended_before_the_first_look_has_no_speed() {
        let line = Show::plain().sample(Duration::from_nanos(200), &at(900)).unwrap();
        assert!(line.contains("900 records  0/s"), "{line}");
    }

    #[test]
    fn the_slowest_operator_is_the_first_behind_one_that_waits_for_room() {
        let operator = |name: &str, backpressured_ratio| OperatorProgress {
            name: name.into(),
            backpressured_ratio,
            ..OperatorProgress::default()
        };
        let operators =
            [operator("source", 0.9), operator("parse", 0.8), operator("sum", 0.1), operator("out", 0.0)];
        assert_eq!(bottleneck(&operators), Some("sum"));
        assert_eq!(bottleneck(&operators[2..]), None);
    }

    #[test]
    fn an_operator_line_says_rate_and_pressure() {
        let operator = OperatorProgress {
            name: "sum".into(),
            tasks: 3,
            busy_ratio: 0.5,
            backpressured_ratio: 0.25,
            ..OperatorProgress::default()
        };
        let text = operator_line(&operator, 1_500_000.0, 5);
        assert_eq!(text, "sum    ×3      1.5 M/s  busy  50 %  waiting for room  25 %");
    }

    #[test]
    fn a_summary_is_text_for_people_and_one_json_line() {
        let summary = Summary {
            pipeline: "hourly".into(),
            nodes: 3,
            records_in: 336_776,
            records_out: 42,
            late: 0,
            skipped: 0,
            wall_s: 0.5,
            cpu_s: 0.75,
            output: "out/hourly.csv".into(),
        };
        let text = summary.text();
        assert!(
            text.starts_with("hourly: finished on 3 nodes in 0.50 s\n  in     336,776 records, 673.6 k/s"),
            "{text}"
        );
        assert_eq!(
            serde_json::to_string(&summary).unwrap(),
            "{\"pipeline\":\"hourly\",\"nodes\":3,\"records_in\":336776,\"records_out\":42,\"late\":0,\"wall_s\":0.5,\"cpu_s\":0.75,\"output\":\"out/hourly.csv\"}"
        );
    }

    #[test]
    fn an_unset_field_of_an_older_node_is_no_error() {
        let read: JobProgress = serde_json::from_str("{\"pipeline\":\"x\",\"new\":1}").unwrap();
        assert_eq!(read.pipeline, "x");
    }
}
