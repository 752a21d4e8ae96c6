//! A topic as a sink, at least once.

use std::collections::BTreeMap;
use std::time::Duration;

use afflux_connectors::Kafka;
use afflux_stream::{OnError, generate, vec_source};

use crate::common::*;

#[test]
#[ignore = "needs Kafka"]
fn nothing_is_lost_and_nothing_comes_twice_when_the_broker_is_killed_in_the_middle() {
    const ORDERS: u64 = 60_000;
    let server = Own::start();
    let (address, directory) = (server.address.clone(), server.path());
    on(async move || {
        let kafka = Kafka::at(&*address);
        let topic = topic(&address, "killed", 2).await;
        let write = flow(OnError::Fail);
        // One at a time, so that it lasts.
        let sink = kafka.write::<Order>(&*topic).json().key(|o| o.item.clone()).unsent_max(20);
        write.source("in", generate(ORDERS, order)).untimed().sink("out", sink);
        let writing = start(&write.finish().unwrap(), None);
        let out = Collect::default();
        let read = flow(OnError::Fail);
        read.source("in", kafka.read(&*topic).json::<Order>()).untimed().sink("out", out.clone());
        let mut reading = start(&read.finish().unwrap(), None);
        going(&mut reading, out.has(ORDERS as usize / 10)).await;
        assert!(out.len() < ORDERS as usize, "all was over before the broker went");
        script(&["kill"], &directory);
        assert_eq!(script(&["start"], &directory), address);
        tokio::time::timeout(2 * PATIENCE, writing.finish()).await.unwrap().unwrap();
        going(&mut reading, out.has(ORDERS as usize)).await;
        let mut last = BTreeMap::new();
        for Order { id, item } in out.rows() {
            assert!(
                last.insert(item, id).is_none_or(|before| before < id),
                "{id} came out of order or twice"
            );
        }
        assert_eq!(out.len(), ORDERS as usize);
    });
    drop(server);
}

#[test]
#[ignore = "needs Kafka"]
fn a_record_that_is_too_large_or_a_topic_that_is_not_there_stops_the_pipeline() {
    on(async || {
        let (server, kafka) = (server(), Kafka::at(server()));
        let topic = topic(&server, "large", 1).await;
        let write = |kafka: &Kafka, topic: &str, bytes: usize| {
            let flow = flow(OnError::Fail);
            flow.source("in", vec_source(vec!["x".repeat(bytes)]))
                .untimed()
                .sink("out", kafka.write::<String>(topic).text());
            finish(flow.finish().unwrap())
        };
        let error = write(&kafka, &topic, 2_000_000).await.unwrap_err().message;
        for part in [topic.as_str(), "message.max.bytes"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        let impatient =
            kafka.clone().patience(Duration::from_secs(3)).set("topic.metadata.propagation.max.ms", "500");
        let error = write(&impatient, "nowhere", 1).await.unwrap_err().message;
        for part in ["nowhere", server.as_str()] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
    });
}
