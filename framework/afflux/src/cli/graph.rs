//! `graph`: what a pipeline is made of, and where its tasks live when it runs.

use std::fmt::Write as _;

use afflux_stream::{Graph, JobSettings, OperatorKind};

use super::args::{Global, GraphArgs, GraphFormat};
use super::output::{print, print_json};
use crate::app::App;
use crate::client::called;
use crate::error::Result;
use crate::jobs::{JobInfo, TaskPlace};

pub(crate) async fn graph(app: &App, global: &Global, args: &GraphArgs) -> Result<()> {
    let pipeline = app.pipeline_named(args.pipeline.as_deref())?;
    let job = running(global, args, &pipeline).await?;
    let parallelism = match &job {
        Some(job) => job.tasks.iter().map(|task| task.subtask + 1).max().unwrap_or(1),
        None => u32::try_from(global.layers()?.settings().pipeline_parallelism.max(1)).unwrap_or(u32::MAX),
    };
    let settings = JobSettings { parallelism, ..crate::node::job_defaults(&global.layers()?.settings()) };
    let plan = app.pipelines().plan(&pipeline, settings)?;
    let tasks = job.as_ref().map(|job| job.tasks.as_slice()).unwrap_or_default();
    match if global.json { GraphFormat::Json } else { args.format } {
        GraphFormat::Text => {
            let mut shown = text(plan.graph(), tasks);
            for guarantee in plan.guarantees() {
                let _ = write!(shown, "\n  {guarantee}\n");
            }
            for warning in plan.warnings() {
                let _ = write!(shown, "\n  warning: {warning}\n");
            }
            print(&shown)
        }
        GraphFormat::Dot => print(&plan.graph().to_dot()),
        GraphFormat::Json => {
            let mut value = serde_json::to_value(plan.graph())?;
            if let Some(object) = value.as_object_mut() {
                object.insert("tasks".to_owned(), serde_json::to_value(tasks)?);
                object.insert("guarantees".to_owned(), serde_json::to_value(plan.guarantees())?);
                object.insert("warnings".to_owned(), serde_json::to_value(plan.warnings())?);
                object.insert("job".to_owned(), serde_json::to_value(job.as_ref().map(|job| &job.id))?);
            }
            print_json(&value)
        }
    }
}

/// The newest job of the pipeline, when there is a cluster. Without one the graph alone is shown.
async fn running(global: &Global, args: &GraphArgs, pipeline: &str) -> Result<Option<JobInfo>> {
    if args.cluster.address.is_none() && !super::has_cluster(global)? {
        return Ok(None);
    }
    let client = super::connect(global, &args.cluster).await?;
    let jobs = called(client.jobs().await?.list().await)?;
    Ok(jobs.into_iter().find(|job| job.pipeline == pipeline))
}

/// The graph for people: a paragraph a chain.
fn text(graph: &Graph, tasks: &[TaskPlace]) -> String {
    let mut text = format!("{}\n", graph.pipeline);
    for chain in &graph.chains {
        let _ = writeln!(
            text,
            "\n  chain {}  {} task{}",
            chain.index,
            chain.parallelism,
            if chain.parallelism == 1 { "" } else { "s" }
        );
        for operator in graph.operators.iter().filter(|o| o.chain == chain.index) {
            let kind = match operator.kind {
                OperatorKind::Source => "source",
                OperatorKind::Transform => "transform",
                OperatorKind::Keyed => "keyed",
                OperatorKind::Tell => "tell",
                OperatorKind::Sink => "sink",
            };
            let _ = writeln!(text, "    {}  ({})", operator.name, join(kind, &operator.detail));
        }
        for edge in graph.edges.iter().filter(|e| e.from_chain == chain.index) {
            let how = format!("{:?}", edge.exchange).to_lowercase();
            let _ = writeln!(text, "      └─ {how} → chain {}", edge.to_chain);
        }
        let mut places: Vec<&TaskPlace> =
            tasks.iter().filter(|task| task.operators == chain.operators).collect();
        places.sort_by_key(|task| task.subtask);
        for place in places {
            let _ = writeln!(text, "      [{}] on {}", place.subtask, place.node);
        }
    }
    text
}

fn join(kind: &str, detail: &str) -> String {
    if detail.is_empty() || detail == kind { kind.to_owned() } else { format!("{kind}, {detail}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_stream::{Flow, vec_source};

    #[test]
    fn a_graph_shows_chains_exchanges_and_places() {
        let flow = Flow::new("evens", JobSettings::default());
        flow.source("numbers", vec_source((0..10_u64).collect()))
            .untimed()
            .filter(|x| x % 2 == 0)
            .count("evens");
        let plan = flow.finish().unwrap();
        let chain = &plan.graph().chains[0];
        let place =
            TaskPlace { operators: chain.operators.clone(), node: "node-2".into(), ..TaskPlace::default() };
        let shown = text(plan.graph(), &[place]);
        assert!(shown.starts_with("evens\n\n  chain 0  1 task\n    numbers  (source"), "{shown}");
        assert!(shown.contains("[0] on node-2"), "{shown}");
    }
}
