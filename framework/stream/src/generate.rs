//! Sources made of code: generators and vectors, for benchmarks, tests and examples.

use std::sync::Arc;
use std::task::{Context, Poll};

use crate::Result;
use crate::batch::Batch;
use crate::source::{IoContext, ReadState, Source, Split, SplitReader};
use afflux_wire::{Code, Status};

/// A bounded source whose record number `i` is `f(i)`; see [`generate`].
pub struct Generate<F> {
    records: u64,
    f: Arc<F>,
}

/// A source of `records` records, the `i`-th being `f(i)`; partition `p` of `P` makes `p, p+P, …`.
///
/// `P` is the parallelism that its job began with, over rescales and restores: that is how the positions in a
/// checkpoint count.
///
/// ```
/// use afflux_stream::{Flow, JobSettings, generate};
/// let flow = Flow::new("squares", JobSettings::default());
/// flow.source("numbers", generate(100, |i| i * i)).untimed().count("squares");
/// ```
pub fn generate<T, F: Fn(u64) -> T + Send + Sync + 'static>(records: u64, f: F) -> Generate<F> {
    Generate { records, f: Arc::new(f) }
}

/// A source of these records, for tests: one split.
pub fn vec_source<T: Clone + Send + Sync + 'static>(rows: Vec<T>) -> impl Source<Item = T> {
    let rows = Arc::new(rows);
    SingleSplit(generate(rows.len() as u64, move |i| rows.get(i as usize).cloned()), std::marker::PhantomData)
}

struct SingleSplit<T, F>(Generate<F>, std::marker::PhantomData<fn() -> T>);

impl<T: Send + 'static, F: Fn(u64) -> Option<T> + Send + Sync + 'static> Source for SingleSplit<T, F> {
    type Item = T;
    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        Ok(vec![Split { id: "0/1".into(), payload: Vec::new(), size: Some(self.0.records) }])
    }
    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<T>>> {
        let next = start(split, position, cx)?;
        let f = Arc::clone(&self.0.f);
        Ok(Box::new(Reader {
            first: next.0,
            next: next.2.unwrap_or(next.0),
            step: next.1,
            end: self.0.records,
            f: move |i| f(i),
        }))
    }
    fn kind(&self) -> &'static str {
        "vector"
    }
}

impl<T: Send + 'static, F: Fn(u64) -> T + Send + Sync + 'static> Source for Generate<F> {
    type Item = T;

    fn splits(&self, cx: &IoContext) -> Result<Vec<Split>> {
        let count = u64::from(cx.parallelism.max(1));
        Ok((0..count)
            .map(|p| Split {
                id: format!("{p}/{count}"),
                payload: Vec::new(),
                size: Some((self.records + count - 1 - p) / count),
            })
            .collect())
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<T>>> {
        let (first, step, next) = start(split, position, cx)?;
        let f = Arc::clone(&self.f);
        Ok(Box::new(Reader {
            first,
            next: next.unwrap_or(first),
            step,
            end: self.records,
            f: move |i| Some(f(i)),
        }))
    }

    fn kind(&self) -> &'static str {
        "generator"
    }
}

/// First index, step and, when there is one, the position.
fn start(split: &Split, position: Option<&[u8]>, cx: &IoContext) -> Result<(u64, u64, Option<u64>)> {
    let parts = split.id.split_once('/').and_then(|(p, n)| Some((p.parse().ok()?, n.parse().ok()?)));
    let (first, step) = parts.ok_or_else(|| {
        Status::internal(format!("split `{}` of a generator is not PARTITION/COUNT", split.id))
    })?;
    let next = match position {
        // No part of a generator appears later: it was cut in another way, and would give again what was given.
        None if cx.restored => {
            return Err(Status::precondition(format!(
                "the checkpoint does not know part {} of generator {}, which was cut for another parallelism; \
                 start with that one, or without the checkpoint",
                split.id, cx.operator
            )));
        }
        None => None,
        Some(bytes) => Some(u64::from_le_bytes(bytes.try_into().map_err(|_| {
            Status::new(Code::DataLoss, format!("position of split {} is not 8 bytes", split.id))
        })?)),
    };
    Ok((first, step, next))
}

struct Reader<F> {
    first: u64,
    next: u64,
    step: u64,
    end: u64,
    f: F,
}

impl<T: Send + 'static, F: Fn(u64) -> Option<T> + Send> SplitReader<T> for Reader<F> {
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let left = self.end.saturating_sub(self.next).div_ceil(self.step.max(1));
        let count = left.min(rows_max as u64);
        let (next, step) = (self.next, self.step);
        batch.rows.extend((0..count).filter_map(|k| (self.f)(next + k * step)));
        self.next += count * step;
        Poll::Ready(Ok(if count == left { ReadState::End } else { ReadState::More }))
    }

    fn position(&self) -> Vec<u8> {
        self.next.to_le_bytes().to_vec()
    }

    fn progress(&self) -> u64 {
        (self.next - self.first) / self.step.max(1)
    }

    fn lag(&self) -> Option<u64> {
        Some(self.end.saturating_sub(self.next).div_ceil(self.step.max(1)))
    }
}
