//! A run: a cluster, a job, what is done to it, and whether the promise was kept.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use afflux::jobs::JobRequest;
use afflux::{Error, Result};
use clap::ValueEnum;
use nix::sys::signal::Signal;

use crate::beside::{BESIDE, Note, PAUSE_MS_MAX};
use crate::cluster::{Cluster, Lines, Net, Network, Shape, TICK};
use crate::ends::Ends;
use crate::ledger::Ledger;
use crate::namespaces::{Fault, Namespace};
use crate::pipeline::{Mistake, RATE, STOP};
use crate::report::{Blow, Report};
use crate::seed::Dice;

/// Longest wait for the job to begin, to go on after a blow, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of a hundred kills, so many come before the job has recovered from the one before.
const TOO_SOON_PERCENT: u64 = 15;
/// The same of what comes behind a rescale.
const RESCALE_TOO_SOON_PERCENT: u64 = 50;
/// Tasks of each operator behind a rescale.
const TASKS: std::ops::Range<u64> = 1..7;
/// Such a one comes so many milliseconds behind the one before.
const TOO_SOON_MS: std::ops::Range<u64> = 20..1_500;
/// Any other so many milliseconds after the job has recovered.
const AFTER_MS: std::ops::Range<u64> = 50..700;
/// Of a hundred kills, so many meet a node that has tasks or coordinates, if it is known.
const AT_WORK_PERCENT: u64 = 85;
/// The source ends so many seconds of records behind what was committed.
const END_AHEAD_S: u64 = 3;
/// Leases where nodes are cut off or stopped.
const LEASE: Duration = Duration::from_millis(1_500);
/// A break of the network lasts so many milliseconds.
const BREAK_MS: std::ops::Range<u64> = 300..5_000;
/// On a slow one bytes wait so many milliseconds.
const SLOW_MS: std::ops::Range<u64> = 10..250;
/// Of a hundred stops, so many stop the coordinator.
const STOP_COORDINATOR_PERCENT: u64 = 70;
/// Nodes that may end by themselves before the run is given up.
const SURPRISES_MAX: usize = 10;
/// Between two tries to submit the job.
const SUBMIT_AGAIN: Duration = Duration::from_millis(200);

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Victim {
    /// Any node, most often one at work.
    Any,
    /// The node that coordinates the job.
    Coordinator,
    /// A node with tasks that does not coordinate the job.
    Worker,
}

/// A run to be.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    /// Nodes are killed so often.
    pub(crate) kills: u32,
    /// Nodes are asked to end (SIGTERM) so often, and hand their tasks over.
    pub(crate) leaves: u32,
    /// The network breaks so often.
    pub(crate) breaks: u32,
    /// Each node has a network namespace of its own, and packets are lost where the network breaks.
    pub(crate) namespaces: bool,
    /// Nodes are stopped for longer than their leases so often, the coordinator most often.
    pub(crate) stops: u32,
    /// All nodes are killed at once so often.
    pub(crate) blackouts: u32,
    /// The job gets another number of tasks so often.
    pub(crate) rescales: u32,
    pub(crate) victim: Victim,
    pub(crate) checkpoint_ms: u64,
    /// The etcd that knows the nodes; nothing: the launcher does.
    pub(crate) etcd: Option<String>,
    /// Another pipeline runs on the first node, which is left alone.
    pub(crate) beside: bool,
    /// The Kafka whose topics are read and written; nothing: the source makes records, and files are written.
    pub(crate) kafka: Option<String>,
    /// What the pipeline does wrong on purpose.
    pub(crate) mistake: Option<Mistake>,
    /// Other settings of the nodes.
    pub(crate) settings: Vec<String>,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Kill,
    Leave,
    Break,
    Stop,
    Rescale,
    Blackout,
}

impl Setup {
    /// What is done, in its order.
    fn acts(&self, dice: &mut Dice) -> Vec<Act> {
        let of = |act: Act, times: u32| (0..times).map(move |_| act);
        let acts = of(Act::Kill, self.kills)
            .chain(of(Act::Leave, self.leaves))
            .chain(of(Act::Break, self.breaks))
            .chain(of(Act::Stop, self.stops))
            .chain(of(Act::Rescale, self.rescales))
            .chain(of(Act::Blackout, self.blackouts));
        let mut acts: Vec<(u64, Act)> = acts.map(|act| (dice.draw(), act)).collect();
        acts.sort_by_key(|(drawn, _)| *drawn);
        acts.into_iter().map(|(_, act)| act).collect()
    }
}

/// Runs it in a directory; `tell` hears of each blow when the job has recovered from it.
pub(crate) async fn run(setup: &Setup, directory: &Path, tell: &mut dyn FnMut(&Blow)) -> Report {
    let mut report = Report { seed: setup.seed, ..Report::default() };
    let mut settings = vec![
        "checkpoint.dir=checkpoints".to_owned(),
        format!("checkpoint.interval_ms={}", setup.checkpoint_ms),
        "restart.failures_max=1000000".to_owned(),
        // Each pause is that of a first failure, however many there are.
        "restart.backoff_multiplier=1".to_owned(),
        "admin.listen=".to_owned(),
    ];
    if setup.breaks + setup.stops > 0 || setup.etcd.is_some() {
        settings.push(format!("registry.ttl_ms={}", LEASE.as_millis()));
    }
    settings.extend(setup.settings.iter().cloned());
    let ends = match Ends::make(setup.kafka.as_deref(), directory).await {
        Ok(ends) => ends,
        Err(error) => return Report { failure: Some(error.to_string()), ..report },
    };
    let network = match (setup.namespaces, setup.breaks) {
        (true, _) => Network::Namespaces,
        (false, 0) => Network::Machine,
        (false, _) => Network::Proxies,
    };
    let etcd = setup.etcd.clone();
    let (nodes, mistake, environment) = (setup.nodes, setup.mistake, ends.environment());
    let shape = Shape { nodes, settings, network, etcd, mistake, environment };
    let cluster = match Cluster::start(directory, shape).await {
        Ok(cluster) => cluster,
        Err(error) => return Report { failure: Some(error.to_string()), ..report },
    };
    let mut run = Run {
        cluster,
        ends,
        ledger: Ledger::default(),
        dice: Dice::new(setup.seed),
        job: String::new(),
        attempt: 0,
        blows: Vec::new(),
        open: Vec::new(),
        spared: setup.beside.then_some(0),
        tell,
    };
    let began = Instant::now();
    let played = run.play(setup, directory).await;
    run.cluster.stop().await;
    let Run { cluster, ledger, blows, attempt, .. } = run;
    report.took_s = began.elapsed().as_secs_f64();
    report.failure = match (played, cluster.surprises.is_empty()) {
        (Err(error), true) => Some(error.to_string()),
        (Err(error), false) => Some(format!("{error}; {}", cluster.surprises.join("; "))),
        (Ok(()), false) => Some(cluster.surprises.join("; ")),
        (Ok(()), true) => None,
    };
    (report.rows, report.attempts, report.blows) = (ledger.rows, attempt, blows);
    (report.lost, report.duplicated, report.out_of_order) =
        (ledger.lost, ledger.duplicated, ledger.out_of_order);
    if report.failure.is_none() && !ledger.is_right() && (report.lost, report.duplicated) == (0, 0) {
        report.failure = Some("rows that cannot be read, or are out of order".to_owned());
    }
    report.examples = ledger.examples;
    if setup.beside {
        let note = Note::read(directory);
        if report.failure.is_none() && (note.begun != 1 || note.pause_ms > PAUSE_MS_MAX || note.records == 0)
        {
            report.failure = Some(format!("the pipeline beside felt it: {note:?}"));
        }
        report.beside = Some(note);
    }
    report.sum_up();
    report
}

/// A blow from which the job has not recovered.
struct Open {
    index: usize,
    at: Instant,
    wall_ms: i64,
    /// The last attempt that had written anything when it came.
    attempt: u64,
}

struct Run<'a> {
    cluster: Cluster,
    ends: Ends,
    ledger: Ledger,
    dice: Dice,
    job: String,
    /// The last attempt that has written anything.
    attempt: u64,
    blows: Vec<Blow>,
    open: Vec<Open>,
    /// A node that is left alone.
    spared: Option<usize>,
    tell: &'a mut dyn FnMut(&Blow),
}

impl Run<'_> {
    async fn play(&mut self, setup: &Setup, directory: &Path) -> Result<()> {
        self.until_ready(setup.nodes).await?;
        let nodes = setup.nodes;
        if setup.beside {
            self.submit(BESIDE, 1, "at_least_once", nodes).await?;
        }
        // A mistake on purpose would be refused otherwise.
        let mistaken = setup.kafka.is_some() && setup.mistake.is_some();
        let guarantee = if mistaken { "at_least_once" } else { "exactly_once" };
        self.job = self.submit(self.ends.pipeline(), nodes, guarantee, nodes).await?;
        self.until("the first rows", |run| run.ledger.rows > 0).await?;
        for act in setup.acts(&mut self.dice) {
            // Where one is open, it was drawn to be overtaken.
            let wait_ms = if self.open.is_empty() { AFTER_MS } else { TOO_SOON_MS };
            let wait = Duration::from_millis(self.dice.within(wait_ms));
            self.pass(wait).await?;
            self.until("two nodes that live", |run| run.cluster.alive().len() > 1).await?;
            match act {
                Act::Kill => self.kill(setup.victim).await?,
                Act::Leave => self.leave(setup.victim).await?,
                Act::Break => self.break_network()?,
                Act::Stop => self.stop(setup.victim).await?,
                Act::Rescale => self.rescale(),
                Act::Blackout => self.black_out()?,
            }
            let too_soon = match act {
                Act::Kill | Act::Leave | Act::Break | Act::Blackout => TOO_SOON_PERCENT,
                Act::Stop => 0,
                Act::Rescale => RESCALE_TOO_SOON_PERCENT,
            };
            if !self.dice.percent(too_soon) {
                self.recovered(setup.nodes).await?;
            }
        }
        self.recovered(setup.nodes).await?;
        self.end(directory).await
    }

    /// One turn: nodes are seen to, files are read.
    fn turn(&mut self) -> Result<()> {
        self.cluster.tend()?;
        let look = self.ends.look(&mut self.ledger);
        let look = look.map_err(|error| Error::failed(format!("what is committed: {error}")))?;
        self.attempt = look.attempt;
        let (blows, tell) = (&mut self.blows, &mut self.tell);
        self.open.retain(|open| {
            let Some(blow) = blows.get_mut(open.index) else { return false };
            let ms = u64::try_from(open.at.elapsed().as_millis()).unwrap_or(u64::MAX);
            let committed = look.made_ms > open.wall_ms;
            if blow.output_ms.is_none() && (look.attempt > open.attempt || committed) {
                blow.output_ms = Some(ms);
            }
            if committed {
                blow.committed_ms = Some(ms);
                tell(blow);
            }
            !committed
        });
        Ok(())
    }

    /// Turns until something is so.
    async fn until(&mut self, what: &str, mut so: impl FnMut(&Self) -> bool) -> Result<()> {
        let began = Instant::now();
        loop {
            self.turn()?;
            if so(self) {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(self.never(what).await);
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Turns for so long.
    async fn pass(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        self.until("time passes", |_| Instant::now() >= until).await
    }

    async fn until_ready(&mut self, nodes: usize) -> Result<()> {
        let began = Instant::now();
        while self.cluster.ready().await < nodes || self.cluster.coordinator().await.is_none() {
            self.turn()?;
            if self.cluster.surprises.len() > SURPRISES_MAX {
                return Err(Error::failed("nodes cannot be started"));
            }
            if began.elapsed() > PATIENCE {
                return Err(self.never("all nodes and a coordinator").await);
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    async fn recovered(&mut self, nodes: usize) -> Result<()> {
        self.until("records that were given behind the blow are committed", |run| run.open.is_empty())
            .await?;
        self.until_ready(nodes).await
    }

    /// The error of something that never comes, with what the job says.
    async fn never(&self, what: &str) -> Error {
        let said = match self.cluster.job(&self.job).await {
            Some(job) => {
                format!("{}, attempt {}: {:?} {:?}", job.state, job.attempt, job.error, job.failures)
            }
            None => "its coordinator does not answer".to_owned(),
        };
        Error::failed(format!("never within {} s: {what}; job {}: {said}", PATIENCE.as_secs(), self.job))
    }

    /// Starts a pipeline with this many tasks for each operator.
    async fn submit(
        &mut self,
        pipeline: &str,
        tasks: usize,
        guarantee: &str,
        nodes: usize,
    ) -> Result<String> {
        let settings =
            [("pipeline.parallelism", tasks.to_string()), ("pipeline.guarantee", guarantee.to_owned())];
        let request = JobRequest {
            pipeline: pipeline.to_owned(),
            settings: settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            nodes_min: u32::try_from(nodes).unwrap_or(u32::MAX),
            ..JobRequest::default()
        };
        let began = Instant::now();
        loop {
            match self.cluster.submit(request.clone()).await {
                Ok(job) => return Ok(job.id),
                Err(error) if began.elapsed() > PATIENCE => return Err(error),
                // The node that leads has not said so yet.
                Err(_) => self.pass(SUBMIT_AGAIN).await?,
            }
        }
    }

    /// The nodes that live and may be struck.
    fn struck(&self) -> Vec<usize> {
        let alive = self.cluster.alive();
        alive.into_iter().filter(|index| Some(*index) != self.spared).collect()
    }

    /// A node to strike: whether it coordinates, and its tasks where that is known.
    async fn choose(&mut self, victim: Victim) -> Result<(usize, bool, Option<usize>)> {
        let began = Instant::now();
        loop {
            let coordinator = self.cluster.coordinator().await;
            // A coordinator that has just died would be waited for, and the blow before be measured wrongly.
            let job = if self.open.is_empty() { self.cluster.job(&self.job).await } else { None };
            let tasks = |index: usize| {
                let name = self.cluster.name(index);
                job.as_ref().map(|job| job.tasks.iter().filter(|task| task.node == name).count())
            };
            let at_work = |index: &usize| Some(*index) == coordinator || tasks(*index) != Some(0);
            let fits = |index: &usize| match victim {
                Victim::Any => true,
                Victim::Coordinator => Some(*index) == coordinator,
                Victim::Worker => Some(*index) != coordinator && tasks(*index) != Some(0),
            };
            let fitting: Vec<usize> = self.struck().into_iter().filter(fits).collect();
            let working: Vec<usize> = fitting.iter().copied().filter(at_work).collect();
            let of =
                if self.dice.percent(AT_WORK_PERCENT) && !working.is_empty() { working } else { fitting };
            if let Some(index) = self.dice.pick(&of) {
                return Ok((index, Some(index) == coordinator, tasks(index)));
            }
            if began.elapsed() > PATIENCE {
                return Err(self.never(&format!("a node that is {victim:?}")).await);
            }
            self.pass(TICK).await?;
        }
    }

    /// Notes a blow that has just come.
    fn note(&mut self, what: &'static str, (index, coordinator, tasks): (usize, bool, Option<usize>)) {
        let in_recovery = !self.open.is_empty();
        for open in &self.open {
            self.blows[open.index].overtaken = true;
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.open.push(Open {
            index: self.blows.len(),
            at: Instant::now(),
            wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
            attempt: self.attempt,
        });
        self.blows.push(Blow {
            number: u32::try_from(self.blows.len() + 1).unwrap_or(u32::MAX),
            what,
            node: self.cluster.name(index).to_owned(),
            coordinator,
            tasks,
            in_recovery,
            ..Blow::default()
        });
    }

    async fn kill(&mut self, victim: Victim) -> Result<()> {
        let chosen = self.choose(victim).await?;
        self.cluster.kill(chosen.0)?;
        self.note("kill", chosen);
        Ok(())
    }

    /// Asks a node to end.
    async fn leave(&mut self, victim: Victim) -> Result<()> {
        let chosen = self.choose(victim).await?;
        self.cluster.end(chosen.0)?;
        self.note("leave", chosen);
        Ok(())
    }

    /// Kills all nodes that are there.
    fn black_out(&mut self) -> Result<()> {
        let struck = self.struck();
        for index in &struck {
            self.cluster.kill(*index)?;
        }
        self.note("black", (0, true, None));
        if let Some(blow) = self.blows.last_mut() {
            blow.node = format!("all {}", struck.len());
        }
        Ok(())
    }

    /// Breaks what stands between a node and the others, in one way or another.
    fn break_network(&mut self) -> Result<()> {
        let (alive, dice) = (self.struck(), &mut self.dice);
        let index = dice.pick(&alive).unwrap_or(0);
        let time = Duration::from_millis(dice.within(BREAK_MS));
        let what = match self.cluster.net(index) {
            Net::Open => return Ok(()),
            Net::Proxied(lines) => break_lines(lines, dice, time),
            Net::Apart(namespace) => {
                let others: Vec<usize> = alive.into_iter().filter(|other| *other != index).collect();
                break_namespace(namespace, dice, time, &others)?
            }
        };
        self.note(what, (index, false, None));
        Ok(())
    }

    /// Gives the job another number of tasks, and does not wait for it.
    fn rescale(&mut self) {
        let tasks = self.dice.within(TASKS);
        self.cluster.rescale_soon(&self.job, u32::try_from(tasks).unwrap_or(1));
        self.note("scale", (0, false, None));
        if let Some(blow) = self.blows.last_mut() {
            blow.node = format!("to {tasks}");
        }
    }

    /// Stops a node for longer than its lease, and lets it go on when the others do.
    async fn stop(&mut self, victim: Victim) -> Result<()> {
        let coordinator = self.dice.percent(STOP_COORDINATOR_PERCENT);
        let drawn = if coordinator { Victim::Coordinator } else { Victim::Worker };
        let chosen = self.choose(if victim == Victim::Any { drawn } else { victim }).await?;
        self.cluster.signal(chosen.0, Signal::SIGSTOP)?;
        self.note("stop", chosen);
        let followed =
            self.until("records of others, with the node stopped", |run| run.open.is_empty()).await;
        let passed = self.pass(LEASE).await;
        // Whatever came of it, a stopped node cannot be asked to end.
        self.cluster.signal(chosen.0, Signal::SIGCONT)?;
        followed.and(passed)?;
        // What the woken one has to say comes now.
        self.pass(LEASE).await
    }

    /// Waits until all records of a topic are committed, ends the job, and has all of it read once more.
    async fn end_topic(&mut self, records: u64) -> Result<()> {
        // Where some are lost they never come, and the last look says which.
        let came = self.until("all that was given is committed", |run| run.ledger.rows >= records).await;
        if let Some(job) = self.cluster.job(&self.job).await {
            self.attempt = job.attempt;
        }
        self.cluster.cancel(&self.job).await?;
        let (judged, each) = self.ends.judged(PATIENCE).await?;
        let live = std::mem::replace(&mut self.ledger, judged);
        self.ledger.finish(each);
        // What was wrong at the first look stays wrong.
        self.ledger.examples.extend(live.examples);
        if self.ledger.is_right() { came } else { Ok(()) }
    }

    /// Ends the source, waits for the job's end and looks at all that was committed.
    async fn end(&mut self, directory: &Path) -> Result<()> {
        if let Some(records) = self.ends.finish(PATIENCE)? {
            return self.end_topic(records).await;
        }
        let records = self.ledger.longest() + END_AHEAD_S * RATE;
        let (fresh, stop) = (directory.join("stop.new"), directory.join(STOP));
        std::fs::write(&fresh, records.to_string())
            .and_then(|()| std::fs::rename(&fresh, &stop))
            .map_err(|error| Error::failed(format!("cannot write {}: {error}", stop.display())))?;
        let began = Instant::now();
        loop {
            self.turn()?;
            if let Some(job) = self.cluster.job(&self.job).await.filter(|job| job.has_ended()) {
                self.turn()?;
                if job.state != "finished" {
                    let error = job.error.unwrap_or_default();
                    return Err(Error::failed(format!("job {} {}: {error}", job.id, job.state)));
                }
                self.ledger.finish(records);
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(self.never("the end of the job").await);
            }
            self.pass(SUBMIT_AGAIN).await?;
        }
    }
}

/// Breaks what stands between a node and the others in a way that is drawn; says which.
fn break_lines(lines: &Lines, dice: &mut Dice, time: Duration) -> &'static str {
    match dice.below(6) {
        0 => {
            lines.front.reset();
            "reset"
        }
        1 => {
            lines.front.tear();
            "tear"
        }
        2 => {
            lines.front.slow(time, Duration::from_millis(dice.within(SLOW_MS)));
            "slow"
        }
        3 => {
            lines.front.silence(time);
            "mute"
        }
        4 => {
            // As if its cable were pulled: nobody hears of it, and it hears of nobody that dials it.
            lines.front.silence(time);
            lines.launcher.silence(time);
            "pull"
        }
        _ => {
            lines.front.close(time);
            lines.launcher.close(time);
            "cut"
        }
    }
}

/// The same of a node's namespace.
fn break_namespace(
    namespace: &Namespace,
    dice: &mut Dice,
    time: Duration,
    others: &[usize],
) -> Result<&'static str> {
    let (fault, what) = match (dice.below(7), dice.pick(others)) {
        (0, _) => (Fault::Deaf, "deaf"),
        (1, _) => (Fault::Mute, "mute"),
        (2, Some(other)) => (Fault::Split(other), "split"),
        (3, _) => (Fault::Lossy, "lossy"),
        (4, _) => (Fault::Refuse, "refuse"),
        (5, _) => (Fault::Down, "down"),
        _ => (Fault::Drop, "drop"),
    };
    namespace.suffer(fault, time)?;
    Ok(what)
}
