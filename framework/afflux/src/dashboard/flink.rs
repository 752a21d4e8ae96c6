//! Jobs, checkpoints and nodes in the shapes of Flink's REST interface, as far as they fit, so that tools that read
//! those find the same words here.

use serde_json::{Value, json};

use super::look::Look;
use crate::job_detail::{CheckpointInfo, JobDetail};

/// A job's state in Flink's words.
pub(super) fn state(state: &str) -> &'static str {
    match state {
        "deploying" => "INITIALIZING",
        "running" => "RUNNING",
        "restarting" => "RESTARTING",
        "stopping" => "CANCELLING",
        "finished" => "FINISHED",
        "failed" => "FAILED",
        "cancelled" => "CANCELED",
        _ => "CREATED",
    }
}

/// `/overview`.
pub(super) fn overview(look: &Look, health: Value) -> Value {
    let slots: u64 = look.nodes.iter().map(|node| u64::from(node.slots)).sum();
    let open = || look.jobs.iter().filter(|job| !job.info.has_ended());
    // A slot is a thread that tasks share, so it is never taken up: those without a task are told.
    let tasks: usize = open().map(|job| job.info.tasks.len()).sum();
    let count =
        |states: &[&str]| look.jobs.iter().filter(|job| states.contains(&job.info.state.as_str())).count();
    json!({
        "taskmanagers": look.nodes.len(),
        "slots-total": slots,
        "slots-available": slots.saturating_sub(tasks as u64),
        "jobs-running": open().count(),
        "jobs-finished": count(&["finished"]),
        "jobs-cancelled": count(&["cancelled"]),
        "jobs-failed": count(&["failed"]),
        "health": health,
    })
}

/// `/jobs/overview`.
pub(super) fn jobs(look: &Look) -> Value {
    let jobs = look.jobs.iter().map(|job| {
        let info = &job.info;
        let duration_ms = (info.wall_s * 1e3) as i64;
        json!({
            "jid": info.id,
            "name": info.pipeline,
            "state": state(&info.state),
            "start-time": info.started_ms,
            "end-time": if info.has_ended() { info.started_ms + duration_ms } else { -1 },
            "duration": duration_ms,
            "last-modification": job.events.last().map_or(info.started_ms, |event| event.at_ms),
            "tasks": { "total": info.tasks.len() },
        })
    });
    json!({ "jobs": jobs.collect::<Vec<_>>() })
}

/// `/jobs/JOB/plan`.
pub(super) fn plan(job: &JobDetail) -> Value {
    let graph = &job.graph;
    let list = |name: &str| graph[name].as_array().cloned().unwrap_or_default();
    let (chains, edges) = (list("chains"), list("edges"));
    let nodes: Vec<Value> = chains
        .iter()
        .map(|chain| {
            let operators: Vec<&str> =
                chain["operators"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let inputs = edges.iter().filter(|edge| edge["to_chain"] == chain["index"]);
            json!({
                "id": chain["index"].to_string(),
                "parallelism": chain["parallelism"],
                "description": operators.join(" -> "),
                "inputs": inputs.enumerate().map(|(num, edge)| json!({
                    "num": num, "id": edge["from_chain"].to_string(), "ship_strategy": edge["exchange"],
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "plan": { "jid": job.info.id, "name": job.info.pipeline, "type": "STREAMING", "nodes": nodes } })
}

fn checkpoint(info: &CheckpointInfo) -> Value {
    let mut told = json!({
        "id": info.epoch,
        "status": info.state.to_uppercase(),
        "is_savepoint": info.savepoint,
        "trigger_timestamp": info.started_ms,
        "state_size": info.bytes,
        "end_to_end_duration": info.took_ms.unwrap_or_default(),
        "num_subtasks": info.tasks,
        "num_acknowledged_subtasks": info.tasks_stored,
    });
    if let Some(error) = &info.error {
        told["failure_message"] = json!(error);
        told["failure_timestamp"] =
            json!(info.started_ms + i64::try_from(info.took_ms.unwrap_or_default()).unwrap_or(0));
    }
    told
}

/// `/jobs/JOB/checkpoints`.
pub(super) fn checkpoints(job: &JobDetail) -> Value {
    let of = |state: &'static str| job.checkpoints.iter().filter(move |c| c.state == state);
    let latest = |found: Option<&CheckpointInfo>| found.map_or(Value::Null, checkpoint);
    json!({
        "counts": {
            "total": job.checkpoints.len(),
            "in_progress": of("in_progress").count(),
            "completed": of("completed").count(),
            "failed": of("failed").count(),
        },
        "latest": {
            "completed": latest(of("completed").next_back()),
            "savepoint": latest(of("completed").rfind(|c| c.savepoint)),
            "failed": latest(of("failed").next_back()),
        },
        "history": job.checkpoints.iter().rev().map(checkpoint).collect::<Vec<_>>(),
    })
}

/// `/taskmanagers`.
pub(super) fn taskmanagers(look: &Look) -> Value {
    let tasks = |node: &str| {
        let open = look.jobs.iter().filter(|job| !job.info.has_ended());
        open.flat_map(|job| &job.info.tasks).filter(|task| task.node == node).count()
    };
    let rows = look.nodes.iter().map(|node| {
        json!({
            "id": node.id,
            "path": node.address,
            "slotsNumber": node.slots,
            "freeSlots": u64::from(node.slots).saturating_sub(tasks(&node.id) as u64),
            "state": node.state,
            "tasks": tasks(&node.id),
        })
    });
    json!({ "taskmanagers": rows.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::JobInfo;

    #[test]
    fn checkpoints_are_told_in_flinks_words_the_newest_first() {
        let info = |epoch: u64, state: &str, savepoint: bool| CheckpointInfo {
            epoch,
            state: state.into(),
            savepoint,
            error: (state == "failed").then(|| "no room".to_owned()),
            took_ms: Some(7),
            ..CheckpointInfo::default()
        };
        let job = JobDetail {
            checkpoints: vec![
                info(1, "completed", true),
                info(2, "failed", false),
                info(3, "in_progress", false),
            ],
            ..JobDetail::default()
        };
        let told = checkpoints(&job);
        assert_eq!(told["counts"], json!({ "total": 3, "in_progress": 1, "completed": 1, "failed": 1 }));
        assert_eq!(told["history"][0]["id"], 3);
        assert_eq!(told["latest"]["savepoint"]["id"], 1);
        assert_eq!(told["latest"]["failed"]["failure_message"], "no room");
        assert_eq!(told["history"][0]["status"], "IN_PROGRESS");
    }

    #[test]
    fn an_overview_counts_jobs_by_their_states() {
        let job = |state: &str| JobDetail {
            info: JobInfo { id: "a".into(), state: state.into(), ..JobInfo::default() },
            ..JobDetail::default()
        };
        let look = Look { jobs: vec![job("running"), job("failed"), job("cancelled")], ..Look::default() };
        let told = overview(&look, Value::Null);
        assert_eq!(
            (&told["jobs-running"], &told["jobs-failed"], &told["jobs-cancelled"]),
            (&json!(1), &json!(1), &json!(1))
        );
        assert_eq!(jobs(&look)["jobs"][2]["state"], "CANCELED");
        assert_eq!(jobs(&look)["jobs"][0]["end-time"], -1);
    }

    #[test]
    fn a_plan_has_a_node_for_each_chain_with_its_inputs() {
        let graph = json!({
            "chains": [
                { "index": 0, "parallelism": 2, "operators": ["read", "parse"] },
                { "index": 1, "parallelism": 1, "operators": ["sum"] },
            ],
            "edges": [{ "index": 0, "from_chain": 0, "to_chain": 1, "exchange": "hash" }],
        });
        let told = plan(&JobDetail { graph, ..JobDetail::default() });
        assert_eq!(told["plan"]["nodes"][0]["description"], "read -> parse");
        assert_eq!(
            told["plan"]["nodes"][1]["inputs"][0],
            json!({ "num": 0, "id": "0", "ship_strategy": "hash" })
        );
    }
}
