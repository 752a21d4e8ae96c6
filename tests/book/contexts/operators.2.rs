use afflux::prelude::*;
use afflux::connectors::JsonLines;
use afflux::stream::{SideTag, Stream};
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reading { sensor: String, value: f64 }
#[derive(Operator)]
#[operator(input = Reading, output = u64, key = String)]
struct Spike {
    limit: f64,
    #[state(ttl = "1h")]
    last: ValueState<f64>,
}
impl Process for Spike {
    fn process(&mut self, _: Reading, _: &mut OperatorCx<'_, String>, out: &mut Output<u64>) -> afflux::stream::Result<()> {
        out.emit(1);
        Ok(())
    }
}
fn f(readings: Stream<Reading>) {
    //> here
}
