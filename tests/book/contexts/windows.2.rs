use afflux::prelude::*;
use afflux::stream::Stream;
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reading { sensor: u64, value: u64 }
fn f(readings: Stream<Reading>) {
    let mean =
    //> here
    ;
    readings.key_by(|r| r.sensor).window(Session::gap(secs(5))).late(Late::Drop).aggregate("mean", mean).count("all");
}
