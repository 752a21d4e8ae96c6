//! Several nodes in this process.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use afflux::contract::{CallError, Service};
use afflux::jobs::{JobInfo, JobRequest, Jobs, JobsClient};
use afflux::settings::Settings;
use afflux::{Node, NodeBuilder, Pipelines};
use afflux_stream::Flow;

use crate::backing::{Backing, Running};
use crate::until::{PATIENCE, until_async};

/// Runs a test on an actor system, with a bound on its time.
///
/// # Panics
/// When the test takes longer than twice [`PATIENCE`].
pub fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let limited =
        || async { tokio::time::timeout(PATIENCE * 2, test()).await.expect("the test takes too long") };
    afflux::actor::system(limited).unwrap();
}

/// A cluster to be.
pub struct ClusterBuilder {
    backing: Backing,
    nodes: usize,
    slots: u64,
    pipelines: Pipelines,
    settings: Settings,
    shape: Arc<Shape>,
}

/// What every node has beside pipelines; the number is the node's.
type Shape = dyn Fn(usize, NodeBuilder) -> NodeBuilder;

impl ClusterBuilder {
    /// What every node has beside pipelines, such as services. `shape` gets the node's number, from 1.
    #[must_use]
    pub fn each(mut self, shape: impl Fn(usize, NodeBuilder) -> NodeBuilder + 'static) -> Self {
        self.shape = Arc::new(shape);
        self
    }

    /// Other settings for all nodes.
    #[must_use]
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// A pipeline that every node can run.
    #[must_use]
    pub fn pipeline(
        mut self,
        name: &str,
        builder: impl Fn(&Flow) -> afflux_stream::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.pipelines.add(name, Arc::new(builder));
        self
    }

    /// Keeps checkpoints there.
    #[must_use]
    pub fn checkpoints(mut self, directory: &Path) -> Self {
        self.settings.checkpoint_dir = directory.to_str().unwrap().to_owned();
        self
    }

    /// Starts the nodes, `node-1` first, and waits until one of them coordinates jobs and sees all others.
    ///
    /// # Panics
    /// When a node does not start.
    pub async fn start(self) -> Cluster {
        let (transport, listen) = self.backing.transport();
        let pipelines = Arc::new(self.pipelines);
        let (settings, slots, shape, running) = (self.settings, self.slots, self.shape, self.backing.running);
        let coordinated = !pipelines.names().is_empty();
        let build = move |number: usize, join: String| {
            let settings = Settings {
                node_id: format!("node-{number}"),
                node_listen: listen.to_owned(),
                node_join: join,
                node_slots: slots,
                admin_listen: String::new(),
                // Nothing is in flight when a script ends.
                drain_grace_ms: settings.drain_grace_ms.min(DRAIN_GRACE_MS),
                ..settings.clone()
            };
            let builder =
                NodeBuilder::new(settings).transport(transport.clone()).pipelines(Arc::clone(&pipelines));
            let builder = shape(number, builder);
            match running {
                Running::Inline => builder.inline(),
                Running::Threads => builder,
            }
        };
        let mut cluster = Cluster { nodes: Vec::new(), started: 0, build: Box::new(build) };
        for _ in 0..self.nodes {
            cluster.join_unseen().await;
        }
        cluster.see(coordinated).await;
        cluster
    }
}

/// Of nodes whose script does not say otherwise.
const DRAIN_GRACE_MS: u64 = 50;

/// Nodes in this process, as a script drives them.
///
/// ```
/// use afflux_sandbox::{BACKINGS, Cluster, Collect, run};
/// use afflux_stream::generate;
/// let even = Collect::default();
/// let out = even.clone();
/// run(|| async move {
///     let cluster = Cluster::of(2, BACKINGS[0])
///         .pipeline("evens", move |flow| {
///             let numbers = flow.source("numbers", generate(10, |i| i)).untimed();
///             numbers.filter(|i| i % 2 == 0).sink("out", out.clone());
///             Ok(())
///         })
///         .start()
///         .await;
///     assert_eq!(cluster.finish("evens", 2).await.state, "finished");
///     cluster.close().await;
/// });
/// assert_eq!(even.take_rows(), [0, 2, 4, 6, 8]);
/// ```
pub struct Cluster {
    nodes: Vec<Node>,
    started: usize,
    build: Box<dyn Fn(usize, String) -> NodeBuilder>,
}

impl Cluster {
    /// A cluster of some nodes with two slots each.
    pub fn of(nodes: usize, backing: Backing) -> ClusterBuilder {
        ClusterBuilder {
            backing,
            nodes,
            slots: 2,
            pipelines: Pipelines::default(),
            settings: Settings::default(),
            shape: Arc::new(|_, builder| builder),
        }
    }

    async fn join_unseen(&mut self) {
        self.started += 1;
        let join = self.nodes.first().map(Node::address).unwrap_or_default();
        self.nodes.push((self.build)(self.started, join).start().await.unwrap());
    }

    /// Waits until all nodes see each other, and one that coordinates jobs where there are pipelines.
    async fn see(&self, coordinated: bool) {
        until_async("all nodes ready and, with pipelines, one that coordinates jobs", async || {
            for node in &self.nodes {
                let view = node.registry().view().await.ok()?;
                let leads = !coordinated || view.offering(<Jobs as Service>::NAME).next().is_some();
                (view.instances.len() == self.nodes.len() && leads).then_some(())?;
            }
            Some(())
        })
        .await;
    }

    /// Starts one more node, and waits until all see it; its number is one more than that of the last.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn join(&mut self) -> &Node {
        self.join_unseen().await;
        self.see(false).await;
        self.nodes.last().unwrap()
    }

    /// Takes a node out of the script, which closes it or lets it be.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn take(&mut self, name: &str) -> Node {
        let at = self.nodes.iter().position(|node| node.id().as_str() == name).unwrap();
        self.nodes.remove(at)
    }

    /// The nodes, `node-1` first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The coordinator, asked from the last node, so that the way to it is used.
    pub fn jobs(&self) -> JobsClient {
        self.nodes.last().unwrap().client::<Jobs>()
    }

    /// Starts a pipeline with this many tasks for each operator.
    ///
    /// # Errors
    /// What the coordinator refuses.
    pub async fn submit(&self, pipeline: &str, parallelism: u32) -> Result<JobInfo, CallError> {
        self.jobs().submit(request(pipeline, parallelism)).await
    }

    /// The same, paced by event time at this multiple of its speed: a job that is still at work when
    /// the test does something to it.
    ///
    /// # Errors
    /// What the coordinator refuses.
    pub async fn submit_paced(
        &self,
        pipeline: &str,
        parallelism: u32,
        replay: f64,
    ) -> Result<JobInfo, CallError> {
        let replay = Some(replay);
        self.jobs().submit(JobRequest { replay, ..request(pipeline, parallelism) }).await
    }

    /// A job now.
    ///
    /// # Panics
    /// When the coordinator does not know it.
    pub async fn job(&self, id: &str) -> JobInfo {
        self.jobs().show(id.to_owned()).await.unwrap()
    }

    /// Runs a pipeline to its end, whatever that is.
    ///
    /// # Panics
    /// When it is refused, or does not end.
    pub async fn finish(&self, pipeline: &str, parallelism: u32) -> JobInfo {
        self.finish_request(request(pipeline, parallelism)).await
    }

    /// The same from a checkpoint.
    ///
    /// # Panics
    /// As [`Cluster::finish`].
    pub async fn finish_from(&self, pipeline: &str, parallelism: u32, checkpoint: &str) -> JobInfo {
        let restore = Some(checkpoint.to_owned());
        self.finish_request(JobRequest { restore, ..request(pipeline, parallelism) }).await
    }

    async fn finish_request(&self, request: JobRequest) -> JobInfo {
        let what = format!("the end of {}", request.pipeline);
        let id = self.jobs().submit(request).await.unwrap().id;
        until_async(&what, async || Some(self.job(&id).await).filter(JobInfo::has_ended)).await
    }

    /// Starts a checkpoint and waits until it is durable; returns its epoch.
    ///
    /// # Panics
    /// When the job has ended, or the checkpoint never completes.
    pub async fn checkpoint(&self, job: &str) -> u64 {
        let before = self.jobs().checkpoint(job.to_owned()).await.unwrap().last_checkpoint;
        until_async("the checkpoint", async || {
            self.job(job).await.last_checkpoint.filter(|epoch| Some(*epoch) > before)
        })
        .await
    }

    /// Ends the nodes, the first last.
    pub async fn close(self) {
        for node in self.nodes.iter().rev() {
            node.close().await;
        }
    }
}

fn request(pipeline: &str, parallelism: u32) -> JobRequest {
    JobRequest {
        pipeline: pipeline.to_owned(),
        settings: [("pipeline.parallelism".to_owned(), parallelism.to_string())].into(),
        ..JobRequest::default()
    }
}
