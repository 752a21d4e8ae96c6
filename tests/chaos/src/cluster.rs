//! Node processes of this program, and the launcher that holds their registry and starts them again.
//!
//! The same as `dev`: the launcher is no node, ends the leases of a process with the process, and starts it
//! again 200 ms later, but however often it dies.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use afflux::jobs::{JobInfo, JobRequest, Jobs};
use afflux::registry_service::{Home, serve};
use afflux::{Client, Endpoint, Error, Result};
use afflux_actor::{Clock, Place};
use afflux_mesh::{Mesh, MeshConfig, MeshMetrics, Transport};
use afflux_registry::{InstanceState, MemoryRegistry, Registry};
use afflux_wire::Incarnation;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespaces::{self, Namespace};
use crate::pipeline::{MISTAKE, Mistake};
use crate::proxy::{Proxy, free_port};

/// The lock of the node that coordinates jobs.
const DESK_LOCK: &str = "afflux.jobs";
/// A node that has died is started again after this long.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Longest wait for all nodes to stop when they are asked to.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Longest wait for the coordinator's answer.
const ANSWER_MAX: Duration = Duration::from_millis(800);
/// Between two looks at what is waited for.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// One node over all its lives.
struct NodeProcess {
    id: String,
    child: Option<Child>,
    /// It was killed here, and has not been seen to be dead yet.
    killed: bool,
    /// When it is to be started again.
    due: Option<Instant>,
    net: Net,
}

/// How a node reaches the others.
pub(crate) enum Net {
    /// Straight.
    Open,
    /// Through proxies.
    Proxied(Lines),
    /// From a namespace of its own.
    Apart(Namespace),
}

/// What a cluster's network is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Network {
    /// The machine's.
    #[default]
    Machine,
    /// Proxies, between all that nodes say to each other.
    Proxies,
    /// A namespace for each node.
    Namespaces,
}

/// What stands between a node and the others.
pub(crate) struct Lines {
    /// The node's port behind its proxy.
    listen: String,
    /// In front of the node.
    pub(crate) front: Proxy,
    /// Between the node and the launcher.
    pub(crate) launcher: Proxy,
}

impl Lines {
    fn lay(launcher: &str) -> Result<Self> {
        let laid = || {
            let listen = free_port()?.to_string();
            let (front, launcher) = (Proxy::to(listen.clone())?, Proxy::to(launcher.to_owned())?);
            Ok(Self { listen, front, launcher })
        };
        laid().map_err(|error: std::io::Error| Error::failed(format!("no port for a proxy: {error}")))
    }
}

/// Who knows the nodes.
enum Known {
    /// The launcher.
    Here { mesh: Mesh, memory: MemoryRegistry, client: Client },
    /// An etcd, in this place.
    #[cfg(feature = "etcd")]
    Etcd(String),
}

/// What a cluster is to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shape {
    /// Nodes.
    pub(crate) nodes: usize,
    /// Their settings.
    pub(crate) settings: Vec<String>,
    /// What lies between them.
    pub(crate) network: Network,
    /// The etcd that knows them; nothing: the launcher does.
    pub(crate) etcd: Option<String>,
    /// What the pipeline does wrong on purpose.
    pub(crate) mistake: Option<Mistake>,
    /// Variables of their environment.
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// The nodes and their launcher.
pub(crate) struct Cluster {
    directory: PathBuf,
    program: PathBuf,
    token: String,
    cluster: String,
    known: Known,
    registry: Arc<dyn Registry>,
    settings: Vec<String>,
    mistake: Option<Mistake>,
    environment: Vec<(&'static str, String)>,
    nodes: Vec<NodeProcess>,
    /// Nodes that ended without having been killed here, or did not stop.
    pub(crate) surprises: Vec<String>,
}

impl Cluster {
    /// Starts nodes in this working directory.
    ///
    /// # Errors
    /// What the launcher cannot do, such as start a process.
    pub(crate) async fn start(directory: &Path, shape: Shape) -> Result<Self> {
        // One etcd may serve several runs.
        let (token, cluster) =
            (format!("chaos-{}", std::process::id()), format!("chaos-{}", std::process::id()));
        let (known, registry) = match &shape.etcd {
            None => here(&cluster, &token, shape.network).await?,
            Some(server) => etcd(&cluster, server)?,
        };
        let address = known.address();
        let node = |number: usize| {
            let net = match (shape.network, &address) {
                (Network::Proxies, Some(launcher)) => Lines::lay(launcher).map(Net::Proxied),
                (Network::Namespaces, _) => Namespace::make(number).map(Net::Apart),
                _ => Ok(Net::Open),
            };
            Ok(NodeProcess {
                id: format!("node-{}", number + 1),
                child: None,
                killed: false,
                due: Some(Instant::now()),
                net: net?,
            })
        };
        let nodes = (0..shape.nodes).map(node).collect::<Result<Vec<NodeProcess>>>()?;
        let program = std::env::current_exe()
            .map_err(|error| Error::failed(format!("this executable cannot be found again: {error}")))?;
        let mut cluster = Self {
            directory: directory.to_owned(),
            program,
            token,
            cluster,
            known,
            registry,
            settings: shape.settings,
            mistake: shape.mistake,
            environment: shape.environment,
            nodes,
            surprises: Vec::new(),
        };
        cluster.tend()?;
        Ok(cluster)
    }

    /// Sees to nodes that have died, and to those that are to be started again.
    ///
    /// # Errors
    /// A process that cannot be started.
    pub(crate) fn tend(&mut self) -> Result<()> {
        let now = Instant::now();
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            if let Some(child) = &mut node.child {
                let status = child.try_wait().map_err(|e| Error::failed(format!("{}: {e}", node.id)))?;
                if let Some(status) = status {
                    (node.child, node.due) = (None, Some(now + AGAIN_AFTER));
                    let joined = matches!(node.net, Net::Open) || !could_not_join(&self.directory, &node.id);
                    if !std::mem::take(&mut node.killed) && joined {
                        self.surprises.push(format!("{} ended by itself: {}", node.id, describe(status)));
                    }
                    self.known.bury(&node.id);
                }
            }
            if self.nodes[index].due.is_some_and(|due| due <= now) {
                self.spawn(index)?;
            }
        }
        Ok(())
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let ways = self.known.ways();
        let node = &mut self.nodes[index];
        let failed = |error: std::io::Error| Error::failed(format!("{} cannot be started: {error}", node.id));
        let logs = self.directory.join("logs");
        std::fs::create_dir_all(&logs).map_err(failed)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(log_of(&self.directory, &node.id))
            .map_err(failed)?;
        let mut command = match &node.net {
            Net::Apart(namespace) => namespace.command(&self.program),
            _ => Command::new(&self.program),
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AFFLUX_")) {
            command.env_remove(name);
        }
        command.args(["node", "--until-stdin-ends", "--id", &node.id, "--slots", "1"]);
        match &node.net {
            Net::Open => command.args(["--listen", "127.0.0.1:0"]).args(ways),
            Net::Apart(namespace) => {
                command.args(["--listen", &namespace.listen(), "--set", "tls.mode=insecure"]).args(ways)
            }
            Net::Proxied(Lines { listen, front, launcher }) => {
                let advertise = format!("node.advertise={}", front.address());
                command.args(["--join", launcher.address(), "--listen", listen, "--set", &advertise])
            }
        };
        command.args(["--set", &format!("cluster={}", self.cluster)]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        if let Some(mistake) = self.mistake {
            command.env(MISTAKE, mistake.word());
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .env("AFFLUX_TOKEN", &self.token)
            .current_dir(&self.directory)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log);
        node.child = Some(command.spawn().map_err(failed)?);
        node.due = None;
        Ok(())
    }

    /// The node's name.
    pub(crate) fn name(&self, index: usize) -> &str {
        &self.nodes[index].id
    }

    /// The nodes whose processes are there.
    pub(crate) fn alive(&self) -> Vec<usize> {
        let lives = |node: &NodeProcess| node.child.is_some() && !node.killed;
        (0..self.nodes.len()).filter(|index| lives(&self.nodes[*index])).collect()
    }

    /// Kills a node: SIGKILL.
    ///
    /// # Errors
    /// A process that cannot be killed.
    pub(crate) fn kill(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        if let Some(child) = &mut node.child {
            child.kill().map_err(|error| Error::failed(format!("{} cannot be killed: {error}", node.id)))?;
            node.killed = true;
        }
        Ok(())
    }

    /// Asks a node to end: SIGTERM. It has tasks and calls until it has handed them over.
    ///
    /// # Errors
    /// A process that is not there.
    pub(crate) fn end(&mut self, index: usize) -> Result<()> {
        self.signal(index, Signal::SIGTERM)?;
        self.nodes[index].killed = true;
        Ok(())
    }

    /// Stops a node where it stands (SIGSTOP), or lets it go on (SIGCONT).
    ///
    /// # Errors
    /// A process that is not there.
    pub(crate) fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        let node = &self.nodes[index];
        let pid = node.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        let pid = pid.ok_or_else(|| Error::failed(format!("{} does not run", node.id)))?;
        kill(Pid::from_raw(pid), signal)
            .map_err(|error| Error::failed(format!("{} cannot be sent {signal}: {error}", node.id)))
    }

    /// How a node reaches the others.
    pub(crate) fn net(&self, index: usize) -> &Net {
        &self.nodes[index].net
    }

    /// The node that coordinates the jobs.
    pub(crate) async fn coordinator(&self) -> Option<usize> {
        let (holder, _) = self.registry.holder(DESK_LOCK).await.ok()??;
        let holder = holder.split('/').next()?;
        self.nodes.iter().position(|node| node.id == holder)
    }

    /// How many nodes are registered and ready.
    pub(crate) async fn ready(&self) -> usize {
        let view = self.registry.view().await.unwrap_or_default();
        view.instances.iter().filter(|instance| instance.state == InstanceState::Ready).count()
    }

    /// A client of the cluster, if anybody answers.
    async fn client(&self) -> Option<Client> {
        match &self.known {
            Known::Here { client, .. } => Some(client.clone()),
            #[cfg(feature = "etcd")]
            Known::Etcd(_) => {
                let view = self.registry.view().await.ok()?;
                for instance in &view.instances {
                    let endpoint = Endpoint {
                        address: instance.address.clone(),
                        cluster: self.cluster.clone(),
                        token: self.token.clone(),
                        ..Endpoint::default()
                    };
                    let connected = tokio::time::timeout(ANSWER_MAX, Client::connect(&endpoint)).await;
                    if let Ok(Ok(client)) = connected {
                        return Some(client);
                    }
                }
                None
            }
        }
    }

    /// Lets a client go that was made for one call.
    fn leave(&self, client: &Client) {
        if !matches!(self.known, Known::Here { .. }) {
            client.close();
        }
    }

    /// Starts a pipeline.
    ///
    /// # Errors
    /// What the coordinator refuses, or that there is none.
    pub(crate) async fn submit(&self, request: JobRequest) -> Result<JobInfo> {
        let client = self.client().await.ok_or_else(|| Error::failed("no node answers"))?;
        let submitted = client.client::<Jobs>().submit(request).await;
        self.leave(&client);
        submitted.map_err(|error| Error::failed(error.to_string()))
    }

    /// A job now, if the coordinator answers.
    pub(crate) async fn job(&self, id: &str) -> Option<JobInfo> {
        let client = self.client().await?;
        let show = client.client::<Jobs>().show(id.to_owned()).deadline(ANSWER_MAX);
        // A client that was made for this call has no link to the coordinator yet, and waits for one.
        let shown =
            if matches!(self.known, Known::Here { .. }) { show.fail_fast().await } else { show.await };
        self.leave(&client);
        shown.ok()
    }

    /// Gives a job another number of tasks.
    ///
    /// # Errors
    /// What the coordinator refuses.
    pub(crate) async fn rescale(&self, id: &str, tasks: u32) -> Result<JobInfo> {
        let client = self.client().await.ok_or_else(|| Error::failed("no node answers"))?;
        let rescaled = client.client::<Jobs>().rescale(id.to_owned(), tasks).await;
        self.leave(&client);
        rescaled.map_err(|error| Error::failed(error.to_string()))
    }

    /// Ends a job.
    ///
    /// # Errors
    /// What the coordinator refuses.
    pub(crate) async fn cancel(&self, id: &str) -> Result<JobInfo> {
        let client = self.client().await.ok_or_else(|| Error::failed("no node answers"))?;
        let cancelled = client.client::<Jobs>().cancel(id.to_owned()).await;
        self.leave(&client);
        cancelled.map_err(|error| Error::failed(error.to_string()))
    }

    /// Asks for another number of tasks, and does not wait for the answer; where an etcd knows the nodes, nobody is
    /// asked.
    pub(crate) fn rescale_soon(&self, id: &str, tasks: u32) {
        match &self.known {
            Known::Here { client, .. } => {
                let (jobs, id) = (client.client::<Jobs>(), id.to_owned());
                // It may be refused, or be lost with the coordinator: the job stays as it is.
                tokio::spawn(async move { jobs.rescale(id, tasks).await });
            }
            #[cfg(feature = "etcd")]
            Known::Etcd(_) => {}
        }
    }

    /// Stops all nodes; who does not stop is killed, and a surprise.
    pub(crate) async fn stop(&mut self) {
        let asked = Instant::now();
        for node in &mut self.nodes {
            node.due = None;
            if let Some(child) = &mut node.child {
                drop(child.stdin.take());
            }
        }
        for node in &mut self.nodes {
            let Some(child) = &mut node.child else { continue };
            while child.try_wait().is_ok_and(|status| status.is_none()) && asked.elapsed() < STOP_MAX {
                tokio::time::sleep(TICK).await;
            }
            if child.try_wait().is_ok_and(|status| status.is_none()) && !node.killed {
                self.surprises.push(format!("{} did not stop within {} s", node.id, STOP_MAX.as_secs()));
            }
            // Gone, or about to be.
            let _gone = child.kill();
            let _status = child.wait();
            node.child = None;
        }
        self.known.close();
    }
}

impl Known {
    /// Where the launcher's registry is, if it has one.
    fn address(&self) -> Option<String> {
        match self {
            Self::Here { mesh, .. } => Some(mesh.local_address()),
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => None,
        }
    }

    /// How a node is told of it.
    fn ways(&self) -> Vec<String> {
        match self {
            Self::Here { mesh, .. } => vec!["--join".to_owned(), mesh.local_address()],
            #[cfg(feature = "etcd")]
            Self::Etcd(server) => {
                let settings = ["registry=etcd".to_owned(), format!("registry.endpoints={server}")];
                settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]).collect()
            }
        }
    }

    /// The process of a node has ended: so do its leases, where the launcher holds them.
    fn bury(&self, node: &str) {
        match self {
            Self::Here { memory, .. } => memory.bury(&node.into()),
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => {}
        }
    }
}

impl Known {
    fn close(&self) {
        match self {
            Self::Here { mesh, client, .. } => {
                client.close();
                mesh.close();
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => {}
        }
    }
}

/// A registry in this process, and where nodes find it.
async fn here(cluster: &str, token: &str, network: Network) -> Result<(Known, Arc<dyn Registry>)> {
    let host = if network == Network::Namespaces {
        namespaces::make_bridge()?;
        namespaces::launcher()
    } else {
        "127.0.0.1".to_owned()
    };
    let place = Place::current().ok_or_else(|| Error::failed("there is no system"))?;
    let wall = Clock::new(std::time::SystemTime::now).wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let id = format!("launcher-{}", std::process::id());
    let config = MeshConfig {
        incarnation: Incarnation(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
        token: Some(token.to_owned()),
        listen: Some(format!("{host}:0")),
        ..MeshConfig::new(id.as_str(), cluster.to_owned())
    };
    let mesh = Mesh::start(config, Transport::Tcp, place.clone(), MeshMetrics::unregistered())?;
    let memory = MemoryRegistry::with_tokens_above(mesh.incarnation().0);
    let address = mesh.local_address();
    let registry: Arc<dyn Registry> = Arc::new(memory.clone());
    mesh.serve(serve(Arc::clone(&registry), Home { node: id, address: address.clone() }, place));
    let (cluster, token) = (cluster.to_owned(), token.to_owned());
    let client = Client::connect(&Endpoint { address, cluster, token, ..Endpoint::default() }).await?;
    Ok((Known::Here { mesh, memory, client }, registry))
}

/// An etcd, as the nodes of a cluster use it.
#[cfg(feature = "etcd")]
fn etcd(cluster: &str, server: &str) -> Result<(Known, Arc<dyn Registry>)> {
    use afflux_registry::{EtcdConfig, EtcdRegistry};
    let place = Place::current().ok_or_else(|| Error::failed("there is no system"))?;
    let config = EtcdConfig::new([server], format!("/afflux/{cluster}"));
    let registry = EtcdRegistry::start(config, Arc::new(move |work| place.spawn_future(work)))
        .map_err(|error| Error::failed(error.to_string()))?;
    Ok((Known::Etcd(server.to_owned()), Arc::new(registry)))
}

#[cfg(not(feature = "etcd"))]
fn etcd(_: &str, server: &str) -> Result<(Known, Arc<dyn Registry>)> {
    Err(Error::usage(format!("{server} is an etcd, and this program was built without it"))
        .hint("build it with `--features etcd`"))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }
}

/// Whether the last that a node said is that it could not join: where the network is broken it ends, and is
/// started again.
fn could_not_join(directory: &Path, node: &str) -> bool {
    let log = std::fs::read_to_string(log_of(directory, node)).unwrap_or_default();
    log.lines().rev().take(2).any(|line| line.starts_with("error: cannot join through"))
}

/// Where a node writes what it says.
fn log_of(directory: &Path, node: &str) -> PathBuf {
    directory.join("logs").join(format!("{node}.log"))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no code".to_owned(),
    }
}
