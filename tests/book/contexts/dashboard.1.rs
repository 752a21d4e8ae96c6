use afflux::App;
use afflux_flights::{Board, DelayBoard};
fn f() {
    let _app =
    //> here
    ;
}
