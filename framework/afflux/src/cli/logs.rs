//! `logs`: the last lines of the nodes' logs, and with `--follow` what they write from then on.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use afflux_wire::NodeId;
use futures_util::future::join_all;
use serde::Serialize;

use super::args::{Global, LogsArgs};
use super::output::print_line;
use crate::client::Client;
use crate::dev::DIRECTORY;
use crate::error::{Error, Result, suggest};
use crate::signals::Signals;
use crate::telemetry::{LOG_LINES_MAX, LogLine, LogLines};

/// Between two questions to a node.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// A line with its node.
#[derive(Debug, PartialEq, Serialize)]
struct Shown {
    node: String,
    #[serde(flatten)]
    line: LogLine,
}

/// How far the log of each node has been read.
#[derive(Default)]
struct Read {
    /// Node to its life and the last line that was seen of it.
    places: BTreeMap<String, (u64, u64)>,
}

pub(crate) async fn logs(global: &Global, args: &LogsArgs) -> Result<()> {
    let client = super::connect(global, &args.cluster).await?;
    let mut signals = Signals::catch()?;
    let mut read = Read::default();
    let (mut lines, mut told) = look(&client, args, &mut read, args.lines, true).await?;
    loop {
        for warning in &told {
            eprintln!("warning: {warning}");
        }
        let width = args.nodes.iter().chain(read.places.keys()).map(String::len).max().unwrap_or(0);
        for shown in &lines {
            if global.json {
                print_line(&serde_json::to_string(shown)?)?;
            } else {
                print_line(&format!("{:<width$} | {}", shown.node, shown.line.line))?;
            }
        }
        if !args.follow {
            return Ok(());
        }
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(()),
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
        let most = u32::try_from(LOG_LINES_MAX).unwrap_or(u32::MAX);
        (lines, told) = look(&client, args, &mut read, most, false).await?;
    }
}

/// Asks every node that is meant at the same time; lines in the order of their time, and what is to be said.
async fn look(
    client: &Client,
    args: &LogsArgs,
    read: &mut Read,
    count: u32,
    first: bool,
) -> Result<(Vec<Shown>, Vec<String>)> {
    let view = client.view().await?;
    let there: Vec<&str> = view.instances.iter().map(|instance| instance.node.as_str()).collect();
    let (mut lines, mut told) = (Vec::new(), Vec::new());
    if first {
        for absent in args.nodes.iter().filter(|name| !there.contains(&name.as_str())) {
            let log = Path::new(DIRECTORY).join("logs").join(format!("{absent}.log"));
            if args.cluster.address.is_some() || !log.exists() {
                return Err(Error::usage(format!("no node is named `{absent}`"))
                    .hint(suggest(absent, there.iter().copied())));
            }
            told.push(format!("{absent} is not there: what it wrote is in {}", log.display()));
        }
    }
    let wanted = there.iter().filter(|name| args.nodes.is_empty() || args.nodes.iter().any(|n| n == *name));
    let asked = wanted.map(|name| {
        let after = read.places.get(*name).map_or(0, |(_, last)| *last);
        let node = client.node(&NodeId::new(*name));
        async move { (*name, node.logs(after, count, args.level.clone()).await) }
    });
    for (node, answer) in join_all(asked).await {
        match answer {
            Ok(answer) => {
                let missed = read.take(node, &answer);
                if missed > 0 {
                    told.push(format!("{missed} lines of {node} were gone before they could be shown"));
                }
                lines.extend(answer.lines.into_iter().map(|line| Shown { node: node.to_owned(), line }));
            }
            // Of one that is gone the next question tells; nobody wants to read it four times a second.
            Err(error) if first => told.push(format!("{node} does not tell its log: {error}")),
            Err(error) => tracing::debug!(node, %error, "a node does not tell its log"),
        }
    }
    lines.sort_by(|a, b| (a.line.at_ms, &a.node, a.line.seq).cmp(&(b.line.at_ms, &b.node, b.line.seq)));
    Ok((lines, told))
}

impl Read {
    /// Notes how far a node's log has been read; the lines that were lost since the last time.
    fn take(&mut self, node: &str, answer: &LogLines) -> u64 {
        let known = self.places.insert(node.to_owned(), (answer.incarnation, answer.last));
        match known {
            // What was written before somebody looked is not missed.
            Some((life, _)) if life == answer.incarnation => answer.missed,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_missed_only_while_somebody_reads_and_not_over_a_restart() {
        let mut read = Read::default();
        let answer = |incarnation, last, missed| LogLines { incarnation, last, missed, lines: Vec::new() };
        assert_eq!(read.take("a", &answer(1, 900, 800)), 0, "the first look begins somewhere");
        assert_eq!(read.take("a", &answer(1, 2_500, 600)), 600);
        assert_eq!(read.take("a", &answer(2, 40, 10)), 0, "another life");
        assert_eq!(read.places["a"], (2, 40));
    }
}
