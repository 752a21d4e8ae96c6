//! The process: `flights` runs the whole thing on this machine, `flights --help` says what else.

use afflux::App;
use afflux_flights::{Board, DelayBoard, hourly_delays, weather_impact};

#[afflux::main]
async fn main() -> afflux::Result<()> {
    App::new("flights")
        .pipeline("hourly-delays", hourly_delays)
        .pipeline("weather-impact", weather_impact)
        .singleton("board", DelayBoard::open)
        .tile::<Board>("The airports now", "Now")
        .run()
        .await
}
