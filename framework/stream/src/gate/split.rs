//! One split being read: where it is in event time, and whether it is silent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::source::Advance;
use crate::meter::SplitMeter;
use crate::source::{ReadState, Split, SplitReader};
use crate::watermark::SplitWatermark;

/// One split being read.
pub(crate) struct OpenSplit<T> {
    pub(crate) split: Split,
    pub(crate) reader: Box<dyn SplitReader<T>>,
    /// The latest event time that was believed.
    pub(crate) latest: i64,
    pub(crate) watermark: i64,
    pub(crate) ended: bool,
    /// It holds no watermark back until its next record.
    pub(crate) idle: bool,
    /// The reader has said that it has everything there is for now.
    caught_up: bool,
    /// Since when there was nothing, once it was caught up.
    silent_since: Option<Instant>,
    custom: Option<Box<dyn SplitWatermark>>,
    meter: Arc<SplitMeter>,
}

impl<T> OpenSplit<T> {
    pub(crate) fn new(split: Split, reader: Box<dyn SplitReader<T>>) -> Self {
        let meter = SplitMeter::new(&split.id);
        Self {
            split,
            reader,
            latest: i64::MIN,
            watermark: i64::MIN,
            ended: false,
            idle: false,
            caught_up: false,
            silent_since: None,
            custom: None,
            meter,
        }
    }

    /// Goes on where a checkpoint left it.
    pub(crate) fn at(mut self, latest: i64, watermark: i64, ended: bool) -> Self {
        (self.latest, self.watermark, self.ended) = (latest, watermark, ended);
        self
    }

    pub(crate) fn meter(&self) -> &Arc<SplitMeter> {
        &self.meter
    }

    /// Whether it counts for the source's watermark.
    pub(crate) fn is_active(&self) -> bool {
        !self.ended && !self.idle
    }

    /// Rows were read, none of which is later than `limit` or is to be believed.
    pub(crate) fn advance(&mut self, rows: &[T], times: &[i64], limit: i64, rule: &Advance<T>) {
        let latest = times.iter().copied().filter(|t| *t <= limit).max().unwrap_or(i64::MIN);
        self.latest = self.latest.max(latest);
        let watermark = match rule {
            Advance::Behind(_) if self.latest == i64::MIN => i64::MIN,
            Advance::Behind(bound) => self.latest.saturating_sub(*bound),
            Advance::Custom(make) => {
                let custom = self.custom.get_or_insert_with(|| make());
                if times.iter().all(|t| *t <= limit) {
                    custom.advance(times).millis()
                } else {
                    let believed: Vec<i64> = times.iter().copied().filter(|t| *t <= limit).collect();
                    custom.advance(&believed).millis()
                }
            }
            Advance::Carried(watermark_of) => rows
                .iter()
                .zip(times)
                .filter(|(_, t)| **t <= limit)
                .filter_map(|(row, _)| watermark_of(row).map(|w| w.millis()))
                .max()
                .unwrap_or(i64::MIN),
        };
        self.watermark = self.watermark.max(watermark);
    }

    /// What the reader has answered, with or without rows.
    pub(crate) fn answered(&mut self, state: ReadState, rows: bool) {
        self.ended = state == ReadState::End;
        self.caught_up = state == ReadState::CaughtUp;
        if rows {
            self.idle = false;
            self.silent_since = None;
        }
    }

    /// There is nothing to read now: when it will count as idle, if it does not already.
    pub(crate) fn silent(&mut self, now: Instant, idle_after: Duration) -> Option<Instant> {
        if self.ended || self.idle || !self.caught_up {
            return None;
        }
        let due = *self.silent_since.get_or_insert(now) + idle_after;
        if due > now {
            return Some(due);
        }
        self.idle = true;
        None
    }

    /// Tells the meter; `now_ms` is the calendar, when rows have just been read.
    pub(crate) fn tell(&self, now_ms: Option<i64>) {
        self.meter.tell(self.latest, self.watermark, (self.ended, self.idle, self.caught_up), now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::generate;
    use crate::source::{IoContext, Source};
    use crate::time::Timestamp;

    fn split() -> OpenSplit<i64> {
        let source = generate(10, |i| i as i64);
        let io = IoContext::new("p", "numbers");
        let split = source.splits(&io).unwrap().remove(0);
        let reader = source.open(&split, None, &io).unwrap();
        OpenSplit::new(split, reader)
    }

    #[test]
    fn a_record_beyond_the_limit_moves_no_watermark_whatever_the_rule() {
        let custom = || -> Box<dyn SplitWatermark> {
            Box::new(|times: &[i64]| Timestamp::from_millis(times.iter().copied().max().unwrap_or(i64::MIN)))
        };
        let rules: [Advance<i64>; 3] = [
            Advance::Behind(0),
            Advance::Custom(Arc::new(custom)),
            Advance::Carried(Arc::new(|row| Some(Timestamp::from_millis(*row)))),
        ];
        for rule in rules {
            let mut split = split();
            split.advance(&[5, 900, 7], &[5, 900, 7], 100, &rule);
            assert_eq!((split.latest, split.watermark), (7, 7));
            split.advance(&[3], &[3], 100, &rule);
            assert_eq!(split.watermark, 7, "a watermark never falls");
        }
    }

    #[test]
    fn a_split_is_idle_only_when_it_is_caught_up_and_silent_long_enough() {
        let (mut split, start) = (split(), Instant::now());
        let second = Duration::from_secs(1);
        split.answered(ReadState::More, true);
        assert_eq!(split.silent(start + 100 * second, second), None, "it is not caught up");
        assert!(!split.idle);
        split.answered(ReadState::CaughtUp, false);
        assert_eq!(split.silent(start, second), Some(start + second));
        assert!(!split.idle);
        assert_eq!(split.silent(start + second, second), None);
        assert!(split.idle && !split.is_active());
        split.answered(ReadState::CaughtUp, true);
        assert!(split.is_active());
        assert_eq!(split.silent(start + 9 * second, second), Some(start + 10 * second), "silence began anew");
    }
}
