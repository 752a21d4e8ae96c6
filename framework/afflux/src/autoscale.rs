//! How many tasks a job needs: a pure function of what its tasks have counted.
//!
//! The policy is that of DS2 (Kalavri et al., "Three steps is all you need", OSDI 2018). What a chain of
//! operators could do is not what it does: its true rate is records a second *at work*, so that waiting
//! for input or for room counts for nothing. From the rate at which records come, all chains get their
//! number of tasks at once, and a job is rescaled once and not step by step.
//!
//! A chain whose tasks together are at work for `busy` processors, at an input that has to become `scale`
//! times what it was, needs `busy × scale / utilization` tasks. `scale` is that of the sources in front of
//! it: for a source with event times, how much faster it has to be read so that it neither falls behind nor
//! stays behind; for one without, how much faster it could be read if it never waited for room.
//!
//! It does nothing on missing data, takes no task away while a lag grows or is too long, and lets a job
//! settle after each change.

use std::time::Duration;

use serde::Serialize;

#[cfg(test)]
mod played;
#[cfg(test)]
mod plot;

/// Share of its time that a task may be at work.
const UTILIZATION: f64 = 0.8;
/// Most by which the input is thought to grow at once: what is known of a job is known near its present load.
const SCALE_MAX: f64 = 4.0;
/// A source that is read more slowly than this share of its own speed counts as read with it.
const SPEED_MIN: f64 = 0.05;
/// Lag that grows by more seconds a second than this grows.
const GROWTH_MIN: f64 = 0.01;
/// A source without event times that waits for room for more than this share of its time has a backlog.
const WAITING_MIN: f64 = 0.05;

/// What is asked of the policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Policy {
    /// Least tasks.
    pub(crate) min: u32,
    /// Most tasks.
    pub(crate) max: u32,
    /// Seconds that a source may be behind.
    pub(crate) lag_s: f64,
    /// Seconds within which it is to have caught up.
    pub(crate) catch_up_s: f64,
    /// Nothing is changed for so long after a change, or after another attempt has begun.
    pub(crate) cooldown: Duration,
    /// Looks in a row that have to agree before tasks are taken away.
    pub(crate) agreed: u32,
}

/// A chain of fused operators, over the time between two looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ChainLoad {
    /// Its first operator.
    pub(crate) name: String,
    /// Its tasks.
    pub(crate) tasks: u32,
    /// Those whose counts are known at both looks.
    pub(crate) seen: u32,
    /// Processors at work: the sum of its tasks' shares of time.
    pub(crate) busy: f64,
    /// Whether it has the job's number of tasks, and not one of its own.
    pub(crate) scales: bool,
    /// What its source says, where it begins with one.
    pub(crate) source: Option<SourceLoad>,
    /// The chains that it feeds, by index.
    pub(crate) feeds: Vec<usize>,
}

/// A source, over the time between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct SourceLoad {
    /// Seconds that its slowest split was behind at the first look and at the second; nothing of a source
    /// without event times.
    pub(crate) lag_s: Option<(f64, f64)>,
    /// Share of the time in which its tasks waited for room, the most hindered.
    pub(crate) waiting: f64,
}

/// A job, over the time between two looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct JobLoad {
    /// Its attempt; nothing is compared over two of them.
    pub(crate) attempt: u64,
    /// Tasks of each chain that has no number of its own.
    pub(crate) parallelism: u32,
    /// Seconds between the looks.
    pub(crate) span_s: f64,
    /// Its chains.
    pub(crate) chains: Vec<ChainLoad>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub(crate) enum Decision {
    /// Nothing, and why.
    Stay {
        /// Tasks that would be right; 0 where that is not known.
        needed: u32,
        /// The reason.
        why: String,
    },
    /// Another number of tasks.
    Rescale {
        /// Tasks.
        parallelism: u32,
        /// The chain that needs them, and how much of it is at work.
        why: String,
    },
}

/// The policy and what it remembers.
#[derive(Debug)]
pub(crate) struct Autoscaler {
    policy: Policy,
    attempt: Option<u64>,
    /// When something was changed, on the caller's clock.
    changed: Option<Duration>,
    /// Looks in a row that wanted fewer tasks, and the most that one of them wanted.
    fewer: (u32, u32),
}

impl Autoscaler {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, attempt: None, changed: None, fewer: (0, 0) }
    }

    /// Another limit, since nodes have come or gone.
    pub(crate) fn limit(&mut self, max: u32) {
        self.policy.max = max.max(self.policy.min);
    }

    /// What is to be done at `now`, which never falls.
    pub(crate) fn decide(&mut self, now: Duration, load: &JobLoad) -> Decision {
        let before = self.attempt.replace(load.attempt);
        if before.is_some_and(|before| before != load.attempt) {
            // Somebody else has changed it, or it has lost a node: it settles first.
            self.changed = Some(now);
        }
        if let Some(missing) = load.missing() {
            self.fewer = (0, 0);
            return stay(0, missing);
        }
        let (needed, why) = load.needed(&self.policy);
        let needed = needed.clamp(self.policy.min, self.policy.max);
        let settled = self.changed.is_none_or(|at| now.saturating_sub(at) >= self.policy.cooldown);
        if !settled {
            self.fewer = (0, 0);
            return stay(needed, "it settles after a change".to_owned());
        }
        if needed >= load.parallelism {
            self.fewer = (0, 0);
            if needed == load.parallelism {
                return stay(needed, why);
            }
            self.changed = Some(now);
            return Decision::Rescale { parallelism: needed, why };
        }
        if let Some(behind) = load.behind(&self.policy) {
            self.fewer = (0, 0);
            return stay(needed, behind);
        }
        self.fewer = (self.fewer.0 + 1, self.fewer.1.max(needed));
        let (looks, most) = self.fewer;
        if looks < self.policy.agreed {
            return stay(needed, format!("{why}; {looks} of {} looks agree", self.policy.agreed));
        }
        self.fewer = (0, 0);
        self.changed = Some(now);
        Decision::Rescale { parallelism: most, why }
    }
}

fn stay(needed: u32, why: String) -> Decision {
    Decision::Stay { needed, why }
}

impl JobLoad {
    /// What is not known, if anything is not.
    fn missing(&self) -> Option<String> {
        if !(self.span_s > 0.0 && self.span_s.is_finite()) || self.chains.is_empty() {
            return Some("nothing has been counted yet".to_owned());
        }
        for chain in &self.chains {
            let ChainLoad { name, tasks, seen, busy, .. } = chain;
            if seen != tasks || *tasks == 0 {
                return Some(format!("{seen} of {tasks} tasks of `{name}` have told what they did"));
            }
            if !(0.0..=f64::from(*tasks) * 1.05 + 0.05).contains(busy) {
                return Some(format!("the tasks of `{name}` tell of {busy:.2} processors, and are {tasks}"));
            }
            let source = chain.source.unwrap_or_default();
            let lags = source.lag_s.map_or([0.0; 2], |(before, now)| [before, now]);
            let numbers = [lags[0], lags[1], source.waiting];
            if numbers.iter().any(|n| !n.is_finite() || *n < 0.0) {
                return Some(format!("source `{name}` tells no usable numbers"));
            }
        }
        match self.chains.iter().any(|chain| chain.source.is_some()) {
            true => None,
            false => Some("no source has told anything".to_owned()),
        }
    }

    /// Why no task may be taken away, if none may.
    fn behind(&self, policy: &Policy) -> Option<String> {
        self.chains.iter().find_map(|chain| {
            let source = chain.source?;
            let name = &chain.name;
            match source.lag_s {
                Some((before, now)) if now - before > GROWTH_MIN * self.span_s => {
                    Some(format!("the lag of `{name}` grows, from {before:.1} s to {now:.1} s"))
                }
                Some((_, now)) if now > policy.lag_s => {
                    Some(format!("`{name}` is {now:.1} s behind, more than {:.0} s", policy.lag_s))
                }
                None if source.waiting > WAITING_MIN => {
                    Some(format!("`{name}` waits for room {:.0} % of the time", 100.0 * source.waiting))
                }
                _ => None,
            }
        })
    }

    /// What the input of each chain has to become, as a multiple of what it was.
    fn scales(&self, policy: &Policy) -> Vec<f64> {
        let mut scales: Vec<Option<f64>> = vec![None; self.chains.len()];
        let mut open: Vec<(usize, f64)> = Vec::new();
        for (index, chain) in self.chains.iter().enumerate() {
            if let Some(source) = chain.source {
                open.push((index, source.scale(self.span_s, policy)));
            }
        }
        while let Some((index, scale)) = open.pop() {
            let Some(known) = scales.get_mut(index) else { continue };
            // The greatest of all sources in front; each pass makes one greater, so that a ring ends as well.
            if known.is_none_or(|known| scale > known) {
                *known = Some(scale);
                open.extend(self.chains[index].feeds.iter().map(|fed| (*fed, scale)));
            }
        }
        scales.into_iter().map(|scale| scale.unwrap_or(1.0)).collect()
    }

    /// The tasks that would be right, and the chain that decides.
    fn needed(&self, policy: &Policy) -> (u32, String) {
        let scales = self.scales(policy);
        // More tasks elsewhere help nobody beyond what a chain of a fixed number can take.
        let fixed = self.chains.iter().zip(&scales).filter(|(chain, _)| !chain.scales && chain.busy > 0.0);
        let room = fixed
            .map(|(chain, scale)| (f64::from(chain.tasks) / chain.busy / scale, chain))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(room, _)| *room < 1.0);
        let cap = room.map_or(1.0, |(room, _)| room);
        let wanted =
            self.chains.iter().zip(&scales).filter(|(chain, _)| chain.scales).map(|(chain, scale)| {
                let scale = if *scale > 1.0 { (scale * cap).max(1.0) } else { *scale };
                (chain.busy * scale / UTILIZATION, scale, chain)
            });
        let Some((tasks, scale, chain)) = wanted.max_by(|a, b| a.0.total_cmp(&b.0)) else {
            return (self.parallelism, "every operator has a number of its own".to_owned());
        };
        // Beyond any number of tasks that there can be a cast saturates.
        let needed = (tasks - 1e-9).ceil().max(1.0) as u32;
        let mut why = format!(
            "`{}` is at work {:.0} % of {} tasks, and its input has to become {scale:.2} times what it was",
            chain.name,
            100.0 * chain.busy / f64::from(chain.tasks.max(1)),
            chain.tasks,
        );
        if let Some((_, narrow)) = room {
            why.push_str(&format!(
                "; `{}` has {} tasks of its own and can take no more",
                narrow.name, narrow.tasks
            ));
        }
        (needed, why)
    }
}

impl SourceLoad {
    /// How much faster it has to be read.
    fn scale(&self, span_s: f64, policy: &Policy) -> f64 {
        let scale = match self.lag_s {
            Some((before, now)) => {
                // Seconds of event time that were read a second: 1 keeps the lag as it is.
                let speed = (1.0 - (now - before) / span_s).max(SPEED_MIN);
                (1.0 + (now - policy.lag_s).max(0.0) / policy.catch_up_s) / speed
            }
            None => 1.0 / (1.0 - self.waiting).max(SPEED_MIN),
        };
        scale.clamp(0.0, SCALE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        min: 1,
        max: 64,
        lag_s: 10.0,
        catch_up_s: 300.0,
        cooldown: Duration::from_secs(60),
        agreed: 3,
    };

    /// A source that feeds a chain, which feeds another.
    fn load(parallelism: u32, busy: [f64; 3], lag_s: Option<(f64, f64)>, waiting: f64) -> JobLoad {
        let chain = |index: usize, name: &str| ChainLoad {
            name: name.to_owned(),
            tasks: parallelism,
            seen: parallelism,
            busy: busy[index].min(f64::from(parallelism)),
            scales: true,
            source: (index == 0).then_some(SourceLoad { lag_s, waiting }),
            feeds: if index < 2 { vec![index + 1] } else { Vec::new() },
        };
        JobLoad {
            attempt: 1,
            parallelism,
            span_s: 15.0,
            chains: vec![chain(0, "in"), chain(1, "sum"), chain(2, "out")],
        }
    }

    fn once(load: &JobLoad) -> Decision {
        Autoscaler::new(POLICY).decide(Duration::ZERO, load)
    }

    fn asked(decision: &Decision) -> Option<u32> {
        match decision {
            Decision::Rescale { parallelism, .. } => Some(*parallelism),
            Decision::Stay { .. } => None,
        }
    }

    #[test]
    fn the_busiest_chain_decides_and_the_whole_way_is_one_step() {
        // Half of the records that come are read: twice the input, of a chain that has no time left.
        let falling_behind = load(2, [0.2, 2.0, 0.5], Some((5.0, 12.5)), 0.9);
        let Decision::Rescale { parallelism, why } = once(&falling_behind) else { panic!("it stays") };
        // 2 processors × 2 (and a little for the lag) / 0.8.
        assert_eq!(parallelism, 6);
        assert!(why.contains("`sum` is at work 100 % of 2 tasks"), "{why}");
    }

    #[test]
    fn a_chain_of_one_task_by_design_limits_what_others_get() {
        let mut narrow = load(4, [0.2, 3.9, 1.0], Some((5.0, 12.5)), 0.9);
        narrow.chains[2] =
            ChainLoad { tasks: 1, seen: 1, busy: 1.0, scales: false, ..narrow.chains[2].clone() };
        let Decision::Rescale { parallelism, why } = once(&narrow) else { panic!("it stays") };
        // Its present input, and no more than that.
        assert_eq!(parallelism, 5);
        assert!(why.contains("`out` has 1 tasks of its own"), "{why}");
    }

    #[test]
    fn a_source_without_event_times_is_read_as_fast_as_it_could_be() {
        let waits = load(2, [0.5, 2.0, 0.1], None, 0.5);
        assert_eq!(asked(&once(&waits)), Some(5), "twice what it was");
        assert_eq!(asked(&once(&load(2, [0.5, 1.2, 0.1], None, 0.0))), None);
    }

    #[test]
    fn fewer_tasks_are_asked_for_only_when_several_looks_agree() {
        let mut scaler = Autoscaler::new(POLICY);
        let quiet = |busy| load(8, [0.1, busy, 0.1], Some((1.0, 1.0)), 0.0);
        assert_eq!(asked(&scaler.decide(Duration::from_secs(0), &quiet(0.7))), None);
        assert_eq!(asked(&scaler.decide(Duration::from_secs(15), &quiet(2.2))), None);
        // The most that one of them wanted.
        assert_eq!(asked(&scaler.decide(Duration::from_secs(30), &quiet(0.7))), Some(3));
        // It settles, whatever comes.
        let more = load(3, [0.1, 3.0, 0.1], Some((1.0, 9.0)), 0.9);
        assert_eq!(asked(&scaler.decide(Duration::from_secs(45), &more)), None);
        assert!(asked(&scaler.decide(Duration::from_secs(91), &more)) > Some(3));
    }

    #[test]
    fn another_attempt_is_left_to_settle() {
        let mut scaler = Autoscaler::new(POLICY);
        let busy = load(2, [0.2, 2.0, 0.1], Some((1.0, 9.0)), 0.9);
        scaler.decide(Duration::ZERO, &load(2, [0.2, 1.5, 0.1], Some((1.0, 1.0)), 0.0));
        let again = JobLoad { attempt: 2, ..busy };
        assert_eq!(asked(&scaler.decide(Duration::from_secs(15), &again)), None);
        assert!(asked(&scaler.decide(Duration::from_secs(80), &again)).is_some());
    }

    /// A job that is simulated: what comes is read as far as the slowest chain allows.
    struct Played {
        /// Processor seconds of a record, chain by chain.
        costs: [f64; 3],
        parallelism: u32,
        attempt: u64,
        backlog: f64,
    }

    impl Played {
        /// What is counted in 15 s in which so many records a second come.
        fn turn(&mut self, rate: f64) -> JobLoad {
            let span_s = 15.0;
            // More tasks cost a little more: the exchanges get wider.
            let width = 1.0 + 0.01 * f64::from(self.parallelism);
            let able =
                f64::from(self.parallelism) / self.costs.iter().fold(0.0, |a, b| f64::max(a, *b * width));
            let read = able.min(rate + self.backlog / span_s);
            let lag = |backlog: f64| backlog / rate;
            let before = lag(self.backlog);
            self.backlog = (self.backlog + (rate - read) * span_s).max(0.0);
            let busy = self.costs.map(|cost| cost * width * read);
            let waiting = if self.backlog > 0.0 { 0.9 } else { 0.0 };
            let mut counted = load(self.parallelism, busy, Some((before, lag(self.backlog))), waiting);
            (counted.attempt, counted.span_s) = (self.attempt, span_s);
            counted
        }
    }

    /// Plays a load; returns the changes (round and tasks) and the lag at the end.
    fn play(costs: [f64; 3], rates: &[f64]) -> (Vec<(usize, u32)>, f64, u32) {
        let mut job = Played { costs, parallelism: 1, attempt: 1, backlog: 0.0 };
        let mut scaler = Autoscaler::new(POLICY);
        let mut changes = Vec::new();
        for (round, rate) in rates.iter().enumerate() {
            let counted = job.turn(*rate);
            if let Some(parallelism) = asked(&scaler.decide(Duration::from_secs(15 * round as u64), &counted))
            {
                (job.parallelism, job.attempt) = (parallelism, job.attempt + 1);
                changes.push((round, parallelism));
            }
        }
        let lag = job.backlog / rates.last().copied().unwrap_or(1.0);
        (changes, lag, job.parallelism)
    }

    #[test]
    fn a_load_that_doubles_and_falls_is_followed_in_few_steps() {
        // 100 records a second, 800, 100 again; a chain that does 100 a second and task.
        let rates: Vec<f64> =
            [(100.0, 20), (800.0, 120), (100.0, 60)].iter().flat_map(|(r, n)| vec![*r; *n]).collect();
        let (changes, lag, last) = play([0.001, 0.01, 0.002], &rates);
        assert!(lag < 1.0, "{lag} s behind: {changes:?}");
        assert_eq!(last, 2, "{changes:?}");
        let most = changes.iter().map(|change| change.1).max().unwrap();
        assert!((10..=16).contains(&most), "{changes:?}");
        assert!(changes.len() <= 8, "it wavers: {changes:?}");
    }

    #[test]
    fn a_load_that_stays_is_met_within_three_steps_and_then_left_alone() {
        for rate in [50.0, 130.0, 400.0, 1_500.0] {
            let (changes, lag, last) = play([0.002, 0.01, 0.004], &vec![rate; 400]);
            let early = changes.iter().filter(|(round, _)| *round < 200).count();
            assert!(changes.len() <= 5 && early == changes.len(), "{rate}/s: {changes:?}");
            assert!(lag < 1.0, "{rate}/s: {lag} s behind, {changes:?}");
            let needed = rate * 0.01 * (1.0 + 0.01 * f64::from(last));
            assert!(f64::from(last) >= needed, "{rate}/s: {last} tasks, {needed} at work");
            assert!(f64::from(last) <= needed / UTILIZATION + 2.0, "{rate}/s: {last} tasks for {needed}");
        }
    }

    fn any_load() -> impl Strategy<Value = JobLoad> {
        let lag = prop_oneof![Just(None), (0.0..500.0, 0.0..500.0).prop_map(Some)];
        (1..40_u32, prop::array::uniform3(0.0..1.0_f64), lag, 0.0..1.0_f64).prop_map(
            |(parallelism, shares, lag_s, waiting)| {
                load(parallelism, shares.map(|share| share * f64::from(parallelism)), lag_s, waiting)
            },
        )
    }

    proptest! {
        #[test]
        fn missing_data_changes_nothing(mut load in any_load(), chain in 0..3_usize, how in 0..4_u8) {
            let broken = &mut load.chains[chain];
            match how {
                0 => broken.seen -= 1,
                1 => broken.busy = f64::NAN,
                2 => broken.busy = -1.0,
                _ => load.span_s = 0.0,
            }
            let mut scaler = Autoscaler::new(POLICY);
            for round in 0..10 {
                prop_assert_eq!(asked(&scaler.decide(Duration::from_secs(100 * round), &load)), None);
            }
        }

        #[test]
        fn no_task_is_taken_away_while_a_lag_grows_or_is_long(
            load in any_load(), before in 0.0..100.0_f64, more in 0.2..100.0_f64
        ) {
            let mut load = load;
            load.chains[0].source = Some(SourceLoad { lag_s: Some((before, before + more)), waiting: 0.0 });
            let mut long = load.clone();
            long.chains[0].source = Some(SourceLoad { lag_s: Some((11.0 + more, 11.0)), waiting: 0.0 });
            for load in [load, long] {
                let mut scaler = Autoscaler::new(POLICY);
                for round in 0..10 {
                    let decision = scaler.decide(Duration::from_secs(100 * round), &load);
                    prop_assert!(asked(&decision).is_none_or(|n| n > load.parallelism), "{decision:?}");
                }
            }
        }

        #[test]
        fn what_is_asked_for_is_another_number_within_the_bounds(
            loads in prop::collection::vec(any_load(), 1..30), min in 1..10_u32, room in 0..30_u32
        ) {
            let policy = Policy { min, max: min + room, ..POLICY };
            let mut scaler = Autoscaler::new(policy);
            for (round, load) in loads.iter().enumerate() {
                let decision = scaler.decide(Duration::from_secs(100 * round as u64), load);
                if let Some(n) = asked(&decision) {
                    prop_assert!((min..=min + room).contains(&n) && n != load.parallelism, "{decision:?}");
                }
            }
        }

        #[test]
        fn a_busier_chain_never_gets_fewer_tasks(load in any_load(), chain in 0..3_usize, more in 0.0..5.0_f64) {
            let mut busier = load.clone();
            let busy = &mut busier.chains[chain];
            busy.busy = (busy.busy + more).min(f64::from(busy.tasks));
            prop_assert!(busier.needed(&POLICY).0 >= load.needed(&POLICY).0);
        }

        #[test]
        fn nothing_is_changed_twice_within_the_cooldown(loads in prop::collection::vec(any_load(), 1..40)) {
            let mut scaler = Autoscaler::new(POLICY);
            let mut last: Option<u64> = None;
            for (round, load) in loads.iter().enumerate() {
                let now = 15 * round as u64;
                if asked(&scaler.decide(Duration::from_secs(now), load)).is_some() {
                    prop_assert!(last.is_none_or(|at| now - at >= 60), "at {last:?} and {now}");
                    last = Some(now);
                }
            }
        }
    }
}
