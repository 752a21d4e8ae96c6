use afflux::prelude::*;
use afflux::connectors::JsonLines;
use afflux::stream::Stream;
fn parse(line: &str) -> std::result::Result<u64, std::num::ParseIntError> {
    line.parse()
}
fn f(lines: Stream<String>) {
    //> here
}
