//! `upgrade`: a job goes over to another build, and back to the one it came from if that does not run it.
//!
//! Checkpoint, stop, replace the nodes, start from the checkpoint, and wait for the first checkpoint of the
//! new build. Until that is complete nothing of the new build has been committed by a sink with
//! transactions, so that the old build goes on from the same checkpoint as if nothing had been. How nodes
//! are replaced is a command that the user gives: of Helm, of systemd, a script.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::Instant;

use super::args::{Global, UpgradeArgs};
use super::jobs::found;
use super::output::{print_json, print_line};
use crate::client::{Client, called};
use crate::error::{Error, Result};
use crate::follow::request;
use crate::jobs::{JobInfo, JobRequest};
use crate::node_service::NodeInfo;

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Longest wait for one answer while nodes come and go.
const ASK_MAX: Duration = Duration::from_secs(10);

/// What is said at the end.
#[derive(Debug, serde::Serialize)]
struct Upgraded {
    from: String,
    to: String,
    checkpoint: String,
    old_build: String,
    new_build: String,
}

pub(crate) async fn upgrade(global: &Global, args: &UpgradeArgs) -> Result<()> {
    let client = super::connect(global, &args.cluster).await?;
    let old_build = build_of(&client.nodes().await?)
        .map_err(|why| Error::failed(format!("there is nothing to return to: {why}")))?;
    let job = found(&client, &args.job, client.jobs().await?.show(args.job.clone()).await).await?;
    if job.has_ended() {
        return Err(Error::usage(format!("job {} is {}: there is nothing to take over", job.id, job.state)));
    }
    let parallelism = called(client.jobs().await?.counts(job.id.clone()).await)?.parallelism;
    let epoch = checkpointed(&client, &job, args).await?;
    say(&format!("{} has checkpoint {epoch}; it stops", job.id));
    let stopped = called(client.jobs().await?.cancel(job.id.clone()).await)?;
    let stopped = until_ended(&client, stopped, args).await?;
    // What was committed belongs to its last checkpoint, which may have come behind the one that was asked for.
    let epoch = stopped.last_checkpoint.unwrap_or(epoch);
    client.close();
    let checkpoint = format!("{}/{epoch}", job.id);
    let mut wanted = request(&job.pipeline, &global.layers()?, Some(parallelism), args.replay);
    wanted.restore = Some(checkpoint.clone());
    wanted.allow_orphaned_state = args.allow_orphaned_state;

    let why = match go_over(global, args, &wanted, &old_build).await {
        Ok((to, new_build)) => {
            let done = Upgraded { from: job.id, to, checkpoint, old_build, new_build };
            return match global.json {
                true => print_json(&done),
                false => print_line(&format!(
                    "{} goes on as {} from checkpoint {}, on build {} (before: {})",
                    done.from, done.to, done.checkpoint, done.new_build, done.old_build
                )),
            };
        }
        Err(Failed { why, left: Ok(Some(late)) }) => {
            // The way back would write again what is committed.
            return Err(Error::failed(format!(
                "the new build does not run {}: {why}; meanwhile it has completed checkpoint {late}, so nothing was brought back",
                job.pipeline
            ))
            .hint(format!("`run {} --restore {late}` goes on from there", job.pipeline)));
        }
        Err(Failed { why, left: Err(error) }) => {
            // Two of them beside each other would write everything twice.
            return Err(Error::failed(format!(
                "the new build does not run {}: {why}; and whether what it has begun is over could not be found out, \
                 so nothing was brought back: {error}",
                job.pipeline
            ))
            .hint(format!(
                "`jobs` lists it; once it has ended without a checkpoint of its own, bring build {old_build} back and \
                 `run {} --restore {checkpoint}`",
                job.pipeline
            )));
        }
        Err(Failed { why, left: Ok(None) }) => why,
    };
    say(&format!("the new build does not run it: {why}"));
    let Some(back) = &args.back else {
        return Err(Error::failed(format!(
            "{} stands still at checkpoint {checkpoint}: {why}",
            job.pipeline
        ))
        .hint(format!(
            "bring build {old_build} back and `run {} --restore {checkpoint}`; --back does so by itself",
            job.pipeline
        )));
    };
    match go_back(global, args, back, &wanted, &old_build).await {
        Ok(id) => Err(Error::failed(format!(
            "the new build does not run {}: {why}; the old build {old_build} goes on as {id} from checkpoint {checkpoint}",
            job.pipeline
        ))),
        Err(error) => Err(Error::failed(format!(
            "the new build does not run {}: {why}; and the old one could not be brought back: {error}",
            job.pipeline
        ))
        .hint(format!("with nodes of build {old_build}: `run {} --restore {checkpoint}`", job.pipeline))),
    }
}

fn say(text: &str) {
    eprintln!("{text}");
}

/// The one build of all nodes.
fn build_of(nodes: &[NodeInfo]) -> std::result::Result<String, String> {
    let silent: Vec<&str> =
        nodes.iter().filter(|n| n.state == "unreachable").map(|n| n.id.as_str()).collect();
    if !silent.is_empty() {
        return Err(format!("{} do not answer", silent.join(", ")));
    }
    let builds: BTreeSet<&str> = nodes.iter().map(|node| node.build.as_str()).collect();
    match builds.iter().collect::<Vec<_>>().as_slice() {
        [] => Err("there is no node".to_owned()),
        [one] => Ok((**one).to_owned()),
        several => Err(format!("the nodes are of {} builds", several.len())),
    }
}

/// Takes a checkpoint and waits until it is complete.
async fn checkpointed(client: &Client, job: &JobInfo, args: &UpgradeArgs) -> Result<u64> {
    let before = job.last_checkpoint;
    let jobs = client.jobs().await?;
    called(jobs.checkpoint(job.id.clone()).await)?;
    let until = Instant::now() + args.within();
    loop {
        let now = called(jobs.show(job.id.clone()).await)?;
        match now.last_checkpoint {
            Some(epoch) if now.last_checkpoint != before => return Ok(epoch),
            _ if now.has_ended() => {
                return Err(Error::failed(format!("job {} is {} before its checkpoint", job.id, now.state)));
            }
            _ if Instant::now() >= until => {
                let text = format!(
                    "no checkpoint of {} is complete within {} s: nothing was changed",
                    job.id, args.within
                );
                return Err(Error::failed(text)
                    .hint("`logs --level warn` says what keeps it; `--within` waits longer"));
            }
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

async fn until_ended(client: &Client, mut job: JobInfo, args: &UpgradeArgs) -> Result<JobInfo> {
    let until = Instant::now() + args.within();
    while !job.has_ended() {
        if Instant::now() >= until {
            return Err(Error::failed(format!("job {} does not stop within {} s", job.id, args.within)));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        job = called(client.jobs().await?.show(job.id).await)?;
    }
    Ok(job)
}

/// Why the new build was given up.
struct Failed {
    why: Error,
    /// The checkpoint that it has completed nevertheless, or why that is not known.
    left: Result<Option<String>>,
}

impl From<Error> for Failed {
    /// Nothing was begun.
    fn from(why: Error) -> Self {
        Self { why, left: Ok(None) }
    }
}

/// Replaces the nodes, starts the job there, and waits for its first checkpoint; its id and its build.
async fn go_over(
    global: &Global,
    args: &UpgradeArgs,
    wanted: &JobRequest,
    old_build: &str,
) -> std::result::Result<(String, String), Failed> {
    shell(&args.roll).await?;
    let (client, build) = nodes_of(global, args, |build| build != old_build).await?;
    say(&format!("the nodes are of build {build}"));
    let before = Before::of(&client).await?;
    let begun = match start(&client, wanted, &before, args).await {
        Ok(id) => proven(&client, &id, args).await.map(|()| id),
        Err(why) => Err(why),
    };
    let gone_over = match begun {
        Ok(id) => Ok((id, build)),
        Err(why) => Err(Failed { why, left: before.clear(&client, wanted, args).await }),
    };
    client.close();
    gone_over
}

/// The jobs there were before one was started.
struct Before(BTreeSet<String>);

impl Before {
    async fn of(client: &Client) -> Result<Self> {
        let jobs = called(client.jobs().await?.list().await)?;
        Ok(Self(jobs.into_iter().map(|job| job.id).collect()))
    }

    /// The jobs of the pipeline that have come since.
    async fn since(&self, client: &Client, wanted: &JobRequest) -> Result<Vec<JobInfo>> {
        let mut jobs = called(client.jobs().await?.list().await)?;
        jobs.retain(|job| job.pipeline == wanted.pipeline && !self.0.contains(&job.id));
        Ok(jobs)
    }

    /// Ends them, since none must run beside the one that follows; returns a checkpoint that one has completed.
    async fn clear(
        &self,
        client: &Client,
        wanted: &JobRequest,
        args: &UpgradeArgs,
    ) -> Result<Option<String>> {
        let mut completed = None;
        for job in self.since(client, wanted).await? {
            let job = called(client.jobs().await?.cancel(job.id).await)?;
            let ended = until_ended(client, job, args).await?;
            completed = ended.last_checkpoint.map(|last| format!("{}/{last}", ended.id)).or(completed);
        }
        Ok(completed)
    }
}

/// Brings the old nodes back and starts the job there; its id.
async fn go_back(
    global: &Global,
    args: &UpgradeArgs,
    back: &str,
    wanted: &JobRequest,
    old_build: &str,
) -> Result<String> {
    shell(back).await?;
    let (client, _) = nodes_of(global, args, |build| build == old_build).await?;
    let before = Before::of(&client).await?;
    let id = start(&client, wanted, &before, args).await?;
    client.close();
    Ok(id)
}

/// Runs a command of the user's; what it prints is for the user, too.
async fn shell(command: &str) -> Result<()> {
    say(&format!("$ {command}"));
    let mut process = tokio::process::Command::new("sh");
    // The standard output is this command's own answer.
    process.arg("-c").arg(format!("exec >&2\n{command}")).stdin(Stdio::null());
    match process.status().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::failed(format!("`{command}` ended with {status}"))),
        Err(error) => Err(Error::failed(format!("`{command}` cannot be started: {error}"))),
    }
}

/// Waits until all nodes are of one build, and of the right one.
async fn nodes_of(
    global: &Global,
    args: &UpgradeArgs,
    right: impl Fn(&str) -> bool,
) -> Result<(Client, String)> {
    let until = Instant::now() + args.within();
    loop {
        let looked = tokio::time::timeout(ASK_MAX, async {
            let client = super::connect(global, &args.cluster).await.map_err(|error| error.to_string())?;
            let nodes = client.nodes().await.map_err(|error| error.to_string())?;
            let build = build_of(&nodes)?;
            let ready = nodes.iter().all(|node| node.state == "ready");
            let leads = client.jobs().await.is_ok();
            match right(&build) && ready && leads {
                true => Ok((client, build)),
                false if !right(&build) => Err(format!("the nodes are of build {build}")),
                false => Err("not all nodes are ready".to_owned()),
            }
        });
        let why = match looked.await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(why)) => why,
            Err(_) => "no node answers".to_owned(),
        };
        if Instant::now() >= until {
            return Err(Error::failed(format!(
                "the nodes were not replaced within {} s: {why}",
                args.within
            )));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Starts the job; who has just begun to coordinate may have to be asked twice, and is not when the first
/// time was heard.
async fn start(client: &Client, wanted: &JobRequest, before: &Before, args: &UpgradeArgs) -> Result<String> {
    use afflux_wire::Code;
    let until = Instant::now() + args.within();
    loop {
        match client.jobs().await?.submit(wanted.clone()).await {
            Err(error) if error.code() == Code::Unavailable && Instant::now() < until => {
                tokio::time::sleep(LOOK_AGAIN).await;
                if let Ok(Some(job)) = before.since(client, wanted).await.map(|mut jobs| jobs.pop()) {
                    return Ok(job.id);
                }
            }
            answer => {
                let job = called(answer)?;
                if let Some(restored) = &job.restored {
                    say(&format!("state {restored}"));
                }
                return Ok(job.id);
            }
        }
    }
}

/// Waits for the first checkpoint of a job, or its end.
async fn proven(client: &Client, id: &str, args: &UpgradeArgs) -> Result<()> {
    let until = Instant::now() + args.within();
    let jobs = client.jobs().await?;
    let mut asked = false;
    loop {
        let job = called(jobs.show(id.to_owned()).await)?;
        if let Some(failure) = job.failures.last().or(job.error.as_ref()) {
            return Err(Error::failed(failure.clone()));
        }
        match job.state.as_str() {
            "finished" => return Ok(()),
            "failed" | "cancelled" => return Err(Error::failed(format!("job {id} is {}", job.state))),
            "running" if job.last_checkpoint.is_some() => return Ok(()),
            "running" if !asked => {
                called(jobs.checkpoint(id.to_owned()).await)?;
                asked = true;
            }
            _ => {}
        }
        if Instant::now() >= until {
            return Err(Error::failed(format!("job {id} has no checkpoint within {} s", args.within)));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_are_of_one_build_or_it_is_said_why_not() {
        let node = |id: &str, build: &str, state: &str| NodeInfo {
            id: id.into(),
            build: build.into(),
            state: state.into(),
            ..NodeInfo::default()
        };
        assert_eq!(build_of(&[node("a", "1", "ready"), node("b", "1", "draining")]).unwrap(), "1");
        for (nodes, why) in [
            (vec![], "no node"),
            (vec![node("a", "1", "ready"), node("b", "2", "ready")], "2 builds"),
            (vec![node("a", "1", "ready"), node("b", "1", "unreachable")], "b do not answer"),
        ] {
            let said = build_of(&nodes).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
