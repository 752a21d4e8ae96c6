//! The same between two topics of a real Kafka: records are read from one, counted by key, and written to the other
//! in transactions. What is committed is read by Kafka's own console consumer.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use afflux::{App, Error, Result};
use afflux_connectors::Kafka;
use afflux_stream::Flow;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::ledger::Ledger;
use crate::out::Look;
use crate::pipeline::{MISTAKE, Mistake, Row, SPLITS};

/// The pipeline's name.
pub(crate) const PIPELINE: &str = "topics";
/// The environment variables of nodes that say where Kafka is, and what its topics' names begin with.
const BROKERS: &str = "CHAOS_KAFKA";
const PREFIX: &str = "CHAOS_KAFKA_PREFIX";
/// Records of a split in a second.
const RATE: u64 = 100;
/// Records of a split that are given at once, at most.
const GIVEN_AT_ONCE_MAX: u64 = 200;
/// Partitions of what is written.
const PARTITIONS_OUT: i32 = 4;
/// How long a transaction may be open: readers wait for one whose process has died, until the next attempt has given
/// it up.
const TRANSACTION_MAX: Duration = Duration::from_secs(30);
/// Lines of the consumer that wait to be looked at; with more it waits.
const LINES_MAX: usize = 65_536;
/// The consumer ends when nothing has come for so long.
const SILENCE_MS: &str = "8000";
/// What starts Kafka's own tools.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../servers/kafka.sh");

fn name_in(prefix: &str) -> String {
    format!("{prefix}.in")
}

fn name_out(prefix: &str) -> String {
    format!("{prefix}.out")
}

/// Adds the pipeline, where this node is told of a Kafka.
pub(crate) fn add(app: App) -> App {
    let told = |name: &str| std::env::var(name).ok();
    let (Some(brokers), Some(prefix)) = (told(BROKERS), told(PREFIX)) else { return app };
    app.pipeline(PIPELINE, move |flow| {
        build(flow, &brokers, &prefix);
        Ok(())
    })
}

fn build(flow: &Flow, brokers: &str, prefix: &str) {
    let kafka = Kafka::at(brokers);
    let counted = flow
        .source("numbers", kafka.read(name_in(prefix)).json::<Row>())
        .untimed()
        .key_by(|row: &Row| row.key)
        .reduce("counter", |a, b| Row { count: a.count + b.count, ..b });
    let topic = kafka
        .write::<Row>(name_out(prefix))
        .json()
        .key(|row| row.key.to_string())
        .transaction_timeout(TRANSACTION_MAX);
    if std::env::var(MISTAKE).as_deref() == Ok(Mistake::Repeat.word()) {
        // What was written behind the last checkpoint is written again.
        counted.sink("topic", topic);
    } else {
        counted.sink("topic", topic.exactly_once());
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error::failed(format!("{what}: {error}"))
}

/// The two topics, what fills the one, and who reads the other.
pub(crate) struct Topics {
    brokers: String,
    prefix: String,
    directory: PathBuf,
    producer: ThreadedProducer<DefaultProducerContext>,
    began: Instant,
    /// Records that each split has been given.
    given: Vec<u64>,
    /// No more are given.
    over: bool,
    console: Console,
}

impl Topics {
    /// Makes the topics.
    ///
    /// # Errors
    /// What Kafka does not do, or that its tools are not there.
    pub(crate) async fn make(brokers: &str, directory: &Path) -> Result<Self> {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("chaos-{:x}-{}", began.as_millis(), std::process::id());
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers);
        let admin: AdminClient<DefaultClientContext> =
            config.create().map_err(|error| failed("a client of Kafka", error))?;
        for (name, partitions) in
            [(name_in(&prefix), i32::try_from(SPLITS).unwrap_or(1)), (name_out(&prefix), PARTITIONS_OUT)]
        {
            let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
            let made = admin.create_topics([&topic], &AdminOptions::new()).await;
            let made = made.map_err(|error| failed("topics of Kafka", error))?;
            if let Some(Err((_, code))) = made.into_iter().find(std::result::Result::is_err) {
                return Err(failed(&format!("topic {name}"), code));
            }
        }
        config.set("enable.idempotence", "true").set("linger.ms", "5");
        let producer = config.create().map_err(|error| failed("a producer of Kafka", error))?;
        let console = Console::start(brokers, &name_out(&prefix), directory, false)?;
        Ok(Self {
            brokers: brokers.to_owned(),
            prefix,
            directory: directory.to_owned(),
            producer,
            began: Instant::now(),
            given: vec![0; SPLITS as usize],
            over: false,
            console,
        })
    }

    /// What a node has to be told.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![(BROKERS, self.brokers.clone()), (PREFIX, self.prefix.clone())]
    }

    /// Gives what is due, and hands all that was committed since the last look to the ledger.
    ///
    /// # Errors
    /// A producer that cannot send, a consumer that has ended.
    pub(crate) fn look(&mut self, ledger: &mut Ledger) -> io::Result<Look> {
        self.give()?;
        let mut look = Look::default();
        loop {
            match self.console.lines.try_recv() {
                Ok(line) => look.made_ms = look.made_ms.max(take(ledger, &line)),
                Err(TryRecvError::Empty) => return Ok(look),
                Err(TryRecvError::Disconnected) => {
                    return Err(io::Error::other(format!(
                        "Kafka's consumer has ended: see {}",
                        log_of(&self.directory).display()
                    )));
                }
            }
        }
    }

    fn give(&mut self) -> io::Result<()> {
        if self.over {
            return Ok(());
        }
        let due = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX) * RATE / 1_000;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let made_ms = i64::try_from(wall.as_millis()).unwrap_or(i64::MAX);
        let topic = name_in(&self.prefix);
        for (split, given) in (0..SPLITS).zip(&mut self.given) {
            for _ in *given..due.min(*given + GIVEN_AT_ONCE_MAX) {
                let row = Row::of(split, *given, made_ms);
                let text = serde_json::to_vec(&row).map_err(io::Error::other)?;
                let partition = i32::try_from(split).unwrap_or(0);
                let record = BaseRecord::<(), [u8]>::to(&topic).partition(partition).payload(text.as_slice());
                match self.producer.send(record) {
                    Ok(()) => *given += 1,
                    // The next turn goes on here.
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => break,
                    Err((error, _)) => return Err(io::Error::other(error)),
                }
            }
        }
        Ok(())
    }

    /// Gives no more; how many records there are in all once those on their way have arrived.
    ///
    /// # Errors
    /// What has not arrived after this long.
    pub(crate) fn finish(&mut self, patience: Duration) -> Result<u64> {
        self.over = true;
        self.producer.flush(patience).map_err(|error| failed("records that are read", error))?;
        Ok(self.given.iter().sum())
    }

    /// Records that every split has been given at least.
    pub(crate) fn each(&self) -> u64 {
        self.given.iter().copied().min().unwrap_or(0)
    }

    /// All that is committed, read once more from its beginning by a consumer of its own.
    ///
    /// # Errors
    /// A consumer that cannot be started.
    pub(crate) async fn judged(&mut self, patience: Duration) -> Result<Ledger> {
        self.console.end();
        let mut console = Console::start(&self.brokers, &name_out(&self.prefix), &self.directory, true)?;
        let (mut ledger, began) = (Ledger::default(), Instant::now());
        loop {
            match console.lines.try_recv() {
                Ok(line) => drop(take(&mut ledger, &line)),
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) if began.elapsed() > patience => {
                    return Err(Error::failed("Kafka's consumer does not come to an end"));
                }
                Err(TryRecvError::Empty) => tokio::time::sleep(crate::cluster::TICK).await,
            }
        }
        console.end();
        Ok(ledger)
    }
}

/// Takes in a line; when its record was given.
fn take(ledger: &mut Ledger, line: &str) -> i64 {
    match serde_json::from_str::<Row>(line) {
        Ok(row) => {
            ledger.take("topic", &row);
            row.made_ms
        }
        Err(error) => {
            ledger.examples.push(format!("`{line}` is no row: {error}"));
            0
        }
    }
}

fn log_of(directory: &Path) -> PathBuf {
    directory.join("logs").join("console-consumer.log")
}

/// `kafka-console-consumer`, as a reader of committed records, from the first one on.
struct Console {
    child: Child,
    lines: Receiver<String>,
}

impl Console {
    /// Reads a topic; with `ends` until nothing comes any more.
    fn start(brokers: &str, topic: &str, directory: &Path, ends: bool) -> Result<Self> {
        let start = || {
            let log = log_of(directory);
            std::fs::create_dir_all(log.parent().unwrap_or(directory))?;
            let log = File::options().create(true).append(true).open(log)?;
            let mut command = Command::new(SCRIPT);
            command.args(["java", ".", "org.apache.kafka.tools.consumer.ConsoleConsumer"]);
            command.args(["--bootstrap-server", brokers, "--topic", topic, "--from-beginning"]);
            command.args(["--isolation-level", "read_committed"]);
            if ends {
                command.args(["--timeout-ms", SILENCE_MS]);
            }
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()
        };
        let mut child = start().map_err(|error| failed(SCRIPT, error))?;
        let said = child.stdout.take().ok_or_else(|| Error::failed("a consumer without an output"))?;
        let (sender, lines) = sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(io::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn end(&mut self) {
        // Gone, or about to be.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.end();
    }
}
