//! q12: the bids of each bidder in ten seconds of the clock.

use afflux_stream::{KeyedOperator, OperatorCx, Output};

use super::prelude::*;

/// How many bids reached a task in a window of the clock.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BidsInTime {
    /// The bidder.
    pub bidder: u64,
    /// When the window began, by the clock.
    pub window_start: Timestamp,
    /// Their bids.
    pub bids: u64,
}

/// Counts the bids of each bidder in tumbling windows of ten seconds of processing time: by when a bid
/// comes, not by when it was placed.
pub fn q12(flow: &Flow, log: &Log, out: impl Sink<BidsInTime>) {
    flow.source("bids", log.bids())
        .untimed()
        .map(|bid| bid.bidder)
        .key_by_ref(|bidder| bidder)
        .operate("bids-in-time", "count in 10 s of the clock", PerTenSeconds::new)
        .sink("answer", out);
}

/// Counts rows of a key in windows of the clock.
pub struct PerTenSeconds {
    window: Tumbling,
}

impl PerTenSeconds {
    /// The operator.
    pub fn new() -> Self {
        Self { window: Tumbling::of(secs(10)) }
    }
}

impl Default for PerTenSeconds {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyedOperator for PerTenSeconds {
    type Key = u64;
    type Input = u64;
    type Output = BidsInTime;
    type State = Option<(Window, u64)>;

    fn process(
        &mut self,
        state: &mut Self::State,
        _: u64,
        cx: &mut OperatorCx<'_, u64>,
        out: &mut Output<BidsInTime>,
    ) -> Result<(), Status> {
        let window = self.window.window_of(cx.now());
        match state {
            Some((open, bids)) if *open == window => *bids += 1,
            _ => {
                // The last window may be over before its timer has been looked at.
                close(state, cx, out);
                cx.clock_timer_at(window.end);
                *state = Some((window, 1));
            }
        }
        Ok(())
    }

    fn on_clock(
        &mut self,
        state: &mut Self::State,
        at: Timestamp,
        cx: &mut OperatorCx<'_, u64>,
        out: &mut Output<BidsInTime>,
    ) -> Result<(), Status> {
        if state.is_some_and(|(window, _)| window.end == at) {
            close(state, cx, out);
        }
        Ok(())
    }
}

fn close(state: &mut Option<(Window, u64)>, cx: &OperatorCx<'_, u64>, out: &mut Output<BidsInTime>) {
    if let Some((window, bids)) = state.take() {
        out.emit(BidsInTime { bidder: *cx.key(), window_start: window.start, bids });
    }
}

impl Answer for BidsInTime {
    const COLUMNS: &'static [Column] = &[Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.bids as i64]
    }
}
