//! The pipeline: what wind and rain did to departures, day by day.

use std::path::PathBuf;

use afflux::prelude::*;

use crate::flight::{Flight, flights_file};
use crate::weather::{Observation, weather_file};

/// Where the result goes, below the working directory.
const OUTPUT: &str = "out/weather-impact.csv";

/// An observation this old still says something of a departure.
const OBSERVATION_AGE_MAX_HOURS: u64 = 2;

/// Speed of the wind in miles an hour; each class without its upper end.
#[derive(Key, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wind {
    /// Below 10.
    #[serde(rename = "0-10")]
    Light,
    /// From 10 to below 20.
    #[serde(rename = "10-20")]
    Fresh,
    /// From 20 to below 30.
    #[serde(rename = "20-30")]
    Strong,
    /// 30 and more.
    #[serde(rename = "30+")]
    Gale,
    /// No observation, or none of the wind.
    #[serde(rename = "unknown")]
    Unknown,
}

impl Wind {
    /// The class of a speed in miles an hour.
    pub fn of(speed_mph: Option<f64>) -> Self {
        match speed_mph {
            None => Wind::Unknown,
            Some(speed) if speed < 10.0 => Wind::Light,
            Some(speed) if speed < 20.0 => Wind::Fresh,
            Some(speed) if speed < 30.0 => Wind::Strong,
            Some(_) => Wind::Gale,
        }
    }
}

/// Whether it rained or snowed.
#[derive(Key, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Precipitation {
    /// It did not.
    None,
    /// It did.
    Some,
    /// No observation, or none of it.
    Unknown,
}

impl Precipitation {
    /// The class of an amount in inches.
    pub fn of(inches: Option<f64>) -> Self {
        match inches {
            None => Precipitation::Unknown,
            Some(inches) if inches > 0.0 => Precipitation::Some,
            Some(_) => Precipitation::None,
        }
    }
}

/// A flight in its weather.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Departure {
    /// The wind at the airport.
    pub wind: Wind,
    /// The precipitation there.
    pub precipitation: Precipitation,
    /// How many minutes late it left, negative when early; none when it was cancelled.
    pub departure_delay_min: Option<i64>,
}

impl Departure {
    /// A flight with the observation of its moment, if there is one.
    pub fn of(flight: &Flight, weather: Option<&Observation>) -> Self {
        Self {
            wind: Wind::of(weather.and_then(|w| w.wind_speed_mph)),
            precipitation: Precipitation::of(weather.and_then(|w| w.precip_in)),
            departure_delay_min: flight.departure_delay_min,
        }
    }
}

/// The flights of one day in one kind of weather. Sorted as its fields are.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Impact {
    /// The UTC date of scheduled departure, such as `2013-01-01`.
    pub day: String,
    /// The wind.
    pub wind: Wind,
    /// The precipitation.
    pub precipitation: Precipitation,
    /// Flights that should have left.
    pub flights: u64,
    /// Those without a recorded departure.
    pub cancelled: u64,
    /// Sum of the departure delays in minutes, early ones negative; none when no flight left.
    pub total_delay_min: Option<i64>,
}

/// Aggregates departures of one kind of weather into an [`Impact`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ImpactOf;

/// What [`ImpactOf`] keeps of a day.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ImpactAcc {
    flights: u64,
    cancelled: u64,
    total_delay_min: Option<i64>,
}

impl Aggregate<(Wind, Precipitation), Departure> for ImpactOf {
    type Acc = ImpactAcc;
    type Output = Impact;

    fn create(&self) -> ImpactAcc {
        ImpactAcc::default()
    }

    fn add(&self, acc: &mut ImpactAcc, departure: &Departure) {
        acc.flights += 1;
        match departure.departure_delay_min {
            None => acc.cancelled += 1,
            Some(delay) => {
                acc.total_delay_min = Some(acc.total_delay_min.unwrap_or(0).saturating_add(delay));
            }
        }
    }

    fn finish(&self, key: (Wind, Precipitation), window: Window, acc: ImpactAcc) -> Impact {
        let (wind, precipitation) = key;
        let day = window.start.to_string().chars().take("2013-01-01".len()).collect();
        let ImpactAcc { flights, cancelled, total_delay_min } = acc;
        Impact { day, wind, precipitation, flights, cancelled, total_delay_min }
    }
}

/// The pipeline `weather-impact`: the flights and the weather of 2013 into `out/weather-impact.csv`.
///
/// # Errors
/// What the builder refuses.
pub fn weather_impact(flow: &Flow) -> Result<()> {
    weather_impact_of(flow, flights_file(), weather_file(), OUTPUT)
}

/// The same over other files.
///
/// # Errors
/// What the builder refuses.
pub fn weather_impact_of(
    flow: &Flow,
    flights: impl Into<PathBuf>,
    weather: impl Into<PathBuf>,
    out: impl Into<PathBuf>,
) -> Result<()> {
    let weather = flow
        .source("weather", Csv::<Observation>::path(weather))
        .watermarks(Monotonous::times())
        .key_by(|w| w.origin.clone());
    let (departures, late) = flow
        .source("flights", Csv::<Flight>::path(flights))
        .watermarks(BoundedOutOfOrder::by(hours(24)).idle_at_end())
        .key_by(|f| f.origin.clone())
        .join(weather)
        .as_of()
        .max_age(hours(OBSERVATION_AGE_MAX_HOURS))
        .late(Late::Side)
        .left("weather-of-departure", Departure::of);
    let (days, too_late) = departures
        .key_by(|d| (d.wind, d.precipitation))
        .window(Tumbling::of(hours(24)))
        .late(Late::Side)
        .aggregate("weather-impact", ImpactOf);
    days.sink("out", Csv::path(out).ordered_by_window());
    late.count("too-late");
    too_late.count("too-late-for-its-day");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_wind_leave_out_their_upper_end_and_what_is_missing_is_unknown() {
        let of = |speed| Wind::of(Some(speed));
        assert_eq!((of(0.0), of(9.999), of(10.0)), (Wind::Light, Wind::Light, Wind::Fresh));
        assert_eq!((of(19.999), of(20.0), of(29.999)), (Wind::Fresh, Wind::Strong, Wind::Strong));
        assert_eq!((of(30.0), of(1_048.36), Wind::of(None)), (Wind::Gale, Wind::Gale, Wind::Unknown));
    }

    #[test]
    fn a_trace_of_rain_is_some() {
        assert_eq!(Precipitation::of(Some(0.0)), Precipitation::None);
        assert_eq!(Precipitation::of(Some(0.01)), Precipitation::Some);
        assert_eq!(Precipitation::of(None), Precipitation::Unknown);
    }
}
