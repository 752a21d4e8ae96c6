//! Where a pipeline reads the auction: a log of events in memory, in partitions.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use afflux::prelude::*;
use afflux_stream::{Batch, IoContext, ReadState, Source, Split, SplitReader};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use parking_lot::Mutex;

use crate::events::{Auction, Bid, Entry, Person};

/// The moment of the first event: 2015-07-15T00:00:00Z.
const BASE_TIME_MS: u64 = 1_436_918_400_000;

/// A partition.
struct Share {
    all: Vec<Entry>,
    /// Persons and auctions alone, so that who reads these need not look at twelve times as many bids.
    rare: Vec<Entry>,
}

type Shares = BTreeMap<(usize, usize), Arc<Share>>;

/// Of this many events in a row [`RARE`] are persons or auctions: those that come first.
const ROUND: usize = 50;
const RARE: usize = 4;

/// A log of the first events of an auction. A clone is the same log.
///
/// Partition `p` of `P` holds the events number `p, p + P, …` in their order. It is made when it is
/// first read, or by [`Log::prepare`], and kept: making an event costs far more than a query.
///
/// ```
/// use afflux_nexmark::Log;
/// let log = Log::new(1_000, 500);
/// assert_eq!(log.prepare(0, 4) + log.prepare(1, 4) + log.prepare(2, 4) + log.prepare(3, 4), 1_000);
/// ```
#[derive(Clone)]
pub struct Log {
    events: usize,
    rate: usize,
    shares: Arc<Mutex<Shares>>,
}

impl Log {
    /// The first `events` events of an auction with `rate` events a second.
    pub fn new(events: usize, rate: usize) -> Self {
        Self { events, rate, shares: Arc::default() }
    }

    fn generator(&self) -> EventGenerator {
        EventGenerator::new(NexmarkConfig {
            base_time: BASE_TIME_MS,
            first_rate: self.rate,
            next_rate: self.rate,
            ..Default::default()
        })
    }

    /// Makes a partition, so that a reader finds it ready; returns how many events it holds.
    pub fn prepare(&self, partition: usize, partitions: usize) -> usize {
        self.share(partition, partitions).all.len()
    }

    fn share(&self, partition: usize, partitions: usize) -> Arc<Share> {
        let mut shares = self.shares.lock();
        let share = shares.entry((partition, partitions)).or_insert_with(|| {
            let count = self.events.saturating_sub(partition).div_ceil(partitions);
            let events =
                self.generator().with_offset(partition as u64).with_step(partitions as u64).take(count);
            let all: Vec<Entry> = events.map(Entry::from).collect();
            let rare = all.iter().filter(|entry| entry.bid().is_none()).cloned().collect();
            Arc::new(Share { all, rare })
        });
        Arc::clone(share)
    }

    /// Everything, in order.
    pub fn entries(&self) -> Vec<Entry> {
        self.share(0, 1).all.clone()
    }

    /// A source of what the closure finds in an event.
    pub fn select<T: Send + 'static>(
        &self,
        find: impl Fn(&Entry) -> Option<T> + Send + Sync + 'static,
    ) -> Select<T> {
        Select { log: self.clone(), rare: false, find: Arc::new(find) }
    }

    /// The same over persons and auctions alone.
    fn select_rare<T: Send + 'static>(
        &self,
        find: impl Fn(&Entry) -> Option<T> + Send + Sync + 'static,
    ) -> Select<T> {
        Select { rare: true, ..self.select(find) }
    }

    /// A source of all events.
    pub fn all(&self) -> Select<Entry> {
        self.select(|entry| Some(entry.clone()))
    }

    /// A source of the persons alone.
    pub fn persons(&self) -> Select<Arc<Person>> {
        self.select_rare(Entry::person)
    }

    /// A source of the auctions alone.
    pub fn auctions(&self) -> Select<Arc<Auction>> {
        self.select_rare(Entry::auction)
    }

    /// A source of the persons and the auctions, in their order.
    pub fn persons_and_auctions(&self) -> Select<Entry> {
        self.select_rare(|entry| Some(entry.clone()))
    }

    /// A source of the auctions and the bids, in their order.
    pub fn auctions_and_bids(&self) -> Select<Entry> {
        self.select(|entry| Some(entry).filter(|entry| entry.person().is_none()).cloned())
    }

    /// A source of the bids alone.
    pub fn bids(&self) -> Select<Arc<Bid>> {
        self.select(Entry::bid)
    }

    /// Writes `person.json`, `auction.json` and `bid.json` below a directory, an event a line, in the
    /// generator's own form: what an independent engine reads.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_json(&self, directory: &Path) -> std::io::Result<()> {
        use nexmark::event::Event as Made;
        let file = |name| std::fs::File::create(directory.join(name)).map(BufWriter::new);
        let (mut persons, mut auctions, mut bids) =
            (file("person.json")?, file("auction.json")?, file("bid.json")?);
        for event in self.generator().take(self.events) {
            let (file, line) = match &event {
                Made::Person(person) => (&mut persons, serde_json::to_string(person)?),
                Made::Auction(auction) => (&mut auctions, serde_json::to_string(auction)?),
                Made::Bid(bid) => (&mut bids, serde_json::to_string(bid)?),
            };
            writeln!(file, "{line}")?;
        }
        persons.flush()?;
        auctions.flush()?;
        bids.flush()
    }
}

/// How a source finds its record in an event.
type Find<T> = Arc<dyn Fn(&Entry) -> Option<T> + Send + Sync>;

/// A source of some of the events of a [`Log`].
pub struct Select<T> {
    log: Log,
    /// Whether bids are passed over from the start.
    rare: bool,
    find: Find<T>,
}

impl<T> Select<T> {
    /// Events that the reader of a partition looks at.
    fn size(&self, partition: usize, partitions: usize) -> u64 {
        let looked_at = |event: &usize| !self.rare || event % ROUND < RARE;
        (partition..self.log.events).step_by(partitions).filter(looked_at).count() as u64
    }
}

impl<T: Send + 'static> Source for Select<T> {
    type Item = T;

    fn splits(&self, cx: &IoContext) -> Result<Vec<Split>, Status> {
        let count = cx.parallelism.max(1) as usize;
        Ok((0..count)
            .map(|partition| Split {
                id: format!("{partition}/{count}"),
                payload: Vec::new(),
                size: Some(self.size(partition, count)),
            })
            .collect())
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        _: &IoContext,
    ) -> Result<Box<dyn SplitReader<T>>, Status> {
        let (partition, partitions) = Log::partition(&split.id)
            .ok_or_else(|| Status::internal(format!("split `{}` is not PARTITION/COUNT", split.id)))?;
        let next = match position {
            None => 0,
            Some(bytes) => u64::from_le_bytes(bytes.try_into().map_err(|_| {
                Status::new(Code::DataLoss, format!("position of split {} is not 8 bytes", split.id))
            })?),
        };
        let share = self.log.share(partition, partitions);
        Ok(Box::new(Reader { share, rare: self.rare, find: Arc::clone(&self.find), next: next as usize }))
    }

    fn kind(&self) -> &'static str {
        "nexmark"
    }
}

impl Log {
    /// The partition, and of how many, that a split of this id reads.
    pub fn partition(split: &str) -> Option<(usize, usize)> {
        let (partition, partitions) = split.split_once('/')?;
        Some((partition.parse().ok()?, partitions.parse().ok().filter(|count| *count > 0)?))
    }
}

struct Reader<T> {
    share: Arc<Share>,
    rare: bool,
    find: Find<T>,
    /// Index of the next event among those looked at.
    next: usize,
}

impl<T: Send + 'static> SplitReader<T> for Reader<T> {
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState, Status>> {
        let events = if self.rare { &self.share.rare } else { &self.share.all };
        let rest = events.get(self.next..).unwrap_or_default();
        let now = &rest[..rest.len().min(rows_max)];
        batch.rows.extend(now.iter().filter_map(|entry| (self.find)(entry)));
        self.next += now.len();
        Poll::Ready(Ok(if now.len() == rest.len() { ReadState::End } else { ReadState::More }))
    }

    fn position(&self) -> Vec<u8> {
        (self.next as u64).to_le_bytes().to_vec()
    }

    fn progress(&self) -> u64 {
        self.next as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partitions_hold_every_event_once() {
        let log = Log::new(1_000, 500);
        for partitions in [2, 3, 4] {
            let shares: Vec<Arc<Share>> = (0..partitions).map(|p| log.share(p, partitions)).collect();
            let woven: Vec<Entry> =
                (0..1_000).map(|i| shares[i % partitions].all[i / partitions].clone()).collect();
            assert_eq!(woven, log.entries());
        }
    }

    #[test]
    fn a_source_knows_how_many_events_it_looks_at() {
        let log = Log::new(1_003, 500);
        for (partition, partitions) in [(0, 1), (1, 3), (2, 4)] {
            let share = log.share(partition, partitions);
            assert_eq!(log.persons().size(partition, partitions), share.rare.len() as u64);
            assert_eq!(log.bids().size(partition, partitions), share.all.len() as u64);
        }
    }

    #[test]
    fn persons_auctions_and_bids_come_one_three_and_forty_six_to_fifty() {
        let log = Log::new(5_000, 500);
        let of = |find: fn(&Entry) -> bool| log.entries().iter().filter(|e| find(e)).count();
        assert_eq!(of(|e| e.person().is_some()), 100);
        assert_eq!(of(|e| e.auction().is_some()), 300);
        assert_eq!(of(|e| e.bid().is_some()), 4_600);
    }
}
