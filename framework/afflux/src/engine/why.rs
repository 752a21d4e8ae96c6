//! What the counts of a job's tasks say about one of its operators.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use afflux_stream::job::TaskId;
use afflux_stream::{Doing, Edge, Graph, Placement, SplitReading};

use super::worker::TaskShare;
use crate::why::{HOT_SHARE_MIN, Holder, HotKey, Pressure, Why};

/// A task counts as hindered from this share of its time on.
const PRESSURED_RATIO_MIN: f64 = 0.5;
/// Places of pressure, and hot keys, that an answer names.
const NAMED_MAX: usize = 10;

/// The counts of a job's tasks at a moment.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) shares: BTreeMap<TaskId, TaskShare>,
}

/// What one look, and an earlier one, say of a job.
pub(super) struct Looks<'a> {
    pub(super) graph: &'a Graph,
    pub(super) placement: &'a Placement,
    pub(super) now: &'a Look,
    /// Without it shares of time are over the job's life.
    pub(super) before: Option<&'a Look>,
    /// Milliseconds since 1970.
    pub(super) now_ms: i64,
}

/// Where the time of a chain's tasks went, as shares of it.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    busy: f64,
    backpressured: f64,
}

impl Looks<'_> {
    /// What keeps an operator; nothing when there is none of this name.
    pub(super) fn why(&self, operator: &str) -> Option<Why> {
        let chain = self.graph.operators.iter().find(|o| o.name == operator)?.chain;
        let times = self.times(chain);
        let watermark = self.tasks(chain).map(|s| s.watermark_ms).min().unwrap_or(i64::MIN);
        Some(Why {
            pipeline: self.graph.pipeline.clone(),
            operator: operator.to_owned(),
            tasks: self.tasks(chain).count() as u32,
            span_s: self.span(),
            busy_ratio: times.busy,
            backpressured_ratio: times.backpressured,
            skew_ratio: self.skew(chain, operator),
            watermark_ms: known(watermark),
            held_by: self.holder(chain, &mut BTreeSet::new()),
            pressure: self.pressure(chain),
            hot_keys: self.hot_keys(chain),
            ..Why::default()
        })
    }

    fn tasks(&self, chain: u32) -> impl Iterator<Item = &TaskShare> {
        self.now.shares.values().filter(move |share| share.chain == chain)
    }

    fn span(&self) -> f64 {
        match self.before {
            Some(before) => self.now.at.duration_since(before.at).as_secs_f64(),
            None => {
                self.now.shares.values().map(|s| s.busy_s + s.idle_s + s.backpressured_s).fold(0.0, f64::max)
            }
        }
    }

    /// Of the busiest, and of the most hindered task of a chain.
    fn times(&self, chain: u32) -> Times {
        let mut most = Times::default();
        for share in self.tasks(chain) {
            let id = TaskId { chain, subtask: share.subtask };
            let old = self.before.and_then(|before| before.shares.get(&id));
            let gained = |now: f64, of: fn(&TaskShare) -> f64| (now - old.map_or(0.0, of)).max(0.0);
            let mut busy = gained(share.busy_s, |s| s.busy_s);
            let mut backpressured = gained(share.backpressured_s, |s| s.backpressured_s);
            let counted = busy + backpressured + gained(share.idle_s, |s| s.idle_s);
            // What a task has been doing since its last change is not counted yet.
            let rest = (self.span() - counted).max(0.0);
            match share.doing {
                Doing::Busy => busy += rest,
                Doing::Backpressured => backpressured += rest,
                Doing::Idle => {}
            }
            let whole = self.span().max(counted).max(1e-9);
            most.busy = most.busy.max(busy / whole);
            most.backpressured = most.backpressured.max(backpressured / whole);
        }
        most
    }

    /// Records of the task that got most, over the mean of all.
    fn skew(&self, chain: u32, operator: &str) -> f64 {
        let counts: Vec<u64> = self
            .tasks(chain)
            .map(|s| s.operators.iter().find(|o| o.0 == operator).map_or(0, |o| o.1))
            .collect();
        let (most, all) = (counts.iter().max().copied().unwrap_or(0), counts.iter().sum::<u64>());
        if all == 0 { 1.0 } else { most as f64 * counts.len() as f64 / all as f64 }
    }

    /// The split that holds a chain's watermark, found against the stream.
    fn holder(&self, chain: u32, seen: &mut BTreeSet<u32>) -> Option<Holder> {
        if !seen.insert(chain) {
            return None;
        }
        let input = self.tasks(chain).map(|s| s.watermark_ms).min().unwrap_or(i64::MIN);
        let feeding = self.graph.edges.iter().filter(|edge| edge.to_chain == chain);
        let out =
            |edge: &Edge| self.tasks(edge.from_chain).map(|s| s.watermark_out_ms).min().unwrap_or(i64::MIN);
        let Some(edge) = feeding.min_by_key(|edge| out(edge)) else {
            return self.slowest_split(chain);
        };
        let mut holder = self.holder(edge.from_chain, seen)?;
        // The split is further than what has arrived here: rows in front of its watermark fill the
        // exchange, so that it waits behind them.
        let behind = holder.watermark_ms.is_some_and(|ms| ms > input);
        let pressed = self.times(edge.from_chain).backpressured >= PRESSURED_RATIO_MIN;
        if holder.stuck_at.is_none() && behind && pressed {
            let (from, to) = self.ends(edge);
            holder.stuck_at = Some(format!("{from} → {to}"));
        }
        Some(holder)
    }

    fn slowest_split(&self, chain: u32) -> Option<Holder> {
        let active = |s: &&SplitReading| !s.ended && !s.idle;
        let (share, split) = self
            .tasks(chain)
            .filter_map(|share| {
                Some((share, share.splits.iter().filter(active).min_by_key(|s| s.watermark_ms)?))
            })
            .min_by_key(|(_, split)| split.watermark_ms)?;
        let info = self.graph.chains.get(chain as usize)?;
        let last = info.operators.last().map_or("", String::as_str);
        let node = self.placement.get(chain as usize).and_then(|tasks| tasks.get(share.subtask as usize));
        Some(Holder {
            source: info.operators.first().cloned().unwrap_or_default(),
            split: split.id.clone(),
            task: format!("{}/{last}/{}", self.graph.pipeline, share.subtask),
            node: node.map(ToString::to_string).unwrap_or_default(),
            watermark_ms: known(split.watermark_ms),
            latest_ms: known(split.latest_ms),
            silent_s: known(split.read_at_ms).map(|at| (self.now_ms - at).max(0) as f64 / 1e3),
            caught_up: split.caught_up,
            stuck_at: None,
        })
    }

    /// The exchanges behind which a task is slow and in front of which one waits.
    fn pressure(&self, chain: u32) -> Vec<Pressure> {
        let below = self.below(chain);
        let mut found: Vec<(bool, Pressure)> = Vec::new();
        for edge in &self.graph.edges {
            let (before, behind) = (self.times(edge.from_chain), self.times(edge.to_chain));
            let feeds_others = self.graph.edges.iter().any(|other| other.from_chain == edge.to_chain);
            let passes_on = feeds_others && behind.backpressured >= PRESSURED_RATIO_MIN;
            if before.backpressured < PRESSURED_RATIO_MIN
                || passes_on
                || self.tasks(edge.to_chain).next().is_none()
            {
                continue;
            }
            let (from, to) = self.ends(edge);
            let operators = self.graph.chains.get(edge.to_chain as usize);
            found.push((
                !below.contains(&edge.to_chain),
                Pressure {
                    from: from.to_owned(),
                    to: to.to_owned(),
                    operators: operators.map(|c| c.operators.clone()).unwrap_or_default(),
                    exchange: self.exchange(edge),
                    busy_ratio: behind.busy,
                    outside_ratio: if feeds_others { 0.0 } else { behind.backpressured },
                    backpressured_ratio: before.backpressured,
                },
            ));
        }
        // Of several consumers of one task the busiest is the one it waits for.
        let load = |p: &Pressure| p.busy_ratio.max(p.outside_ratio);
        found.sort_by(|(a_far, a), (b_far, b)| a_far.cmp(b_far).then(load(b).total_cmp(&load(a))));
        found.truncate(NAMED_MAX);
        found.into_iter().map(|(_, pressure)| pressure).collect()
    }

    /// The operators behind the exchanges at which pressure begins.
    pub(super) fn bottlenecks(&self) -> BTreeSet<String> {
        // Of which operator it is asked decides the order alone.
        self.pressure(0).into_iter().map(|pressure| pressure.to).collect()
    }

    /// A chain and all that it feeds.
    fn below(&self, chain: u32) -> BTreeSet<u32> {
        let mut below = BTreeSet::from([chain]);
        let mut open = vec![chain];
        while let Some(from) = open.pop() {
            for edge in self.graph.edges.iter().filter(|edge| edge.from_chain == from) {
                if below.insert(edge.to_chain) {
                    open.push(edge.to_chain);
                }
            }
        }
        below
    }

    /// What the producing tasks of each exchange say together.
    fn hot_keys(&self, chain: u32) -> Vec<HotKey> {
        let mut found: Vec<(bool, HotKey)> = Vec::new();
        for edge in &self.graph.edges {
            let told = || self.tasks(edge.from_chain).flat_map(|s| &s.edges).filter(|e| e.edge == edge.index);
            let rows: u64 = told().map(|e| e.rows).sum();
            let mut keys: BTreeMap<&str, f64> = BTreeMap::new();
            for reading in told() {
                for key in &reading.keys {
                    *keys.entry(&key.key).or_default() +=
                        key.share * reading.rows as f64 / rows.max(1) as f64;
                }
            }
            let (from, to) = self.ends(edge);
            for (key, share) in keys.into_iter().filter(|(_, share)| *share >= HOT_SHARE_MIN) {
                let hot = HotKey { from: from.to_owned(), to: to.to_owned(), key: key.to_owned(), share };
                found.push((edge.to_chain != chain, hot));
            }
        }
        found.sort_by(|(a_far, a), (b_far, b)| a_far.cmp(b_far).then(b.share.total_cmp(&a.share)));
        found.truncate(NAMED_MAX);
        found.into_iter().map(|(_, hot)| hot).collect()
    }

    /// The last operator in front of an exchange, and the first behind it.
    fn ends(&self, edge: &Edge) -> (&str, &str) {
        let chain = |index: u32| self.graph.chains.get(index as usize).map_or(&[][..], |c| &c.operators);
        let from = chain(edge.from_chain).last().map_or("?", String::as_str);
        (from, chain(edge.to_chain).first().map_or("?", String::as_str))
    }

    fn exchange(&self, edge: &Edge) -> String {
        format!("{:?}", edge.exchange).to_lowercase()
    }
}

/// A moment, unless it stands for none.
fn known(ms: i64) -> Option<i64> {
    (ms > i64::MIN && ms < i64::MAX).then_some(ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use afflux_stream::{EdgeReading, Exchange, Flow, JobSettings, KeyShare, Plan, generate};

    /// `numbers ⇒ count ⇒ out`, two tasks each but for the last.
    fn plan() -> Plan {
        let flow = Flow::new("p", JobSettings { parallelism: 2, ..JobSettings::default() });
        let numbers = flow.source("numbers", generate(10, |i| i)).untimed();
        numbers.key_by(|i| *i).reduce("count", |a, b| a + b).gather().count("out");
        flow.finish().unwrap()
    }

    fn share(chain: u32, subtask: u32, busy_s: f64, backpressured_s: f64, doing: Doing) -> TaskShare {
        let name = ["numbers", "count", "out"][chain as usize];
        TaskShare {
            chain,
            subtask,
            operators: vec![(name.into(), 100 * (1 + u64::from(subtask)), 0, 0, 0)],
            busy_s,
            backpressured_s,
            doing,
            ..TaskShare::default()
        }
    }

    fn look(at: Instant, shares: Vec<TaskShare>) -> Look {
        let id = |s: &TaskShare| TaskId { chain: s.chain, subtask: s.subtask };
        Look { at, shares: shares.into_iter().map(|s| (id(&s), s)).collect() }
    }

    fn with<R>(now: &Look, before: Option<&Look>, test: impl FnOnce(&Looks<'_>) -> R) -> R {
        let plan = plan();
        let placement = afflux_stream::job::place(&plan.widths(), &["a".into(), "b".into()]);
        test(&Looks { graph: plan.graph(), placement: &placement, now, before, now_ms: 60_000 })
    }

    #[test]
    fn pressure_begins_where_a_task_works_or_waits_for_the_outside_and_the_one_before_it_waits() {
        let start = Instant::now();
        let before = look(
            start,
            vec![
                share(0, 0, 5.0, 0.0, Doing::Busy),
                share(1, 0, 5.0, 0.0, Doing::Busy),
                share(2, 0, 0.0, 0.0, Doing::Idle),
            ],
        );
        // Both wait; the last has worked on one batch since.
        for doing in [Doing::Busy, Doing::Backpressured] {
            let now = look(
                start + Duration::from_secs(1),
                vec![
                    share(0, 0, 5.1, 0.0, Doing::Backpressured),
                    share(1, 0, 5.1, 0.0, Doing::Backpressured),
                    share(2, 0, 0.0, 0.0, doing),
                ],
            );
            let why = with(&now, Some(&before), |looks| looks.why("numbers").unwrap());
            assert_eq!(why.pressure.len(), 1, "{why:?}");
            let at = &why.pressure[0];
            assert_eq!((at.from.as_str(), at.to.as_str(), at.exchange.as_str()), ("count", "out", "gather"));
            let (busy, outside) = if doing == Doing::Busy { (1.0, 0.0) } else { (0.0, 1.0) };
            assert_eq!((at.busy_ratio, at.outside_ratio), (busy, outside));
            let named = with(&now, Some(&before), |looks| looks.bottlenecks());
            assert!(named.iter().eq(["out"]), "{named:?}");
            assert!((why.backpressured_ratio - 0.9).abs() < 0.01 && (why.span_s - 1.0).abs() < 1e-6);
        }
        let calm = with(&before, None, |looks| looks.why("numbers").unwrap());
        assert_eq!(calm.pressure, []);
        assert!(with(&before, None, |looks| looks.bottlenecks()).is_empty());
    }

    #[test]
    fn the_holder_is_the_slowest_split_that_is_neither_idle_nor_ended() {
        let split = |id: &str, watermark_ms: i64, idle: bool, ended: bool| SplitReading {
            id: id.into(),
            watermark_ms,
            latest_ms: watermark_ms + 5,
            idle,
            ended,
            read_at_ms: 18_000,
            ..SplitReading::default()
        };
        let mut a = share(0, 0, 0.0, 0.0, Doing::Idle);
        a.splits = vec![split("a", 50, false, false), split("quiet", 1, true, false)];
        let mut b = share(0, 1, 0.0, 0.0, Doing::Idle);
        b.splits = vec![split("b", 40, false, false), split("done", 2, false, true)];
        (a.watermark_out_ms, b.watermark_out_ms) = (50, 40);
        let mut sum = share(1, 0, 0.0, 0.0, Doing::Idle);
        sum.watermark_ms = 40;
        let now = look(Instant::now(), vec![a, b, sum]);
        let why = with(&now, None, |looks| looks.why("count").unwrap());
        let holder = why.held_by.unwrap();
        assert_eq!((holder.source.as_str(), holder.split.as_str()), ("numbers", "b"));
        assert_eq!((holder.task.as_str(), holder.node.as_str()), ("p/numbers/1", "b"));
        assert_eq!((why.watermark_ms, holder.latest_ms, holder.silent_s), (Some(40), Some(45), Some(42.0)));
        assert_eq!(holder.stuck_at, None);
    }

    #[test]
    fn a_watermark_that_left_and_did_not_arrive_is_stuck_where_the_producer_waits() {
        let mut a = share(0, 0, 0.0, 9.0, Doing::Backpressured);
        a.splits = vec![SplitReading { id: "a".into(), watermark_ms: 90, ..SplitReading::default() }];
        a.watermark_out_ms = 90;
        let mut sum = share(1, 0, 9.0, 0.0, Doing::Busy);
        sum.watermark_ms = 10;
        let now = look(Instant::now(), vec![a, sum]);
        let why = with(&now, None, |looks| looks.why("count").unwrap());
        assert_eq!(why.held_by.unwrap().stuck_at.as_deref(), Some("numbers → count"));
    }

    #[test]
    fn a_key_is_hot_over_all_tasks_that_feed_its_exchange() {
        let plan = plan();
        let edge = plan.graph().edges.iter().find(|e| e.exchange == Exchange::Hash).unwrap().index;
        let reading = |rows: u64, share: f64| EdgeReading {
            edge,
            rows,
            keys: vec![KeyShare { key: "7".into(), share }, KeyShare { key: "8".into(), share: 0.1 }],
        };
        let (mut a, mut b) = (share(0, 0, 0.0, 0.0, Doing::Idle), share(0, 1, 0.0, 0.0, Doing::Idle));
        a.edges = vec![reading(300, 0.8)];
        b.edges = vec![reading(100, 0.0)];
        let now = look(Instant::now(), vec![a, b]);
        let why = with(&now, None, |looks| looks.why("out").unwrap());
        assert_eq!(why.hot_keys.len(), 1);
        assert_eq!((why.hot_keys[0].key.as_str(), why.hot_keys[0].to.as_str()), ("7", "count"));
        assert!((why.hot_keys[0].share - 0.6).abs() < 1e-9);
        let numbers = with(&now, None, |looks| looks.why("numbers").unwrap());
        assert!((numbers.skew_ratio - 4.0 / 3.0).abs() < 1e-9);
        assert!(with(&now, None, |looks| looks.why("nothing").is_none()));
    }
}
