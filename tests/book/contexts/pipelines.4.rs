use afflux::prelude::*;
use afflux::connectors::JsonLines;
fn f(flow: &Flow) {
    //> here
    lines.map(|line: String| line).count("all");
}
