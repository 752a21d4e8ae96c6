//! Why an operator does not come along: who holds its watermark, where pressure begins, which keys
//! are hot. `Jobs::Why` answers it, `why OPERATOR` shows it.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A key with this share of an exchange is hot.
pub const HOT_SHARE_MIN: f64 = 0.2;

/// What keeps an operator from being further than it is, at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Why {
    /// The job's id.
    pub job: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The job's state, such as `running`.
    pub state: String,
    /// The operator's name.
    pub operator: String,
    /// Its tasks.
    pub tasks: u32,
    /// Seconds that the shares of time are over; the second question within a minute is about the time
    /// since the first, and the first about the job's life.
    pub span_s: f64,
    /// Share of the time in which it worked, 0 to 1, the busiest task. Operators fused into one task
    /// share its time.
    pub busy_ratio: f64,
    /// Share of the time in which it waited for room downstream, 0 to 1, the most hindered task.
    pub backpressured_ratio: f64,
    /// Records that came into the task that got most, over the mean of its tasks.
    pub skew_ratio: f64,
    /// The lowest input watermark of its tasks, milliseconds since 1970. Nothing before the first and
    /// after the last.
    pub watermark_ms: Option<i64>,
    /// The split that holds that watermark.
    pub held_by: Option<Holder>,
    /// Where pressure begins: downstream of the operator first, then elsewhere.
    pub pressure: Vec<Pressure>,
    /// Keys with a fifth of the rows of an exchange or more: of those into the operator first.
    pub hot_keys: Vec<HotKey>,
    /// Failures of the job that name the operator, the latest last: a record that killed it is in them.
    pub failures: Vec<String>,
    /// Records that killed the operator again and again and that the job goes on without.
    pub set_aside: Vec<String>,
}

/// The split that holds a watermark.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Holder {
    /// The source.
    pub source: String,
    /// The split.
    pub split: String,
    /// The task that reads it, `pipeline/operator/task`.
    pub task: String,
    /// The task's node.
    pub node: String,
    /// The split's watermark, milliseconds since 1970; nothing when it has given no record.
    pub watermark_ms: Option<i64>,
    /// Its latest record.
    pub latest_ms: Option<i64>,
    /// Seconds since a record of it was read, on its node's calendar.
    pub silent_s: Option<f64>,
    /// Its reader has everything there is for now.
    pub caught_up: bool,
    /// Where its watermark has not come past yet, `operator → operator`: records in front of it wait
    /// there.
    pub stuck_at: Option<String>,
}

/// An exchange at which pressure begins: who stands behind it is slow, who stands in front waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Pressure {
    /// The last operator in front, which waits.
    pub from: String,
    /// The first operator behind.
    pub to: String,
    /// The operators that share the slow task, in order.
    pub operators: Vec<String>,
    /// How rows cross it, such as `hash`.
    pub exchange: String,
    /// Share of the time in which the task behind worked, 0 to 1, the busiest.
    pub busy_ratio: f64,
    /// Share of the time in which it waited for what its own sink writes to, 0 to 1.
    pub outside_ratio: f64,
    /// Share of the time in which the task in front waited.
    pub backpressured_ratio: f64,
}

/// A key that has much of an exchange.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HotKey {
    /// The last operator in front of the exchange.
    pub from: String,
    /// The first operator behind it.
    pub to: String,
    /// The key as JSON, cut at 64 characters.
    pub key: String,
    /// Its share of the rows in the last seconds, 0 to 1, from a sample.
    pub share: f64,
}

impl Why {
    /// For people, several lines.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} of job {} ({}): {} task{}, busy {:.0} %, waiting for room {:.0} % of {:.1} s\n",
            self.operator,
            self.job,
            self.state,
            self.tasks,
            if self.tasks == 1 { "" } else { "s" },
            100.0 * self.busy_ratio,
            100.0 * self.backpressured_ratio,
            self.span_s,
        );
        let _ = write!(text, "  watermark  {}", moment(self.watermark_ms, "none yet"));
        match &self.held_by {
            Some(holder) => text.push_str(&holder.text()),
            None => text.push_str(": no split holds it\n"),
        }
        if self.pressure.is_empty() {
            text.push_str("  pressure   none\n");
        }
        for pressure in &self.pressure {
            text.push_str(&pressure.text());
        }
        if self.hot_keys.is_empty() {
            let _ = writeln!(text, "  hot keys   none with {:.0} % of an exchange", 100.0 * HOT_SHARE_MIN);
        }
        for HotKey { from, to, key, share } in &self.hot_keys {
            let _ = writeln!(text, "  hot key    {key} is {:.0} % of {from} → {to}", 100.0 * share);
        }
        for failure in &self.failures {
            let _ = writeln!(text, "  failure    {failure}");
        }
        for record in &self.set_aside {
            let _ = writeln!(text, "  set aside  {record}");
        }
        if self.skew_ratio >= 1.5 {
            let _ = writeln!(text, "  skew       one task gets {:.1} times the mean", self.skew_ratio);
        }
        text
    }
}

impl Holder {
    fn text(&self) -> String {
        let mut text = format!(
            "\n             held by split `{}` of source {} (task {} on {}) at {}\n             ",
            self.split,
            self.source,
            self.task,
            self.node,
            moment(self.watermark_ms, "no record yet"),
        );
        let _ = match self.silent_s {
            Some(silent) => write!(
                text,
                "its latest record, of {}, was read {silent:.1} s ago",
                moment(self.latest_ms, "no time")
            ),
            None => write!(text, "nothing has been read from it"),
        };
        text.push_str(if self.caught_up {
            "; it has caught up, so it is silent until more comes or it counts as idle\n"
        } else {
            "; it has not caught up\n"
        });
        if let Some(edge) = &self.stuck_at {
            let _ = writeln!(text, "             and records in front of that watermark wait at {edge}");
        }
        text
    }
}

impl Pressure {
    fn text(&self) -> String {
        let Self { from, to, exchange, operators, .. } = self;
        let why = if self.outside_ratio > self.busy_ratio {
            format!("waits {:.0} % of the time for what it writes to", 100.0 * self.outside_ratio)
        } else {
            format!("is busy {:.0} % of the time", 100.0 * self.busy_ratio)
        };
        let shared = match operators.as_slice() {
            [_, others @ ..] if !others.is_empty() => format!(" (one task with {})", others.join(", ")),
            _ => String::new(),
        };
        let waits = 100.0 * self.backpressured_ratio;
        format!(
            "  pressure   begins at {from} → {to} ({exchange}): {to}{shared} {why}; {from} waits {waits:.0} %\n"
        )
    }
}

fn moment(ms: Option<i64>, none: &str) -> String {
    ms.map_or_else(|| none.to_owned(), |ms| afflux_stream::Timestamp::from_millis(ms).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_split_edge_and_key() {
        let why = Why {
            job: "hourly-1".into(),
            state: "running".into(),
            operator: "sum".into(),
            tasks: 2,
            span_s: 1.0,
            busy_ratio: 0.97,
            skew_ratio: 1.9,
            watermark_ms: Some(0),
            held_by: Some(Holder {
                source: "flights".into(),
                split: "b.csv".into(),
                task: "hourly/flights/1".into(),
                node: "node-2".into(),
                watermark_ms: Some(0),
                latest_ms: Some(5_000),
                silent_s: Some(42.0),
                caught_up: true,
                stuck_at: Some("flights → sum".into()),
            }),
            pressure: vec![Pressure {
                from: "flights".into(),
                to: "sum".into(),
                operators: vec!["sum".into(), "out".into()],
                exchange: "hash".into(),
                busy_ratio: 0.97,
                outside_ratio: 0.0,
                backpressured_ratio: 0.9,
            }],
            hot_keys: vec![HotKey {
                from: "flights".into(),
                to: "sum".into(),
                key: "\"JFK\"".into(),
                share: 0.83,
            }],
            ..Why::default()
        };
        assert_eq!(
            why.text(),
            "sum of job hourly-1 (running): 2 tasks, busy 97 %, waiting for room 0 % of 1.0 s\n  \
             watermark  1970-01-01T00:00:00Z\n             \
             held by split `b.csv` of source flights (task hourly/flights/1 on node-2) at 1970-01-01T00:00:00Z\n             \
             its latest record, of 1970-01-01T00:00:05Z, was read 42.0 s ago; it has caught up, so it is silent until more comes or it counts as idle\n             \
             and records in front of that watermark wait at flights → sum\n  \
             pressure   begins at flights → sum (hash): sum (one task with out) is busy 97 % of the time; flights waits 90 %\n  \
             hot key    \"JFK\" is 83 % of flights → sum\n  \
             skew       one task gets 1.9 times the mean\n"
        );
        let nothing = Why::default().text();
        assert!(nothing.contains("no split holds it") && nothing.contains("pressure   none"), "{nothing}");
    }
}
