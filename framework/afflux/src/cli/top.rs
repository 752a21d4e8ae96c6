//! `top`: what every node does now. The nodes tell their counters; rates are between two looks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;

use super::args::{Global, TopArgs};
use super::output::{print, print_json};
use super::table::table;
use crate::client::Client;
use crate::error::Result;
use crate::load::{ActorLoad, MethodLoad, NodeLoad};
use crate::node_service::OWN_PREFIX;

/// Rows of each table on a terminal; the busiest stand first.
const ROWS_MAX: usize = 40;

/// What was seen between two looks.
#[derive(Debug, Serialize)]
struct Report {
    nodes: Vec<NodeRow>,
    methods: Vec<MethodRow>,
    mailboxes: Vec<MailboxRow>,
}

#[derive(Debug, Serialize)]
struct NodeRow {
    node: String,
    /// Seconds between the two looks, on the node's own clock.
    seconds: f64,
    calls_per_s: f64,
    errors_per_s: f64,
    in_flight: u64,
    connections: u64,
    bytes_in_per_s: f64,
    bytes_out_per_s: f64,
    /// Processors in use.
    cpus: f64,
    resident_bytes: u64,
}

#[derive(Debug, Serialize)]
struct MethodRow {
    node: String,
    service: String,
    method: String,
    calls_per_s: f64,
    errors_per_s: f64,
    /// Of the interval; of one request in sixteen.
    p50_s: Option<f64>,
    p99_s: Option<f64>,
    /// Of its service.
    in_flight: u64,
    /// Since the node's start.
    calls: u64,
}

#[derive(Debug, Serialize)]
struct MailboxRow {
    node: String,
    #[serde(flatten)]
    load: ActorLoad,
    rejected_per_s: f64,
}

type Looks = BTreeMap<String, NodeLoad>;

pub(crate) async fn top(global: &Global, args: &TopArgs) -> Result<()> {
    let client = super::connect(global, &args.cluster).await?;
    let interval = Duration::from_secs_f64(args.interval);
    let live = !args.once && !global.json && std::io::stdout().is_terminal();
    let mut before = look(&client).await?;
    loop {
        tokio::time::sleep(interval).await;
        let now = look(&client).await?;
        let report = Report::between(&before, &now, args.all);
        if global.json {
            print_json(&report)?;
        } else if live {
            let keys = "Ctrl-C ends it\n\n";
            // Home and clear: what a terminal of 1978 understands.
            print(&format!("\x1b[H\x1b[2J{keys}{}", report.text(ROWS_MAX)))?;
        } else {
            print(&report.text(usize::MAX))?;
        }
        if args.once {
            return Ok(());
        }
        before = now;
    }
}

/// Asks every node at the same time; one that does not answer is left out, and said.
async fn look(client: &Client) -> Result<Looks> {
    let view = client.view().await?;
    let asked = view
        .instances
        .iter()
        .map(|instance| async { (instance.node.to_string(), client.node(&instance.node).load().await) });
    let mut looks = Looks::new();
    for (node, answer) in join_all(asked).await {
        match answer {
            Ok(load) => {
                looks.insert(node, load);
            }
            Err(error) => tracing::warn!(node, %error, "a node does not tell what it does"),
        }
    }
    Ok(looks)
}

impl Report {
    fn between(before: &Looks, now: &Looks, all: bool) -> Self {
        let mut report = Self { nodes: Vec::new(), methods: Vec::new(), mailboxes: Vec::new() };
        let nobody = NodeLoad::default();
        for (node, load) in now {
            let Some(old) = before.get(node) else { continue };
            // A node that began anew counts from zero.
            let old = if old.at_ms > load.at_ms { &nobody } else { old };
            report.add(node, old, load, all);
        }
        report.methods.sort_by(|a, b| b.calls_per_s.total_cmp(&a.calls_per_s));
        report.mailboxes.sort_by_key(|row| std::cmp::Reverse(row.load.waiting));
        report
    }

    fn add(&mut self, node: &str, old: &NodeLoad, load: &NodeLoad, all: bool) {
        let seconds = (load.at_ms.saturating_sub(old.at_ms) as f64 / 1e3).max(1e-3);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let shown = |service: &str| all || !service.starts_with(OWN_PREFIX);
        let (mut calls, mut errors) = (0, 0);
        for method in load.methods.iter().filter(|method| shown(&method.service)) {
            let same =
                |known: &&MethodLoad| (&known.service, &known.method) == (&method.service, &method.method);
            let between = method.since(old.methods.iter().find(same));
            calls += between.calls;
            errors += between.errors;
            self.methods.push(MethodRow {
                node: node.to_owned(),
                service: method.service.clone(),
                method: method.method.clone(),
                calls_per_s: between.calls as f64 / seconds,
                errors_per_s: between.errors as f64 / seconds,
                p50_s: between.quantile(0.5),
                p99_s: between.quantile(0.99),
                in_flight: load.in_flight.get(&method.service).copied().unwrap_or_default(),
                calls: method.calls,
            });
        }
        for kind in &load.actors {
            let known = old.actors.iter().find(|known| known.kind == kind.kind);
            let rejected = known.map_or(0, |known| known.rejected);
            self.mailboxes.push(MailboxRow {
                node: node.to_owned(),
                rejected_per_s: rate(kind.rejected, rejected),
                load: kind.clone(),
            });
        }
        self.nodes.push(NodeRow {
            node: node.to_owned(),
            seconds,
            calls_per_s: calls as f64 / seconds,
            errors_per_s: errors as f64 / seconds,
            in_flight: load.in_flight.iter().filter(|(service, _)| shown(service)).map(|(_, n)| n).sum(),
            connections: load.connections,
            bytes_in_per_s: rate(load.bytes_in, old.bytes_in),
            bytes_out_per_s: rate(load.bytes_out, old.bytes_out),
            cpus: (load.cpu_s - old.cpu_s).max(0.0) / seconds,
            resident_bytes: load.resident_bytes,
        });
    }

    fn text(&self, rows_max: usize) -> String {
        let per_second = |rate: f64| format!("{rate:.1}");
        let nodes: Vec<Vec<String>> = self
            .nodes
            .iter()
            .map(|row| {
                vec![
                    row.node.clone(),
                    per_second(row.calls_per_s),
                    per_second(row.errors_per_s),
                    row.in_flight.to_string(),
                    row.connections.to_string(),
                    format!("{} KiB/s", (row.bytes_in_per_s / 1024.0) as u64),
                    format!("{} KiB/s", (row.bytes_out_per_s / 1024.0) as u64),
                    format!("{:.0} %", row.cpus * 100.0),
                    format!("{} MiB", row.resident_bytes >> 20),
                ]
            })
            .collect();
        let methods: Vec<Vec<String>> = self
            .methods
            .iter()
            .take(rows_max)
            .map(|row| {
                vec![
                    row.node.clone(),
                    format!("{}/{}", row.service, row.method),
                    per_second(row.calls_per_s),
                    per_second(row.errors_per_s),
                    time(row.p50_s),
                    time(row.p99_s),
                    row.in_flight.to_string(),
                    row.calls.to_string(),
                ]
            })
            .collect();
        let mailboxes: Vec<Vec<String>> = self
            .mailboxes
            .iter()
            .take(rows_max)
            .map(|row| {
                vec![
                    row.node.clone(),
                    row.load.kind.clone(),
                    row.load.actors.to_string(),
                    row.load.waiting.to_string(),
                    row.load.waiting_max.to_string(),
                    row.load.capacity.to_string(),
                    per_second(row.rejected_per_s),
                    row.load.panics.to_string(),
                ]
            })
            .collect();
        let mut text = table(
            &["NODE", "CALLS/S", "ERRORS/S", "IN FLIGHT", "CONNECTIONS", "IN", "OUT", "CPU", "MEMORY"],
            &nodes,
        );
        for (headings, rows, of) in [
            (
                &["NODE", "METHOD", "CALLS/S", "ERRORS/S", "P50", "P99", "IN FLIGHT", "CALLS"][..],
                methods,
                self.methods.len(),
            ),
            (
                &[
                    "NODE",
                    "ACTORS OF KIND",
                    "ALIVE",
                    "WAITING",
                    "FULLEST",
                    "CAPACITY",
                    "REJECTED/S",
                    "PANICS",
                ],
                mailboxes,
                self.mailboxes.len(),
            ),
        ] {
            if rows.is_empty() {
                continue;
            }
            text.push('\n');
            text.push_str(&table(headings, &rows));
            if of > rows.len() {
                let _ = writeln!(text, "and {} more: `--once` shows all", of - rows.len());
            }
        }
        text
    }
}

/// A duration in three digits.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(s) if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        Some(s) if s < 1.0 => format!("{:.1} ms", s * 1e3),
        Some(s) => format!("{s:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(at_ms: u64, calls: u64, waiting: u64) -> NodeLoad {
        let method = |service: &str| MethodLoad {
            service: service.into(),
            method: "Get".into(),
            calls,
            errors: calls / 10,
            ..MethodLoad::default()
        };
        NodeLoad {
            id: "a".into(),
            at_ms,
            methods: vec![method("shop.orders"), method("afflux.node")],
            actors: vec![ActorLoad { kind: "Desk".into(), waiting, capacity: 8, ..ActorLoad::default() }],
            ..NodeLoad::default()
        }
    }

    fn looks(load: NodeLoad) -> Looks {
        Looks::from([("a".to_owned(), load)])
    }

    #[test]
    fn rates_are_over_the_time_that_the_node_itself_saw_pass() {
        let report = Report::between(&looks(load(1_000, 100, 0)), &looks(load(3_000, 300, 5)), false);
        assert_eq!(report.methods.len(), 1, "the framework's own are left out");
        assert_eq!((report.methods[0].calls_per_s, report.methods[0].errors_per_s), (100.0, 10.0));
        assert_eq!((report.nodes[0].calls_per_s, report.mailboxes[0].load.waiting), (100.0, 5));
        let text = report.text(40);
        assert!(text.contains("shop.orders/Get") && text.contains("Desk"), "{text}");
        let all = Report::between(&looks(load(1_000, 100, 0)), &looks(load(3_000, 300, 5)), true);
        assert_eq!(all.methods.len(), 2);
    }

    #[test]
    fn a_node_that_began_anew_has_no_negative_rates_and_one_that_just_came_waits_for_its_second_look() {
        let report = Report::between(&looks(load(9_000, 900, 0)), &looks(load(1_000, 10, 0)), false);
        assert_eq!(report.methods[0].calls_per_s, 10.0);
        assert!(Report::between(&Looks::new(), &looks(load(1_000, 10, 0)), false).nodes.is_empty());
    }

    #[test]
    fn a_table_that_is_cut_says_so() {
        let report = Report::between(&looks(load(0, 0, 0)), &looks(load(1_000, 5, 0)), true);
        assert!(report.text(1).contains("and 1 more"), "{}", report.text(1));
        assert!(!report.text(40).contains("more"));
    }
}
