use afflux::prelude::*;
fn f(flow: &Flow) {
    //> here
}
