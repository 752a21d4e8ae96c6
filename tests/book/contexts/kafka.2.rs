use afflux::connectors::Kafka;
fn f() -> Kafka {
    //> here
}
