//! The pipeline: delays by hour, airport and carrier.

use std::path::PathBuf;

use afflux::prelude::*;

use crate::board::BoardClosed;
use crate::flight::{Flight, flights_file};

/// Where the result goes, below the working directory.
const OUTPUT: &str = "out/hourly-delays.csv";

/// A departure at least this late counts in [`HourlyDelay::delayed_15`], in minutes.
const DELAYED_MIN: i64 = 15;

/// One hour of one carrier at one airport. Sorted as its fields are.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HourlyDelay {
    /// The beginning of the hour, UTC.
    pub window_start: Timestamp,
    /// Airport of departure.
    pub origin: String,
    /// Carrier.
    pub carrier: String,
    /// Flights that should have left in this hour.
    pub flights: u64,
    /// Those without a recorded departure.
    pub cancelled: u64,
    /// Those that left at least 15 minutes late.
    pub delayed_15: u64,
    /// Sum of the departure delays in minutes, early ones negative; none when no flight left.
    pub total_delay_min: Option<i64>,
    /// The longest of them.
    pub max_delay_min: Option<i64>,
}

impl HourlyDelay {
    /// The mean departure delay of the flights that left, in minutes.
    pub fn mean_delay_min(&self) -> Option<f64> {
        let left = self.flights.saturating_sub(self.cancelled);
        Some(self.total_delay_min? as f64 / left as f64).filter(|mean| mean.is_finite())
    }
}

/// Aggregates flights of one airport and carrier into an [`HourlyDelay`].
#[derive(Clone, Copy, Debug, Default)]
pub struct DelayStats;

/// What [`DelayStats`] keeps of an hour.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct DelayAcc {
    flights: u64,
    cancelled: u64,
    delayed_15: u64,
    total_delay_min: Option<i64>,
    max_delay_min: Option<i64>,
}

impl DelayStats {
    /// The aggregate.
    pub const fn new() -> Self {
        Self
    }
}

impl Aggregate<(String, String), Flight> for DelayStats {
    type Acc = DelayAcc;
    type Output = HourlyDelay;

    fn create(&self) -> DelayAcc {
        DelayAcc::default()
    }

    fn add(&self, acc: &mut DelayAcc, flight: &Flight) {
        acc.flights += 1;
        let Some(delay) = flight.departure_delay_min else {
            acc.cancelled += 1;
            return;
        };
        acc.delayed_15 += u64::from(delay >= DELAYED_MIN);
        acc.total_delay_min = Some(acc.total_delay_min.unwrap_or(0).saturating_add(delay));
        acc.max_delay_min = acc.max_delay_min.max(Some(delay));
    }

    fn finish(&self, (origin, carrier): (String, String), window: Window, acc: DelayAcc) -> HourlyDelay {
        HourlyDelay {
            window_start: window.start,
            origin,
            carrier,
            flights: acc.flights,
            cancelled: acc.cancelled,
            delayed_15: acc.delayed_15,
            total_delay_min: acc.total_delay_min,
            max_delay_min: acc.max_delay_min,
        }
    }
}

/// The pipeline `hourly-delays`: the flights of 2013 into `out/hourly-delays.csv`, and every closed
/// hour to the service `flights.board`.
///
/// # Errors
/// What the builder refuses.
pub fn hourly_delays(flow: &Flow) -> Result<()> {
    hourly_delays_of(flow, flights_file(), OUTPUT)
}

/// The same over other files.
///
/// # Errors
/// What the builder refuses.
pub fn hourly_delays_of(flow: &Flow, flights: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Result<()> {
    let (hourly, late) = flow
        .source("flights", Csv::<Flight>::path(flights))
        .watermarks(BoundedOutOfOrder::by(hours(24)).idle_at_end())
        .key_by(|f| (f.origin.clone(), f.carrier.clone()))
        .window(Tumbling::of(hours(1)))
        .late(Late::Side)
        .aggregate("hourly-delay", DelayStats::new());
    hourly.tell("board", |windows| BoardClosed { windows }).sink("out", Csv::path(out).ordered_by_window());
    late.count("too-late");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(delay: Option<i64>) -> Flight {
        Flight {
            scheduled_departure: Timestamp::from_millis(0),
            departure_delay_min: delay,
            arrival_delay_min: None,
            carrier: "UA".into(),
            flight: 1,
            tailnum: None,
            origin: "JFK".into(),
            dest: "IAH".into(),
            air_time_min: None,
            distance_mi: 1400,
        }
    }

    fn stats(delays: &[Option<i64>]) -> HourlyDelay {
        let stats = DelayStats::new();
        let mut acc = stats.create();
        for delay in delays {
            stats.add(&mut acc, &flight(*delay));
        }
        let window = Tumbling::of(hours(1)).window_of(Timestamp::from_millis(0));
        stats.finish(("JFK".into(), "UA".into()), window, acc)
    }

    #[test]
    fn delays_are_summed_over_the_flights_that_left() {
        let row = stats(&[Some(-5), None, Some(15), Some(14)]);
        assert_eq!((row.flights, row.cancelled, row.delayed_15), (4, 1, 1));
        assert_eq!((row.total_delay_min, row.max_delay_min), (Some(24), Some(15)));
        assert_eq!(row.mean_delay_min(), Some(8.0));
    }

    #[test]
    fn an_hour_in_which_no_flight_left_has_no_delay() {
        let row = stats(&[None, None]);
        assert_eq!((row.flights, row.cancelled, row.total_delay_min, row.max_delay_min), (2, 2, None, None));
        assert_eq!(row.mean_delay_min(), None);
        assert_eq!(stats(&[Some(-3)]).max_delay_min, Some(-3));
    }
}
