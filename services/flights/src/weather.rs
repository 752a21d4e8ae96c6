//! One weather observation, as the airport's station (ASOS) recorded it.

use std::path::{Path, PathBuf};

use afflux::prelude::*;

/// A line of `weather.csv.gz`: mostly one an hour and airport, ordered by time. An empty field is a
/// missing value.
#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Observation {
    /// When: the event time.
    #[event(time)]
    pub observed_at: Timestamp,
    /// The airport: `EWR`, `JFK` or `LGA`.
    pub origin: String,
    /// Temperature in degrees Fahrenheit.
    pub temp_f: Option<f64>,
    /// Dew point in degrees Fahrenheit.
    pub dewpoint_f: Option<f64>,
    /// Relative humidity in per cent.
    pub humidity_pct: Option<f64>,
    /// Where the wind comes from, in degrees.
    pub wind_dir_deg: Option<f64>,
    /// Speed of the wind in miles an hour; one of 2013 is 1,048.
    pub wind_speed_mph: Option<f64>,
    /// Speed of gusts in miles an hour.
    pub wind_gust_mph: Option<f64>,
    /// Precipitation in inches.
    pub precip_in: Option<f64>,
    /// Pressure at sea level in millibars.
    pub pressure_mbar: Option<f64>,
    /// Visibility in miles.
    pub visibility_mi: Option<f64>,
}

/// Where the weather of 2013 lies: `services/flights/data` below the working directory, or else in
/// the sources this was built from.
pub fn weather_file() -> PathBuf {
    let here = Path::new("services/flights/data/weather.csv.gz");
    if here.exists() {
        return here.to_owned();
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/weather.csv.gz")
}
