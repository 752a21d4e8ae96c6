use afflux::prelude::*;
use afflux::stream::Stream;
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Flight { origin: String }
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Weather { origin: String, wind: u32 }
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Departure { wind: Option<u32> }
impl Departure {
    fn of(_: &Flight, weather: Option<&Weather>) -> Self {
        Self { wind: weather.map(|w| w.wind) }
    }
}
fn f(flights: Stream<Flight>, weather: Stream<Weather>) {
    //> here
    departures.count("all");
    late.count("late");
}
