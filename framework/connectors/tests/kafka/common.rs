//! What the tests share: the broker, topics of their own, pipelines.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use afflux_actor::{Clock, Threads};
use afflux_connectors::Kafka;
use afflux_stream::job::{LocalRun, start_attempt};
use afflux_stream::{
    Batch, Flow, IoContext, JobSettings, OnError, Plan, Restore, Result, Sink, SinkWriter, generate,
};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use serde::{Deserialize, Serialize};

/// Limits every wait of a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: u64,
    pub(crate) item: String,
}

pub(crate) fn order(id: u64) -> Order {
    Order { id, item: format!("item {}", id % 7) }
}

pub(crate) fn server() -> String {
    std::env::var("AFFLUX_TEST_KAFKA").expect("AFFLUX_TEST_KAFKA: what tests/servers/kafka.sh prints")
}

/// A name that no other test has, nor an earlier run.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    format!("{name}.{began:x}.{}", NEXT.fetch_add(1, Relaxed))
}

pub(crate) fn admin(server: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", server).create().unwrap()
}

/// A topic of so many partitions.
pub(crate) async fn topic(server: &str, name: &str, partitions: i32) -> String {
    let name = unique(name);
    let new = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
    let made = admin(server).create_topics([&new], &AdminOptions::new()).await.unwrap();
    made.into_iter().for_each(|made| assert!(made.is_ok(), "{made:?}"));
    name
}

pub(crate) async fn widen(server: &str, topic: &str, partitions: usize) {
    let new = NewPartitions::new(topic, partitions);
    let made = admin(server).create_partitions([&new], &AdminOptions::new()).await;
    made.unwrap().into_iter().for_each(|made| assert!(made.is_ok(), "{made:?}"));
}

pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool, what: impl Fn() -> String) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "{}", what());
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Keeps what it is given.
#[derive(Debug)]
pub(crate) struct Collect<T>(pub(crate) Arc<Mutex<Vec<T>>>);

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
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
    pub(crate) fn rows(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }
    pub(crate) async fn has(&self, rows: usize) {
        until(async || self.len() >= rows, || format!("{} of {rows} rows came", self.len())).await;
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

pub(crate) fn flow(on_error: OnError) -> Flow {
    Flow::new("test", JobSettings { on_error, ..JobSettings::default() })
}

pub(crate) fn start(plan: &Plan, restore: Option<Restore>) -> LocalRun {
    try_start(plan, restore).unwrap()
}

pub(crate) fn try_start(plan: &Plan, restore: Option<Restore>) -> Result<LocalRun> {
    let attempt = 1 + u64::from(restore.is_some());
    as_attempt(plan, restore, attempt)
}

pub(crate) fn as_attempt(plan: &Plan, restore: Option<Restore>, attempt: u64) -> Result<LocalRun> {
    let threads = Arc::new(Threads::inline_slots(2)?);
    start_attempt(plan, threads, Clock::new(SystemTime::now), None, restore, attempt)
}

/// Runs to the end; the number of errors that were counted.
pub(crate) async fn finish(plan: Plan) -> Result<u64> {
    let run = try_start(&plan, None)?;
    let readings = tokio::time::timeout(PATIENCE, run.finish()).await.unwrap()?;
    Ok(readings.iter().flat_map(|t| &t.operators).map(|o| o.errors).sum())
}

/// Writes orders to a topic, keyed by the item.
pub(crate) async fn fill(kafka: &Kafka, topic: &str, from: u64, count: u64) {
    let flow = flow(OnError::Fail);
    flow.source("orders", generate(count, move |i| order(from + i)))
        .untimed()
        .sink("topic", kafka.write::<Order>(topic).json().key(|o| o.item.clone()));
    finish(flow.finish().unwrap()).await.unwrap();
}

/// Waits until something holds, with rounds of confirmations meanwhile: a task that fails is heard of.
pub(crate) async fn going<T>(run: &mut LocalRun, holds: impl Future<Output = T>) -> T {
    static ROUND: AtomicU64 = AtomicU64::new(1);
    let rounds = async {
        loop {
            run.confirm(ROUND.fetch_add(1, Relaxed)).await.unwrap();
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::select! {
        biased;
        held = holds => held,
        () = rounds => unreachable!("it has no end"),
    }
}

pub(crate) fn on<T: 'static>(test: impl AsyncFnOnce() -> T + 'static) -> T {
    afflux_actor::system(|| async move { test().await }).unwrap()
}

/// A broker of one test's own.
pub(crate) struct Own {
    directory: tempfile::TempDir,
    pub(crate) address: String,
}

impl Own {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// With properties of its own.
    pub(crate) fn with(properties: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = script_with(&["start"], directory.path(), properties, "");
        Self { directory, address }
    }

    /// With another port for TLS, which has this key and these certificates: its address, too.
    #[cfg(feature = "kafka-tls")]
    pub(crate) fn with_tls(pem: &str) -> (Self, String) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("broker.pem");
        std::fs::write(&file, pem).unwrap();
        let address = script_with(&["start"], directory.path(), "", file.to_str().unwrap());
        let port = std::fs::read_to_string(directory.path().join("port.tls")).unwrap();
        (Self { directory, address }, format!("127.0.0.1:{}", port.trim()))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        script(&["kill"], self.directory.path());
    }
}

/// Runs the script of the server.
pub(crate) fn script(command: &[&str], directory: &Path) -> String {
    script_with(command, directory, "", "")
}

fn script_with(command: &[&str], directory: &Path, properties: &str, tls: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/servers/kafka.sh");
    let (first, rest) = command.split_first().unwrap();
    let mut command = Command::new(script);
    command.arg(first).arg(directory).args(rest).env("KAFKA_PROPERTIES", properties).env("KAFKA_TLS", tls);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What Kafka's own console consumer sees of a topic, as a reader of committed records: key and body.
pub(crate) fn console(server: &str, topic: &str) -> Vec<(String, String)> {
    let consumer = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let out = script(
        &[
            "java",
            consumer,
            "--bootstrap-server",
            server,
            "--topic",
            topic,
            "--from-beginning",
            "--isolation-level",
            "read_committed",
            "--timeout-ms",
            "5000",
            "--property",
            "print.key=true",
        ],
        Path::new("."),
    );
    let pair = |line: &str| line.split_once('\t').map(|(key, body)| (key.to_owned(), body.to_owned()));
    out.lines().filter_map(pair).collect()
}
