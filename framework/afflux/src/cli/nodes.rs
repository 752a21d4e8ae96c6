//! `nodes`: who is there.

use super::args::{ClusterArgs, Global};
use super::output::{print, print_json};
use super::table::table;
use crate::error::Result;

pub(crate) async fn nodes(global: &Global, cluster: &ClusterArgs) -> Result<()> {
    let client = super::connect(global, cluster).await?;
    let nodes = client.nodes().await?;
    if global.json {
        return print_json(&nodes);
    }
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            vec![
                node.id.clone(),
                if node.pid == 0 { "-".to_owned() } else { node.pid.to_string() },
                node.state.clone(),
                node.address.clone(),
                node.admin.clone().unwrap_or_else(|| "-".to_owned()),
                node.slots.to_string(),
                node.tasks.len().to_string(),
                format!("{:.1} s", node.cpu_s),
                format!("{} MiB", node.resident_bytes >> 20),
            ]
        })
        .collect();
    print(&table(&["NODE", "PID", "STATE", "ADDRESS", "ADMIN", "SLOTS", "TASKS", "CPU", "MEMORY"], &rows))
}
