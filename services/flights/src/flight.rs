//! One flight, as the Bureau of Transportation Statistics recorded it.

use std::path::{Path, PathBuf};

use afflux::prelude::*;

/// A line of `flights.csv.gz`: a flight that left New York, or was cancelled.
///
/// Lines are in the order of actual departure, so `scheduled_departure`, the event time, is out of
/// order by as much as the longest delay (1,301 minutes).
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Flight {
    /// When it should leave: the event time.
    #[event(time)]
    pub scheduled_departure: Timestamp,
    /// How many minutes later it left, negative when early; none when it was cancelled.
    pub departure_delay_min: Option<i64>,
    /// How many minutes later it arrived; none when it did not.
    pub arrival_delay_min: Option<i64>,
    /// Two-letter code of the carrier, such as `UA`.
    pub carrier: String,
    /// Flight number.
    pub flight: u32,
    /// Registration of the aircraft.
    pub tailnum: Option<String>,
    /// Airport it leaves from: `EWR`, `JFK` or `LGA`.
    pub origin: String,
    /// Airport it goes to.
    pub dest: String,
    /// Minutes in the air.
    pub air_time_min: Option<i64>,
    /// Miles.
    pub distance_mi: u32,
}

/// Where the flights of 2013 lie: `services/flights/data` below the working directory, or else in
/// the sources this was built from.
pub fn flights_file() -> PathBuf {
    let here = Path::new("services/flights/data/flights.csv.gz");
    if here.exists() {
        return here.to_owned();
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights.csv.gz")
}
