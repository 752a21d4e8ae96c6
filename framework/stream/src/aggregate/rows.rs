//! Windows that keep their records.

use std::sync::Arc;
use std::time::Duration;

use super::{Aggregate, MergeAggregate, builtin::Value};
use crate::time::{Timestamp, millis};
use crate::window::Window;

/// Records after which a window's records are looked through for those that are not needed.
const TRIM_ROWS_MIN: usize = 64;

/// Which of a window's records its function sees. Those that no later result of the window can need
/// are forgotten on the way.
///
/// ```
/// use afflux_stream::{Evict, Timestamp, secs};
/// let last_ten: Evict<u64> = Evict::count(10);
/// let last_second: Evict<i64> = Evict::time(secs(1), |row| Timestamp::from_millis(*row));
/// let even: Evict<u64> = Evict::by(|rows: &mut Vec<u64>| rows.retain(|r| r % 2 == 0));
/// ```
pub struct Evict<T>(Kept<T>);

type EvictFn<T> = dyn Fn(&mut Vec<T>) + Send + Sync;

enum Kept<T> {
    Last(usize),
    Within(i64, Arc<dyn Fn(&T) -> Timestamp + Send + Sync>),
    By(Box<EvictFn<T>>),
}

impl<T> Evict<T> {
    /// Keeps the last `n` records that came.
    pub const fn count(n: usize) -> Self {
        Self(Kept::Last(n))
    }

    /// Keeps the records that are less than `span` older than the latest; the closure tells the
    /// time of a record.
    pub fn time(span: Duration, time_of: impl Fn(&T) -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Kept::Within(millis(span), Arc::new(time_of)))
    }

    /// Removes what the closure removes, in front of each result. The window keeps all records, up
    /// to its end.
    pub fn by(evict: impl Fn(&mut Vec<T>) + Send + Sync + 'static) -> Self {
        Self(Kept::By(Box::new(evict)))
    }

    fn apply(&self, rows: &mut Vec<T>) {
        match &self.0 {
            Kept::Last(n) => {
                rows.drain(..rows.len().saturating_sub(*n));
            }
            Kept::Within(span, time_of) => {
                let latest = rows.iter().map(|row| time_of(row).millis()).max().unwrap_or(i64::MIN);
                rows.retain(|row| latest.saturating_sub(time_of(row).millis()) < *span);
            }
            Kept::By(evict) => evict(rows),
        }
    }

    /// What is not kept now is not kept later either, but for [`Evict::by`].
    fn trim(&self, rows: &mut Vec<T>) {
        if rows.len() >= TRIM_ROWS_MIN && rows.len().is_power_of_two() && !matches!(self.0, Kept::By(_)) {
            self.apply(rows);
        }
    }
}

/// Keeps the records of a window and gives them to a function; see
/// [`Windowed::process`](crate::Windowed::process).
pub struct Rows<T, P> {
    pub(crate) process: P,
    pub(crate) evict: Option<Evict<T>>,
}

impl<K, T, I, P> Aggregate<K, T> for Rows<T, P>
where
    T: Value,
    I: 'static,
    P: Fn(K, Window, Vec<T>) -> I + Send + Sync + 'static,
{
    type Acc = Vec<T>;
    type Output = I;
    fn create(&self) -> Vec<T> {
        Vec::new()
    }
    fn add(&self, acc: &mut Vec<T>, row: &T) {
        acc.push(row.clone());
        if let Some(evict) = &self.evict {
            evict.trim(acc);
        }
    }
    fn finish(&self, key: K, window: Window, mut acc: Vec<T>) -> I {
        if let Some(evict) = &self.evict {
            evict.apply(&mut acc);
        }
        (self.process)(key, window, acc)
    }
}

impl<K, T, I, P> MergeAggregate<K, T> for Rows<T, P>
where
    T: Value,
    I: 'static,
    P: Fn(K, Window, Vec<T>) -> I + Send + Sync + 'static,
{
    fn merge(&self, into: &mut Vec<T>, from: &Vec<T>) {
        into.extend_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(evict: Evict<i64>, rows: impl IntoIterator<Item = i64>) -> (usize, Vec<i64>) {
        let rows_of = Rows { process: |(), _: Window, rows: Vec<i64>| rows, evict: Some(evict) };
        let mut acc = Vec::new();
        let mut most = 0;
        for row in rows {
            rows_of.add(&mut acc, &row);
            most = most.max(acc.len());
        }
        (most, rows_of.finish((), Window::GLOBAL, acc))
    }

    #[test]
    fn the_last_records_are_kept_in_memory_of_about_their_number() {
        let (most, rows) = kept(Evict::count(3), 0..10_000);
        assert_eq!(rows, [9_997, 9_998, 9_999]);
        assert!(most <= 64, "{most}");
        assert_eq!(kept(Evict::count(0), 0..3).1, [0; 0]);
    }

    #[test]
    fn records_of_the_last_span_are_kept_whatever_their_order() {
        let evict = || Evict::time(Duration::from_millis(10), |row: &i64| Timestamp::from_millis(*row));
        assert_eq!(kept(evict(), [5, 20, 11, 10, 12]).1, [20, 11, 12]);
        let (most, rows) = kept(evict(), 0..10_000);
        assert_eq!(rows, (9_990..10_000).collect::<Vec<_>>());
        assert!(most <= 64, "{most}");
    }

    #[test]
    fn a_closure_sees_all_records() {
        let (most, rows) = kept(Evict::by(|rows: &mut Vec<i64>| rows.retain(|r| r % 50 == 0)), 0..200);
        assert_eq!((most, rows), (200, vec![0, 50, 100, 150]));
    }
}
