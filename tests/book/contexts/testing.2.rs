use afflux::prelude::*;
use afflux::stream::{JobSettings, Stream, vec_source};
fn build(rows: Stream<u64>) -> Stream<u64> {
    rows
}
fn f(rows: Vec<u64>) -> Result {
    //> here
    Ok(())
}
