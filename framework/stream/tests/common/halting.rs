//! A source for restores in the middle: batches of any size, and a halt half-way until a barrier.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)] // a module of the suites

use std::sync::Arc;
use std::task::{Context, Poll};

use afflux_stream::{Batch, IoContext, ReadState, Result, Source, Split, SplitReader};

/// Rows by their numbers. Task `p` of `n` reads number `p` and every `n`th from there, in batches of
/// sizes that the seed gives.
pub struct Halting<F> {
    pub rows: u64,
    pub seed: u64,
    /// Each split waits half-way until a barrier has gone out.
    pub halt: bool,
    pub row: Arc<F>,
}

/// A source that reads through.
pub fn through<F>(rows: u64, seed: u64, row: F) -> Halting<F> {
    Halting { rows, seed, halt: false, row: Arc::new(row) }
}

struct Reader<F> {
    next: u64,
    step: u64,
    end: u64,
    /// Where it waits, if it still does.
    halt: Option<u64>,
    state: u64,
    row: Arc<F>,
}

impl<T: Send + 'static, F: Fn(u64) -> T + Send + Sync + 'static> Source for Halting<F> {
    type Item = T;

    fn splits(&self, cx: &IoContext) -> Result<Vec<Split>> {
        let split = |p| Split { id: format!("{p}"), payload: Vec::new(), size: None };
        Ok((0..cx.parallelism).map(split).collect())
    }

    fn open(
        &self,
        split: &Split,
        position: Option<&[u8]>,
        cx: &IoContext,
    ) -> Result<Box<dyn SplitReader<T>>> {
        let first: u64 = split.id.parse().unwrap();
        let next = position.map_or(first, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        let halt = (self.halt && position.is_none()).then_some(self.rows / 2);
        let (step, row) = (u64::from(cx.parallelism), Arc::clone(&self.row));
        Ok(Box::new(Reader { next, step, end: self.rows, halt, state: self.seed ^ first, row }))
    }

    fn kind(&self) -> &'static str {
        "halting"
    }
}

impl<T, F: Fn(u64) -> T + Send + Sync> SplitReader<T> for Reader<F> {
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
            batch.rows.push((self.row)(self.next));
            self.next += self.step;
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
