//! Sinks that write by a key: what comes again replaces itself.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::Result;
use crate::batch::Batch;
use crate::guarantee::Delivery;
use crate::reach::Reaching;
use crate::sink::{Sink, SinkWriter};
use crate::source::IoContext;
use crate::time::Timestamp;

/// The promise of a sink of pairs of key and row that a pair replaces what was written under its key, and
/// that writing it twice is as writing it once: an upsert, a `PUT`, an object named by the key.
///
/// A sink that appends must not promise this; the compiler then refuses it to [`idempotent`].
pub trait Upserts<K, T>: Sink<(K, T)> {}

/// A sink that writes by a key: exactly once, since what is written again after a failure replaces itself.
///
/// The key must be a function of the record alone, the same in every attempt: no counter, no clock, no
/// random number. Rows of one key have an order only where they reach one task, so put the sink behind
/// `key_by` of the same key, or let a key have one row. Of several rows of a key in one batch the last alone
/// is handed on.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::{Arc, Mutex};
/// use afflux_stream::{Batch, Flow, Guarantee, IoContext, JobSettings, Result, Sink, SinkWriter, Upserts};
/// use afflux_stream::{generate, idempotent};
///
/// #[derive(Clone, Default)]
/// struct Table(Arc<Mutex<BTreeMap<u64, String>>>);
///
/// impl Sink<(u64, String)> for Table {
///     fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<(u64, String)>>> {
///         Ok(Box::new(self.clone()))
///     }
///     fn kind(&self) -> &'static str {
///         "table"
///     }
/// }
/// impl SinkWriter<(u64, String)> for Table {
///     fn write(&mut self, batch: &mut Batch<(u64, String)>) -> Result<()> {
///         self.0.lock().unwrap().extend(batch.rows.drain(..));
///         Ok(())
///     }
///     fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
///         Ok(Vec::new())
///     }
///     fn end(&mut self) -> Result<()> {
///         Ok(())
///     }
/// }
/// impl Upserts<u64, String> for Table {}
///
/// let flow = Flow::new("names", JobSettings::default());
/// let names = flow.source("numbers", generate(9, |i| i)).untimed().map(|i| format!("row {i}"));
/// names.sink("table", idempotent(|name: &String| name.len() as u64, Table::default()));
/// assert_eq!(flow.finish().unwrap().guarantees()[0].guarantee, Guarantee::ExactlyOnce);
/// ```
pub fn idempotent<T, K, F, S>(key: F, sink: S) -> Idempotent<T, K, F, S>
where
    K: Ord + Clone + Send + 'static,
    F: Fn(&T) -> K + Send + Sync + 'static,
    S: Upserts<K, T>,
{
    Idempotent { key: Arc::new(key), sink, rows: PhantomData }
}

/// The sink that [`idempotent`] makes.
pub struct Idempotent<T, K, F, S> {
    key: Arc<F>,
    sink: S,
    rows: PhantomData<fn(T) -> K>,
}

impl<T, K, F, S> Idempotent<T, K, F, S>
where
    K: Ord + Clone + Send + 'static,
    F: Fn(&T) -> K + Send + Sync + 'static,
    T: Send + 'static,
{
    fn keyed(&self, writer: Box<dyn SinkWriter<(K, T)>>) -> Box<dyn SinkWriter<T>> {
        Box::new(Keyed { key: Arc::clone(&self.key), writer })
    }
}

impl<T, K, F, S> Sink<T> for Idempotent<T, K, F, S>
where
    K: Ord + Clone + Send + 'static,
    F: Fn(&T) -> K + Send + Sync + 'static,
    S: Upserts<K, T>,
    T: Send + 'static,
{
    fn open(&self, state: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        Ok(self.keyed(self.sink.open(state, cx)?))
    }
    fn restore(&self, states: &[(u32, Vec<u8>)], cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        Ok(self.keyed(self.sink.restore(states, cx)?))
    }
    fn reach(&self, cx: &IoContext) -> Option<Reaching> {
        self.sink.reach(cx)
    }
    fn kind(&self) -> &'static str {
        self.sink.kind()
    }
    fn target(&self) -> Option<String> {
        self.sink.target()
    }
    fn single(&self) -> bool {
        self.sink.single()
    }
    fn delivery(&self) -> Delivery {
        Delivery::Idempotent
    }
}

struct Keyed<T, K, F> {
    key: Arc<F>,
    writer: Box<dyn SinkWriter<(K, T)>>,
}

impl<T, K, F> SinkWriter<T> for Keyed<T, K, F>
where
    K: Ord + Clone + Send,
    F: Fn(&T) -> K + Send + Sync,
    T: Send,
{
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.writer.poll_ready(cx)
    }
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        let rows = std::mem::take(&mut batch.rows);
        let keyed: Vec<(K, T)> = rows.into_iter().map(|row| ((self.key)(&row), row)).collect();
        let mut last: BTreeMap<K, usize> = BTreeMap::new();
        for (index, (key, _)) in keyed.iter().enumerate() {
            last.insert(key.clone(), index);
        }
        let mut alone = Batch::default();
        for (index, pair) in keyed.into_iter().enumerate() {
            if last.get(&pair.0) == Some(&index) {
                alone.push(pair, batch.times.get(index).copied());
            }
        }
        batch.clear();
        self.writer.write(&mut alone)
    }
    fn watermark(&mut self, watermark: Timestamp) -> Result<()> {
        self.writer.watermark(watermark)
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.writer.poll_flush(cx)
    }
    fn poll_confirm(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.writer.poll_confirm(cx)
    }
    fn snapshot(&mut self, epoch: u64) -> Result<Vec<u8>> {
        self.writer.snapshot(epoch)
    }
    fn completed(&mut self, epoch: u64) -> Result<()> {
        self.writer.completed(epoch)
    }
    fn poll_commit(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.writer.poll_commit(cx)
    }
    fn end(&mut self) -> Result<()> {
        self.writer.end()
    }
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.writer.poll_end(cx)
    }
    fn refused(&self) -> u64 {
        self.writer.refused()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<(u64, u64)>>>);

    impl Sink<(u64, u64)> for Seen {
        fn open(&self, _: Option<&[u8]>, _: &IoContext) -> Result<Box<dyn SinkWriter<(u64, u64)>>> {
            Ok(Box::new(self.clone()))
        }
        fn kind(&self) -> &'static str {
            "seen"
        }
    }
    impl SinkWriter<(u64, u64)> for Seen {
        fn write(&mut self, batch: &mut Batch<(u64, u64)>) -> Result<()> {
            self.0.lock().append(&mut batch.rows);
            Ok(())
        }
        fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
            Ok(Vec::new())
        }
        fn end(&mut self) -> Result<()> {
            Ok(())
        }
    }
    impl Upserts<u64, u64> for Seen {}

    #[test]
    fn of_the_rows_of_a_key_in_a_batch_the_last_is_written() {
        let seen = Seen::default();
        let sink = idempotent(|row: &u64| row % 10, seen.clone());
        let mut writer = sink.open(None, &IoContext::new("p", "out")).unwrap();
        writer.write(&mut Batch::untimed(vec![1, 2, 11, 3, 12, 21])).unwrap();
        writer.write(&mut Batch::untimed(vec![1])).unwrap();
        assert_eq!(*seen.0.lock(), [(3, 3), (2, 12), (1, 21), (1, 1)]);
        assert_eq!(sink.delivery(), Delivery::Idempotent);
    }
}
