//! The policy on a job that is played: what comes, minute by minute, and what comes of it.
//!
//! The job is a source that feeds a chain, which feeds another, as in a pipeline of three chains. Records are read in
//! their order as far as the slowest chain allows; what is not read waits, and the age of the oldest is the lag.
//! A change of the number of tasks costs a pause, and what is counted right behind it is compared with nothing, as
//! with a real job. Numbers are made by the four operations alone, so that every machine gets the same.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Autoscaler, ChainLoad, Decision, JobLoad, Policy, SourceLoad};

/// Between two looks, as `rescale --auto` has it unless told otherwise.
const LOOK_S: f64 = 15.0;
/// In which nothing is read behind a change: a checkpoint, a stop, a start.
const CHANGE_S: f64 = 5.0;
/// Processor seconds of a record in each chain: a task of the second does a hundred a second.
const COSTS_S: [f64; 3] = [0.001, 0.01, 0.002];
/// Records of one departure: a busy hour wants about ten tasks.
const DEPARTURE_RECORDS: f64 = 40_000.0;
/// Tasks at most.
pub(super) const TASKS_MAX: u32 = 32;

/// As `rescale --auto` has it unless told otherwise.
const POLICY: Policy = Policy {
    min: 1,
    max: TASKS_MAX,
    lag_s: 10.0,
    catch_up_s: 300.0,
    cooldown: Duration::from_secs(120),
    agreed: 3,
};

/// Records a second that so many tasks can do. More tasks cost a little more: the exchanges get wider.
pub(super) fn able(tasks: u32) -> f64 {
    f64::from(tasks) / (COSTS_S[1] * width(tasks))
}

fn width(tasks: u32) -> f64 {
    1.0 + 0.01 * f64::from(tasks)
}

/// What was seen at a look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) at_s: f64,
    /// Records a second that come.
    pub(super) rate: f64,
    pub(super) tasks: u32,
    /// Seconds that the oldest record waits.
    pub(super) lag_s: f64,
}

/// A load that is played.
pub(super) struct Run {
    pub(super) seen: Vec<Seen>,
    pub(super) changes: usize,
}

impl Run {
    /// Plays it: `rate` gives records a second at a time in seconds.
    pub(super) fn of(length_s: f64, rate: impl Fn(f64) -> f64) -> Self {
        let mut scaler = Autoscaler::new(POLICY);
        let (mut tasks, mut attempt, mut pause_s, mut fresh) = (1_u32, 1_u64, 0.0, true);
        // Since when they came, how many they were, and how many are left.
        let mut waiting: VecDeque<(f64, f64, f64)> = VecDeque::new();
        let mut run = Self { seen: Vec::new(), changes: 0 };
        let mut lag_before = 0.0;
        let looks = (length_s / LOOK_S) as u64;
        for look in 0..looks {
            let begun = look as f64 * LOOK_S;
            let at_s = begun + LOOK_S;
            let rate = rate(begun);
            if rate > 0.0 {
                waiting.push_back((begun, rate * LOOK_S, rate * LOOK_S));
            }
            let room = able(tasks) * (LOOK_S - pause_s);
            let mut read = 0.0;
            while let Some((_, _, left)) = waiting.front_mut() {
                let take = left.min(room - read);
                read += take;
                *left -= take;
                if *left > 1e-6 {
                    break;
                }
                waiting.pop_front();
            }
            // They came evenly, so the oldest that is left came as far behind the first as the part that was read.
            let oldest = waiting.front().map(|(came, all, left)| came + LOOK_S * (1.0 - left / all));
            let lag_s = oldest.map_or(0.0, |oldest| at_s - oldest);
            let load = job(tasks, attempt, read / LOOK_S, (lag_before, lag_s), fresh);
            fresh = false;
            pause_s = 0.0;
            lag_before = lag_s;
            run.seen.push(Seen { at_s, rate, tasks, lag_s });
            let decision = scaler.decide(Duration::from_secs_f64(at_s), &load);
            if let Decision::Rescale { parallelism, .. } = decision {
                (tasks, attempt, pause_s, fresh) = (parallelism, attempt + 1, CHANGE_S, true);
                run.changes += 1;
            }
        }
        run
    }

    pub(super) fn lag_max_s(&self) -> f64 {
        self.seen.iter().map(|seen| seen.lag_s).fold(0.0, f64::max)
    }

    pub(super) fn tasks_max(&self) -> u32 {
        self.seen.iter().map(|seen| seen.tasks).max().unwrap_or_default()
    }

    pub(super) fn tasks_mean(&self) -> f64 {
        self.seen.iter().map(|seen| f64::from(seen.tasks)).sum::<f64>() / self.seen.len().max(1) as f64
    }

    /// The share of looks at which the oldest record waited for no longer than allowed.
    pub(super) fn in_time(&self) -> f64 {
        let fine = self.seen.iter().filter(|seen| seen.lag_s <= POLICY.lag_s).count();
        fine as f64 / self.seen.len().max(1) as f64
    }
}

/// What the tasks of the job tell; nothing that can be compared right behind a change.
fn job(tasks: u32, attempt: u64, read: f64, lag_s: (f64, f64), fresh: bool) -> JobLoad {
    let chain = |index: usize, name: &str| ChainLoad {
        name: name.to_owned(),
        tasks,
        seen: if fresh { 0 } else { tasks },
        busy: (COSTS_S[index] * width(tasks) * read).min(f64::from(tasks)),
        scales: true,
        source: (index == 0)
            .then_some(SourceLoad { lag_s: Some(lag_s), waiting: if lag_s.1 > 0.0 { 0.9 } else { 0.0 } }),
        feeds: if index < 2 { vec![index + 1] } else { Vec::new() },
    };
    JobLoad {
        attempt,
        parallelism: tasks,
        span_s: LOOK_S,
        chains: vec![chain(0, "in"), chain(1, "sum"), chain(2, "out")],
    }
}

/// Eight hours: steady, doubled, a slope, a peak of ten minutes, a saw, and little at the end.
pub(super) const MADE_S: f64 = 8.0 * 3_600.0;

/// Records a second of the load that was made up.
pub(super) fn made(at_s: f64) -> f64 {
    let minute = at_s / 60.0;
    match minute {
        m if m < 60.0 => 150.0,
        m if m < 120.0 => 300.0,
        m if m < 210.0 => 300.0 + 700.0 * (m - 120.0) / 90.0,
        m if m < 250.0 => 400.0,
        m if m < 260.0 => 1_600.0,
        m if m < 300.0 => 400.0,
        m if m < 420.0 => {
            // Up and down once in forty minutes.
            let phase = (m - 300.0) % 40.0;
            let up = if phase < 20.0 { phase } else { 40.0 - phase };
            200.0 + 600.0 * up / 20.0
        }
        _ => 60.0,
    }
}

/// The length of the recorded load: two weeks from Monday, 4 February 2013, UTC. A blizzard closed the airports on the 8th.
pub(super) const RECORDED_S: f64 = 14.0 * 86_400.0;

/// Flights that left New York in each hour, by when they left, a day a line. The tests of `services/flights` compare it
/// with the records.
const DEPARTURES: &str = include_str!("departures.txt");

/// Records a second in each hour of the recorded load.
pub(super) fn recorded() -> Vec<f64> {
    let flights = DEPARTURES.lines().flat_map(|day| day.split(' ').skip(1));
    let hours = flights.map(|flights| flights.parse::<f64>().unwrap() * DEPARTURE_RECORDS / 3_600.0);
    hours.collect()
}

/// The recorded load, played.
pub(super) fn play_recorded() -> Run {
    let hours = recorded();
    Run::of(RECORDED_S, |at_s| hours.get((at_s / 3_600.0) as usize).copied().unwrap_or_default())
}

/// The load that was made up, played.
pub(super) fn play_made() -> Run {
    Run::of(MADE_S, made)
}

#[test]
fn two_recorded_weeks_are_followed_with_far_fewer_tasks_than_their_peak_wants() {
    let run = play_recorded();
    let hours = recorded();
    let flights = hours.iter().sum::<f64>() * 3_600.0 / DEPARTURE_RECORDS;
    assert!((11_000.0..14_000.0).contains(&flights), "{flights} flights in two weeks");
    let peak = hours.iter().copied().fold(0.0, f64::max);
    let (mean, most) = (run.tasks_mean(), f64::from(run.tasks_max()));
    assert!(able(run.tasks_max()) > peak, "{most} tasks do {} and {peak} come", able(run.tasks_max()));
    assert!(mean < 0.75 * most, "{mean} tasks on average of {most}");
    assert!(run.in_time() > 0.97, "in time {} of the time", run.in_time());
    assert!(run.lag_max_s() < 600.0, "{} s behind", run.lag_max_s());
    assert!(run.changes < 14 * 24 * 2, "it wavers: {} changes in two weeks", run.changes);
    // In the night of the storm nothing comes, and one task is left.
    let night = run.seen.iter().filter(|seen| (120.0..134.0).contains(&(seen.at_s / 3_600.0)));
    assert!(night.map(|seen| seen.tasks).max() == Some(1));
}

#[test]
fn what_is_made_up_is_followed_and_nothing_is_taken_away_while_it_is_behind() {
    let run = play_made();
    assert!(run.lag_max_s() < 600.0, "{} s behind", run.lag_max_s());
    assert_eq!(run.seen.last().map(|seen| seen.lag_s), Some(0.0));
    assert!(run.tasks_max() < TASKS_MAX, "the peak alone is no reason for all there are");
    for pair in run.seen.windows(2) {
        let [before, now] = pair else { continue };
        assert!(now.tasks >= before.tasks || before.lag_s <= POLICY.lag_s, "{before:?} {now:?}");
    }
}
