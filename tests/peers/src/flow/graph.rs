//! The dataflows of W1 to W4.
//!
//! Timestamps are watermarks: W3's source holds its capability at the greatest event time seen minus the
//! lag, so that timely's frontier is the minimum over all source partitions and a window fires when the
//! frontier has passed its end. The other workloads run at time 0 and give their results when the input ends.

use super::{Job, Workload};
use crate::hand::{Windows, add};
use crate::hash::{FoldMap, fold};
use crate::workload::{
    W3_LAG_MS, Words, rnd, share, w1_keep, w1_map, w2_record, w2_term, w3_record, w3_term, w4_term,
};
use std::cell::Cell;
use std::hash::Hasher;
use std::rc::Rc;
use std::sync::Arc;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{Scope, Stream};
use timely::worker::Worker;

/// Records in a source's batch.
const BATCH_RECORDS: u64 = 1024;
/// Batches that a source gives before the other operators run.
const BATCHES_PER_TURN: u64 = 8;
/// Lines of W4 in a source's batch; each holds ten words.
const BATCH_LINES: u64 = 128;

/// What a worker's sink has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Its share of the checksum.
    pub checksum: u64,
    /// Its result records.
    pub results: u64,
}

/// Shared between a worker's sink and whoever reads it at the end.
type FoundCell = Rc<Cell<Found>>;

/// Builds the dataflow of a job on a worker; the cell is complete when the worker has no dataflow left.
pub fn build(worker: &mut Worker, job: Job, words: Option<&Arc<Words>>) -> Rc<Cell<Found>> {
    let found = FoundCell::default();
    let sink = Rc::clone(&found);
    let share = Share {
        next: 0,
        partition: worker.index() as u64,
        partitions: worker.peers() as u64,
    };
    worker.dataflow::<u64, _, _>(|scope| match (job.workload, words) {
        (Workload::W1, _) => w1(scope, share, job, sink),
        (Workload::W2, _) => w2(scope, share, job, sink),
        (Workload::W3, _) => w3(scope, share, job, sink),
        (Workload::W4, Some(words)) => w4(scope, share, job, Arc::clone(words), sink),
        // `run` builds the words of every W4 job.
        (Workload::W4, None) => unreachable!("W4 without its words"),
    });
    found
}

/// A worker's place in its source partition.
#[derive(Clone, Copy, Debug)]
struct Share {
    next: u64,
    partition: u64,
    partitions: u64,
}

/// A source that makes batches of `batch_records` by `make`, and downgrades its capability after each turn to
/// what `watermark` says of the batch.
fn generate<'scope, D: Clone + 'static>(
    scope: Scope<'scope, u64>,
    mut share_of: Share,
    records: u64,
    batch_records: u64,
    make: impl Fn(u64) -> D + 'static,
    watermark: impl Fn(u64, &[D]) -> u64 + 'static,
) -> Stream<'scope, u64, Vec<D>> {
    let end = share(share_of.partition, share_of.partitions, records);
    source(scope, "source", move |capability, info| {
        let activator = scope.activator_for(info.address);
        let mut capability = Some(capability);
        let mut batch = Vec::new();
        move |output| {
            let Some(held) = capability.as_mut() else {
                return;
            };
            let mut reached = *held.time();
            {
                let mut session = output.session(&*held);
                for _ in 0..BATCHES_PER_TURN {
                    let from = share_of.next;
                    share_of.next = end.min(from + batch_records);
                    if from == share_of.next {
                        break;
                    }
                    let (partition, partitions) = (share_of.partition, share_of.partitions);
                    batch.clear();
                    batch.reserve(batch_records as usize);
                    batch.extend((from..share_of.next).map(|n| make(partition + n * partitions)));
                    reached = watermark(reached, &batch);
                    session.give_container(&mut batch);
                }
            }
            if share_of.next == end {
                capability = None;
            } else {
                if reached > *held.time() {
                    held.downgrade(&reached);
                }
                activator.activate();
            }
        }
    })
    .container::<Vec<D>>()
}

/// Time stands still until the input ends.
fn timeless<D>(reached: u64, _: &[D]) -> u64 {
    reached
}

/// Gives every result to `term` and sums up.
fn collect<D: Clone + 'static>(
    results: Stream<'_, u64, Vec<D>>,
    found: FoundCell,
    term: impl Fn(&D) -> u64 + 'static,
) {
    results.sink(Pipeline, "sink", move |(input, _)| {
        let mut sum = found.get();
        input.for_each(|_, data| {
            sum.results += data.len() as u64;
            sum.checksum = data
                .iter()
                .fold(sum.checksum, |all, result| all.wrapping_add(term(result)));
        });
        found.set(sum);
    });
}

fn w1(scope: Scope<'_, u64>, share: Share, job: Job, found: FoundCell) {
    let branchless = job.branchless;
    let kept = generate(scope, share, job.records, BATCH_RECORDS, rnd, timeless)
        .unary::<CapacityContainerBuilder<Vec<u64>>, _, _, _>(Pipeline, "map", |_, _| {
            |input, output| {
                input.for_each(|time, data| {
                    data.iter_mut().for_each(|x| *x = w1_map(*x));
                    output.session(&time).give_container(data);
                });
            }
        })
        .unary::<CapacityContainerBuilder<Vec<u64>>, _, _, _>(Pipeline, "filter", move |_, _| {
            move |input, output| {
                input.for_each(|time, data| {
                    if branchless {
                        compact(data);
                    } else {
                        data.retain(|y| w1_keep(*y));
                    }
                    output.session(&time).give_container(data);
                });
            }
        });
    collect(kept, found, |_| 1);
}

/// Keeps the records that W1's filter keeps, in order, without a branch.
fn compact(data: &mut Vec<u64>) {
    let mut kept = 0;
    for place in 0..data.len() {
        let y = data[place];
        data[kept] = y;
        kept += usize::from(w1_keep(y));
    }
    data.truncate(kept);
}

/// The worker of a key takes the high bits of the hash, since the maps take the low ones and the top seven.
fn route(key: u64) -> u64 {
    fold(key) >> 32
}

fn w2(scope: Scope<'_, u64>, share: Share, job: Job, found: FoundCell) {
    let sums = generate(
        scope,
        share,
        job.records,
        BATCH_RECORDS,
        w2_record,
        timeless,
    )
    .unary_frontier::<CapacityContainerBuilder<Vec<(u64, u64)>>, _, _, _>(
        Exchange::new(|record: &(u64, u64)| route(record.0)),
        "sum",
        |_, _| {
            let mut sums = FoldMap::<u64, u64>::default();
            let mut held = None;
            move |(input, frontier), output| {
                input.for_each(|time, data| {
                    held.get_or_insert_with(|| time.retain(0));
                    for (key, value) in data.drain(..) {
                        add(&mut sums, key, value);
                    }
                });
                if frontier.is_empty()
                    && let Some(held) = held.take()
                {
                    output.session(&held).give_iterator(sums.drain());
                }
            }
        },
    );
    collect(sums, found, |(key, sum)| w2_term(*key, *sum));
}

fn w3(scope: Scope<'_, u64>, share: Share, job: Job, found: FoundCell) {
    // The greatest timestamp of a batch moves the watermark.
    let watermark = |reached: u64, batch: &[(u64, u64, u64)]| {
        batch.iter().fold(reached, |greatest, record| {
            greatest.max(record.2.saturating_sub(W3_LAG_MS))
        })
    };
    let sums = generate(
        scope,
        share,
        job.records,
        BATCH_RECORDS,
        w3_record,
        watermark,
    )
    .unary_frontier::<CapacityContainerBuilder<Vec<(u64, u64, u64)>>, _, _, _>(
        Exchange::new(|record: &(u64, u64, u64)| route(record.0)),
        "window",
        |_, _| {
            let mut windows = Windows::default();
            let mut held = None;
            move |(input, frontier), output| {
                input.for_each(|time, data| {
                    held.get_or_insert_with(|| time.retain(0));
                    for (key, value, timestamp) in data.drain(..) {
                        windows.add(timestamp, key, value);
                    }
                });
                // Every record to come has a timestamp at or after the frontier.
                let watermark = frontier.frontier().first().copied().unwrap_or(u64::MAX);
                let Some(capability) = held.as_mut() else {
                    return;
                };
                {
                    let mut session = output.session(&*capability);
                    windows.fire(watermark, |window, key, sum| {
                        session.give((window, key, sum))
                    });
                }
                if windows.is_empty() {
                    held = None;
                } else if watermark > *capability.time() {
                    capability.downgrade(&watermark);
                }
            }
        },
    );
    collect(sums, found, |(window, key, sum)| {
        w3_term(*window, *key, *sum)
    });
}

fn w4(scope: Scope<'_, u64>, share: Share, job: Job, words: Arc<Words>, found: FoundCell) {
    let line = move |i| {
        let mut line = String::with_capacity(96);
        words.write_line(i, &mut line);
        line
    };
    let counts = generate(scope, share, job.records, BATCH_LINES, line, timeless)
        .unary::<CapacityContainerBuilder<Vec<String>>, _, _, _>(Pipeline, "split", |_, _| {
            |input, output| {
                input.for_each(|time, data| {
                    let mut session = output.session(&time);
                    for line in data.drain(..) {
                        session.give_iterator(line.split(' ').map(str::to_owned));
                    }
                });
            }
        })
        .unary_frontier::<CapacityContainerBuilder<Vec<(String, u64)>>, _, _, _>(
            Exchange::new(|word: &String| route_word(word)),
            "count",
            |_, _| {
                let mut counts = FoldMap::<String, u64>::default();
                let mut held = None;
                move |(input, frontier), output| {
                    input.for_each(|time, data| {
                        held.get_or_insert_with(|| time.retain(0));
                        for word in data.drain(..) {
                            match counts.get_mut(word.as_str()) {
                                Some(count) => *count += 1,
                                None => drop(counts.insert(word, 1)),
                            }
                        }
                    });
                    if frontier.is_empty()
                        && let Some(held) = held.take()
                    {
                        output.session(&held).give_iterator(counts.drain());
                    }
                }
            },
        );
    collect(counts, found, |(word, count)| w4_term(word, *count));
}

/// The worker of a word.
fn route_word(word: &str) -> u64 {
    let mut hasher = crate::hash::FoldHasher::default();
    hasher.write(word.as_bytes());
    hasher.finish() >> 32
}
