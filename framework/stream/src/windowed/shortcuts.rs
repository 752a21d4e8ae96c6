//! What is asked of windows most: sums, counts, least and greatest, and their records.

use std::ops::AddAssign;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Aggregation, WindowFor, WindowKind, Windowed};
use crate::aggregate::builtin::{Choosing, Counting, Folding, Reducing, Summing, Value};
use crate::aggregate::rows::{Evict, Rows};
use crate::flow::Open;
use crate::keyed::KeyOf;
use crate::meter::Meter;
use crate::stage::flat_map::FlatMap;
use crate::stream::{Record, Stream};
use crate::window::{LatePolicy, Window};

#[allow(clippy::type_complexity, reason = "what a method gives stands in its signature")]
impl<T: Record, F: KeyOf<T>, W: WindowKind, L> Windowed<T, F, W, L> {
    /// Adds up a value of the records of each key and window: `(key, window, sum)`.
    ///
    /// ```
    /// use afflux_stream::{BoundedOutOfOrder, Flow, JobSettings, Late, Sliding, Timestamp, generate, secs};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("numbers", generate(100, |i| i))
    ///     .watermarks_by(BoundedOutOfOrder::by(secs(1)), |i| Timestamp::from_millis(*i as i64))
    ///     .key_by(|i| i % 7)
    ///     .window(Sliding::of(secs(10)).every(secs(2)))
    ///     .late(Late::Drop)
    ///     .sum("sums", |i| *i)
    ///     .map(|(key, window, sum)| (key, window.start, sum))
    ///     .count("results");
    /// flow.finish().unwrap();
    /// ```
    pub fn sum<V, G>(self, name: &str, of: G) -> L::Streams<T, W::Result<(F::Key, Window, V)>>
    where
        V: Value + Default + AddAssign,
        G: Fn(&T) -> V + Send + Sync + 'static,
        W: WindowFor<T, F, Summing<G, V>>,
        L: LatePolicy,
    {
        self.aggregate(name, Summing::new(of))
    }

    /// The least value of the records of each key and window: `(key, window, value)`. What compares
    /// with nothing (not a number) is passed over, but for the first record.
    pub fn min<V, G>(self, name: &str, of: G) -> L::Streams<T, W::Result<(F::Key, Window, V)>>
    where
        V: Value + PartialOrd,
        G: Fn(&T) -> V + Send + Sync + 'static,
        W: WindowFor<T, F, Choosing<G, V>>,
        L: LatePolicy,
    {
        self.aggregate(name, Choosing::least(of))
    }

    /// The greatest value of the records of each key and window: `(key, window, value)`. What
    /// compares with nothing (not a number) is passed over, but for the first record.
    pub fn max<V, G>(self, name: &str, of: G) -> L::Streams<T, W::Result<(F::Key, Window, V)>>
    where
        V: Value + PartialOrd,
        G: Fn(&T) -> V + Send + Sync + 'static,
        W: WindowFor<T, F, Choosing<G, V>>,
        L: LatePolicy,
    {
        self.aggregate(name, Choosing::greatest(of))
    }

    /// How many records each key and window has: `(key, window, count)`.
    pub fn count(self, name: &str) -> L::Streams<T, W::Result<(F::Key, Window, u64)>>
    where
        W: WindowFor<T, F, Counting>,
        L: LatePolicy,
    {
        self.aggregate(name, Counting)
    }

    /// Makes one record of those of each key and window: `(key, window, record)`.
    pub fn reduce<R>(self, name: &str, reduce: R) -> L::Streams<T, W::Result<(F::Key, Window, T)>>
    where
        T: Clone,
        R: Fn(T, T) -> T + Send + Sync + 'static,
        W: WindowFor<T, F, Reducing<R>>,
        L: LatePolicy,
    {
        self.aggregate(name, Reducing(reduce))
    }

    /// Folds the records of each key and window into an accumulator: `(key, window, accumulator)`.
    /// For windows that merge accumulators, `.aggregate(name, fold(…).merging(…))` says how.
    pub fn fold<Acc, C, A>(
        self,
        name: &str,
        create: C,
        add: A,
    ) -> L::Streams<T, W::Result<(F::Key, Window, Acc)>>
    where
        Acc: Serialize + DeserializeOwned + 'static,
        C: Fn() -> Acc + Send + Sync + 'static,
        A: Fn(&mut Acc, &T) + Send + Sync + 'static,
        W: WindowFor<T, F, Folding<C, A, Acc>>,
        L: LatePolicy,
    {
        self.aggregate(name, Folding::new(create, add))
    }

    /// Keeps the records of each key and window and gives them to a function, which makes any
    /// number of results of them. Records stand in the order in which they came (those of a window
    /// that was joined from several: one after the other).
    ///
    /// Where results can be made record by record, an aggregate needs much less memory.
    ///
    /// ```
    /// use afflux_stream::{AtEnd, CountWindow, Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("numbers", generate(100, |i| i))
    ///     .untimed()
    ///     .key_by(|i| i % 7)
    ///     .window(CountWindow::of(2).every(1).at_end(AtEnd::Drop))
    ///     .process("rises", |key, _window, rows| rows.is_sorted().then_some((key, rows)))
    ///     .count("results");
    /// flow.finish().unwrap();
    /// ```
    pub fn process<I, P>(self, name: &str, process: P) -> L::Streams<T, I::Item>
    where
        T: Clone,
        I: IntoIterator + 'static,
        I::IntoIter: 'static,
        P: Fn(F::Key, Window, Vec<T>) -> I + Send + Sync + 'static,
        W: WindowFor<T, F, Rows<T, P>> + WindowKind<Result<I> = I>,
        L: LatePolicy,
    {
        self.process_rows(name, Rows { process, evict: None })
    }

    /// Says which records of a window its function sees; goes with [`process`](Evicting::process).
    pub fn evict(self, evict: Evict<T>) -> Evicting<T, F, W, L> {
        Evicting { windowed: self, evict }
    }

    fn process_rows<I, P>(self, name: &str, aggregate: Rows<T, P>) -> L::Streams<T, I::Item>
    where
        T: Clone,
        I: IntoIterator + 'static,
        I::IntoIter: 'static,
        P: Fn(F::Key, Window, Vec<T>) -> I + Send + Sync + 'static,
        W: WindowFor<T, F, Rows<T, P>> + WindowKind<Result<I> = I>,
        L: LatePolicy,
    {
        let parts = Aggregation { keyed: self.keyed, name: name.to_owned(), aggregate, aside: L::ASIDE };
        let (results, late) = self.window.run(parts);
        L::streams(flatten(results), late)
    }
}

/// Windows that keep some of their records.
#[must_use = "say what is done with the records: `.process(…)`"]
pub struct Evicting<T: 'static, F: KeyOf<T>, W, L> {
    windowed: Windowed<T, F, W, L>,
    evict: Evict<T>,
}

impl<T: Record, F: KeyOf<T>, W: WindowKind, L> Evicting<T, F, W, L> {
    /// Gives the records of each key and window that are not evicted to a function; see
    /// [`Windowed::process`].
    pub fn process<I, P>(self, name: &str, process: P) -> L::Streams<T, I::Item>
    where
        T: Clone,
        I: IntoIterator + 'static,
        I::IntoIter: 'static,
        P: Fn(F::Key, Window, Vec<T>) -> I + Send + Sync + 'static,
        W: WindowFor<T, F, Rows<T, P>> + WindowKind<Result<I> = I>,
        L: LatePolicy,
    {
        self.windowed.process_rows(name, Rows { process, evict: Some(self.evict) })
    }
}

/// The rows of all results, without being an operator of its own.
fn flatten<I>(results: Stream<I>) -> Stream<I::Item>
where
    I: IntoIterator + 'static,
    I::IntoIter: 'static,
{
    let Stream { flow, chain, timed, .. } = &results;
    let (flow, chain, timed) = (flow.clone(), *chain, *timed);
    let before = results.into_open();
    let rows = Arc::new(|rows: I| rows);
    let open: Open<I::Item> = Arc::new(move |cx, next| {
        before(cx, Box::new(FlatMap::new(Arc::clone(&rows), Arc::new(Meter::default()), next)))
    });
    Stream::new(flow, chain, timed, open)
}
