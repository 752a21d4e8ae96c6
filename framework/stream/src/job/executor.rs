//! Makes the tasks of a deployment on one node.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use afflux_actor::{ActorHandle, ActorMetrics, Address, Clock, Spec, StopReason, Threads};
use afflux_mesh::Mesh;
use afflux_wire::contract::Caller;
use afflux_wire::{ActorPath, NodeId, Status};

use super::deployment::{Deployment, TaskId};
use super::positions;
use crate::Result;
use crate::context::{LocalEdges, TaskContext};
use crate::flow::Plan;
use crate::gate::align::AlignBoards;
use crate::meter::TaskMeter;
use crate::snapshot::Restore;
use crate::state::{Backend, StateRoot};
use crate::task::{Task, TaskEvent, TaskMail, TaskReport, panicked};

/// Takes what the tasks of a deployment tell.
pub type JobReport = Arc<dyn Fn(TaskId, TaskEvent) + Send + Sync>;

/// Makes tasks on the slots of one node.
#[derive(Clone)]
pub struct Executor {
    /// The node's threads.
    pub threads: Arc<Threads>,
    /// The node.
    pub node: NodeId,
    /// Its mesh; absent where all tasks are in this process.
    pub mesh: Option<Mesh>,
    /// What starts the calls of its operators.
    pub caller: Option<Arc<dyn Caller>>,
    /// Its clock.
    pub clock: Clock,
    /// Where its task actors are counted.
    pub metrics: Arc<ActorMetrics>,
    /// Where its tasks keep state on disk.
    pub state: StateRoot,
}

/// A task as its worker holds it.
pub struct RunningTask {
    /// Which task.
    pub id: TaskId,
    /// Its control mailbox.
    pub handle: ActorHandle<TaskMail>,
    /// Its counters.
    pub meter: Arc<TaskMeter>,
}

/// The tasks of one attempt on this node. Dropping it stops them.
pub struct Running {
    /// The tasks.
    pub tasks: Vec<RunningTask>,
    job: Arc<str>,
    deployment: Arc<Deployment>,
    mesh: Option<Mesh>,
    boards: AlignBoards,
    clock: Clock,
    /// The threads live as long as tasks run on them.
    _threads: Arc<Threads>,
}

impl Executor {
    /// Makes and starts this node's tasks of a deployment. Failures of single tasks, at their start
    /// too, come through `report`.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when this node built another graph: names the first operator that differs; or
    /// when splits that the checkpoint is in the middle of are not there any more.
    pub fn deploy(
        &self,
        plan: &Plan,
        deployment: Arc<Deployment>,
        restore: Option<Arc<Restore>>,
        report: JobReport,
    ) -> Result<Running> {
        let fingerprint = plan.graph().fingerprint();
        if fingerprint != deployment.fingerprint {
            let difference = plan.graph().first_difference(&deployment.graph);
            return Err(Status::precondition(format!(
                "node {} builds another graph for pipeline {}: {}; run one build on all nodes",
                self.node,
                deployment.pipeline,
                difference.unwrap_or_else(|| "its fingerprint differs".to_owned())
            )));
        }
        if let Some(restore) = &restore {
            positions::check(plan, &deployment, restore)?;
        }
        let job: Arc<str> = Arc::from(deployment.job.as_str());
        let pipeline: Arc<str> = Arc::from(deployment.pipeline.as_str());
        let widths = Arc::new(plan.widths());
        let placement = Arc::new(deployment.placement.clone());
        let locals = LocalEdges::default();
        let backend = Backend::open(plan.settings(), &self.state, &job, deployment.attempt.0, &self.clock)?;
        let mut tasks = Vec::new();
        for id in deployment.tasks_on(&self.node) {
            let factory = plan.factory(id.chain).cloned().ok_or_else(|| {
                Status::internal(format!("chain {} is not in pipeline {pipeline}", id.chain))
            })?;
            let told: TaskReport = {
                let report = Arc::clone(&report);
                Arc::new(move |event| report(id, event))
            };
            let meter = TaskMeter::new(plan.settings().poison.show);
            let splits = deployment
                .splits
                .get(id.chain as usize)
                .and_then(|tasks| tasks.get(id.subtask as usize))
                .cloned()
                .unwrap_or_default();
            let chain = plan.graph().chains.get(id.chain as usize);
            let operators = chain.map_or(&[][..], |chain| &chain.operators);
            let watch = deployment.poison.watch(operators, plan.settings().poison.show);
            let context = TaskContext {
                job: Arc::clone(&job),
                pipeline: Arc::clone(&pipeline),
                attempt: deployment.attempt,
                chain: id.chain,
                subtask: id.subtask,
                settings: Arc::clone(plan.settings()),
                widths: Arc::clone(&widths),
                placement: Arc::clone(&placement),
                node: self.node.clone(),
                mesh: self.mesh.clone(),
                caller: self.caller.clone(),
                fingerprint,
                locals: locals.clone(),
                restore: restore.clone(),
                splits,
                clock: self.clock.clone(),
                meter: Arc::clone(&meter),
                backend: backend.clone(),
                report: Arc::clone(&told),
                watch: Arc::new(watch),
                letters: plan.letters(id.chain),
            };
            let width = widths.get(id.chain as usize).copied().unwrap_or(1);
            let slot = if width == 1 { id.chain } else { id.subtask } as usize;
            let path = ActorPath::new(format!("{pipeline}/{}/{}", chain_name(plan, id.chain), id.subtask));
            let mut spec = Spec::new(path, Arc::clone(&self.metrics));
            if let Some(caller) = &self.caller {
                spec = spec.caller(Arc::clone(caller));
            }
            let handle = self.threads.slot(slot).spawn(spec, move || {
                let made = catch_unwind(AssertUnwindSafe(|| factory(&context)));
                let made = made.unwrap_or_else(|payload| {
                    let kill = panicked(&*payload, &context.meter, 0);
                    Err(Status::internal(kill.to_string()))
                });
                let made = made.map(|work| {
                    Task::new(work, Arc::clone(&context.meter), Arc::clone(&told), context.clock.clone())
                });
                if let Err(status) = &made {
                    told(TaskEvent::Failed(status.clone()));
                }
                made
            });
            tasks.push(RunningTask { id, handle, meter });
        }
        Ok(Running {
            tasks,
            job,
            deployment,
            mesh: self.mesh.clone(),
            boards: locals.boards,
            clock: self.clock.clone(),
            _threads: Arc::clone(&self.threads),
        })
    }
}

/// A chain's name in addresses: its last named operator.
fn chain_name(plan: &Plan, chain: u32) -> String {
    plan.graph()
        .chains
        .get(chain as usize)
        .and_then(|c| c.operators.last())
        .cloned()
        .unwrap_or_else(|| chain.to_string())
}

impl Running {
    /// What is being run.
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    /// Starts an epoch at this node's sources (other tasks ignore it).
    pub fn trigger(&self, epoch: u64) {
        self.send(|| TaskMail::Trigger(epoch));
    }

    /// Tells all tasks that an epoch is durable.
    pub fn completed(&self, epoch: u64) {
        self.send(|| TaskMail::Completed(epoch));
    }

    /// Tells the aligned sources how far they are on other nodes, and returns how far they are here: for
    /// each source the latest record of its slowest split, in milliseconds since 1970; `i64::MIN`: nothing
    /// was read yet; `i64::MAX`: it holds nobody back. A source of which no task has begun is left out.
    /// What is told holds for ten seconds.
    pub fn align(&self, others: &[(String, i64)]) -> Vec<(String, i64)> {
        self.boards.exchange(others, self.clock.now())
    }

    /// Tells tasks that what they saved could not be stored, for as long as they are there.
    pub fn unstored(&self) -> Unstored {
        Unstored(self.tasks.iter().map(|task| (task.id, task.handle.address().clone())).collect())
    }

    fn send(&self, mail: impl Fn() -> TaskMail) {
        for task in &self.tasks {
            if task.handle.address().try_send(mail()).is_err() && !task.handle.address().is_closed() {
                tracing::warn!(task = %task.id, job = %self.job, "control mailbox is full: message dropped");
            }
        }
    }

    /// Stops all tasks and lets their channels go.
    pub fn stop(&self, reason: &Status) {
        for task in &self.tasks {
            task.handle.stop(StopReason::Asked(reason.clone()));
        }
        if let Some(mesh) = &self.mesh {
            mesh.release_attempt(&self.job, self.deployment.attempt);
        }
    }
}

/// The way to tasks whose part of an epoch could not be stored: their next one leaves nothing out.
#[derive(Debug)]
pub struct Unstored(BTreeMap<TaskId, Address<TaskMail>>);

impl Unstored {
    /// Tells a task.
    pub fn tell(&self, task: TaskId, epoch: u64) {
        let told = self.0.get(&task).map(|address| address.try_send(TaskMail::Unstored(epoch)));
        if let Some(Err(_)) = told {
            // Should it still be there: what it saves next refers to what is not there, and fails as well.
            tracing::debug!(%task, epoch, "a task was not told that its part of an epoch is not stored");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop(&Status::new(afflux_wire::Code::Cancelled, "the job's attempt has ended"));
    }
}
