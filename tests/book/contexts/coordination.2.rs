struct Done {
    rows: u64,
}
fn sql(_: &str, _: u64, _: u64) -> Done {
    Done { rows: 1 }
}
async fn f(node: &afflux::Node, total: u64) -> afflux::Result {
    //> here
    Ok(())
}
