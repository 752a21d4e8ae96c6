use std::path::PathBuf;
use afflux::prelude::*;
use afflux_flights::*;
fn f(flow: &Flow, flights: PathBuf, out: PathBuf) {
    //> here
}
