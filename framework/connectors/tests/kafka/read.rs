//! A topic as a source.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use afflux_connectors::{Gone, Kafka, KafkaMessage, Start};
use afflux_stream::{
    BoundedOutOfOrder, Flow, JobSettings, Late, OnError, Plan, Timestamp, Tumbling, Window, fold, millis_of,
    vec_source,
};
use rdkafka::admin::AdminOptions;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::common::*;

fn reading(read: afflux_connectors::KafkaRead, out: &Collect<Order>, parallelism: u32) -> Plan {
    let flow = Flow::new("test", JobSettings { parallelism, ..JobSettings::default() });
    flow.source("in", read.json::<Order>()).untimed().sink("out", out.clone());
    flow.finish().unwrap()
}

fn ids(out: &Collect<Order>) -> Vec<u64> {
    let mut ids: Vec<u64> = out.rows().iter().map(|o| o.id).collect();
    ids.sort_unstable();
    ids
}

#[test]
#[ignore = "needs Kafka"]
fn what_is_written_is_read_in_the_order_of_each_key_and_a_checkpoint_keeps_the_place() {
    on(async || {
        let (server, kafka) = (server(), Kafka::at(server()));
        let topic = topic(&server, "both", 3).await;
        fill(&kafka, &topic, 0, 20_000).await;
        let out = Collect::default();
        let mut run = start(&reading(kafka.read(&*topic).group(&*topic), &out, 2), None);
        going(&mut run, out.has(20_000)).await;
        assert_eq!(ids(&out), (0..20_000).collect::<Vec<_>>());
        let mut last = BTreeMap::new();
        for Order { id, item } in out.rows() {
            assert!(last.insert(item, id).is_none_or(|before| before < id), "{id} came out of order");
        }
        until(
            async || run.readings().iter().all(|t| t.input_lag == Some(0)),
            || format!("{:?}", run.readings()),
        )
        .await;
        let saved = run.checkpoint(1).await.unwrap();

        // For monitors only: what is there is the checkpoint's place.
        let monitor: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", &server)
            .set("group.id", &topic)
            .create()
            .unwrap();
        let committed = || {
            let mut all = TopicPartitionList::new();
            all.add_partition_range(&topic, 0, 2);
            let all = monitor.committed_offsets(all, Duration::from_secs(10)).unwrap();
            all.elements().iter().filter_map(|e| e.offset().to_raw().filter(|o| *o >= 0)).sum::<i64>()
        };
        until(async || committed() == 20_000, || format!("{} are committed", committed())).await;
        drop(run);

        fill(&kafka, &topic, 20_000, 1_000).await;
        let again = Collect::default();
        // Under another group, which has never committed anything.
        let mut run = start(&reading(kafka.read(&*topic), &again, 3), Some(saved));
        going(&mut run, again.has(1_000)).await;
        assert_eq!(ids(&again), (20_000..21_000).collect::<Vec<_>>());
    });
}

#[test]
#[ignore = "needs Kafka"]
fn a_bounded_reader_ends_where_the_topic_ended_and_others_begin_where_they_are_told() {
    on(async || {
        let (server, kafka) = (server(), Kafka::at(server()));
        let topic = topic(&server, "bounds", 2).await;
        fill(&kafka, &topic, 0, 500).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let between = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64;
        tokio::time::sleep(Duration::from_millis(5)).await;
        fill(&kafka, &topic, 500, 100).await;
        let read = async |read: afflux_connectors::KafkaRead| {
            let out = Collect::default();
            finish(reading(read.bounded(), &out, 1)).await.unwrap();
            ids(&out)
        };
        assert_eq!(read(kafka.read(&*topic)).await, (0..600).collect::<Vec<_>>());
        let at = Start::At(Timestamp::from_millis(between));
        assert_eq!(read(kafka.read(&*topic).start(at)).await, (500..600).collect::<Vec<_>>());
        assert_eq!(read(kafka.read(&*topic).start(Start::Latest)).await, Vec::<u64>::new());

        let out = Collect::default();
        let mut run = start(&reading(kafka.read(&*topic).start(Start::Latest), &out, 2), None);
        // What is written once the job was submitted is read, also before a reader is connected.
        going(&mut run, fill(&kafka, &topic, 600, 10)).await;
        going(&mut run, out.has(10)).await;
        assert_eq!(ids(&out), (600..610).collect::<Vec<_>>());
    });
}

#[test]
#[ignore = "needs Kafka"]
fn partitions_that_are_added_are_read_from_their_first_record() {
    on(async || {
        let (server, kafka) = (server(), Kafka::at(server()));
        let topic = topic(&server, "growing", 2).await;
        let read = || kafka.read(&*topic).start(Start::Latest).discovery(Duration::from_millis(100));
        let out = Collect::default();
        let mut run = start(&reading(read(), &out, 2), None);
        going(&mut run, fill(&kafka, &topic, 0, 100)).await;
        going(&mut run, out.has(100)).await;
        widen(&server, &topic, 5).await;
        going(&mut run, fill(&kafka, &topic, 100, 1_000)).await;
        going(&mut run, out.has(1_100)).await;
        let saved = run.checkpoint(1).await.unwrap();
        drop(run);
        assert_eq!(ids(&out), (0..1_100).collect::<Vec<_>>());

        // Two more while nobody reads.
        widen(&server, &topic, 7).await;
        fill(&kafka, &topic, 1_100, 1_000).await;
        let again = Collect::default();
        let mut run = start(&reading(read(), &again, 3), Some(saved));
        going(&mut run, again.has(1_000)).await;
        assert_eq!(ids(&again), (1_100..2_100).collect::<Vec<_>>());
    });
}

#[test]
#[ignore = "needs Kafka"]
fn a_closure_sees_key_headers_time_and_place_and_what_cannot_be_read_stops_or_is_left_out() {
    on(async || {
        let (server, kafka) = (server(), Kafka::at(server()));
        let topic = topic(&server, "form", 1).await;
        let rows: Vec<Order> = (0..20).map(order).collect();
        let write = flow(OnError::Fail);
        write.source("in", vec_source(rows)).untimed().sink(
            "out",
            kafka
                .write::<Order>(&*topic)
                .json()
                .key(|o| o.id.to_string())
                .tombstone(|o| o.id == 7)
                .headers(|o| vec![("item".to_owned(), o.item.clone().into_bytes())])
                .time(|o| Timestamp::from_millis(1_000 + o.id as i64)),
        );
        finish(write.finish().unwrap()).await.unwrap();

        let out = Collect::default();
        let read = flow(OnError::Fail);
        let row = |m: &KafkaMessage<'_>| {
            let text = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
            Ok((
                m.offset(),
                text(m.key()),
                text(m.header("item")),
                m.time().map(|t| t.millis()),
                m.body().is_some(),
            ))
        };
        read.source("in", kafka.read(&*topic).bounded().with(row)).untimed().sink("out", out.clone());
        finish(read.finish().unwrap()).await.unwrap();
        let expected: Vec<_> = (0..20_i64)
            .map(|i| (i, Some(i.to_string()), Some(order(i as u64).item), Some(1_000 + i), i != 7))
            .collect();
        assert_eq!(out.rows(), expected);

        let json = |on_error, out: &Collect<Order>| {
            let flow = flow(on_error);
            flow.source("in", kafka.read(&*topic).bounded().json::<Order>())
                .untimed()
                .sink("out", out.clone());
            finish(flow.finish().unwrap())
        };
        let error = json(OnError::Fail, &Collect::default()).await.unwrap_err().message;
        for part in [topic.as_str(), "partition 0", "offset 7", "tombstone", "source.on_error=skip"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        let out = Collect::default();
        assert_eq!(json(OnError::Skip, &out).await.unwrap(), 1);
        assert_eq!(out.len(), 19);
    });
}

#[test]
#[ignore = "needs Kafka"]
fn an_empty_partition_holds_no_window_back_and_one_that_was_not_read_yet_does() {
    on(async || {
        let (server, kafka) = (server(), Kafka::at(server()));
        // All orders of one item are in one partition of four.
        let topic = topic(&server, "windows", 4).await;
        let write = flow(OnError::Fail);
        write
            .source("in", vec_source((0..50).map(order).collect()))
            .untimed()
            .sink("out", kafka.write::<Order>(&*topic).json().key(|_| "one"));
        finish(write.finish().unwrap()).await.unwrap();
        let out = Collect::default();
        let flow = flow(OnError::Fail);
        let time = BoundedOutOfOrder::by(millis_of(0)).idle_after(millis_of(200));
        flow.source("in", kafka.read(&*topic).json::<Order>())
            .watermarks_by(time, |o: &Order| Timestamp::from_millis(o.id as i64))
            .key_by(|_| 0_u64)
            .window(Tumbling::of(millis_of(10)))
            .late(Late::Drop)
            .aggregate("n", fold(|| 0_u64, |n, _: &Order| *n += 1, |_, w: Window, n| (w.start.millis(), n)))
            .sink("out", out.clone());
        let mut run = start(&flow.finish().unwrap(), None);
        going(&mut run, out.has(4)).await;
        assert_eq!(out.rows(), [(0, 10), (10, 10), (20, 10), (30, 10)]);
    });
}

#[test]
#[ignore = "needs Kafka"]
fn records_that_are_gone_stop_a_restore_or_are_passed_over() {
    on(async || {
        let (server, kafka) = (server(), Kafka::at(server()));
        let topic = topic(&server, "gone", 1).await;
        fill(&kafka, &topic, 0, 100).await;
        let out = Collect::default();
        let mut run = start(&reading(kafka.read(&*topic), &out, 1), None);
        going(&mut run, out.has(100)).await;
        let saved = run.checkpoint(1).await.unwrap();
        drop(run);
        fill(&kafka, &topic, 100, 100).await;
        // Retention takes 150 of the 200.
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(&topic, 0, Offset::Offset(150)).unwrap();
        admin(&server).delete_records(&before, &AdminOptions::new()).await.unwrap();
        let run = start(&reading(kafka.read(&*topic), &Collect::default(), 1), Some(saved.clone()));
        let error = tokio::time::timeout(PATIENCE, run.finish()).await.unwrap().unwrap_err().message;
        for part in [topic.as_str(), "partition 0", "offset 100", "Gone::Earliest"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        let out = Collect::default();
        let mut run = start(&reading(kafka.read(&*topic).when_gone(Gone::Earliest), &out, 1), Some(saved));
        going(&mut run, out.has(50)).await;
        assert_eq!(ids(&out), (150..200).collect::<Vec<_>>());
    });
}

#[test]
#[ignore = "needs Kafka"]
fn a_topic_or_a_broker_that_is_not_there_is_named_with_the_cure() {
    on(async || {
        let error =
            finish(reading(Kafka::at(server()).read("nowhere"), &Collect::default(), 1)).await.unwrap_err();
        for part in ["nowhere", &server(), "kafka-topics.sh"] {
            assert!(error.message.contains(part), "{part} is missing in {error}");
        }
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let error = finish(reading(Kafka::at(&*closed).read("x"), &Collect::default(), 1)).await.unwrap_err();
        for part in [closed.as_str(), "refused", "start the brokers"] {
            assert!(error.message.contains(part), "{part} is missing in {error}");
        }
    });
}

#[test]
#[ignore = "needs Kafka"]
fn brokers_are_asked_before_a_job_is_begun_and_make_no_topic_by_that() {
    on(async || {
        let (server, kafka) = (server(), Kafka::at(server()));
        let (there, missing) = (topic(&server, "there", 3).await, unique("missing"));
        let asked = async |kafka: &Kafka, read: &str, write: &str| {
            let flow = Flow::new("test", JobSettings::default());
            flow.source("in", kafka.read(read).text()).untimed().sink("out", kafka.write(write).text());
            let mut told = Vec::new();
            for (step, reaching) in flow.finish().unwrap().reaches() {
                told.push((step, reaching.await));
            }
            told
        };
        let told = asked(&kafka, &there, &missing).await;
        let read = told[0].1.as_ref().unwrap();
        assert!(told[0].0 == "in" && read.contains(&format!("topic `{there}` has 3 partitions")), "{read}");
        let write = told[1].1.as_ref().unwrap();
        assert!(told[1].0 == "out" && write.contains(&format!("has no topic `{missing}`")), "{write}");
        let told = asked(&kafka, &missing, &there).await;
        let error = told[0].1.as_ref().unwrap_err();
        assert!(error.message.contains(&missing) && error.message.contains("create it first"), "{error}");

        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let told = asked(&Kafka::at(&*closed), "x", "y").await;
        for (_, answer) in told {
            let error = answer.unwrap_err().message;
            for part in [closed.as_str(), "refused", "start the brokers"] {
                assert!(error.contains(part), "{part} is missing in {error}");
            }
        }
    });
}
