//! Queues over a real RabbitMQ: `tests/servers/rabbitmq.sh start DIR` prints what `AFFLUX_TEST_RABBITMQ` has
//! to be. The test of a restart starts a server of its own.

#![allow(clippy::unwrap_used)] // a test fails where it unwraps

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use afflux_actor::{Clock, Threads};
use afflux_connectors::{Message, Queue, Rabbit};
use afflux_stream::job::{LocalRun, start_local};
use afflux_stream::{
    Batch, BoundedOutOfOrder, Flow, IoContext, JobSettings, Late, OnError, Plan, Result, Sink, SinkWriter,
    Timestamp, Tumbling, Window, fold, generate, millis_of, vec_source,
};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde::{Deserialize, Serialize};

/// Limits every wait of a test.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Order {
    id: u64,
    item: String,
}

fn order(id: u64) -> Order {
    Order { id, item: format!("item {}", id % 7) }
}

fn server() -> String {
    std::env::var("AFFLUX_TEST_RABBITMQ")
        .expect("AFFLUX_TEST_RABBITMQ: what tests/servers/rabbitmq.sh prints")
}

fn url(server: &str) -> String {
    format!("amqp://guest:guest@{server}")
}

/// A name that no other test has, nor an earlier run.
fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test.{name}.{}.{}", std::process::id(), NEXT.fetch_add(1, Relaxed))
}

/// What the broker knows, asked beside the connector.
struct Admin {
    _connection: Connection,
    channel: Channel,
}

impl Admin {
    async fn of(server: &str) -> Self {
        let connection = Connection::connect(&url(server), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { _connection: connection, channel }
    }

    /// Messages that nobody holds.
    async fn ready(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .unwrap()
            .message_count()
    }

    async fn has(&self, queue: &str, messages: u32) {
        until(async || self.ready(queue).await == messages, || format!("{queue} never had {messages}")).await;
    }

    async fn delete(&self, queues: &[&str]) {
        for queue in queues {
            self.channel.queue_delete((*queue).into(), QueueDeleteOptions::default()).await.unwrap();
        }
    }
}

async fn until(mut holds: impl AsyncFnMut() -> bool, what: impl Fn() -> String) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "{}", what());
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Keeps what it is given.
#[derive(Debug)]
struct Collect<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Collect<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Collect<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Collect<T> {
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
    fn rows(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }
}

impl<T: Send + 'static> Sink<T> for Collect<T> {
    fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        Ok(Box::new(Self(Arc::clone(&self.0))))
    }
    fn kind(&self) -> &'static str {
        "collect"
    }
}

impl<T: Send> SinkWriter<T> for Collect<T> {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.0.lock().unwrap().append(&mut batch.rows);
        Ok(())
    }
    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

fn flow(on_error: OnError) -> Flow {
    Flow::new("test", JobSettings { on_error, ..JobSettings::default() })
}

fn start(plan: &Plan) -> LocalRun {
    let threads = Arc::new(Threads::inline_slots(2).unwrap());
    start_local(plan, threads, Clock::new(SystemTime::now), None, None).unwrap()
}

async fn finish(plan: Plan) -> Result<u64> {
    let readings = tokio::time::timeout(PATIENCE, start(&plan).finish()).await.unwrap()?;
    Ok(readings.iter().flat_map(|t| &t.operators).map(|o| o.errors).sum())
}

/// Writes orders 0 to `count` to a queue.
async fn fill(rabbit: &Rabbit, queue: Queue, count: u64) {
    let flow = flow(OnError::Fail);
    flow.source("orders", generate(count, order))
        .untimed()
        .sink("queue", rabbit.write::<Order>(queue).json());
    finish(flow.finish().unwrap()).await.unwrap();
}

/// Makes rounds of confirmations, as a job's desk does, until something holds.
async fn confirm_until(run: &mut LocalRun, round: &mut u64, holds: impl AsyncFn() -> bool) {
    let all = async {
        loop {
            *round += 1;
            run.confirm(*round).await.unwrap();
            if holds().await {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("it never held");
}

fn on<T>(test: impl AsyncFnOnce() -> T + 'static) -> T
where
    T: 'static,
{
    afflux_actor::system(|| async move { test().await }).unwrap()
}

#[test]
#[ignore = "needs RabbitMQ"]
fn what_is_written_is_read_and_leaves_the_queue_once_it_is_confirmed() {
    on(async || {
        let (server, queue) = (server(), unique("both"));
        let (rabbit, admin) = (Rabbit::at(url(&server)), Admin::of(&server).await);
        fill(&rabbit, Queue::durable(&queue), 20_000).await;
        assert_eq!(admin.ready(&queue).await, 20_000, "the end waits for the last confirmation");

        let out = Collect::default();
        let flow = flow(OnError::Fail);
        flow.source("in", rabbit.read(&*queue).prefetch(300).json::<Order>())
            .untimed()
            .sink("out", out.clone());
        let mut run = start(&flow.finish().unwrap());
        confirm_until(&mut run, &mut 0, async || out.len() >= 20_000).await;
        assert_eq!(out.rows(), (0..20_000).map(order).collect::<Vec<_>>(), "one consumer keeps the order");
        run.confirm(1 << 40).await.unwrap();
        drop(run);
        // What was not acknowledged would come back now.
        until(
            async || {
                let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let found =
                    admin.channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
                found.await.unwrap().consumer_count() == 0
            },
            || "the consumer stayed".into(),
        )
        .await;
        assert_eq!(admin.ready(&queue).await, 0);
        admin.delete(&[&queue]).await;
    });
}

#[test]
#[ignore = "needs RabbitMQ"]
fn what_was_not_confirmed_comes_again_and_says_so() {
    on(async || {
        let (server, queue) = (server(), unique("again"));
        let (rabbit, admin) = (Rabbit::at(url(&server)), Admin::of(&server).await);
        fill(&rabbit, Queue::durable(&queue), 100).await;
        let read = |out: &Collect<(u64, bool)>| {
            let flow = flow(OnError::Fail);
            let row = |m: &Message| {
                serde_json::from_slice::<Order>(m.body())
                    .map(|o| (o.id, m.redelivered()))
                    .map_err(|e| e.to_string())
            };
            flow.source("in", rabbit.read(&*queue).with(row)).untimed().sink("out", out.clone());
            start(&flow.finish().unwrap())
        };
        let first = Collect::default();
        let run = read(&first);
        until(async || first.len() == 100, || "100 never came".into()).await;
        assert!(first.rows().iter().all(|(_, again)| !again));
        drop(run);
        admin.has(&queue, 100).await;

        let second = Collect::default();
        let mut run = read(&second);
        confirm_until(&mut run, &mut 0, async || second.len() == 100).await;
        assert_eq!(second.rows(), (0..100).map(|id| (id, true)).collect::<Vec<_>>());
        drop(run);
        admin.delete(&[&queue]).await;
    });
}

#[test]
#[ignore = "needs RabbitMQ"]
fn several_consumers_share_a_replicated_queue() {
    on(async || {
        let (server, queue) = (server(), unique("shared"));
        let (rabbit, admin) = (Rabbit::at(url(&server)), Admin::of(&server).await);
        let quorum = || Queue::durable(&queue).quorum();
        fill(&rabbit, quorum(), 3_000).await;
        let out = Collect::default();
        let flow = Flow::new("test", JobSettings { parallelism: 2, ..JobSettings::default() });
        let orders = rabbit.read(quorum()).consumers(3).prefetch(50).json::<Order>();
        flow.source("in", orders).untimed().sink("out", out.clone());
        let mut run = start(&flow.finish().unwrap());
        confirm_until(&mut run, &mut 0, async || out.len() >= 3_000).await;
        let ids: BTreeSet<u64> = out.rows().iter().map(|o| o.id).collect();
        assert_eq!((out.len(), ids.len()), (3_000, 3_000), "each is given to one consumer");
        run.confirm(1 << 40).await.unwrap();
        drop(run);
        admin.has(&queue, 0).await;
        admin.delete(&[&queue]).await;
    });
}

#[test]
#[ignore = "needs RabbitMQ"]
fn a_split_whose_queue_is_empty_holds_no_window_of_the_others_back() {
    on(async || {
        let (server, full, empty) = (server(), unique("full"), unique("empty"));
        let (rabbit, admin) = (Rabbit::at(url(&server)), Admin::of(&server).await);
        fill(&rabbit, Queue::durable(&full), 50).await;
        fill(&rabbit, Queue::durable(&empty), 0).await;
        let out = Collect::default();
        let flow = flow(OnError::Fail);
        let time = || BoundedOutOfOrder::by(millis_of(0)).idle_after(millis_of(200));
        let read = |name: &str, queue: &str| {
            flow.source(name, rabbit.read(queue).json::<Order>())
                .watermarks_by(time(), |o: &Order| Timestamp::from_millis(o.id as i64))
        };
        read("full", &full)
            .union([read("empty", &empty)])
            .key_by(|_| 0_u64)
            .window(Tumbling::of(millis_of(10)))
            .late(Late::Drop)
            .aggregate("n", fold(|| 0_u64, |n, _: &Order| *n += 1, |_, w: Window, n| (w.start.millis(), n)))
            .sink("out", out.clone());
        let mut run = start(&flow.finish().unwrap());
        confirm_until(&mut run, &mut 0, async || out.len() == 4).await;
        assert_eq!(out.rows(), [(0, 10), (10, 10), (20, 10), (30, 10)]);
        drop(run);
        admin.delete(&[&full, &empty]).await;
    });
}

#[test]
#[ignore = "needs RabbitMQ"]
fn a_consumer_holds_no_more_than_its_prefetch_until_a_round_is_over() {
    on(async || {
        let (server, queue) = (server(), unique("prefetch"));
        let (rabbit, admin) = (Rabbit::at(url(&server)), Admin::of(&server).await);
        fill(&rabbit, Queue::durable(&queue), 1_000).await;
        let out = Collect::default();
        let flow = flow(OnError::Fail);
        flow.source("in", rabbit.read(&*queue).prefetch(64).json::<Order>())
            .untimed()
            .sink("out", out.clone());
        let mut run = start(&flow.finish().unwrap());
        for round in 1..=10_u32 {
            until(async || out.len() == 64 * round as usize, || format!("{} came", out.len())).await;
            assert_eq!(admin.ready(&queue).await, 1_000 - 64 * round);
            assert_eq!(out.len(), 64 * round as usize, "more than the prefetch came");
            run.confirm(u64::from(round)).await.unwrap();
        }
        drop(run);
        admin.delete(&[&queue]).await;
    });
}

#[test]
#[ignore = "needs RabbitMQ"]
fn what_cannot_be_read_stops_the_pipeline_or_becomes_a_dead_letter() {
    on(async || {
        let (server, queue, dead) = (server(), unique("poison"), unique("dead"));
        let (rabbit, admin) = (Rabbit::at(url(&server)), Admin::of(&server).await);
        fill(&rabbit, Queue::durable(&dead), 0).await;
        let orders = Queue::durable(&queue).dead_letter_to(&dead);
        let texts = |id: u64| match id % 10 {
            3 => format!("{{\"id\":{id}"),
            _ => serde_json::to_string(&order(id)).unwrap(),
        };
        let write = flow(OnError::Fail);
        write
            .source("texts", generate(100, texts))
            .untimed()
            .sink("queue", rabbit.write::<String>(orders.clone()).text());
        finish(write.finish().unwrap()).await.unwrap();

        let read = |on_error, out: &Collect<Order>| {
            let flow = flow(on_error);
            flow.source("in", rabbit.read(orders.clone()).json::<Order>()).untimed().sink("out", out.clone());
            flow.finish().unwrap()
        };
        let error = finish(read(OnError::Fail, &Collect::default())).await.unwrap_err().message;
        for part in [queue.as_str(), "message 4", "EOF", "`{\\\"id\\\":3`", "source.on_error=skip"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        assert!(!error.contains("guest:guest"), "{error}");
        admin.has(&queue, 100).await;

        let out = Collect::default();
        let mut run = start(&read(OnError::Skip, &out));
        confirm_until(&mut run, &mut 0, async || out.len() == 90 && admin.ready(&dead).await == 10).await;
        let skipped: u64 = run.readings().iter().flat_map(|t| &t.operators).map(|o| o.errors).sum();
        assert_eq!(skipped, 10);
        assert!(out.rows().iter().all(|o| o.id % 10 != 3));
        drop(run);
        admin.has(&queue, 0).await;
        admin.delete(&[&queue, &dead]).await;
    });
}

#[test]
#[ignore = "needs RabbitMQ"]
fn a_queue_with_other_options_is_refused_with_the_cure_and_can_be_taken_as_it_is() {
    on(async || {
        let (server, queue) = (server(), unique("options"));
        let (rabbit, admin) = (Rabbit::at(url(&server)), Admin::of(&server).await);
        fill(&rabbit, Queue::transient(&queue), 1).await;
        let write = |queue: Queue| {
            let flow = flow(OnError::Fail);
            flow.source("in", vec_source(vec![order(1)])).untimed().sink("out", rabbit.write(queue).json());
            finish(flow.finish().unwrap())
        };
        let error = write(Queue::durable(&queue)).await.unwrap_err().message;
        for part in [queue.as_str(), "durable", "inequivalent", "Queue::existing", "rabbitmqctl delete_queue"]
        {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        write(Queue::existing(&queue)).await.unwrap();
        admin.has(&queue, 2).await;
        admin.delete(&[&queue]).await;
        let error = write(Queue::existing(&queue)).await.unwrap_err().message;
        assert!(error.contains("no queue") && error.contains("Queue::durable"), "{error}");
    });
}

#[test]
#[ignore = "needs RabbitMQ"]
fn a_message_that_no_queue_takes_stops_the_pipeline_or_is_counted() {
    on(async || {
        let (server, queue) = (server(), unique("routes"));
        let (rabbit, admin) = (Rabbit::at(url(&server)), Admin::of(&server).await);
        let exchange = unique("exchange");
        let key =
            |o: &Order| if o.id.is_multiple_of(4) { "lost".to_owned() } else { format!("orders.{}", o.id) };
        let sink = || rabbit.publish::<Order>(&exchange, key).declare("topic").message_pack();
        // Declares the exchange, writes nothing.
        let declare = flow(OnError::Fail);
        declare.source("in", vec_source(Vec::new())).untimed().sink("out", sink());
        finish(declare.finish().unwrap()).await.unwrap();

        let write = |sink| {
            let flow = flow(OnError::Fail);
            flow.source("in", generate(100, order)).untimed().sink("out", sink);
            finish(flow.finish().unwrap())
        };
        let bound = || Queue::durable(&queue).bind(&exchange, "orders.*");
        let headers = |o: &Order| vec![("item".to_owned(), o.item.clone())];
        let counted = sink().declare_queue(bound()).headers(headers).id(|o| format!("order-{}", o.id));
        assert_eq!(write(counted.count_unroutable()).await.unwrap(), 25);
        admin.has(&queue, 75).await;
        let error = write(sink()).await.unwrap_err().message;
        for part in [exchange.as_str(), "`lost`", "NO_ROUTE", "count_unroutable"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }

        let out = Collect::default();
        let read = flow(OnError::Fail);
        let row = |m: &Message| {
            let order: Order = rmp_serde::from_slice(m.body()).map_err(|e| e.to_string())?;
            assert_eq!(m.routing_key(), format!("orders.{}", order.id));
            assert_eq!(m.content_type(), Some("application/msgpack"));
            Ok((order.id, m.header("item").unwrap_or_default(), m.id().unwrap_or_default().to_owned()))
        };
        read.source("in", rabbit.read(bound()).with(row)).untimed().sink("out", out.clone());
        let run = start(&read.finish().unwrap());
        until(async || out.len() >= 75, || "75 never came".into()).await;
        let expected: Vec<_> = (0..100).filter(|id| id % 4 != 0).map(order).collect();
        let expected: Vec<_> =
            expected.iter().map(|o| (o.id, o.item.clone(), format!("order-{}", o.id))).collect();
        assert_eq!(out.rows()[..75], expected);
        drop(run);
        admin.delete(&[&queue]).await;
    });
}

#[test]
#[ignore = "needs RabbitMQ"]
fn a_full_queue_holds_the_pipeline_back_and_loses_nothing() {
    on(async || {
        let (server, queue) = (server(), unique("full"));
        let (rabbit, admin) = (Rabbit::at(url(&server)), Admin::of(&server).await);
        let narrow = Queue::durable(&queue).length_max(50);
        fill(&rabbit, narrow.clone(), 0).await;
        let write = flow(OnError::Fail);
        write
            .source("in", generate(300, order))
            .untimed()
            .sink("out", rabbit.write::<Order>(narrow.clone()).unconfirmed_max(20).json());
        let writing = start(&write.finish().unwrap());
        admin.has(&queue, 50).await;

        let out = Collect::default();
        let read = flow(OnError::Fail);
        read.source("in", rabbit.read(narrow).prefetch(10).json::<Order>())
            .untimed()
            .sink("out", out.clone());
        let mut reading = start(&read.finish().unwrap());
        let ids = || out.rows().iter().map(|o: &Order| o.id).collect::<BTreeSet<_>>();
        confirm_until(&mut reading, &mut 0, async || ids().len() == 300).await;
        tokio::time::timeout(PATIENCE, writing.finish()).await.unwrap().unwrap();
        assert_eq!(out.len(), 300, "nothing came twice without a lost connection");
        drop(reading);
        admin.delete(&[&queue]).await;
    });
}

#[test]
#[ignore = "needs RabbitMQ"]
fn a_broker_that_is_not_there_or_lets_nobody_in_is_named_without_the_password() {
    on(async || {
        let read = |url: String| {
            let flow = flow(OnError::Fail);
            let rabbit = Rabbit::at(url).patience(Duration::from_millis(300));
            flow.source("in", rabbit.read("q").text()).untimed().count("n");
            finish(flow.finish().unwrap())
        };
        let error = read(format!("amqp://guest:wrong@{}", server())).await.unwrap_err().message;
        assert!(
            error.contains(&format!("amqp://guest@{}", server())) && error.contains("permissions"),
            "{error}"
        );
        assert!(!error.contains("wrong"), "{error}");
        let error = read(format!("{}/nowhere", url(&server()))).await.unwrap_err().message;
        assert!(error.contains("nowhere") && error.contains("list_vhosts"), "{error}");
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = read(format!("amqp://guest:secret@{closed}")).await.unwrap_err().message;
        assert!(error.contains(&closed.to_string()) && error.contains("given up after"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    });
}

/// A server of one test's own.
struct Own {
    directory: tempfile::TempDir,
    address: String,
}

impl Own {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = Self::script("start", directory.path());
        Self { directory, address }
    }

    fn script(command: &str, directory: &Path) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/servers/rabbitmq.sh");
        let output = Command::new(script).arg(command).arg(directory).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        Self::script("kill", self.directory.path());
    }
}

#[test]
#[ignore = "needs RabbitMQ"]
fn nothing_is_lost_when_the_broker_restarts_in_the_middle() {
    const ORDERS: u64 = 60_000;
    let server = Own::start();
    let (address, directory) = (server.address.clone(), server.directory.path().to_owned());
    on(async move || {
        let rabbit = Rabbit::at(url(&address));
        let write = flow(OnError::Fail);
        write
            .source("in", generate(ORDERS, order))
            .untimed()
            .sink("first", rabbit.write::<Order>("first").json());
        let copy = flow(OnError::Fail);
        copy.source("first", rabbit.read("first").prefetch(500).json::<Order>())
            .untimed()
            .map(|o: Order| o)
            .sink("second", rabbit.write::<Order>("second").json());
        let out = Collect::default();
        let read = flow(OnError::Fail);
        let row = |m: &Message| {
            let order: Order = serde_json::from_slice(m.body()).map_err(|e| e.to_string())?;
            Ok((order.id, m.id().unwrap_or_default().to_owned()))
        };
        read.source("second", rabbit.read("second").with(row)).untimed().sink("out", out.clone());

        let writing = start(&write.finish().unwrap());
        let mut copying = start(&copy.finish().unwrap());
        let mut reading = start(&read.finish().unwrap());
        let mut round = 0;
        let seen = Arc::new(Mutex::new((0, BTreeSet::new())));
        let ids = || {
            let (from, known) = &mut *seen.lock().unwrap();
            let rows = out.0.lock().unwrap();
            known.extend(rows[*from..].iter().map(|(id, _): &(u64, String)| *id));
            *from = rows.len();
            known.len() as u64
        };
        // Once in order, once as a power cut would.
        for (stop, after) in [("stop", ORDERS / 10), ("kill", ORDERS / 3)] {
            let mut twin = round;
            tokio::join!(
                confirm_until(&mut copying, &mut round, async || ids() > after),
                confirm_until(&mut reading, &mut twin, async || ids() > after),
            );
            round = round.max(twin);
            assert!(ids() < ORDERS, "all was over before the broker went");
            Own::script(stop, &directory);
            assert_eq!(Own::script("start", &directory), address);
        }
        let mut twin = round;
        tokio::join!(
            confirm_until(&mut copying, &mut round, async || ids() == ORDERS),
            confirm_until(&mut reading, &mut twin, async || ids() == ORDERS),
        );
        tokio::time::timeout(PATIENCE, writing.finish()).await.unwrap().unwrap();
        let admin = Admin::of(&address).await;
        // What was read twice from the first queue has two ids; what was written twice has one.
        let mut times = BTreeMap::new();
        for (id, message) in out.rows() {
            *times.entry((id, message)).or_insert(0) += 1;
        }
        println!("{ORDERS} orders came {} times, {} messages", out.len(), times.len());
        assert!(out.len() < 2 * ORDERS as usize, "a restart repeats what was under way, not everything");
        assert_eq!(admin.ready("first").await, 0);
    });
}

#[test]
#[ignore = "needs RabbitMQ"]
fn a_broker_is_asked_before_a_job_is_begun_and_nothing_is_declared_by_that() {
    on(async || {
        let (server, there, missing) = (server(), unique("there"), unique("missing"));
        let (rabbit, admin) = (Rabbit::at(url(&server)), Admin::of(&server).await);
        fill(&rabbit, Queue::durable(&there), 3).await;
        let asked = async |rabbit: &Rabbit, read: Queue, write: Queue| {
            let flow = flow(OnError::Fail);
            flow.source("in", rabbit.read(read).text()).untimed().sink("out", rabbit.write(write).text());
            let mut told = Vec::new();
            for (step, reaching) in flow.finish().unwrap().reaches() {
                told.push((step, reaching.await));
            }
            told
        };
        let told = asked(&rabbit, Queue::durable(&there), Queue::durable(&missing)).await;
        let (step, read) = &told[0];
        let read = read.as_ref().unwrap();
        assert!(step == "in" && read.contains(&format!("queue `{there}` has 3 messages")), "{read}");
        assert!(!read.contains("guest:guest"), "the password is shown: {read}");
        let (step, write) = &told[1];
        let write = write.as_ref().unwrap();
        assert!(step == "out" && write.contains("is not there yet and will be declared"), "{write}");
        let told = asked(&rabbit, Queue::existing(&missing), Queue::durable(&there)).await;
        let error = told[0].1.as_ref().unwrap_err();
        assert!(error.message.contains(&missing) && error.message.contains("declare it first"), "{error}");
        assert_eq!(admin.ready(&there).await, 3, "nothing was read");

        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let away = Rabbit::at(format!("amqp://guest:secret@{closed}"));
        let told = asked(&away, Queue::durable("q"), Queue::durable("q")).await;
        for (_, answer) in told {
            let error = answer.unwrap_err().message;
            for part in ["RabbitMQ", &closed.to_string(), "start the broker"] {
                assert!(error.contains(part) && !error.contains("secret"), "{part} is missing in {error}");
            }
        }
    });
}
