//! A source whose splits are the same whatever the parallelism, for restores at another one: batches of
//! any size, and a halt half-way until a barrier.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)] // a module of the suites

use std::sync::Arc;
use std::task::{Context, Poll};

use afflux_stream::{Batch, IoContext, ReadState, Result, Source, Split, SplitReader};

/// Splits of every source.
pub const SPLITS: u64 = 6;

/// Rows by split and number, in batches of sizes that the seed gives.
pub struct Spread<F> {
    /// Of each split.
    pub rows: u64,
    pub seed: u64,
    /// Each split waits half-way until a barrier has gone out.
    pub halt: bool,
    pub row: Arc<F>,
}

struct Reader<F> {
    split: u64,
    next: u64,
    end: u64,
    /// Where it waits, if it still does.
    halt: Option<u64>,
    state: u64,
    row: Arc<F>,
}

impl<T: Send + 'static, F: Fn(u64, u64) -> T + Send + Sync + 'static> Source for Spread<F> {
    type Item = T;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        Ok((0..SPLITS).map(|s| Split { id: s.to_string(), payload: Vec::new(), size: None }).collect())
    }

    fn open(&self, split: &Split, position: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SplitReader<T>>> {
        let number: u64 = split.id.parse().unwrap();
        let next = position.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        let halt = (self.halt && position.is_none()).then_some(self.rows / 2);
        let row = Arc::clone(&self.row);
        Ok(Box::new(Reader { split: number, next, end: self.rows, halt, state: self.seed ^ number, row }))
    }

    fn kind(&self) -> &'static str {
        "spread"
    }
}

impl<T, F: Fn(u64, u64) -> T + Send + Sync> SplitReader<T> for Reader<F> {
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let size = (self.state.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) % 97 + 1;
        for _ in 0..size.min(rows_max as u64) {
            if self.halt.is_some_and(|halt| self.next >= halt) || self.next >= self.end {
                break;
            }
            batch.rows.push((self.row)(self.split, self.next));
            self.next += 1;
        }
        match self.halt {
            // The barrier wakes the task.
            Some(halt) if self.next >= halt && batch.rows.is_empty() => Poll::Pending,
            None if self.next >= self.end => Poll::Ready(Ok(ReadState::End)),
            _ => Poll::Ready(Ok(ReadState::More)),
        }
    }

    fn position(&self) -> Vec<u8> {
        self.next.to_le_bytes().to_vec()
    }

    fn barrier(&mut self, _: u64) {
        self.halt = None;
    }
}
