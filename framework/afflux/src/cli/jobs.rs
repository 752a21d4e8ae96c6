//! `jobs`, `job`, `checkpoint` and `cancel`.

use super::args::{ClusterArgs, Global, JobArgs};
use super::output::{print, print_json};
use super::table::table;
use crate::client::{Client, called};
use crate::contract::CallError;
use crate::error::{Error, Result, suggest};
use crate::jobs::JobInfo;
use crate::progress::thousands;

pub(crate) async fn jobs(global: &Global, cluster: &ClusterArgs) -> Result<()> {
    let client = super::connect(global, cluster).await?;
    let jobs = called(client.jobs().await?.list().await)?;
    if global.json {
        return print_json(&jobs);
    }
    if jobs.is_empty() {
        return print("no job is running; start one with `run PIPELINE`\n");
    }
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            vec![
                job.id.clone(),
                job.pipeline.clone(),
                job.state.clone(),
                job.nodes().len().to_string(),
                job.tasks.len().to_string(),
                thousands(job.progress.records_in),
                thousands(job.progress.records_out),
                format!("{:.1} s", job.wall_s),
            ]
        })
        .collect();
    print(&table(&["JOB", "PIPELINE", "STATE", "NODES", "TASKS", "IN", "OUT", "TIME"], &rows))
}

pub(crate) async fn job(global: &Global, args: &JobArgs) -> Result<()> {
    let client = super::connect(global, &args.cluster).await?;
    let job = found(&client, &args.job, client.jobs().await?.show(args.job.clone()).await).await?;
    show(global, &job)
}

pub(crate) async fn checkpoint(global: &Global, args: &JobArgs) -> Result<()> {
    let client = super::connect(global, &args.cluster).await?;
    let answer = client.jobs().await?.checkpoint(args.job.clone()).await;
    show(global, &found(&client, &args.job, answer).await?)
}

pub(crate) async fn cancel(global: &Global, args: &JobArgs) -> Result<()> {
    let client = super::connect(global, &args.cluster).await?;
    let job = found(&client, &args.job, client.jobs().await?.cancel(args.job.clone()).await).await?;
    show(global, &job)
}

/// An unknown id is answered with the nearest one there is.
pub(super) async fn found(
    client: &Client,
    id: &str,
    answer: std::result::Result<JobInfo, CallError>,
) -> Result<JobInfo> {
    match answer {
        Err(error) if error.code() == afflux_wire::Code::NotFound => {
            let jobs = called(client.jobs().await?.list().await)?;
            let ids = jobs.iter().map(|job| job.id.as_str());
            Err(Error::usage(format!("there is no job `{id}`")).hint(suggest(id, ids)))
        }
        answer => called(answer),
    }
}

pub(super) fn show(global: &Global, job: &JobInfo) -> Result<()> {
    if global.json {
        return print_json(job);
    }
    print(&text(job))
}

/// A job for people, several lines.
pub(crate) fn text(job: &JobInfo) -> String {
    let mut text = format!(
        "{}  {}  {}  {:.1} s\n  in {} records, out {}, late {}\n",
        job.id,
        job.pipeline,
        job.state,
        job.wall_s,
        thousands(job.progress.records_in),
        thousands(job.progress.records_out),
        thousands(job.progress.late),
    );
    if let Some(epoch) = job.last_checkpoint {
        text.push_str(&format!("  last checkpoint: {}/{epoch}\n", job.id));
    }
    if let Some(error) = &job.error {
        text.push_str(&format!("  error: {error}\n"));
    }
    if job.attempt > 1 {
        text.push_str(&format!("  attempt {}\n", job.attempt));
    }
    for record in &job.set_aside {
        text.push_str(&format!("  set aside: {record}\n"));
    }
    for failure in &job.failures {
        text.push_str(&format!("  lost {failure}\n"));
    }
    let rows: Vec<Vec<String>> =
        job.tasks.iter().map(|t| vec![format!("  {}", t.path), t.node.clone()]).collect();
    if !rows.is_empty() {
        text.push_str(&table(&["  TASK", "NODE"], &rows));
    }
    text
}
