//! Pipelines that the settings name (`pipeline.start`): whoever coordinates the jobs starts those of which there is no
//! job, so that a cluster that was installed runs something without a word of anybody's.
//!
//! A job that has ended stays ended: that is `run`'s to change. One that was lost with its whole cluster, and could not
//! be taken up, is followed by another from its latest checkpoint.

use std::sync::Arc;
use std::time::Duration;

use afflux_stream::job::Storage;
use afflux_wire::Status;

use super::desk::Desk;
use super::pipelines::Pipelines;
use crate::error::{Error, Result, suggest};
use crate::jobs::{JobRequest, Jobs};
use crate::settings::Settings;

/// Longest wait for the nodes that are to be there.
const NODES_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks at who is there.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Between two tries to start one.
const START_AGAIN: Duration = Duration::from_secs(5);

/// How many tasks a pipeline is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tasks {
    /// As the other settings say.
    Any,
    /// So many, whatever nodes join.
    Fixed(u32),
    /// One a slot, and those of nodes that join.
    Slots,
}

impl Tasks {
    /// The settings of a request that say so.
    fn settings(self) -> Vec<(String, String)> {
        let set = |key: &str, value: String| (key.to_owned(), value);
        match self {
            Tasks::Any => Vec::new(),
            Tasks::Fixed(tasks) => vec![
                set("pipeline.parallelism", tasks.to_string()),
                set("pipeline.rescale", "manual".to_owned()),
            ],
            Tasks::Slots => vec![set("pipeline.rescale", "auto".to_owned())],
        }
    }
}

/// What is started without being asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// Pipelines, and how many tasks each is given.
    pipelines: Vec<(String, Tasks)>,
    /// Nodes that are waited for.
    nodes_min: usize,
}

impl Standing {
    /// What the settings say.
    ///
    /// # Errors
    /// A pipeline that this program does not have, with the nearest; a parallelism that is none.
    pub(crate) fn of(settings: &Settings, known: &Pipelines) -> Result<Self> {
        let mut pipelines = Vec::new();
        for word in &settings.pipeline_start {
            let wrong = |why: String| Error::usage(format!("pipeline.start: `{word}`: {why}"));
            let (name, tasks) = match word.split_once('=') {
                None => (word.as_str(), Tasks::Any),
                Some((name, tasks)) if tasks.trim() == "auto" => (name.trim(), Tasks::Slots),
                Some((name, tasks)) => match tasks.trim().parse::<u32>() {
                    Ok(tasks) if tasks > 0 => (name.trim(), Tasks::Fixed(tasks)),
                    _ => {
                        return Err(wrong(format!("`{tasks}` is no number of tasks"))
                            .hint("write NAME, NAME=auto, or NAME=TASKS with at least one task"));
                    }
                },
            };
            if !known.names().contains(&name) {
                return Err(
                    wrong("this program has no such pipeline".to_owned()).hint(suggest(name, known.names()))
                );
            }
            pipelines.push((name.to_owned(), tasks));
        }
        let nodes_min = usize::try_from(settings.pipeline_start_nodes_min).unwrap_or(usize::MAX);
        Ok(Self { pipelines, nodes_min })
    }
}

/// What was found of a pipeline's jobs.
enum Found {
    /// One is there, or has ended: nothing is to be done.
    Job(String),
    /// None is, but one has left a checkpoint.
    Left(String),
    Nothing,
}

impl Desk {
    /// Starts what the settings name and nobody has started, beside everything else.
    pub(super) fn start_standing(self: &Arc<Self>) {
        for (pipeline, tasks) in self.parts.standing.pipelines.clone() {
            let desk = Arc::clone(self);
            self.parts.io.spawn_with(move || async move { desk.start_one(pipeline, tasks).await });
        }
    }

    async fn start_one(self: Arc<Self>, pipeline: String, tasks: Tasks) {
        let clock = &self.parts.clock;
        let until = clock.now() + NODES_WAIT_MAX;
        while self.is_leading()
            && (self.parts.nodes)().len() < self.parts.standing.nodes_min
            && clock.now() < until
        {
            clock.sleep(LOOK_AGAIN).await;
        }
        let mut told = String::new();
        while self.is_leading() {
            match self.start_once(&pipeline, tasks).await {
                Ok(job) => {
                    return tracing::info!(pipeline, job, "a pipeline of `pipeline.start` has its job");
                }
                Err(status) if status.message == told => {}
                Err(status) => {
                    tracing::warn!(pipeline, error = %status, "a pipeline of `pipeline.start` cannot be started yet");
                    told = status.message;
                }
            }
            clock.sleep(START_AGAIN).await;
        }
    }

    /// The job that is there, or a new one.
    async fn start_once(&self, pipeline: &str, tasks: Tasks) -> std::result::Result<String, Status> {
        let restore = match self.job_of(pipeline).await? {
            Found::Job(job) => return Ok(job),
            Found::Left(job) => Some(job),
            Found::Nothing => None,
        };
        let request = JobRequest {
            pipeline: pipeline.to_owned(),
            settings: tasks.settings().into_iter().collect(),
            restore,
            ..JobRequest::default()
        };
        let jobs = self.parts.mesh.client_on::<Jobs>(&self.parts.node);
        Ok(jobs.submit(request).await?.id)
    }

    async fn job_of(&self, pipeline: &str) -> std::result::Result<Found, Status> {
        let known = {
            let table = self.table.lock();
            let mut jobs = table.jobs.iter();
            jobs.find(|(_, entry)| entry.coordinator.deployment().pipeline == pipeline)
                .map(|(id, _)| id.clone())
        };
        match (known, &self.parts.storage) {
            (Some(job), _) => Ok(Found::Job(job)),
            (None, None) => Ok(Found::Nothing),
            (None, Some(storage)) => stored(storage, pipeline).await,
        }
    }
}

/// The newest job of a pipeline that has left something in the storage.
async fn stored(storage: &Storage, pipeline: &str) -> std::result::Result<Found, Status> {
    let mut newest: Option<(i64, String, bool)> = None;
    for found in storage.jobs().await?.into_iter().filter(|job| job.specified) {
        let spec = storage.job_spec(&found.job).await?;
        if spec.pipeline == pipeline && newest.as_ref().is_none_or(|(at, ..)| spec.created_ms >= *at) {
            newest = Some((spec.created_ms, found.job, found.ended));
        }
    }
    Ok(match newest {
        Some((_, job, true)) => Found::Job(job),
        Some((_, job, false)) if !storage.epochs(&job).await?.is_empty() => Found::Left(job),
        _ => Found::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<Standing> {
        let mut known = Pipelines::default();
        for name in ["hourly", "daily"] {
            known.add(name, Arc::new(|_| Ok(())));
        }
        let pipeline_start = words.iter().map(|word| (*word).to_owned()).collect();
        Standing::of(&Settings { pipeline_start, ..Settings::default() }, &known)
    }

    #[test]
    fn a_pipeline_may_have_a_parallelism_of_its_own() {
        let standing = of(&["hourly", "daily=4", "hourly=auto"]).unwrap();
        let tasks: Vec<Tasks> = standing.pipelines.iter().map(|(_, tasks)| *tasks).collect();
        assert_eq!(tasks, [Tasks::Any, Tasks::Fixed(4), Tasks::Slots]);
        let fixed: Vec<(String, String)> = Tasks::Fixed(4).settings();
        assert!(fixed.contains(&("pipeline.rescale".to_owned(), "manual".to_owned())), "{fixed:?}");
        assert_eq!(standing.nodes_min, 1);
        assert_eq!(of(&[]).unwrap().pipelines, []);
    }

    #[test]
    fn what_cannot_be_started_is_named_with_the_cure() {
        for (word, part) in [
            ("hourli", "did you mean `hourly`?"),
            ("hourly=0", "at least one task"),
            ("hourly=all", "no number"),
        ] {
            let error = of(&[word]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(
                error.to_string().contains("pipeline.start") && error.to_string().contains(part),
                "{error}"
            );
        }
    }
}
