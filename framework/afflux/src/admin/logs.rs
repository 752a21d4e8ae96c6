//! `/api/v1/logs`: the last lines of every node's log; `/api/v1/logs/NODE`: all that one keeps;
//! `/api/v1/logs/NODE/NUMBER`: those behind a line, for who asks again.

use afflux_wire::{NodeId, Status};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::{Error, suggest};
use crate::telemetry::{LOG_LINES_MAX, LogLines};

/// Lines of each node where all are asked.
const LINES_OF_EACH: u32 = 100;

/// Answers for the rest of a path.
pub(crate) async fn logs(client: &Client, rest: &str) -> Result<Value, Status> {
    let view = client.view().await.map_err(Error::into_status)?;
    if rest.is_empty() {
        let asked = view.instances.iter().map(|instance| async {
            let answer = client.node(&instance.node).logs(0, LINES_OF_EACH, "trace".to_owned()).await;
            match answer {
                Ok(lines) => shown(instance.node.as_str(), &lines),
                Err(error) => json!({ "node": instance.node.as_str(), "error": error.to_string() }),
            }
        });
        return Ok(Value::Array(join_all(asked).await));
    }
    let (name, after) = rest.split_once('/').unwrap_or((rest, "0"));
    let after: u64 = after.parse().map_err(|_| {
        Status::invalid(format!("`{after}` is no line's number: expected /api/v1/logs/NODE/NUMBER"))
    })?;
    let names = view.instances.iter().map(|instance| instance.node.as_str());
    if !names.clone().any(|known| known == name) {
        return Err(Status::not_found(format!("no node is named `{name}`: {}", suggest(name, names))));
    }
    let count = u32::try_from(LOG_LINES_MAX).unwrap_or(u32::MAX);
    let lines = client.node(&NodeId::new(name)).logs(after, count, "trace".to_owned()).await?;
    Ok(shown(name, &lines))
}

fn shown(node: &str, lines: &LogLines) -> Value {
    json!({
        "node": node,
        "incarnation": lines.incarnation,
        "last": lines.last,
        "missed": lines.missed,
        "lines": lines.lines,
    })
}
