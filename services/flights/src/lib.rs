//! Real-time flight monitoring: hourly delays of every flight out of New York, with a board service.
//!
//! Reading order: [`Flight`] (what comes in), [`hourly_delays`] (the pipeline), [`HourlyDelay`] (what
//! comes out), [`Board`] (the service that the pipeline tells), [`DelayBoard`] (the actor behind it);
//! [`weather_impact`] (the second pipeline, a join with the [`Observation`]s of the weather).

mod board;
mod delay_board;
mod flight;
mod hourly;
mod impact;
mod weather;

pub use board::{
    Board, BoardClient, BoardClosed, BoardError, BoardHandler, BoardLatest, BoardNow, BoardWorst, OriginNow,
};
pub use delay_board::{BOARD_ROWS_MAX, DelayBoard, WORST_ROWS_MAX};
pub use flight::{Flight, flights_file};
pub use hourly::{DelayAcc, DelayStats, HourlyDelay, hourly_delays, hourly_delays_of};
pub use impact::{
    Departure, Impact, ImpactAcc, ImpactOf, Precipitation, Wind, weather_impact, weather_impact_of,
};
pub use weather::{Observation, weather_file};
