//! Patterns: what the search finds equals a definition that tries everything, for every kind of
//! stage, at any parallelism, in any order of arrival, over a restore too.

#![allow(clippy::unwrap_used, missing_docs)] // a test fails where it unwraps

mod common;

use std::collections::BTreeMap;

use afflux_stream::{
    AfterMatch, BoundedOutOfOrder, Flow, Late, Pattern, Plan, Timestamp, generate, millis_of, vec_source,
};
use common::{Collect, run, run_over_a_restore, settings};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Event {
    at: i64,
    key: u32,
    letter: u8,
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Gap {
    Next,
    Followed,
    Any,
}

/// A stage, as plain data. It wants a letter; a rising one wants a larger number than the last
/// event taken, too.
#[derive(Clone, Debug)]
struct Spec {
    letter: u8,
    rising: bool,
    gap: Gap,
    not: Option<(bool, u8)>,
    times: (u32, u32),
    optional: bool,
    inner: Gap,
    greedy: bool,
}

const NAMES: [&str; 4] = ["s0", "s1", "s2", "s3"];

fn pattern(specs: &[Spec], within: Option<u64>, after: AfterMatch) -> Pattern<Event> {
    let mut pattern: Option<Pattern<Event>> = None;
    for (spec, name) in specs.iter().zip(NAMES) {
        let (letter, rising) = (spec.letter, spec.rising);
        let meets = move |e: &Event, m: &afflux_stream::Matched<'_, Event>| {
            e.letter == letter && (!rising || m.last_taken().is_none_or(|last| last.number < e.number))
        };
        let mut next = match pattern {
            None => Pattern::begin(name, meets),
            Some(before) => {
                let before = match spec.not {
                    Some((true, letter)) => before.not_next(move |e, _| e.letter == letter),
                    Some((false, letter)) => before.not_followed_by(move |e, _| e.letter == letter),
                    None => before,
                };
                match spec.gap {
                    Gap::Next => before.next(name, meets),
                    Gap::Followed => before.followed_by(name, meets),
                    Gap::Any => before.followed_by_any(name, meets),
                }
            }
        };
        next = if spec.times.1 == u32::MAX {
            next.times(spec.times.0..)
        } else {
            next.times(spec.times.0..=spec.times.1)
        };
        if spec.optional {
            next = next.optional();
        }
        match spec.inner {
            Gap::Next => next = next.consecutive(),
            Gap::Any => next = next.allow_combinations(),
            Gap::Followed => {}
        }
        if spec.greedy {
            next = next.greedy();
        }
        pattern = Some(next);
    }
    let pattern = pattern.unwrap().after_match(after).order_by(|e: &Event| e.number);
    match within {
        Some(ms) => pattern.within(millis_of(ms)),
        None => pattern,
    }
}

type Match = Vec<(usize, usize)>;

/// The definition: every way to give events to stages, those kept that break no rule.
fn all_matches(specs: &[Spec], events: &[Event], within: Option<u64>) -> Vec<Match> {
    let mut found = Vec::new();
    // Greedy says what must not be left: it is checked along with the choice.
    choose(specs, events, within, 0, &mut Vec::new(), &mut found);
    found
}

fn meets(spec: &Spec, e: &Event, taken: &Match, events: &[Event]) -> bool {
    e.letter == spec.letter && (!spec.rising || taken.last().is_none_or(|l| events[l.1].number < e.number))
}

fn choose(
    specs: &[Spec],
    events: &[Event],
    within: Option<u64>,
    from: usize,
    taken: &mut Match,
    found: &mut Vec<Match>,
) {
    let stage = taken.last().map_or(0, |t| t.0);
    let count = taken.iter().filter(|t| t.0 == stage).count() as u32;
    let min = |s: &Spec| if s.optional { 0 } else { s.times.0 };
    if !taken.is_empty() {
        // A loop that may be left out wants its number once it has begun.
        let enough = count >= min(&specs[stage]);
        if enough && specs[stage + 1..].iter().all(|s| min(s) == 0) {
            found.push(taken.clone());
        }
    }
    for at in from..events.len() {
        match takers(specs, events, within, at, taken) {
            None => break,
            Some(stages) => {
                for stage in stages {
                    taken.push((stage, at));
                    choose(specs, events, within, at + 1, taken, found);
                    taken.pop();
                }
            }
        }
    }
}

/// The stages that may take this event as the next one; `None` when nothing may from here on.
fn takers(
    specs: &[Spec],
    events: &[Event],
    within: Option<u64>,
    at: usize,
    taken: &Match,
) -> Option<Vec<usize>> {
    let min = |s: &Spec| if s.optional { 0 } else { s.times.0 };
    let e = &events[at];
    let Some((stage, last)) = taken.last().copied() else {
        let mut first = Vec::new();
        for (to, spec) in specs.iter().enumerate() {
            if meets(spec, e, taken, events) {
                first.push(to);
            }
            if min(spec) > 0 {
                break;
            }
        }
        return Some(first);
    };
    if within.is_some_and(|w| e.at - events[taken[0].1].at >= w as i64) {
        return None;
    }
    let this = &specs[stage];
    let count = taken.iter().filter(|t| t.0 == stage).count() as u32;
    let gap_ok = |gap: Gap, spec: &Spec, at: usize| match gap {
        Gap::Next => at == last + 1,
        Gap::Followed => (last + 1..at).all(|b| !meets(spec, &events[b], taken, events)),
        Gap::Any => true,
    };
    let loops = |at: usize| {
        count < this.times.1 && meets(this, &events[at], taken, events) && gap_ok(this.inner, this, at)
    };
    // A greedy loop leaves nothing that it could take.
    if this.greedy && (last + 1..at).any(loops) {
        return None;
    }
    let mut stages = Vec::new();
    if loops(at) {
        stages.push(stage);
        if this.greedy {
            return Some(stages);
        }
    }
    if count < min(this) {
        return Some(stages);
    }
    for to in stage + 1..specs.len() {
        let spec = &specs[to];
        let free = specs[stage + 1..=to].iter().filter_map(|s| s.not).all(|(next, letter)| match next {
            true => events[last + 1].letter != letter,
            false => (last + 1..at).all(|b| events[b].letter != letter),
        });
        if free && meets(spec, e, taken, events) && gap_ok(spec.gap, spec, at) {
            stages.push(to);
        }
        if min(spec) > 0 {
            break;
        }
    }
    Some(stages)
}

/// Goes through the matches in their order and leaves out what is skipped.
fn skipping(mut matches: Vec<Match>, after: AfterMatch) -> Vec<Match> {
    matches.sort_by(|a, b| {
        let end = |m: &Match| m.last().unwrap().1;
        let start = |m: &Match| m[0].1;
        end(a).cmp(&end(b)).then(start(a).cmp(&start(b))).then(b.len().cmp(&a.len())).then(a.cmp(b))
    });
    let mut kept: Vec<Match> = Vec::new();
    for m in matches {
        let start = m[0].1;
        let skipped = kept.iter().any(|k| {
            let of = |name: &str| {
                let stage = NAMES.iter().position(|n| *n == name).unwrap();
                k.iter().filter(|t| t.0 == stage).map(|t| t.1).collect::<Vec<_>>()
            };
            match after {
                AfterMatch::NoSkip => false,
                AfterMatch::ToNext => start == k[0].1,
                AfterMatch::PastLast => start <= k.last().unwrap().1,
                AfterMatch::ToFirst(name) => of(name).first().is_some_and(|to| start < *to),
                AfterMatch::ToLast(name) => of(name).last().is_some_and(|to| start < *to),
            }
        });
        if !skipped {
            kept.push(m);
        }
    }
    kept
}

type Row = (u32, Vec<(u8, u64)>);

fn plan(
    events: Vec<Event>,
    parallelism: u32,
    specs: &[Spec],
    within: Option<u64>,
    after: AfterMatch,
    out: &Collect<Row>,
) -> Plan {
    let flow = Flow::new("patterns", settings(parallelism));
    let count = events.len() as u64;
    flow.source("events", generate(count, move |i| events[i as usize].clone()))
        .watermarks_by(BoundedOutOfOrder::by(millis_of(20)), |e| Timestamp::from_millis(e.at))
        .key_by(|e| e.key)
        .pattern(pattern(specs, within, after))
        .late(Late::Drop)
        .select("match", |key, m| {
            let stage = |name: &str| NAMES.iter().position(|n| *n == name).unwrap() as u8;
            (*key, m.iter().map(|(name, e)| (stage(name), e.number)).collect())
        })
        .sink("out", out.clone());
    flow.finish().unwrap()
}

fn expected(events: &[Event], specs: &[Spec], within: Option<u64>, after: AfterMatch) -> Vec<Row> {
    let mut by_key = BTreeMap::<u32, Vec<Event>>::new();
    events.iter().for_each(|e| by_key.entry(e.key).or_default().push(e.clone()));
    let mut rows = Vec::new();
    for (key, mut events) in by_key {
        events.sort_by_key(|e| (e.at, e.number));
        for m in skipping(all_matches(specs, &events, within), after) {
            rows.push((key, m.iter().map(|(s, at)| (*s as u8, events[*at].number)).collect()));
        }
    }
    rows.sort();
    rows
}

fn gap() -> impl Strategy<Value = Gap> {
    prop_oneof![Just(Gap::Next), Just(Gap::Followed), Just(Gap::Any)]
}

fn spec() -> impl Strategy<Value = Spec> {
    let times =
        prop_oneof![4 => Just((1, 1)), 1 => Just((2, 2)), 1 => Just((1, 2)), 2 => Just((1, u32::MAX))];
    let not = prop_oneof![3 => Just(None), 1 => (any::<bool>(), 0_u8..3).prop_map(Some)];
    (
        0_u8..3,
        any::<bool>(),
        gap(),
        not,
        times,
        proptest::bool::weighted(0.2),
        gap(),
        proptest::bool::weighted(0.2),
    )
        .prop_map(|(letter, rising, gap, not, times, optional, inner, greedy)| Spec {
            letter,
            rising,
            gap,
            not,
            times,
            optional,
            inner,
            greedy,
        })
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    proptest::collection::vec(spec(), 1..4).prop_map(|mut specs| {
        // What a pattern refuses: all optional, a greedy end.
        specs[0].optional = false;
        specs.last_mut().unwrap().greedy = false;
        specs
    })
}

fn after() -> impl Strategy<Value = AfterMatch> {
    prop_oneof![
        3 => Just(AfterMatch::NoSkip),
        1 => Just(AfterMatch::ToNext),
        1 => Just(AfterMatch::PastLast),
        1 => Just(AfterMatch::ToFirst("s0")),
        1 => Just(AfterMatch::ToLast("s0")),
    ]
}

fn events(count: usize, keys: u32) -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec((0_i64..15, 0..keys, 0_u8..3), 1..count).prop_map(|raw| {
        let events = raw.into_iter().enumerate().map(|(i, (back, key, letter))| {
            // A number that is unique and orders events of one moment.
            Event { at: i as i64 - back, key, letter, number: (i as u64 * 7919) % 1009 }
        });
        events.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_search_finds_what_the_definition_finds(
        specs in specs(),
        events in events(11, 2),
        within in proptest::option::weighted(0.4, 2_u64..12),
        after in after(),
        parallelism in 1_u32..3,
    ) {
        let out = Collect::default();
        run(plan(events.clone(), parallelism, &specs, within, after, &out));
        prop_assert_eq!(out.sorted(), expected(&events, &specs, within, after));
    }
}

/// The price falls once or more and rises again; the search goes on at the last row.
fn fall_and_rise() -> Pattern<Event> {
    Pattern::begin("start", |_: &Event, _| true)
        .next("down", |e, m| m.last_taken().is_some_and(|last| e.number < last.number))
        .one_or_more()
        .consecutive()
        .greedy()
        .next("up", |e, m| m.last_taken().is_some_and(|last| e.number > last.number))
        .after_match(AfterMatch::ToLast("up"))
        .order_by(|e: &Event| e.letter)
}

fn vees(count: u64, parallelism: u32, out: &Collect<(u32, Vec<u64>)>) -> Plan {
    let flow = Flow::new("vees", settings(parallelism));
    flow.source("prices", generate(count, price))
        .watermarks_by(BoundedOutOfOrder::by(millis_of(50)), |e| Timestamp::from_millis(e.at))
        .key_by(|e| e.key)
        .pattern(fall_and_rise())
        .late(Late::Drop)
        .select("v", |key, m| (*key, m.iter().map(|(_, e)| e.number).collect()))
        .sink("out", out.clone());
    flow.finish().unwrap()
}

fn price(i: u64) -> Event {
    let h = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    // One price a key and moment, out of order by less than the bound.
    Event {
        at: (i / 5 * 5) as i64 + ((i / 5) % 2 * 7) as i64,
        key: (i % 5) as u32,
        letter: 0,
        number: h % 50,
    }
}

#[test]
fn falls_and_rises_are_found_at_any_parallelism_and_over_a_restore() {
    let mut by_key = BTreeMap::<u32, Vec<Event>>::new();
    (0..20_000).map(price).for_each(|e| by_key.entry(e.key).or_default().push(e));
    let mut expected = Vec::new();
    for (key, mut events) in by_key {
        events.sort_by_key(|e| e.at);
        let mut at = 0;
        while at + 2 < events.len() {
            let mut end = at;
            while end + 1 < events.len() && events[end + 1].number < events[end].number {
                end += 1;
            }
            if end > at && end + 1 < events.len() && events[end + 1].number > events[end].number {
                expected.push((key, events[at..=end + 1].iter().map(|e| e.number).collect::<Vec<_>>()));
                at = end + 1;
            } else {
                at = if end > at { end } else { at + 1 };
            }
        }
    }
    expected.sort();
    for parallelism in [1, 2, 4] {
        let out = Collect::default();
        run(vees(20_000, parallelism, &out));
        assert_eq!(out.sorted(), expected, "parallelism {parallelism}");
        let out = Collect::default();
        run_over_a_restore(vees(20_000, parallelism, &Collect::default()), vees(20_000, parallelism, &out));
        assert_eq!(out.sorted(), expected, "restored at parallelism {parallelism}");
    }
}

#[test]
fn what_does_not_come_in_time_is_a_match_or_a_timeout() {
    let rows: Vec<Event> = [(0, 1, 0), (5, 1, 1), (100, 1, 0), (300, 1, 0), (305, 1, 2)]
        .into_iter()
        .map(|(at, key, letter)| Event { at, key, letter, number: at as u64 })
        .collect();
    let (paid, unpaid, missed) = (Collect::default(), Collect::default(), Collect::default());
    let flow = Flow::new("orders", settings(1));
    let source = |name: &str, rows: &Vec<Event>| {
        flow.source(name, vec_source(rows.clone()))
            .watermarks_by(BoundedOutOfOrder::by(millis_of(0)), |e: &Event| Timestamp::from_millis(e.at))
            .key_by(|e| e.key)
    };
    let pattern = Pattern::begin("order", |e: &Event, _| e.letter == 0)
        .followed_by("payment", |e, _| e.letter == 1)
        .within(millis_of(50));
    let (matches, timeouts) = source("a", &rows).pattern(pattern).late(Late::Drop).select_with_timeouts(
        "paid",
        |_, m| m.first("order").unwrap().number,
        |_, m| m.first("order").unwrap().number,
    );
    matches.sink("paid-out", paid.clone());
    timeouts.sink("unpaid-out", unpaid.clone());
    let pattern = Pattern::begin("order", |e: &Event, _| e.letter == 0)
        .not_followed_by(|e, _| e.letter == 1 || e.letter == 2)
        .within(millis_of(50));
    source("b", &rows)
        .pattern(pattern)
        .late(Late::Drop)
        .select("nothing", |_, m| m.first("order").unwrap().number)
        .sink("missed-out", missed.clone());
    run(flow.finish().unwrap());
    assert_eq!(paid.sorted(), [0]);
    assert_eq!(unpaid.sorted(), [100, 300]);
    assert_eq!(missed.sorted(), [100], "0 is followed by a payment, 300 by a cancellation");
}

#[test]
fn a_pattern_that_cannot_be_is_refused_with_the_cure() {
    let refused = |pattern: Pattern<Event>, timed: bool| {
        let flow = Flow::new("p", settings(1));
        let source = flow.source("events", vec_source(Vec::<Event>::new()));
        let stream = if timed {
            source.watermarks_by(BoundedOutOfOrder::by(millis_of(0)), |e| Timestamp::from_millis(e.at))
        } else {
            source.untimed()
        };
        stream.key_by(|e| e.key).pattern(pattern).late(Late::Drop).select("p", |_, _| 0_u64).count("n");
        flow.finish().err().map(|e| e.message).unwrap_or_default()
    };
    let a = || Pattern::begin("a", |_: &Event, _| true);
    for (pattern, timed, says) in [
        (a().next("a", |_, _| true), true, "two stages are named `a`"),
        (a().times(0), true, "`.optional()`"),
        (a().optional(), true, "every stage is optional"),
        (a().one_or_more().greedy(), true, "put a stage behind it"),
        (a().not_next(|_, _| true), true, "`not_next` ends the pattern"),
        (a().not_followed_by(|_, _| true), true, "`.within(…)`"),
        (a().within(millis_of(5)), false, "`.watermarks(…)`"),
        (a().after_match(AfterMatch::ToLast("z")), true, "none of a"),
    ] {
        let error = refused(pattern, timed);
        assert!(error.contains(says) && error.contains("pattern `p`"), "{says}: {error}");
    }
}
