//! What a pipeline promises of each record after a failure, and why.
//!
//! Sources and sinks declare what they can; [`Plan::guarantees`](crate::Plan::guarantees) puts it together,
//! a line for each output. State needs no declaration: it goes back with the checkpoint.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a source gives again after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recall {
    /// All, from the position that a checkpoint has: files, logs.
    Replayable,
    /// All that it was not told to forget, and perhaps some of that: queues with acknowledgements.
    Acknowledged,
    /// Nothing: what was read and not yet dealt with is lost.
    Lossy,
}

/// What becomes of a record that is written again after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Rows are written in transactions that are committed when their epoch is durable: a row that is written
    /// again was never visible.
    Transactional,
    /// The output appears as a whole, behind the end of the input, and replaces what was there.
    Whole,
    /// Writing a row twice is as writing it once.
    Idempotent,
    /// It stands there twice.
    AtLeastOnce,
    /// Nobody knows whether it arrived, the first or the second time.
    BestEffort,
}

/// How often the effect of a record is seen in an output, over all failures that a checkpoint survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Once.
    ExactlyOnce,
    /// Once or more.
    AtLeastOnce,
    /// Once or never.
    AtMostOnce,
    /// No promise.
    None,
}

impl Guarantee {
    /// Whether it gives what is asked for.
    ///
    /// ```
    /// use afflux_stream::Guarantee::{AtLeastOnce, AtMostOnce, ExactlyOnce};
    /// assert!(ExactlyOnce.gives(AtLeastOnce) && ExactlyOnce.gives(AtMostOnce));
    /// assert!(!AtMostOnce.gives(AtLeastOnce) && !AtLeastOnce.gives(ExactlyOnce));
    /// ```
    pub fn gives(self, asked: Guarantee) -> bool {
        self == asked || self == Guarantee::ExactlyOnce || asked == Guarantee::None
    }
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Guarantee::ExactlyOnce => "exactly once",
            Guarantee::AtLeastOnce => "at least once",
            Guarantee::AtMostOnce => "at most once",
            Guarantee::None => "no promise",
        })
    }
}

/// The guarantee of one output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkGuarantee {
    /// The sink, or the step that tells a service.
    pub sink: String,
    /// The sources whose records reach it.
    pub sources: Vec<String>,
    /// What is promised.
    pub guarantee: Guarantee,
    /// Why it is so.
    pub why: String,
    /// What would make it exactly once; empty where it is.
    pub cure: String,
}

impl fmt::Display for SinkGuarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}: {}: {}", self.sources.join(", "), self.sink, self.guarantee, self.why)
    }
}

/// A source, or an output, as it declares itself.
pub(crate) struct Declared<D> {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) can: D,
}

/// Puts together what the sources of an output and the output itself can.
pub(crate) fn guarantee(
    sources: &[Declared<Recall>],
    sink: &Declared<Delivery>,
    checkpoints: bool,
) -> SinkGuarantee {
    let (name, kind) = (&sink.name, &sink.kind);
    let worst = sources.iter().max_by_key(|source| source.can);
    let recall = worst.map_or(Recall::Replayable, |source| source.can);
    let source = worst.map_or_else(String::new, |source| format!("`{}` ({})", source.name, source.kind));
    let no_checkpoints = "no checkpoints are taken (`checkpoint.interval_ms` is 0)";
    let transactional = format!(
        "write to a sink with transactions, to files, or by a key that does not change \
         (`idempotent(key, sink)`) in place of `{name}`"
    );
    let (guarantee, why, cure) = match (recall, sink.can) {
        (_, Delivery::BestEffort) => (
            Guarantee::None,
            format!("sink {kind} does not learn whether a record has arrived"),
            transactional,
        ),
        (Recall::Lossy, _) => (
            Guarantee::AtMostOnce,
            format!("source {source} cannot be read again: what is under way when the job fails is lost"),
            format!("read from a file, a log or a queue with acknowledgements in place of {source}"),
        ),
        (_, Delivery::Idempotent) => (
            Guarantee::ExactlyOnce,
            format!("sink {kind} writes by a key: a record that comes again replaces itself"),
            String::new(),
        ),
        (Recall::Acknowledged, _) => (
            Guarantee::AtLeastOnce,
            format!(
                "source {source} gives again what it was not told to forget, which may have been written already"
            ),
            format!(
                "read from a file or a log in place of {source}, or write by a key (`idempotent(key, sink)`)"
            ),
        ),
        (Recall::Replayable, Delivery::Transactional) if checkpoints => (
            Guarantee::ExactlyOnce,
            format!("the sources can be read again, and sink {kind} commits with the epoch"),
            String::new(),
        ),
        (Recall::Replayable, Delivery::Transactional) => (
            Guarantee::AtLeastOnce,
            format!(
                "{no_checkpoints}: sink {kind} commits at the end of the input alone, each task by itself, and a \
                 failure begins with the first record again"
            ),
            "set `checkpoint.dir` and `checkpoint.interval_ms`".to_owned(),
        ),
        (Recall::Replayable, Delivery::Whole) if checkpoints => (
            Guarantee::ExactlyOnce,
            format!(
                "the sources can be read again, and sink {kind} goes on where the checkpoint was; its output \
                 appears as a whole behind the end of the input"
            ),
            String::new(),
        ),
        (Recall::Replayable, Delivery::Whole) => (
            Guarantee::ExactlyOnce,
            format!(
                "the output of sink {kind} appears as a whole behind the end of the input; {no_checkpoints}, so a \
                 failure begins with the first record again"
            ),
            String::new(),
        ),
        (Recall::Replayable, Delivery::AtLeastOnce) => (
            Guarantee::AtLeastOnce,
            if checkpoints {
                format!(
                    "sink {kind} has no transactions: what was written since the last checkpoint comes again"
                )
            } else {
                format!("{no_checkpoints}: after a failure everything is read and written again")
            },
            transactional,
        ),
    };
    let sources = sources.iter().map(|source| source.name.clone()).collect();
    SinkGuarantee { sink: name.clone(), sources, guarantee, why, cure }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sources: &[Recall], sink: Delivery, checkpoints: bool) -> SinkGuarantee {
        let declared = |(index, can): (usize, &Recall)| Declared {
            name: format!("s{index}"),
            kind: "log".to_owned(),
            can: *can,
        };
        let sources: Vec<_> = sources.iter().enumerate().map(declared).collect();
        guarantee(&sources, &Declared { name: "out".into(), kind: "ledger".into(), can: sink }, checkpoints)
    }

    #[test]
    fn the_weakest_source_and_the_sink_decide() {
        use Delivery::{AtLeastOnce, BestEffort, Idempotent, Transactional, Whole};
        use Recall::{Acknowledged, Lossy, Replayable};
        for (sources, sink, checkpoints, expected) in [
            (&[Replayable][..], Transactional, true, Guarantee::ExactlyOnce),
            (&[Replayable], Transactional, false, Guarantee::AtLeastOnce),
            (&[Replayable, Replayable], Whole, true, Guarantee::ExactlyOnce),
            (&[Replayable], Whole, false, Guarantee::ExactlyOnce),
            (&[Replayable], AtLeastOnce, true, Guarantee::AtLeastOnce),
            (&[Replayable], BestEffort, true, Guarantee::None),
            (&[Replayable, Acknowledged], Transactional, true, Guarantee::AtLeastOnce),
            (&[Acknowledged], Whole, true, Guarantee::AtLeastOnce),
            (&[Acknowledged], Idempotent, true, Guarantee::ExactlyOnce),
            (&[Acknowledged, Lossy], Transactional, true, Guarantee::AtMostOnce),
            (&[Lossy], Idempotent, true, Guarantee::AtMostOnce),
            (&[Lossy], BestEffort, false, Guarantee::None),
        ] {
            let found = of(sources, sink, checkpoints);
            assert_eq!(found.guarantee, expected, "{sources:?} {sink:?} {checkpoints}: {found}");
            assert_eq!(found.cure.is_empty(), expected == Guarantee::ExactlyOnce, "{found}");
        }
    }

    #[test]
    fn a_line_names_sources_sink_and_reason() {
        let line = of(&[Recall::Replayable, Recall::Lossy], Delivery::Transactional, true).to_string();
        assert!(
            line.starts_with("s0, s1 → out: at most once: source `s1` (log) cannot be read again"),
            "{line}"
        );
    }
}
