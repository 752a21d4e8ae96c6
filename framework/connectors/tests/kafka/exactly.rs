//! A topic as a sink with transactions, read by Kafka's own consumer of committed records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use afflux_connectors::Kafka;
use afflux_stream::job::LocalRun;
use afflux_stream::{Flow, JobSettings, Plan, Restore, generate};

use crate::common::*;

/// What is read is counted here, whether it counts or not.
type Seen = Arc<AtomicU64>;

struct Copy {
    kafka: Kafka,
    from: String,
    to: String,
    seen: Seen,
    fed: AtomicU64,
}

impl Copy {
    fn new(kafka: Kafka, from: String, to: String) -> Self {
        Self { kafka, from, to, seen: Seen::default(), fed: AtomicU64::new(0) }
    }

    /// Copies a topic; to its end of now, or for ever.
    fn plan(&self, parallelism: u32, bounded: bool) -> Plan {
        let settings = JobSettings { parallelism, checkpoint_interval_ms: 1_000, ..JobSettings::default() };
        let flow = Flow::new(&self.to, settings);
        let (seen, read) = (Arc::clone(&self.seen), self.kafka.read(&*self.from));
        let read = if bounded { read.bounded() } else { read };
        flow.source("in", read.json::<Order>())
            .untimed()
            .inspect(move |_| {
                seen.fetch_add(1, Relaxed);
            })
            // The same item comes to the same task, so its order is kept.
            .key_by(|o: &Order| o.item.clone())
            .reduce("last", |_, new| new)
            .sink(
                "out",
                self.kafka
                    .write::<Order>(&*self.to)
                    .json()
                    .key(|o| o.item.clone())
                    .unsent_max(100)
                    .transaction_timeout(Duration::from_secs(60))
                    .exactly_once(),
            );
        flow.finish().unwrap()
    }

    /// Writes so many more to the topic that is copied.
    async fn feed(&self, orders: u64) {
        let from = self.fed.fetch_add(orders, Relaxed);
        fill(&self.kafka, &self.from, from, orders).await;
    }

    /// Waits until so many were read, some of them again.
    async fn sees(&self, run: &mut LocalRun, target: u64) {
        let end = tokio::time::Instant::now() + PATIENCE / 2;
        while self.seen.load(Relaxed) < target {
            if tokio::time::Instant::now() > end {
                let why = tokio::time::timeout(PATIENCE / 6, run.save(1 << 40)).await;
                let why = why.map(|saved| saved.map(|_| "all is well").unwrap_or_else(|e| panic!("{e}")));
                panic!("{:?} of {target} were read: {why:?}", self.seen);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn seen(&self) -> u64 {
        self.seen.load(Relaxed)
    }
}

/// Numbers that a seed decides.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Every order once, those of one item in their order.
fn once_each(server: &str, topic: &str, orders: u64) {
    let rows = console(server, topic);
    let (mut last, mut twice, mut disordered) = (BTreeMap::new(), 0, 0);
    for (key, body) in &rows {
        let order: Order = serde_json::from_str(body).unwrap();
        assert_eq!(*key, order.item);
        match last.insert(order.item, order.id) {
            Some(before) if before == order.id => twice += 1,
            Some(before) if before > order.id => disordered += 1,
            _ => {}
        }
    }
    eprintln!("{} of {orders} records, {twice} twice, {disordered} out of order", rows.len());
    assert_eq!((rows.len() as u64, twice, disordered), (orders, 0, 0));
}

async fn end(run: LocalRun) {
    tokio::time::timeout(2 * PATIENCE, run.finish()).await.expect("it never ended").unwrap();
}

#[test]
#[ignore = "needs Kafka"]
fn each_record_is_read_once_after_attempts_that_died_at_every_point_and_in_other_numbers_of_tasks() {
    const ORDERS: u64 = 12_000;
    const DEATHS: u64 = 24;
    on(async || {
        let (server, kafka) = (server(), Kafka::at(server()));
        let (from, to) = (topic(&server, "from", 3).await, topic(&server, "to", 3).await);
        let copy = Copy::new(kafka, from, to);
        let mut dice = Dice(0x5eed_1234_abcd_0001);
        let mut saved: Option<Restore> = None;
        let (mut epoch, mut kinds) = (0, [0; 4]);
        for death in 1..=DEATHS {
            let plan = copy.plan(1 + dice.roll(3) as u32, false);
            let mut run = as_attempt(&plan, saved.clone(), death).unwrap();
            let before = copy.seen();
            copy.feed(ORDERS / DEATHS).await;
            // Of those at least that were written just now.
            let target = before + 1 + dice.roll(ORDERS / DEATHS - 1);
            let kind = dice.roll(4);
            kinds[kind as usize] += 1;
            eprintln!("attempt {death}, death of kind {kind}, {} seen", copy.seen());
            match kind {
                // Before a checkpoint: what was written is given up.
                0 => copy.sees(&mut run, target).await,
                // In the middle of one.
                1 => {
                    epoch += 1;
                    copy.sees(&mut run, target).await;
                    tokio::select! {
                        biased;
                        _ = run.save(epoch) => {}
                        () = tokio::time::sleep(Duration::from_millis(dice.roll(30))) => {}
                    }
                }
                // When it is durable and before anybody is told: the next attempt commits.
                2 => {
                    epoch += 1;
                    copy.sees(&mut run, target).await;
                    saved = Some(run.save(epoch).await.unwrap());
                }
                // Somewhere in the commit, or behind it.
                _ => {
                    epoch += 1;
                    copy.sees(&mut run, target).await;
                    saved = Some(run.checkpoint(epoch).await.unwrap());
                    tokio::time::sleep(Duration::from_millis(dice.roll(30))).await;
                }
            }
            drop(run);
        }
        assert!(kinds.iter().all(|times| *times > 0), "{kinds:?}");
        end(as_attempt(&copy.plan(2, true), saved, DEATHS + 1).unwrap()).await;
        eprintln!("{DEATHS} deaths: {kinds:?} before, in, behind a checkpoint, in its commit");
        once_each(&server, &copy.to, ORDERS);
    });
}

#[cfg(feature = "kafka-tls")]
#[test]
#[ignore = "needs Kafka"]
fn each_record_is_read_once_over_tls_when_another_attempt_commits() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    const ORDERS: u64 = 2_000;
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &root).unwrap();
    let (server, inside_tls) = Own::with_tls(&[key.serialize_pem(), leaf.pem(), root.pem()].concat());
    let address = server.address.clone();
    on(async move || {
        let kafka = Kafka::at(inside_tls).set("security.protocol", "ssl").set("ssl.ca.pem", root.pem());
        let (from, to) = (topic(&address, "from", 2).await, topic(&address, "to", 2).await);
        let copy = Copy::new(kafka, from, to);
        let mut run = as_attempt(&copy.plan(2, false), None, 1).unwrap();
        copy.feed(ORDERS / 2).await;
        copy.sees(&mut run, ORDERS / 4).await;
        // It dies when that is durable and before anybody is told: the next attempt asks and commits inside TLS.
        let saved = run.save(1).await.unwrap();
        drop(run);
        copy.feed(ORDERS / 2).await;
        end(as_attempt(&copy.plan(3, true), Some(saved), 2).unwrap()).await;
        once_each(&address, &copy.to, ORDERS);
    });
    drop(server);
}

#[test]
#[ignore = "needs Kafka"]
fn each_record_is_read_once_when_broker_and_job_die_in_turn() {
    const ORDERS: u64 = 12_000;
    let server = Own::start();
    let (address, directory) = (server.address.clone(), server.path());
    on(async move || {
        let kafka = Kafka::at(&*address);
        let (from, to) = (topic(&address, "from", 3).await, topic(&address, "to", 2).await);
        let copy = Copy::new(kafka, from, to);
        // The job lives on.
        let mut run = as_attempt(&copy.plan(2, false), None, 1).unwrap();
        copy.feed(ORDERS / 4).await;
        copy.sees(&mut run, copy.fed.load(Relaxed) - ORDERS / 8).await;
        run.checkpoint(1).await.unwrap();
        copy.feed(ORDERS / 4).await;
        copy.sees(&mut run, copy.fed.load(Relaxed) - ORDERS / 8).await;
        script(&["kill"], &directory);
        script(&["start"], &directory);
        let saved = tokio::time::timeout(2 * PATIENCE, run.checkpoint(2)).await.unwrap();
        // A transaction may not outlive a coordinator in the middle of its first record: then the
        // attempt ends, and the next goes on.
        let saved = match saved {
            Ok(_) => {
                copy.feed(ORDERS / 4).await;
                copy.sees(&mut run, copy.fed.load(Relaxed) - ORDERS / 8).await;
                run.save(3).await.unwrap()
            }
            Err(error) => panic!("a restart of the broker ended the attempt: {error}"),
        };
        // The job and the broker die at once, between manifest and commit.
        script(&["kill"], &directory);
        drop(run);
        script(&["start"], &directory);
        copy.feed(ORDERS / 4).await;
        let target = copy.seen() + 100;
        let mut run = as_attempt(&copy.plan(1, false), Some(saved.clone()), 2).unwrap();
        copy.sees(&mut run, target).await;
        drop(run);
        end(as_attempt(&copy.plan(3, true), Some(saved), 3).unwrap()).await;
        once_each(&address, &copy.to, ORDERS);
    });
    drop(server);
}

#[test]
#[ignore = "needs Kafka"]
fn a_broker_whose_limit_is_too_short_is_refused_with_the_numbers_and_records_given_up_are_said() {
    let server = Own::with("transaction.max.timeout.ms=20000");
    let address = server.address.clone();
    on(async move || {
        let kafka = Kafka::at(&*address);
        let to = topic(&address, "limits", 1).await;
        let write = async |interval_ms: u64, timeout: Option<u64>| {
            let settings = JobSettings { checkpoint_interval_ms: interval_ms, ..JobSettings::default() };
            let flow = Flow::new(&to, settings);
            let sink = kafka.write::<Order>(&*to).json().key(|o| o.item.clone());
            let sink = match timeout {
                Some(seconds) => sink.transaction_timeout(Duration::from_secs(seconds)),
                None => sink,
            };
            flow.source("in", generate(70, order)).untimed().sink("out", sink.exactly_once());
            finish(flow.finish().unwrap()).await
        };
        let error = write(10_000, None).await.unwrap_err().message;
        for part in ["checkpoint.interval_ms=10000", "30000 ms", "20000 ms", "transaction.max.timeout.ms"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        let error = write(1_000, Some(60)).await.unwrap_err().message;
        for part in ["20000 ms", "60000 ms", "transaction.max.timeout.ms"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        let error = write(4_000, Some(15)).await.unwrap_err().message;
        assert!(error.contains("15000 ms") && error.contains("18000 ms"), "{error}");
        write(1_000, None).await.unwrap();
        once_each(&address, &to, 70);
    });
    drop(server);
}

#[test]
#[ignore = "needs Kafka"]
fn a_transaction_that_the_broker_has_given_up_is_an_error_that_names_it_unless_that_is_allowed() {
    on(async || {
        let (server, kafka) = (server(), Kafka::at(server()));
        let to = topic(&server, "lost", 1).await;
        let plan = |lost| {
            let settings = JobSettings { checkpoint_interval_ms: 1, ..JobSettings::default() };
            let flow = Flow::new(&to, settings);
            let sink = kafka.write::<Order>(&*to).json().key(|o| o.item.clone());
            let sink = sink.transaction_timeout(Duration::from_millis(10_100)).when_lost(lost);
            flow.source("in", kafka.read(&*to).json::<Order>()).untimed().sink("out", sink.exactly_once());
            flow.finish().unwrap()
        };
        fill(&kafka, &to, 0, 10).await;
        let mut run = as_attempt(&plan(afflux_connectors::Lost::Fail), None, 1).unwrap();
        let written = async |run: &mut LocalRun| {
            let out = || run.readings().iter().flat_map(|t| &t.operators).map(|o| o.records_out).max();
            until(async || out() >= Some(10), || "nothing was written".into()).await;
        };
        written(&mut run).await;
        let saved = run.save(1).await.unwrap();
        drop(run);
        // The broker looks every half second for those whose time is over.
        tokio::time::sleep(Duration::from_secs(13)).await;
        let mut run = as_attempt(&plan(afflux_connectors::Lost::Fail), Some(saved.clone()), 2).unwrap();
        let error = tokio::time::timeout(PATIENCE, run.save(2)).await.unwrap().err().unwrap().message;
        for part in ["transaction `afflux-", "transaction.timeout.ms", "Lost::GoOn"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        drop(run);
        let mut run = as_attempt(&plan(afflux_connectors::Lost::GoOn), Some(saved), 3).unwrap();
        tokio::time::timeout(PATIENCE, run.save(2)).await.unwrap().unwrap();
    });
}
