//! What a user tests with: a pipeline run to its end in this process, nodes without sockets.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use afflux_actor::{Clock, Threads};
use afflux_mesh::{MemoryNetwork, Transport};
use afflux_stream::job::run_local;
use afflux_stream::{Flow, TaskReading};
use afflux_wire::contract::Service;

use crate::engine::Pipelines;
use crate::error::{Error, Result};
use crate::jobs::{JobInfo, JobRequest, Jobs};
use crate::node::{Node, NodeBuilder};
use crate::settings::Settings;

/// Longest wait of a test for nodes that find each other, and for a job that ends.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at what a test waits for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Runs the future of a test, or of a small program, on an actor system.
///
/// # Errors
/// What the future gives, or that an actor system cannot be started here.
pub fn run<T, F: Future<Output = Result<T>>>(test: impl FnOnce() -> F) -> Result<T> {
    afflux_actor::system(test)?
}

/// Pipelines that end by themselves, run in this process.
pub trait RunBounded {
    /// Runs the pipeline to its end, as many tasks side by side as its settings say, on the calling
    /// thread. What comes out does not depend on that.
    ///
    /// ```
    /// use afflux::testing::{RunBounded, run};
    /// use afflux::stream::{Flow, JobSettings, generate};
    /// let evens = run(|| async {
    ///     let flow = Flow::new("evens", JobSettings { parallelism: 2, ..JobSettings::default() });
    ///     let evens = flow.source("numbers", generate(10, |i| i)).untimed().filter(|x| x % 2 == 0).collect("evens");
    ///     flow.run_bounded().await?;
    ///     Ok(evens.take_sorted())
    /// });
    /// assert_eq!(evens.unwrap(), [0, 2, 4, 6, 8]);
    /// ```
    ///
    /// # Errors
    /// What is wrong with the pipeline, or the first failure of a task.
    fn run_bounded(self) -> impl Future<Output = Result<Vec<TaskReading>>>;
}

impl RunBounded for Flow {
    async fn run_bounded(self) -> Result<Vec<TaskReading>> {
        let plan = self.finish()?;
        let slots = plan.settings().parallelism.max(1) as usize;
        let threads = Arc::new(Threads::inline_slots(slots)?);
        Ok(run_local(&plan, threads, Clock::new(std::time::SystemTime::now)).await?)
    }
}

/// What every node of a [`TestCluster`] has beside pipelines.
type Shape = dyn Fn(usize, NodeBuilder) -> NodeBuilder;

/// A cluster to be.
#[must_use = "a cluster is started with `.start().await`"]
pub struct TestClusterBuilder {
    nodes: usize,
    settings: Settings,
    pipelines: Pipelines,
    clock: Option<Clock>,
    shape: Arc<Shape>,
}

impl TestClusterBuilder {
    /// A pipeline that every node can run.
    pub fn pipeline(
        mut self,
        name: &str,
        builder: impl Fn(&Flow) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.pipelines.add(name, Arc::new(move |flow: &Flow| builder(flow).map_err(Error::into_status)));
        self
    }

    /// What each node has beside pipelines, such as services. `shape` gets the node's number, from 1.
    pub fn each(mut self, shape: impl Fn(usize, NodeBuilder) -> NodeBuilder + 'static) -> Self {
        self.shape = Arc::new(shape);
        self
    }

    /// Other settings for all nodes.
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Keeps checkpoints in this directory.
    pub fn checkpoints(mut self, directory: &Path) -> Self {
        self.settings.checkpoint_dir = directory.to_string_lossy().into_owned();
        self
    }

    /// The calendar of the nodes; `Clock::starting_at` begins where the test says.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Starts the nodes, `node-1` first, and waits until all see each other and one coordinates jobs.
    ///
    /// # Errors
    /// When a node does not start, or the nodes do not find each other.
    pub async fn start(self) -> Result<TestCluster> {
        let coordinated = !self.pipelines.names().is_empty();
        let mut cluster = TestCluster {
            nodes: Vec::new(),
            started: 0,
            transport: Transport::Memory(MemoryNetwork::default()),
            settings: self.settings,
            pipelines: Arc::new(self.pipelines),
            clock: self.clock,
            shape: self.shape,
        };
        for _ in 0..self.nodes.max(1) {
            cluster.start_one().await?;
        }
        cluster.settle(coordinated).await?;
        Ok(cluster)
    }
}

/// Nodes in this process that speak over memory instead of sockets, as a test drives them.
///
/// ```
/// use afflux::testing::{TestCluster, run};
/// use afflux::stream::{Collected, generate};
/// let evens = Collected::default();
/// let out = evens.clone();
/// let job = run(|| async move {
///     let cluster = TestCluster::of(2)
///         .pipeline("evens", move |flow| {
///             flow.source("numbers", generate(10, |i| i)).untimed().filter(|i| i % 2 == 0).sink("out", out.clone());
///             Ok(())
///         })
///         .start()
///         .await?;
///     let job = cluster.run("evens", 2).await?;
///     cluster.close().await;
///     Ok(job)
/// });
/// assert_eq!(job.unwrap().state, "finished");
/// assert_eq!(evens.take_sorted(), [0, 2, 4, 6, 8]);
/// ```
pub struct TestCluster {
    nodes: Vec<Node>,
    started: usize,
    transport: Transport,
    settings: Settings,
    pipelines: Arc<Pipelines>,
    clock: Option<Clock>,
    shape: Arc<Shape>,
}

impl TestCluster {
    /// A cluster of so many nodes, each with two slots.
    pub fn of(nodes: usize) -> TestClusterBuilder {
        let settings = Settings {
            node_listen: "host:0".to_owned(),
            node_slots: 2,
            admin_listen: String::new(),
            drain_grace_ms: 50, // nothing is in flight when a test ends
            ..Settings::default()
        };
        TestClusterBuilder {
            nodes,
            settings,
            pipelines: Pipelines::default(),
            clock: None,
            shape: Arc::new(|_, builder| builder),
        }
    }

    async fn start_one(&mut self) -> Result<()> {
        self.started += 1;
        let settings = Settings {
            node_id: format!("node-{}", self.started),
            node_join: self.nodes.first().map(Node::address).unwrap_or_default(),
            ..self.settings.clone()
        };
        let mut builder = NodeBuilder::new(settings)
            .transport(self.transport.clone())
            .pipelines(Arc::clone(&self.pipelines))
            .inline();
        if let Some(clock) = &self.clock {
            builder = builder.clock(clock.clone());
        }
        self.nodes.push((self.shape)(self.started, builder).start().await?);
        Ok(())
    }

    /// Waits until all nodes see each other, and one that coordinates jobs where there are pipelines.
    async fn settle(&self, coordinated: bool) -> Result<()> {
        until("all nodes see each other", async || {
            for node in &self.nodes {
                let view = node.registry().view().await.ok()?;
                let leads = !coordinated || view.offering(<Jobs as Service>::NAME).next().is_some();
                (view.instances.len() == self.nodes.len() && leads).then_some(())?;
            }
            Some(())
        })
        .await
    }

    /// Starts one more node and waits until all see it.
    ///
    /// # Errors
    /// When it does not start, or is not seen.
    pub async fn join(&mut self) -> Result<()> {
        self.start_one().await?;
        self.settle(false).await
    }

    /// The nodes, `node-1` first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A client of a service, asked from the last node, so that the way to it is used.
    ///
    /// # Errors
    /// When every node has been taken out.
    pub fn client<S: Service>(&self) -> Result<S::Client> {
        let node = self.nodes.last().ok_or_else(|| Error::failed("the cluster has no node left"))?;
        Ok(node.client::<S>())
    }

    /// Takes a node out of the cluster and closes it.
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn stop(&mut self, name: &str) -> Result<()> {
        let place = self.nodes.iter().position(|node| node.id().as_str() == name);
        let place = place.ok_or_else(|| Error::failed(format!("no node is called {name}")))?;
        self.nodes.remove(place).close().await;
        Ok(())
    }

    /// Starts a pipeline with this many tasks for each operator.
    ///
    /// # Errors
    /// What the coordinator refuses.
    pub async fn submit(&self, pipeline: &str, parallelism: u32) -> Result<JobInfo> {
        let request = JobRequest {
            pipeline: pipeline.to_owned(),
            settings: [("pipeline.parallelism".to_owned(), parallelism.to_string())].into(),
            ..JobRequest::default()
        };
        self.submit_request(request).await
    }

    /// Starts a pipeline as a request says: from a checkpoint, paced, with other settings.
    ///
    /// # Errors
    /// What the coordinator refuses.
    pub async fn submit_request(&self, request: JobRequest) -> Result<JobInfo> {
        Ok(self.client::<Jobs>()?.submit(request).await?)
    }

    /// Waits until a job has ended, whatever the end.
    ///
    /// # Errors
    /// When it is not known, or has not ended in [`PATIENCE`].
    pub async fn wait(&self, job: &str) -> Result<JobInfo> {
        let jobs = self.client::<Jobs>()?;
        until(&format!("the end of job {job}"), async || {
            jobs.show(job.to_owned()).await.ok().filter(JobInfo::has_ended)
        })
        .await
    }

    /// Runs a pipeline to its end.
    ///
    /// # Errors
    /// What the coordinator refuses, or why the job failed.
    pub async fn run(&self, pipeline: &str, parallelism: u32) -> Result<JobInfo> {
        let job = self.submit(pipeline, parallelism).await?;
        let job = self.wait(&job.id).await?;
        match &job.error {
            Some(error) => Err(Error::failed(format!("job {}: {error}", job.id))),
            None => Ok(job),
        }
    }

    /// Closes the nodes, the first last.
    pub async fn close(self) {
        for node in self.nodes.iter().rev() {
            node.close().await;
        }
    }
}

/// Looks until there is something, for [`PATIENCE`] at most.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let looks = PATIENCE.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..looks {
        if let Some(found) = look().await {
            return Ok(found);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Error::failed(format!("waited {} s in vain for {what}", PATIENCE.as_secs())))
}
