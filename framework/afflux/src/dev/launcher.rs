//! The launcher: holds the registry, starts the nodes, runs the pipeline, stops the nodes.
//!
//! It is no node, so that every node can be killed.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use afflux_actor::{Clock, Place, cpu_quota};
use afflux_mesh::{Mesh, MeshConfig, MeshMetrics, Transport};
use afflux_registry::{InstanceState, MemoryRegistry, Registry, View};
use afflux_wire::Incarnation;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::child::{Child, ChildSpec, Output, stop_all};
use super::file::{DIRECTORY, DevFile, DevNode};
use super::respawn::Respawn;
use crate::app::App;
use crate::cli::{DevArgs, Global, print_line, quiet};
use crate::client::{Client, follow as follow_registry};
use crate::error::{Error, Result};
use crate::follow::{Followed, follow, how_far, outcome, request, submit};
use crate::jobs::{JobInfo, Jobs};
use crate::progress::Show;
use crate::registry_service::{Home, serve};
use crate::settings::{Layers, Settings};
use crate::signals::Signals;
use crate::telemetry::bars;

/// Time for all nodes to be registered.
const START_MAX: Duration = Duration::from_secs(30);

/// A child gets this long beyond `drain.grace_ms` before it is killed.
const STOP_MARGIN: Duration = Duration::from_secs(3);

/// After a node's death the job is given this long to say what was running there.
const VERDICT_MAX: Duration = Duration::from_secs(2);

/// Bytes of the token that the launcher makes up.
const TOKEN_BYTES: usize = 16;

/// Runs `dev`.
pub(crate) async fn launch(app: &App, global: &Global, args: &DevArgs) -> Result<()> {
    // Wrong use is told before anything is started.
    let pipeline = match (&args.pipeline, app.pipelines().names().is_empty()) {
        (None, true) => None,
        (name, _) => Some(app.pipeline_named(name.as_deref())?),
    };
    let layers = global.layers()?;
    quiet(global)?;
    let settings = layers.settings();
    if settings.registry != "embedded" {
        return Err(Error::usage(format!(
            "registry = {}, but `dev` holds the registry itself",
            settings.registry
        ))
        .hint("run it with --set registry=embedded, or start each node with `node`"));
    }
    let mut signals = Signals::catch()?;
    let mut cluster = Launcher::start(&settings, pipeline.clone().unwrap_or_default())?;
    let result = cluster.run(app, global, args, &layers, pipeline.as_deref(), &mut signals).await;
    let killed = cluster.stop(&settings).await;
    if !killed.is_empty() {
        say(&format!("killed, since they did not stop in time: {}", killed.join(", ")));
    }
    result
}

/// A line on stderr, in front of any bar.
fn say(text: &str) {
    bars().suspend(|| eprintln!("{text}"));
}

struct Launcher {
    mesh: Mesh,
    client: Client,
    registry: MemoryRegistry,
    file: DevFile,
    directory: PathBuf,
    children: Vec<Child>,
    /// What each was started with, and its deaths.
    lives: Vec<(ChildSpec, Respawn)>,
    /// Whether a node that dies is started again.
    respawns: bool,
    /// A node was started again, and the file does not tell its address yet.
    rejoining: bool,
}

impl Launcher {
    fn start(settings: &Settings, pipeline: String) -> Result<Self> {
        let place =
            Place::current().ok_or_else(|| Error::failed("`dev` needs `afflux_actor::system` around it"))?;
        let token = if settings.token.is_empty() { random_token()? } else { settings.token.clone() };
        let wall = Clock::new(std::time::SystemTime::now)
            .wall()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let id = format!("launcher-{}", std::process::id());
        let config = MeshConfig {
            incarnation: Incarnation(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
            token: Some(token.clone()),
            listen: Some("127.0.0.1:0".to_owned()),
            ..MeshConfig::new(id.as_str(), settings.cluster.clone())
        };
        let mesh = Mesh::start(config, Transport::Tcp, place.clone(), MeshMetrics::unregistered())?;
        let registry = MemoryRegistry::with_tokens_above(mesh.incarnation().0);
        let shared: Arc<dyn Registry> = Arc::new(registry.clone());
        let address = mesh.local_address();
        mesh.serve(serve(Arc::clone(&shared), Home { node: id, address: address.clone() }, place.clone()));
        follow_registry(&place, mesh.clone(), &*shared);
        let file = DevFile {
            pid: std::process::id(),
            launcher: address,
            cluster: settings.cluster.clone(),
            token,
            pipeline,
            nodes: Vec::new(),
        };
        let client = Client::of(mesh.clone(), shared);
        Ok(Self {
            mesh,
            client,
            registry,
            file,
            directory: PathBuf::from(DIRECTORY),
            children: Vec::new(),
            lives: Vec::new(),
            respawns: false,
            rejoining: false,
        })
    }

    async fn run(
        &mut self,
        app: &App,
        global: &Global,
        args: &DevArgs,
        layers: &Layers,
        pipeline: Option<&str>,
        signals: &mut Signals,
    ) -> Result<()> {
        let count = usize::from(args.nodes);
        let set = layers.settings();
        self.respawns = args.respawn
            || set.restart_strategy == "exponential"
            || (set.restart_strategy == "auto" && set.checkpoint_interval_ms > 0);
        self.start_children(global, args, &layers.settings(), count)?;
        tokio::select! {
            biased;
            signal = signals.next() => return Err(Error::failed(format!("{signal} while the nodes were starting"))),
            ready = self.registered(count) => ready?,
        }
        self.write_file().await?;
        if !global.json {
            say(&format!("{count} nodes, registry at {} ({}/dev.json)", self.file.launcher, DIRECTORY));
            if let Some(node) = self.file.nodes.iter().find(|node| !node.admin.is_empty()) {
                let scheme = if set.admin_tls == "on" { "https" } else { "http" };
                say(&format!("dashboard at {scheme}://{}/", node.admin));
            }
        }
        match pipeline {
            Some(pipeline) => {
                self.run_pipeline(global, args, layers, pipeline, signals).await?;
                app.verdicts(pipeline)?.iter().for_each(|line| say(line));
            }
            None => say("no pipeline: serving until Ctrl-C"),
        }
        if args.hold || pipeline.is_none() {
            if pipeline.is_some() {
                say("the nodes stay up until Ctrl-C (--hold)");
            }
            return self.hold(signals).await;
        }
        Ok(())
    }

    /// Starts the node processes.
    fn start_children(
        &mut self,
        global: &Global,
        args: &DevArgs,
        settings: &Settings,
        count: usize,
    ) -> Result<()> {
        let program = std::env::current_exe()
            .map_err(|error| Error::failed(format!("this executable cannot be found again: {error}")))?;
        // Several nodes share this machine's processors.
        let slots = match settings.node_slots {
            0 => u64::try_from((cpu_quota() / count).max(1)).unwrap_or(1),
            slots => slots,
        };
        for number in 1..=count {
            let id = format!("node-{number}");
            let mut arguments: Vec<String> = Vec::new();
            if let Some(config) = &global.config {
                arguments.extend(["--config".to_owned(), config.display().to_string()]);
            }
            for assignment in &global.set {
                arguments.extend(["--set".to_owned(), assignment.clone()]);
            }
            // The nodes are on this machine and share the launcher's token: no certificates.
            arguments.extend(["--set", "tls.mode=loopback", "--set", "auth.token_file="].map(str::to_owned));
            for (flag, value) in [("--log-level", &global.log_level), ("--log-format", &global.log_format)] {
                if let Some(value) = value {
                    arguments.extend([flag.to_owned(), value.clone()]);
                }
            }
            arguments.extend(
                [
                    "node",
                    "--until-stdin-ends",
                    "--id",
                    &id,
                    "--join",
                    &self.file.launcher,
                    "--listen",
                    "127.0.0.1:0",
                ]
                .map(str::to_owned),
            );
            arguments
                .extend(["--admin-listen", "127.0.0.1:0", "--slots", &slots.to_string()].map(str::to_owned));
            let output = match args.logs {
                true => Output::Prefixed,
                false => Output::File(self.directory.join("logs").join(format!("{id}.log"))),
            };
            // Not as an argument: every user of the machine can read those.
            let environment = vec![("AFFLUX_TOKEN".to_owned(), self.file.token.clone())];
            let spec = ChildSpec {
                id,
                program: program.clone(),
                args: arguments,
                environment,
                output,
                again: false,
            };
            self.children.push(Child::start(spec.clone())?);
            self.lives.push((ChildSpec { again: true, ..spec }, Respawn::new(Instant::now())));
        }
        Ok(())
    }

    /// Waits until every node is registered; a child that ends before is the error.
    async fn registered(&self, count: usize) -> Result<()> {
        let mut watcher = self.registry.watch();
        let all = async {
            while let Some(view) = watcher.next().await {
                if ready(&view) >= count {
                    break;
                }
            }
        };
        tokio::select! {
            biased;
            () = all => Ok(()),
            died = self.first_death() => Err(self.death(died)),
            () = tokio::time::sleep(START_MAX) => {
                let there = ready(&self.registry.watch().latest());
                Err(Error::failed(format!("{there} of {count} nodes were ready after {} s", START_MAX.as_secs()))
                    .hint(format!("see {}/logs", DIRECTORY)))
            }
        }
    }

    /// Resolves with the index of the first child that ends.
    async fn first_death(&self) -> usize {
        self.death_of(|child, _| child.status().is_none()).await
    }

    /// The same, also of one that has ended and was not noticed.
    async fn first_unseen_death(&self) -> usize {
        self.death_of(|_, seen| !seen).await
    }

    /// Resolves with the first that ends of these; `which` is told whether its last end was noticed.
    async fn death_of(&self, which: impl Fn(&Child, bool) -> bool) -> usize {
        let mut deaths: FuturesUnordered<_> = self
            .children
            .iter()
            .enumerate()
            .filter(|(index, child)| which(child, self.lives.get(*index).is_some_and(|l| l.1.is_dead())))
            .map(|(index, child)| {
                let ended = child.ended();
                async move {
                    ended.await;
                    index
                }
            })
            .collect();
        match deaths.next().await {
            Some(index) => index,
            None => futures_util::future::pending().await,
        }
    }

    /// A child has died: its leases end with it, and it is to be started again.
    fn lost(&mut self, index: usize) {
        let error = self.death(index);
        let Some(child) = self.children.get(index) else { return };
        self.registry.bury(&child.id.as_str().into());
        match self.lives.get_mut(index).and_then(|(_, respawn)| respawn.died(Instant::now())) {
            Some(pause) => say(&format!("warning: {error}; it is started again in {} ms", pause.as_millis())),
            None => say(&format!("warning: {error}; it has died too often and is left dead")),
        }
    }

    /// Resolves with the index of a child that is to be started again now.
    async fn revival(&self) -> usize {
        let due = self.lives.iter().enumerate().filter_map(|(index, (_, r))| Some((r.due()?, index))).min();
        match due {
            Some((at, index)) => {
                tokio::time::sleep_until(at).await;
                index
            }
            None => futures_util::future::pending().await,
        }
    }

    fn revive(&mut self, index: usize) -> Result<()> {
        let Some((spec, respawn)) = self.lives.get_mut(index) else { return Ok(()) };
        respawn.started(Instant::now());
        let child = Child::start(spec.clone())?;
        tracing::info!(node = child.id, process = child.pid, "a node is started again");
        if let Some(place) = self.children.get_mut(index) {
            *place = child;
        }
        self.rejoining = true;
        Ok(())
    }

    /// Resolves when every node that lives is registered after one was started again.
    async fn rejoined(&self) {
        if !self.rejoining {
            return futures_util::future::pending().await;
        }
        let living = || self.children.iter().filter(|child| child.status().is_none());
        let mut watcher = self.registry.watch();
        while let Some(view) = watcher.next().await {
            let there = |child: &Child| view.instances.iter().any(|i| i.node.as_str() == child.id);
            if living().all(there) {
                return;
            }
        }
        futures_util::future::pending().await
    }

    /// Sees to nodes that die, start again and join; never resolves unless one cannot be started.
    async fn supervise(&mut self) -> Error {
        loop {
            tokio::select! {
                biased;
                died = self.first_unseen_death() => self.lost(died),
                index = self.revival() => {
                    if let Err(error) = self.revive(index) {
                        return error;
                    }
                }
                () = self.rejoined() => {
                    self.rejoining = false;
                    if let Err(error) = self.write_file().await {
                        say(&format!("warning: {error}"));
                    }
                }
            }
        }
    }

    /// What is known of a child that ended unasked.
    fn death(&self, index: usize) -> Error {
        let Some(child) = self.children.get(index) else { return Error::failed("a node died") };
        let how = child.status().map(Child::describe).unwrap_or_else(|| "died".to_owned());
        let error = Error::failed(format!("node {} (process {}) {how}", child.id, child.pid));
        let lines = child.last_lines();
        match (lines.is_empty(), child.log()) {
            (false, Some(log)) => {
                error.hint(format!("its last words, from {}:\n    {}", log.display(), lines.join("\n    ")))
            }
            _ => error,
        }
    }

    async fn write_file(&mut self) -> Result<()> {
        let view = self.client.view().await?;
        self.file.nodes = self
            .children
            .iter()
            .map(|child| {
                let instance = view.instances.iter().find(|instance| instance.node.as_str() == child.id);
                DevNode {
                    id: child.id.clone(),
                    pid: child.pid,
                    address: instance.map(|i| i.address.clone()).unwrap_or_default(),
                    admin: instance.and_then(|i| i.admin.clone()).unwrap_or_default(),
                }
            })
            .collect();
        self.file.write(&self.directory)
    }

    async fn run_pipeline(
        &mut self,
        global: &Global,
        args: &DevArgs,
        layers: &Layers,
        pipeline: &str,
        signals: &mut Signals,
    ) -> Result<()> {
        let jobs = self.client.client::<Jobs>();
        let mut request = request(pipeline, layers, args.parallelism, args.replay);
        request.restore = args.restore.clone();
        request.allow_orphaned_state = args.allow_orphaned_state;
        request.nodes_min = u32::try_from(self.children.len()).unwrap_or(u32::MAX);
        let mut show = if global.json { Show::plain() } else { Show::new() };
        let job = tokio::select! {
            biased;
            signal = signals.next() => return Err(Error::failed(format!("{signal} before {pipeline} had started"))),
            died = self.first_death() => return Err(self.death(died)),
            job = submit(&jobs, request) => job?,
        };
        let id = job.id.clone();
        let latest = RefCell::new(job.clone());
        let followed = if self.respawns && job.restartable {
            tokio::select! {
                biased;
                followed = follow(&jobs, job, &mut show, signals, &latest) => followed?,
                error = self.supervise() => return Err(error),
            }
        } else {
            tokio::select! {
                biased;
                followed = follow(&jobs, job, &mut show, signals, &latest) => followed?,
                died = self.first_death() => {
                    show.clear();
                    let placed = latest.borrow().clone();
                    return Err(self.death_of_a_worker(died, &placed).await);
                }
            }
        };
        drop(show);
        match followed {
            Followed::Ended(job) => match outcome(&job) {
                Ok(summary) if global.json => print_line(&serde_json::to_string(&summary)?),
                Ok(summary) => print_line(&summary.text()),
                // A node's death is told by its process before the job can know of it.
                Err(error) => match self.children.iter().position(|child| child.status().is_some()) {
                    Some(died) if !self.respawns => Err(self.death_of_a_worker(died, &job).await),
                    _ => Err(error),
                },
            },
            Followed::Interrupted(signal, job) => {
                let stopped = jobs.cancel(id).deadline(Duration::from_secs(2)).await;
                if let Err(error) = &stopped {
                    tracing::debug!(%error, "the job could not be cancelled and ends with its nodes");
                }
                let job = stopped.unwrap_or(job);
                Err(Error::failed(format!("{signal}: {pipeline} stopped {}", how_far(&job))))
            }
        }
    }

    /// The error of a node that died while a job ran: which, how, and what was running there.
    async fn death_of_a_worker(&self, index: usize, job: &JobInfo) -> Error {
        let Some(child) = self.children.get(index) else { return Error::failed("a node died") };
        let tasks: Vec<&str> =
            job.tasks.iter().filter(|task| task.node == child.id).map(|task| task.path.as_str()).collect();
        let running = match tasks.is_empty() {
            true => "no task of the job was running there".to_owned(),
            false => format!("it was running {}", tasks.join(", ")),
        };
        let error = self.death(index).context(format!("{} failed", job.pipeline));
        // The last state the coordinator knows of, if it lives.
        let jobs = self.client.client::<Jobs>();
        let last = jobs.show(job.id.clone()).fail_fast().deadline(VERDICT_MAX).await;
        let far = how_far(last.as_ref().unwrap_or(job));
        error.also(format!("; {running}; it failed {far}"))
    }

    /// Serves until Ctrl-C or until no node is left.
    async fn hold(&mut self, signals: &mut Signals) -> Result<()> {
        if self.respawns {
            return tokio::select! {
                biased;
                _ = signals.next() => Ok(()),
                error = self.supervise() => Err(error),
            };
        }
        loop {
            tokio::select! {
                biased;
                _ = signals.next() => return Ok(()),
                died = self.first_death() => {
                    say(&format!("warning: {}", self.death(died)));
                    if self.children.iter().all(|child| child.status().is_some()) {
                        return Err(Error::failed("no node is left"));
                    }
                }
            }
        }
    }

    /// Stops everything; returns the nodes that had to be killed.
    async fn stop(&mut self, settings: &Settings) -> Vec<String> {
        let start = Instant::now();
        let grace =
            Duration::from_millis(settings.drain_lame_duck_ms + settings.drain_grace_ms) + STOP_MARGIN;
        let killed = stop_all(&mut self.children, grace).await;
        tracing::debug!(elapsed = ?start.elapsed(), "all nodes have ended");
        self.mesh.close();
        DevFile::remove(Path::new(&self.directory), self.file.pid);
        killed
    }
}

/// Nodes of a view that take work.
fn ready(view: &View) -> usize {
    view.instances.iter().filter(|instance| instance.state == InstanceState::Ready).count()
}

/// A secret that nobody can guess.
fn random_token() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0; TOKEN_BYTES];
    std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).map_err(
        |error| {
            Error::failed(format!("no random bytes for a token: {error}")).hint("set `token` (AFFLUX_TOKEN)")
        },
    )?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tokens_differ_and_are_long() {
        let (a, b) = (random_token().unwrap(), random_token().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.len(), 2 * TOKEN_BYTES);
    }
}
