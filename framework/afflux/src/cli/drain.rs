//! `drain`: a node leaves without losing anything, and this shows how far it is.

use std::time::Duration;

use afflux_wire::NodeId;

use super::args::{DrainArgs, Global};
use super::output::{print_json, print_line};
use crate::client::{Client, called};
use crate::error::{Error, Result, suggest};
use crate::node_service::{DrainInfo, NodeInfo};

/// Between two questions how far it is.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Longest wait for a word of a node that is about to end.
const ANSWER_MAX: Duration = Duration::from_millis(500);

pub(crate) async fn drain(global: &Global, args: &DrainArgs) -> Result<()> {
    let client = super::connect(global, &args.cluster).await?;
    let node = find(&client, &args.node).await?;
    let begun: NodeInfo = called(client.node(&node).drain().await)?;
    let mut last = begun.drain.clone().unwrap_or_default();
    if args.detach {
        return match global.json {
            true => print_json(&begun),
            false => print_line(&line(&args.node, &last)),
        };
    }
    let mut said = String::new();
    // Its lease, or another life of it, ends the wait, even where nobody answers any more.
    while still_there(&client, &node, begun.incarnation).await? {
        if let Ok(info) = client.node(&node).info().fail_fast().deadline(ANSWER_MAX).await
            && info.incarnation == begun.incarnation
        {
            last = info.drain.unwrap_or(last);
        }
        let now = line(&args.node, &last);
        if !global.json && now != said {
            print_line(&now)?;
            said = now;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    if global.json {
        return print_json(&serde_json::json!({ "node": args.node, "state": "left", "drain": last }));
    }
    for job in &last.kept {
        print_line(&format!("not handed over: {job}"))?;
    }
    print_line(&format!("{} has left", args.node))
}

async fn find(client: &Client, name: &str) -> Result<NodeId> {
    let view = client.view().await?;
    match view.instances.iter().find(|instance| instance.node.as_str() == name) {
        Some(instance) => Ok(instance.node.clone()),
        None => {
            let names = view.instances.iter().map(|instance| instance.node.as_str());
            Err(Error::usage(format!("no node `{name}` in the cluster: {}", suggest(name, names))))
        }
    }
}

async fn still_there(client: &Client, node: &NodeId, incarnation: u64) -> Result<bool> {
    let view = client.view().await?;
    Ok(view.instance(node).is_some_and(|instance| instance.incarnation.0 == incarnation))
}

fn line(node: &str, drain: &DrainInfo) -> String {
    let DrainInfo { tasks, tasks_max, calls, calls_max, .. } = drain;
    match drain.phase.as_str() {
        "tasks" => format!("{node} hands over: {tasks} of {tasks_max} tasks are left"),
        "calls" => format!("{node} answers: {calls} of {calls_max} calls are left"),
        _ => format!("{node} leaves"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_left() {
        let drain = DrainInfo { tasks: 1, tasks_max: 4, calls: 2, calls_max: 3, ..DrainInfo::default() };
        let of = |phase: &str| line("node-2", &DrainInfo { phase: phase.into(), ..drain.clone() });
        assert_eq!(of("tasks"), "node-2 hands over: 1 of 4 tasks are left");
        assert_eq!(of("calls"), "node-2 answers: 2 of 3 calls are left");
        assert_eq!(of("leaving"), "node-2 leaves");
    }
}
