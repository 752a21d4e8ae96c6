use afflux::prelude::*;
use afflux::stream::{Harness, Processing};
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reading { value: f64 }
fn reading(value: f64) -> Reading {
    Reading { value }
}
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
fn main() {
    //> here
}
