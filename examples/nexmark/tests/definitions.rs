//! The queries that the independent engine has no digest of equal a plain computation over the whole log.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use afflux::prelude::*;
use afflux_nexmark::events::{Auction, Bid, Entry};
use afflux_nexmark::queries::{
    BidsInTime, Enriched, PerTenSeconds, SIDE_ROWS, SellerPrice, Valley, c0, q6, q12, q13, side_table,
};
use afflux_nexmark::{Log, run};
use afflux_sandbox::Collect;
use afflux_stream::{Harness, JobSettings, Record};
use proptest::prelude::*;

/// The rows of a query, sorted.
fn rows<T: Record + Ord>(log: &Log, parallelism: u32, query: impl FnOnce(&Flow, &Log, Collect<T>)) -> Vec<T> {
    let out = Collect::default();
    let flow = Flow::new("query", JobSettings { parallelism, ..JobSettings::default() });
    query(&flow, log, out.clone());
    run(flow.finish().unwrap()).unwrap();
    out.take_rows()
}

fn bids(log: &Log) -> Vec<Arc<Bid>> {
    log.entries().iter().filter_map(Entry::bid).collect()
}

fn auctions(log: &Log) -> Vec<Arc<Auction>> {
    log.entries().iter().filter_map(Entry::auction).collect()
}

/// For each seller, the winning prices of their auctions in the order of expiry, averaged over ten.
fn q6_by_definition(log: &Log) -> Vec<SellerPrice> {
    let bids = bids(log);
    let mut won: BTreeMap<u64, Vec<(Timestamp, u64, u64)>> = BTreeMap::new();
    for auction in auctions(log) {
        let of_it = bids.iter().filter(|b| b.auction == auction.id && auction.is_open_at(b.date_time));
        if let Some(price) = of_it.map(|b| b.price).max() {
            won.entry(auction.seller).or_default().push((auction.expires, auction.id, price));
        }
    }
    let mut rows = Vec::new();
    for (seller, mut won) in won {
        won.sort_unstable();
        for end in 1..=won.len() {
            let last = &won[end.saturating_sub(10)..end];
            let average = last.iter().map(|w| w.2).sum::<u64>() / last.len() as u64;
            rows.push(SellerPrice { seller, auction: last[last.len() - 1].1, average });
        }
    }
    rows.sort_unstable();
    rows
}

/// Tries a match at every bid in turn; after one it goes on with the bid that ended it.
fn c0_by_definition(log: &Log) -> Vec<Valley> {
    let mut prices: BTreeMap<u64, Vec<(Timestamp, u64, u64)>> = BTreeMap::new();
    for bid in bids(log) {
        prices.entry(bid.auction).or_default().push((bid.date_time, bid.bidder, bid.price));
    }
    let mut rows = Vec::new();
    for (auction, mut of_it) in prices {
        of_it.sort_unstable();
        let prices: Vec<u64> = of_it.iter().map(|bid| bid.2).collect();
        let mut first = 0;
        while first < prices.len() {
            let falls = prices[first..].windows(2).take_while(|pair| pair[1] < pair[0]).count();
            let bottom = first + falls;
            if falls > 0 && prices.get(bottom + 1).is_some_and(|to| *to > prices[bottom]) {
                rows.push(Valley {
                    auction,
                    from: prices[first],
                    bottom: prices[bottom],
                    to: prices[bottom + 1],
                    falls: falls as u64,
                });
                first = bottom + 1;
            } else {
                first += 1;
            }
        }
    }
    rows.sort_unstable();
    rows
}

#[test]
fn the_definitions_find_something() {
    let log = Log::new(20_000, 500);
    assert!(q6_by_definition(&log).len() > 300);
    assert!(q6_by_definition(&log).iter().filter(|row| row.seller == 1_000).count() > 10);
    assert!(c0_by_definition(&log).iter().any(|valley| valley.falls > 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn averages_of_sellers_are_those_of_a_plain_computation(
        events in 1_usize..8_000, rate in 10_usize..5_000, parallelism in 1_u32..5,
    ) {
        let log = Log::new(events, rate);
        prop_assert_eq!(rows(&log, parallelism, q6), q6_by_definition(&log));
    }

    #[test]
    fn valleys_of_prices_are_those_of_a_plain_computation(
        events in 1_usize..8_000, rate in 10_usize..5_000, parallelism in 1_u32..5,
    ) {
        let log = Log::new(events, rate);
        prop_assert_eq!(rows(&log, parallelism, c0), c0_by_definition(&log));
    }

    #[test]
    fn every_bid_gets_its_value_of_the_side_input(
        events in 1_usize..3_000, rate in 10_usize..5_000, parallelism in 1_u32..5,
    ) {
        let log = Log::new(events, rate);
        let side = side_table();
        let mut expected: Vec<(u64, u64, u64)> = bids(&log)
            .iter()
            .map(|bid| (bid.auction, bid.price, side[(bid.auction % SIDE_ROWS) as usize]))
            .collect();
        expected.sort_unstable();
        let found = rows(&log, parallelism, |flow: &Flow, log: &Log, out: Collect<(u64, u64, u64)>| {
            q13(flow, log, Thin(out));
        });
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn bids_are_counted_in_ten_seconds_of_the_clock(
        arrivals in proptest::collection::vec((0_u64..5, 0_u64..7_000), 1..200),
    ) {
        let mut now = 0;
        let mut counting = Harness::of(PerTenSeconds::new());
        let mut expected: BTreeMap<(u64, i64), u64> = BTreeMap::new();
        for (bidder, wait) in arrivals {
            now += wait as i64;
            counting.advance(millis_of(wait)).unwrap();
            counting.push(bidder, bidder, 0).unwrap();
            *expected.entry((bidder, now - now % 10_000)).or_default() += 1;
        }
        counting.end().unwrap();
        let mut found = counting.take();
        found.sort_unstable();
        let expected: Vec<BidsInTime> = expected
            .into_iter()
            .map(|((bidder, start), bids)| {
                BidsInTime { bidder, window_start: Timestamp::from_millis(start), bids }
            })
            .collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn every_bid_is_counted_once_by_the_clock() {
    let log = Log::new(5_000, 500);
    for parallelism in [1, 3] {
        let counted: u64 = rows(&log, parallelism, q12).iter().map(|row: &BidsInTime| row.bids).sum();
        assert_eq!(counted, 4_600);
    }
}

/// Collects what matters of an enriched bid.
struct Thin(Collect<(u64, u64, u64)>);

type Opened = afflux_stream::Result<Box<dyn afflux_stream::SinkWriter<Enriched>>>;

impl afflux_stream::Sink<Enriched> for Thin {
    fn open(&self, state: Option<&[u8]>, cx: &afflux_stream::IoContext) -> Opened {
        Ok(Box::new(ThinWriter(self.0.open(state, cx)?)))
    }
    fn kind(&self) -> &'static str {
        "thin"
    }
}

struct ThinWriter(Box<dyn afflux_stream::SinkWriter<(u64, u64, u64)>>);

impl afflux_stream::SinkWriter<Enriched> for ThinWriter {
    fn write(&mut self, batch: &mut afflux_stream::Batch<Enriched>) -> afflux_stream::Result<()> {
        let rows = batch.rows.drain(..).map(|e| (e.bid.auction, e.bid.price, e.value)).collect();
        self.0.write(&mut afflux_stream::Batch::untimed(rows))
    }
    fn snapshot(&mut self, epoch: u64) -> afflux_stream::Result<Vec<u8>> {
        self.0.snapshot(epoch)
    }
    fn end(&mut self) -> afflux_stream::Result<()> {
        self.0.end()
    }
}
