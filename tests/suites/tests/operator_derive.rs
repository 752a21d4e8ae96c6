//! Operators written with the derive: state, time to live, timers, side outputs.
#![deny(warnings)]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use afflux::prelude::*;
use afflux::stream::{Harness, Processing, SideTag};

const BROKEN: SideTag<f64> = SideTag::new("broken");
type AfxResult = afflux::stream::Result<()>;

/// Speaks up when a value rises by more than a limit; says when a sensor has been silent.
#[derive(Operator)]
#[operator(input = f64, output = String, key = String)]
struct Spike {
    limit: f64,
    #[state(ttl = "1h")]
    last: ValueState<f64>,
    #[state]
    seen: MapState<u8, u64>,
    #[state]
    silence: ValueState<Timestamp>,
}

impl Spike {
    fn above(limit: f64) -> Processing<Self> {
        Processing::of(Self {
            limit,
            last: ValueState::default(),
            seen: MapState::default(),
            silence: ValueState::default(),
        })
    }
}

impl Process for Spike {
    fn process(
        &mut self,
        value: f64,
        cx: &mut OperatorCx<'_, String>,
        out: &mut Output<String>,
    ) -> AfxResult {
        if value.is_nan() {
            cx.side(&BROKEN, value);
            return Ok(());
        }
        if self.last.get().is_some_and(|last| value - last > self.limit) {
            out.emit(format!("{} rose to {value}", cx.key()));
        }
        self.last.set(value);
        *self.seen.or_insert_with(value as u8, || 0) += 1;
        if let Some(at) = self.silence.take() {
            cx.delete_timer(at);
        }
        let at = cx.time().unwrap() + minutes(10);
        cx.timer_at(at);
        self.silence.set(at);
        Ok(())
    }

    fn on_timer(
        &mut self,
        _: Timestamp,
        cx: &mut OperatorCx<'_, String>,
        out: &mut Output<String>,
    ) -> AfxResult {
        self.silence.take();
        out.emit(format!(
            "{} is silent after {} values",
            cx.key(),
            self.seen.iter().map(|e| e.1).sum::<u64>()
        ));
        Ok(())
    }
}

const MINUTE: i64 = 60_000;

#[test]
fn state_belongs_to_a_key_and_a_value_is_forgotten_after_its_time() {
    let mut spike = Harness::of(Spike::above(5.0));
    spike.push("a".into(), 1.0, 0).unwrap();
    spike.push("b".into(), 100.0, 0).unwrap();
    spike.push("a".into(), 7.0, MINUTE).unwrap();
    assert_eq!(spike.take(), ["a rose to 7"]);
    // 61 minutes later the last value is forgotten: no comparison.
    spike.push("a".into(), 50.0, 62 * MINUTE).unwrap();
    assert_eq!(spike.take(), [""; 0]);
    spike.watermark(10 * MINUTE).unwrap();
    assert_eq!(spike.take_timed(), [("b is silent after 1 values".to_owned(), 10 * MINUTE)]);
    assert_eq!(spike.passed(), Some(Timestamp::from_millis(10 * MINUTE)));
    assert_eq!(spike.timers(), [(72 * MINUTE, "a".to_owned())]);
}

#[test]
fn what_it_remembers_survives_a_snapshot_with_its_timers() {
    let mut spike = Harness::of(Spike::above(5.0));
    spike.push("a".into(), 1.0, 0).unwrap();
    let snapshot = spike.snapshot(1).unwrap();
    let mut spike = Harness::of(Spike::above(5.0)).restored(snapshot).unwrap();
    spike.push("a".into(), 7.0, 59 * MINUTE).unwrap();
    spike.end().unwrap();
    assert_eq!(spike.take(), ["a rose to 7", "a is silent after 2 values"]);
}

#[test]
fn a_side_output_takes_what_the_operator_puts_aside() {
    let mut spike = Harness::of(Spike::above(5.0));
    spike.keep_side(&BROKEN);
    spike.push("a".into(), f64::NAN, 0).unwrap();
    assert_eq!(spike.take_side(&BROKEN).len(), 1);
    assert!(spike.state(&"a".to_owned()).is_none(), "nothing is remembered of it");
}

/// Without state, and with settings alone.
#[derive(Operator)]
#[operator(input = u64, output = u64, key = ())]
struct Times {
    factor: u64,
}

impl Process for Times {
    fn process(&mut self, row: u64, _: &mut OperatorCx<'_, ()>, out: &mut Output<u64>) -> AfxResult {
        out.emit(row * self.factor);
        Ok(())
    }
}

#[test]
fn an_operator_needs_no_state() {
    let mut times = Harness::of(Processing::of(Times { factor: 3 }));
    times.push((), 4, 0).unwrap();
    assert_eq!(times.take(), [12]);
}
