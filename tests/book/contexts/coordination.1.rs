async fn f(node: &afflux::Node) -> afflux::Result {
    //> here
    Ok(())
}
