//! `state`: looks into checkpoints where they are kept; no cluster is asked.

use std::fmt::Write as _;

use afflux_stream::job::{Damage, Manifest, StateLook, Storage};
use afflux_wire::{Code, Status};
use serde::Serialize;

use super::args::{Global, StateArgs, StateCommand};
use super::output::{print, print_json};
use super::table::table;
use crate::error::{Error, Result};
use crate::node::checkpoint_storage;
use crate::progress::thousands;

/// A checkpoint in a list.
#[derive(Serialize)]
struct Listed {
    job: String,
    epoch: u64,
    savepoint: bool,
    attempt: u64,
    pipeline: String,
    tasks: usize,
    rows: u64,
    /// Of the state, and of what was written for it.
    bytes: u64,
    written_bytes: u64,
    /// Why it cannot be read.
    error: Option<String>,
}

pub(crate) async fn state(global: &Global, args: &StateArgs) -> Result<()> {
    let mut settings = global.layers()?.settings();
    if let Some(url) = &args.url {
        settings.checkpoint_url.clone_from(url);
    }
    let storage = checkpoint_storage(&settings)?.ok_or_else(|| {
        Error::usage("no storage of checkpoints is known")
            .hint("name it with `--url`, or set `checkpoint.url`")
    })?;
    match &args.command {
        StateCommand::Ls { job: None } => jobs(global, &storage).await,
        StateCommand::Ls { job: Some(job) } => checkpoints(global, &storage, job).await,
        StateCommand::Show { checkpoint } => {
            let (job, epoch) = one(&storage, checkpoint).await?;
            let (manifest, looks) = storage.look(&job, epoch).await.map_err(told)?;
            show(global, &manifest, &looks)
        }
        StateCommand::Verify { checkpoint } => verify(global, &storage, checkpoint).await,
        StateCommand::Savepoint { checkpoint } => {
            let (job, epoch) = one(&storage, checkpoint).await?;
            let manifest = storage.savepoint(&job, epoch).await.map_err(told)?;
            if global.json {
                return print_json(&serde_json::json!({ "savepoint": format!("{job}/{epoch}") }));
            }
            let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
            print(&format!("savepoint {job}/{epoch}: {} bytes\n", thousands(bytes)))
        }
    }
}

fn told(status: Status) -> Error {
    Error::failed(status.message)
}

async fn jobs(global: &Global, storage: &Storage) -> Result<()> {
    let jobs = storage.jobs().await.map_err(told)?;
    if global.json {
        return print_json(&jobs);
    }
    let mut rows = Vec::new();
    for job in &jobs {
        let epochs = storage.epochs(&job.job).await.map_err(told)?;
        let newest = epochs.last().map_or_else(|| "-".to_owned(), ToString::to_string);
        let ended = if job.ended { "ended" } else { "open" };
        rows.push(vec![job.job.clone(), ended.to_owned(), epochs.len().to_string(), newest]);
    }
    print(&table(&["JOB", "STATE", "KEPT", "NEWEST"], &rows))
}

async fn checkpoints(global: &Global, storage: &Storage, job: &str) -> Result<()> {
    let savepoints = storage.savepoints(job).await.map_err(told)?;
    let mut listed = Vec::new();
    for epoch in storage.epochs(job).await.map_err(told)? {
        let manifest = match storage.manifest(job, epoch).await {
            Ok(manifest) => (manifest, None),
            Err(status) if status.code == Code::DataLoss => (Manifest::default(), Some(status.message)),
            Err(status) => return Err(told(status)),
        };
        let (manifest, error) = manifest;
        let states = || manifest.files.iter().flat_map(|file| &file.states);
        listed.push(Listed {
            job: job.to_owned(),
            epoch,
            savepoint: savepoints.contains(&epoch),
            attempt: manifest.attempt,
            pipeline: manifest.pipeline.clone(),
            tasks: manifest.files.len() + manifest.finished.len(),
            rows: states().map(|state| state.rows).sum(),
            bytes: states().map(|state| state.bytes).sum(),
            written_bytes: manifest.files.iter().map(|file| file.bytes).sum(),
            error,
        });
    }
    if listed.is_empty() {
        return Err(Error::usage(format!("job `{job}` has no checkpoint in {}", storage.place()))
            .hint("`state ls` lists the jobs that have left something there"));
    }
    if global.json {
        return print_json(&listed);
    }
    let rows: Vec<Vec<String>> = listed
        .iter()
        .map(|c| {
            vec![
                format!("{job}/{}", c.epoch),
                match &c.error {
                    Some(_) => "damaged",
                    None if c.savepoint => "savepoint",
                    None => "checkpoint",
                }
                .to_owned(),
                c.attempt.to_string(),
                c.tasks.to_string(),
                thousands(c.rows),
                thousands(c.bytes),
                thousands(c.written_bytes),
            ]
        })
        .collect();
    print(&table(&["CHECKPOINT", "KIND", "ATTEMPT", "TASKS", "ROWS", "BYTES", "WRITTEN"], &rows))
}

fn show(global: &Global, manifest: &Manifest, looks: &[StateLook]) -> Result<()> {
    if global.json {
        return print_json(&serde_json::json!({
            "job": manifest.job,
            "pipeline": manifest.pipeline,
            "epoch": manifest.epoch,
            "attempt": manifest.attempt,
            "key_groups": manifest.key_groups,
            "widths": manifest.widths,
            "states": looks,
        }));
    }
    print(&text(manifest, looks))
}

fn text(manifest: &Manifest, looks: &[StateLook]) -> String {
    let Manifest { job, epoch, pipeline, attempt, key_groups, .. } = manifest;
    let mut text = format!("{job}/{epoch}  {pipeline}  attempt {attempt}, {key_groups} key groups\n");
    let mut operator = "";
    for look in looks {
        if look.operator != operator {
            operator = &look.operator;
            let _ = writeln!(text, "\n  {operator}");
        }
        let (rows, bytes) = (thousands(look.rows), thousands(look.bytes));
        let row = if look.row.is_empty() { String::new() } else { format!("  {}", look.row) };
        let _ = writeln!(
            text,
            "    {}  {}, {rows} rows, {bytes} bytes, {} tasks{row}",
            look.state,
            look.kind.as_str(),
            look.tasks
        );
        for shape in &look.shapes {
            let _ = writeln!(text, "      {shape}");
        }
    }
    text
}

async fn verify(global: &Global, storage: &Storage, checkpoint: &str) -> Result<()> {
    let (job, epochs) = match named(checkpoint)? {
        (job, Some(epoch)) => (job, vec![epoch]),
        (job, None) => (job, storage.epochs(job).await.map_err(told)?),
    };
    if epochs.is_empty() {
        return Err(Error::usage(format!("job `{job}` has no checkpoint in {}", storage.place())));
    }
    let mut damages: Vec<Damage> = Vec::new();
    for epoch in &epochs {
        damages.extend(storage.verify(job, *epoch).await.map_err(told)?);
    }
    if global.json {
        print_json(&serde_json::json!({ "job": job, "epochs": epochs, "damages": damages }))?;
    } else if damages.is_empty() {
        print(&format!("{job}: {} checkpoints can be read whole\n", epochs.len()))?;
    } else {
        for damage in &damages {
            print(&format!("{job}/{}: {}\n", damage.epoch, damage.what))?;
        }
    }
    if damages.is_empty() {
        return Ok(());
    }
    let readable = epochs.iter().rev().find(|epoch| damages.iter().all(|damage| damage.epoch != **epoch));
    Err(Error::failed(format!("{} files of job {job} are missing or damaged", damages.len())).hint(
        match readable {
            Some(epoch) => format!("the newest checkpoint that can be read is {job}/{epoch}"),
            None => "no checkpoint of it can be read".to_owned(),
        },
    ))
}

/// `JOB` or `JOB/EPOCH`.
fn named(text: &str) -> Result<(&str, Option<u64>)> {
    match text.rsplit_once('/') {
        None => Ok((text, None)),
        Some((job, epoch)) => match epoch.parse() {
            Ok(epoch) => Ok((job, Some(epoch))),
            Err(_) => Err(Error::usage(format!("`{text}` is no checkpoint: expected JOB or JOB/EPOCH"))),
        },
    }
}

/// The checkpoint of that name: of a job alone its newest.
async fn one(storage: &Storage, text: &str) -> Result<(String, u64)> {
    let (job, epoch) = named(text)?;
    let epoch = match epoch {
        Some(epoch) => Some(epoch),
        None => storage.epochs(job).await.map_err(told)?.last().copied(),
    };
    let epoch = epoch.ok_or_else(|| {
        Error::usage(format!("job `{job}` has no checkpoint in {}", storage.place()))
            .hint("`state ls` lists the jobs that have left something there")
    })?;
    Ok((job.to_owned(), epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_shown_by_operators_states_and_what_a_row_is() {
        let manifest = Manifest {
            job: "j".into(),
            pipeline: "p".into(),
            epoch: 7,
            attempt: 2,
            key_groups: 1_024,
            ..Manifest::default()
        };
        let look = StateLook {
            operator: "orders".into(),
            state: "state".into(),
            tasks: 2,
            rows: 1_234,
            bytes: 99,
            row: "[int, Order]".into(),
            shapes: ["Order { id: int }".to_owned()].into(),
            ..StateLook::default()
        };
        let shown = text(&manifest, &[look]);
        let expected = "j/7  p  attempt 2, 1024 key groups\n\n  orders\n    state  value, 1,234 rows, 99 bytes, \
                        2 tasks  [int, Order]\n      Order { id: int }\n";
        assert_eq!(shown, expected);
        assert_eq!(named("j/7").unwrap(), ("j", Some(7)));
        assert_eq!(named("j").unwrap(), ("j", None));
        assert!(named("j/x").unwrap_err().to_string().contains("JOB/EPOCH"));
    }
}
