//! One simulation: a seed, what happens to it, and whether the promise was kept.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use afflux_mesh::bugs::{self, Bug};

use crate::cluster::{LAUNCHER, WORKERS, World, launcher, worker};
use crate::disk::{Disk, Moment};
use crate::fate::{Act, LATENCY, Troubles, fate};
use crate::ledger::Ledger;
use crate::pipeline::{Expected, Load};
use crate::seed::Dice;
use crate::trace::{Detail, Trace, Traced, advance, note};

/// What a machine does at a time before the next has its turn.
const TICK: Duration = Duration::from_millis(2);
/// Time for the job to recover and to end once the last trouble is over.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the source has something to give, if nothing disturbs it, in milliseconds.
const LOAD_MS: std::ops::Range<u64> = 4_000..8_000;
/// Stack of a simulation's thread: its machines are nested in it.
const STACK_BYTES: usize = 16 << 20;
/// Segments that lie in a played socket.
const SEGMENTS_MAX: usize = 1 << 12;

/// A simulation to be.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// Decides everything.
    pub seed: u64,
    /// What may happen.
    pub troubles: Troubles,
    /// A mistake that the framework is to make.
    pub bug: Option<Bug>,
    /// What is written down.
    pub detail: Detail,
    /// Whether the trace's text is kept, and not only its hash.
    pub kept: bool,
}

impl Simulation {
    /// The simulation of a seed, with every trouble.
    pub fn of(seed: u64) -> Self {
        Self { seed, troubles: Troubles::ALL, bug: None, detail: Detail::Story, kept: true }
    }
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What is wrong, if anything is.
    pub failure: Option<String>,
    /// The time that was played.
    pub played: Duration,
    /// Machines that were killed.
    pub kills: u32,
    /// Rows that were committed.
    pub rows: u64,
    /// What happened.
    pub trace: Traced,
}

/// Plays a simulation to its end, on a thread of its own.
pub fn run(simulation: &Simulation) -> Outcome {
    let played = simulation.clone();
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || play(&played));
    let ended = thread.map(std::thread::JoinHandle::join);
    match ended {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => failed(simulation.seed, "the simulation itself panicked".to_owned()),
        Err(error) => failed(simulation.seed, format!("no thread for the simulation: {error}")),
    }
}

fn failed(seed: u64, failure: String) -> Outcome {
    let trace = Traced::default();
    Outcome { seed, failure: Some(failure), played: Duration::ZERO, kills: 0, rows: 0, trace }
}

fn play(simulation: &Simulation) -> Outcome {
    afflux_actor::simulated::begin();
    bugs::make(simulation.bug);
    let trace = Trace::begin(simulation.detail, simulation.kept);
    let seed = simulation.seed;
    note(format_args!("seed {seed}"));
    let mut dice = Dice::new(seed).fork("load");
    let (burst, every_ms) = (dice.within(1..5), dice.within(10..30));
    let load = Load {
        records: dice.within(LOAD_MS) / every_ms * burst,
        burst,
        every: Duration::from_millis(every_ms),
    };
    let world = World {
        load,
        expected: Arc::new(Expected::of(load)),
        ledger: Ledger::default(),
        disk: Disk::new(Dice::new(seed).fork("disk")),
        skews: Arc::new(WORKERS.iter().map(|machine| (*machine, AtomicI64::new(0))).collect()),
        parallelism: Arc::new(AtomicU32::new(dice.within(1..4) as u32)),
        recovers: Dice::new(seed).fork("recovery").below(2) == 0,
        // Without dice: the other seeds keep the fate that they were noted for.
        retires: seed.is_multiple_of(4),
        done: Arc::new(AtomicBool::new(false)),
    };
    let mut kills = 0;
    let mut played = Duration::ZERO;
    let ended = catch_unwind(AssertUnwindSafe(|| stage(simulation, &world, &mut kills, &mut played)));
    let failure = match ended {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some(format!("a machine panicked: {}", text.unwrap_or("without a word")))
        }
    };
    if let Some(failure) = &failure {
        note(format_args!("FAILED: {failure}"));
    }
    Outcome { seed, failure, played, kills, rows: world.ledger.rows(), trace: trace.take() }
}

/// A power failure that waits for its moment.
struct Armed {
    moment: Moment,
    /// How often that had come when it began to wait.
    before: u64,
    machine: &'static str,
    span: Duration,
}

/// Machines without power.
#[derive(Default)]
struct Outages {
    /// Until fate starts them again.
    fated: BTreeSet<&'static str>,
    /// Until this time.
    struck: BTreeMap<&'static str, Duration>,
}

impl Outages {
    fn has(&self, machine: &str) -> bool {
        self.fated.contains(machine) || self.struck.contains_key(machine)
    }

    /// The power fails; whether there was any.
    fn begin(&mut self, machine: &'static str, until: Option<Duration>) -> bool {
        let had_power = !self.has(machine);
        match until {
            // One that is down already has seen its moment.
            Some(until) if had_power => {
                self.struck.insert(machine, until);
            }
            Some(_) => {}
            None => {
                self.fated.insert(machine);
            }
        }
        had_power
    }

    /// Those that have been without it long enough, and have no other reason.
    fn over(&mut self, now: Duration) -> Vec<&'static str> {
        let due = self.struck.iter().filter(|(_, until)| **until <= now);
        let due: Vec<&'static str> = due.map(|(machine, _)| *machine).collect();
        for machine in &due {
            self.struck.remove(machine);
        }
        due.into_iter().filter(|machine| !self.has(machine)).collect()
    }
}

fn stage(
    simulation: &Simulation,
    world: &World,
    kills: &mut u32,
    played: &mut Duration,
) -> Result<(), String> {
    let mut sim = turmoil::Builder::new()
        .rng_seed(simulation.seed)
        .epoch(UNIX_EPOCH)
        .simulation_duration(Duration::MAX)
        .tick_duration(TICK)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(LATENCY)
        .tcp_capacity(SEGMENTS_MAX)
        .enable_random_order()
        .build();
    let shared = world.clone();
    sim.host(LAUNCHER, move || launcher(shared.clone()));
    for machine in WORKERS {
        let shared = world.clone();
        sim.host(machine, move || worker(shared.clone(), machine));
    }
    let mut acts = fate(simulation.seed, simulation.troubles).into_iter().peekable();
    let mut until = PATIENCE;
    let (mut armed, mut outages): (Vec<Armed>, _) = (Vec::new(), Outages::default());
    loop {
        *played = sim.elapsed();
        advance(*played);
        for machine in outages.over(*played) {
            note(format_args!("{machine} has power again"));
            until = *played + PATIENCE;
            sim.bounce(machine);
        }
        while let Some((_, act)) = acts.next_if(|(at, _)| at <= played) {
            note(format_args!("fate: {act}"));
            until = *played + PATIENCE;
            match act {
                Act::Kill(machine) => {
                    if outages.begin(machine, None) {
                        *kills += 1;
                        world.ledger.lose(machine);
                        sim.crash(machine);
                    }
                }
                Act::Start(machine) => {
                    if outages.fated.remove(machine) && !outages.has(machine) {
                        sim.bounce(machine);
                    }
                }
                Act::Strike(moment, machine, span) => {
                    armed.push(Armed { moment, before: world.disk.times(moment), machine, span });
                }
                Act::Cut(a, b) => sim.partition(a, b),
                Act::Mend(a, b) => sim.repair(a, b),
                Act::Hold(a, b) => sim.hold(a, b),
                Act::Release(a, b) => sim.release(a, b),
                Act::Latency(latency) => sim.set_max_message_latency(latency),
                Act::Store(mood) => world.disk.set(mood),
                Act::Jump(machine, by) => {
                    if let Some(skew) = world.skews.get(machine) {
                        skew.fetch_add(by, Ordering::Relaxed);
                    }
                }
                Act::Rescale(parallelism) => world.parallelism.store(parallelism, Ordering::Relaxed),
            }
        }
        sim.step().map_err(|error| format!("a machine ended: {error}"))?;
        // What was written in this tick has been told to nobody: an answer takes longer than that.
        armed.retain(|strike| {
            if world.disk.times(strike.moment) == strike.before {
                return true;
            }
            let Armed { moment, machine, span, .. } = *strike;
            if outages.begin(machine, Some(*played + span)) {
                note(format_args!("{machine} loses its power: {moment:?}"));
                *kills += 1;
                until = *played + PATIENCE;
                world.ledger.lose(machine);
                sim.crash(machine);
            }
            false
        });
        let calm = acts.peek().is_none() && outages.struck.is_empty();
        if let Some(violation) = world.ledger.violations().first() {
            return Err(violation.clone());
        }
        if world.done.load(Ordering::Relaxed) && calm {
            break;
        }
        if *played > until && calm {
            return Err(format!(
                "no end: {} of {} rows are committed {} s after the last trouble",
                world.ledger.rows(),
                world.expected.rows(),
                PATIENCE.as_secs()
            ));
        }
    }
    world.expected.differs(&world.ledger).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_power_again_when_no_reason_against_it_is_left() {
        let (at, mut outages) = (Duration::from_millis, Outages::default());
        assert!(outages.begin("a", Some(at(10))));
        assert!(!outages.begin("a", None), "it is down already");
        assert!(outages.over(at(10)).is_empty(), "fate has it down");
        assert!(outages.fated.remove("a") && !outages.has("a"));
        assert!(outages.begin("a", Some(at(30))) && !outages.begin("a", Some(at(90))));
        assert!(outages.over(at(29)).is_empty());
        assert_eq!(outages.over(at(30)), ["a"]);
        assert!(outages.over(at(90)).is_empty());
    }
}
