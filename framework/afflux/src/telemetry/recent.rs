//! The last lines of a process's log, kept in memory so that they can be asked for from elsewhere.

use std::collections::VecDeque;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::Level;

/// Lines that are kept.
pub const LOG_LINES_MAX: usize = 1_000;
/// Bytes of a line that are kept; with [`LOG_LINES_MAX`] it bounds the memory to 2 MB.
pub const LOG_LINE_BYTES_MAX: usize = 2_048;
/// What stands behind a line that was cut.
const CUT: &str = " …";

/// The lines of this process.
pub(crate) static RECENT: RecentLines = RecentLines::new();

/// One line of a log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LogLine {
    /// Its number in the process that wrote it, from 1.
    pub seq: u64,
    /// When it was written, milliseconds since 1970.
    pub at_ms: i64,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// The line as the process wrote it, for people or as JSON (`log.format`), at most 2,048 bytes of it.
    pub line: String,
}

/// A part of a process's last lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LogLines {
    /// Which life of the node wrote them: numbers of another life begin anew.
    pub incarnation: u64,
    /// The lines, the latest last.
    pub lines: Vec<LogLine>,
    /// Lines behind the one asked from that were written and are gone, or did not fit the answer.
    pub missed: u64,
    /// The number of the last line that was written.
    pub last: u64,
}

/// The last lines of a log, at most [`LOG_LINES_MAX`].
pub(crate) struct RecentLines {
    kept: Mutex<Kept>,
}

struct Kept {
    lines: VecDeque<(u64, i64, Level, String)>,
    last: u64,
}

impl RecentLines {
    pub(crate) const fn new() -> Self {
        Self { kept: Mutex::new(Kept { lines: VecDeque::new(), last: 0 }) }
    }

    /// Keeps a line, in place of the oldest when there are enough.
    pub(crate) fn push(&self, at_ms: i64, level: Level, bytes: &[u8]) {
        let line = plain(bytes);
        let mut kept = self.kept.lock();
        kept.last += 1;
        let seq = kept.last;
        if kept.lines.len() >= LOG_LINES_MAX {
            kept.lines.pop_front();
        }
        kept.lines.push_back((seq, at_ms, level, line));
    }

    /// The latest `count` lines behind number `after` that are as severe as `level` or more.
    pub(crate) fn read(&self, incarnation: u64, after: u64, count: usize, level: Level) -> LogLines {
        let kept = self.kept.lock();
        // Who asks from a number of an earlier life asks for all of this one.
        let after = if after > kept.last { 0 } else { after };
        let oldest = kept.lines.front().map_or(kept.last + 1, |line| line.0);
        let gone = oldest.saturating_sub(after + 1);
        let fits = |line: &&(u64, i64, Level, String)| line.0 > after && line.2 <= level;
        let found = kept.lines.iter().filter(fits).count();
        let left_out = found.saturating_sub(count);
        let lines = kept.lines.iter().filter(fits).skip(left_out);
        LogLines {
            incarnation,
            lines: lines
                .map(|(seq, at_ms, level, line)| LogLine {
                    seq: *seq,
                    at_ms: *at_ms,
                    level: level.as_str().to_ascii_lowercase(),
                    line: line.clone(),
                })
                .collect(),
            missed: gone + left_out as u64,
            last: kept.last,
        }
    }
}

/// A line without its end and without the colours of a terminal, cut where it is too long.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut line = String::with_capacity(text.len().min(LOG_LINE_BYTES_MAX));
    let mut chars = text.trim_end().chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // ESC [ … and a letter: what `tracing` writes.
            let _ = chars.by_ref().find(|c| c.is_ascii_alphabetic());
            continue;
        }
        if line.len() + c.len_utf8() + CUT.len() > LOG_LINE_BYTES_MAX {
            line.push_str(CUT);
            break;
        }
        line.push(c);
    }
    line
}

/// The level of a word.
pub(crate) fn level_named(word: &str) -> Option<Level> {
    match word {
        "error" => Some(Level::ERROR),
        "warn" => Some(Level::WARN),
        "info" => Some(Level::INFO),
        "debug" => Some(Level::DEBUG),
        "trace" => Some(Level::TRACE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &LogLines) -> Vec<&str> {
        lines.lines.iter().map(|line| line.line.as_str()).collect()
    }

    #[test]
    fn the_oldest_line_gives_way_and_who_was_too_slow_is_told_how_many_are_gone() {
        let recent = RecentLines::new();
        for n in 1..=LOG_LINES_MAX + 5 {
            recent.push(n as i64, Level::INFO, format!("line {n}\n").as_bytes());
        }
        let all = recent.read(1, 0, usize::MAX, Level::TRACE);
        assert_eq!((all.lines.len(), all.missed, all.last), (LOG_LINES_MAX, 5, LOG_LINES_MAX as u64 + 5));
        assert_eq!(all.lines[0].line, "line 6");
        let behind = recent.read(1, all.last - 2, 100, Level::TRACE);
        assert_eq!((texts(&behind), behind.missed), (vec!["line 1004", "line 1005"], 0));
        let few = recent.read(1, all.last - 3, 1, Level::TRACE);
        assert_eq!((texts(&few), few.missed), (vec!["line 1005"], 2));
        assert_eq!(recent.read(1, all.last, 100, Level::TRACE).lines, []);
    }

    #[test]
    fn lines_are_chosen_by_level_and_a_number_of_an_earlier_life_means_from_the_beginning() {
        let recent = RecentLines::new();
        recent.push(1, Level::INFO, b"fine\n");
        recent.push(2, Level::ERROR, b"bad\n");
        assert_eq!(texts(&recent.read(1, 0, 10, Level::WARN)), ["bad"]);
        let again = recent.read(2, 700, 10, Level::TRACE);
        assert_eq!((texts(&again), again.missed), (vec!["fine", "bad"], 0));
    }

    #[test]
    fn a_line_has_no_colours_and_no_more_than_its_share_of_memory() {
        assert_eq!(plain(b"\x1b[2m12:00\x1b[0m \x1b[32m INFO\x1b[0m started\n"), "12:00  INFO started");
        let long = plain("ä".repeat(LOG_LINE_BYTES_MAX).as_bytes());
        assert!(long.len() <= LOG_LINE_BYTES_MAX && long.ends_with("ä …"), "{}", long.len());
    }
}
