//! The greatest records of each key: in a window, at the end, or as changes.

use std::cmp::Ordering;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::by_bytes;
use crate::Result;
use crate::aggregate::{Aggregate, MergeAggregate};
use crate::flow::Flow;
use crate::key::Key;
use crate::keyed::KeyOf;
use crate::keyed_stream::KeyedStream;
use crate::operator::{KeyedOperator, OperatorCx, Output};
use crate::state::State;
use crate::stream::{Record, Stream};
use crate::time::Timestamp;
use crate::window::Window;

/// The greatest records of a key, the greatest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ranking<K, T> {
    /// The key.
    pub key: K,
    /// The window they are of; all of time where there is none.
    pub window: Window,
    /// The records.
    pub rows: Vec<T>,
}

/// A record that is among the greatest of its key now, or is not any more. Applied in order, the
/// changes give the greatest at every moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Change<T> {
    /// It has come in.
    Entered(T),
    /// A greater one has pushed it out.
    Left(T),
}

/// Where a record belongs in a ranking; equal ones are told apart by their bytes.
fn place<T: Serialize, O: Ord>(rows: &[T], row: &T, order: &impl Fn(&T) -> O) -> usize {
    let rank = order(row);
    rows.partition_point(|other| match order(other).cmp(&rank) {
        Ordering::Equal => by_bytes(other, row).is_ge(),
        unequal => unequal.is_gt(),
    })
}

/// Puts a record in its place if it is among the `n` greatest; gives back the one that it pushes out.
fn insert<T: Serialize, O: Ord>(
    rows: &mut Vec<T>,
    n: usize,
    row: T,
    order: &impl Fn(&T) -> O,
) -> (bool, Option<T>) {
    // Mostly it is none of the greatest: one comparison says so.
    if rows.len() >= n && rows.last().is_none_or(|last| order(&row) < order(last)) {
        return (false, None);
    }
    let index = place(rows, &row, order);
    if index >= n {
        return (false, None);
    }
    rows.insert(index, row);
    (true, if rows.len() > n { rows.pop() } else { None })
}

/// The aggregate that [`top_n`] makes.
pub struct TopN<F> {
    n: usize,
    order: F,
}

/// The `n` greatest records of each key and window by what the closure gives (the least with
/// [`std::cmp::Reverse`]); of equal ones those with the greater bytes (MessagePack).
///
/// ```
/// use afflux_stream::{Flow, Global, JobSettings, generate, top_n};
/// let flow = Flow::new("p", JobSettings::default());
/// flow.source("numbers", generate(100, |i| i))
///     .untimed()
///     .key_by(|i| i % 7)
///     .window(Global)
///     .aggregate("three-largest", top_n(3, |i: &u64| *i))
///     .count("rankings");
/// flow.finish().unwrap();
/// ```
pub fn top_n<T, O: Ord, F: Fn(&T) -> O>(n: usize, order: F) -> TopN<F> {
    TopN { n, order }
}

impl<K: 'static, T: Record + Clone, O: Ord, F: Fn(&T) -> O + Send + Sync + 'static> Aggregate<K, T>
    for TopN<F>
{
    type Acc = Vec<T>;
    type Output = Ranking<K, T>;
    fn create(&self) -> Vec<T> {
        Vec::new()
    }
    fn add(&self, rows: &mut Vec<T>, row: &T) {
        if rows.len() >= self.n && rows.last().is_none_or(|last| (self.order)(row) < (self.order)(last)) {
            return;
        }
        insert(rows, self.n, row.clone(), &self.order);
    }
    fn finish(&self, key: K, window: Window, rows: Vec<T>) -> Ranking<K, T> {
        Ranking { key, window, rows }
    }
}

impl<K: 'static, T: Record + Clone, O: Ord, F: Fn(&T) -> O + Send + Sync + 'static> MergeAggregate<K, T>
    for TopN<F>
{
    fn merge(&self, into: &mut Vec<T>, from: &Vec<T>) {
        for row in from {
            insert(into, self.n, row.clone(), &self.order);
        }
    }
}

/// A keyed stream of which the greatest records are wanted, without windows.
#[must_use = "say `.changes(…)` or `.ranking(…)`"]
pub struct Top<T: 'static, F: KeyOf<T>, R> {
    keyed: KeyedStream<T, F>,
    n: usize,
    order: R,
}

impl<T: Record, F: KeyOf<T>> KeyedStream<T, F> {
    /// The `n` greatest records of each key by what the closure gives (the least with
    /// [`std::cmp::Reverse`]); of equal ones those with the greater bytes (MessagePack). In windows:
    /// [`top_n`].
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("numbers", generate(100, |i| i))
    ///     .untimed()
    ///     .key_by(|i| i % 7)
    ///     .top(3, |i| *i)
    ///     .ranking("three-largest")
    ///     .count("rankings");
    /// flow.finish().unwrap();
    /// ```
    pub fn top<O: Ord, R: Fn(&T) -> O + Send + Sync + 'static>(self, n: usize, order: R) -> Top<T, F, R> {
        Top { keyed: self, n, order }
    }
}

impl<T: Record, F: KeyOf<T>, O: Ord + 'static, R: Fn(&T) -> O + Send + Sync + 'static> Top<T, F, R> {
    /// The ranking of each key, once the input has ended. The name identifies the step's state in
    /// checkpoints.
    pub fn ranking(self, name: &str) -> Stream<Ranking<F::Key, T>> {
        let (n, order) = (self.n, Arc::new(self.order));
        let detail = format!("{n} greatest at the end");
        let make = move || RankingAtEnd { n, order: Arc::clone(&order), types: PhantomData };
        let rankings = self.keyed.operate(name, &detail, make);
        warn(&rankings.flow, name, " and gives nothing before the input ends");
        rankings
    }

    /// What enters and leaves the greatest of each key, at once.
    pub fn changes(self, name: &str) -> Stream<Change<T>>
    where
        T: Clone,
    {
        let (n, order) = (self.n, Arc::new(self.order));
        let detail = format!("{n} greatest, changes");
        let make = move || Changes { n, order: Arc::clone(&order), types: PhantomData };
        let changes = self.keyed.operate(name, &detail, make);
        warn(&changes.flow, name, "");
        changes
    }
}

fn warn(flow: &Flow, name: &str, also: &str) {
    flow.warn(
        name,
        &format!(
            "keeps a ranking for every key it has ever seen{also}; its state grows with the number of keys. \
             Use `top_n(…)` in a `.window(…)`, or accept it for a bounded set of keys"
        ),
    );
}

/// The ranking of one key.
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize", deserialize = "T: DeserializeOwned"))]
struct Rows<T>(Vec<T>);

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Record> State for Rows<T> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

struct RankingAtEnd<K, T, R> {
    n: usize,
    order: Arc<R>,
    types: PhantomData<fn(K, T)>,
}

impl<K: Key, T: Record, O: Ord + 'static, R: Fn(&T) -> O + 'static> KeyedOperator for RankingAtEnd<K, T, R> {
    type Key = K;
    type Input = T;
    type Output = Ranking<K, T>;
    type State = Rows<T>;

    fn process(
        &mut self,
        state: &mut Rows<T>,
        row: T,
        cx: &mut OperatorCx<'_, K>,
        _: &mut Output<Ranking<K, T>>,
    ) -> Result<()> {
        if state.0.is_empty() {
            cx.timer_at(Timestamp::MAX);
        }
        insert(&mut state.0, self.n, row, &*self.order);
        Ok(())
    }

    fn on_timer(
        &mut self,
        state: &mut Rows<T>,
        _: Timestamp,
        cx: &mut OperatorCx<'_, K>,
        out: &mut Output<Ranking<K, T>>,
    ) -> Result<()> {
        let rows = std::mem::take(&mut state.0);
        if !rows.is_empty() {
            out.emit(Ranking { key: cx.key().clone(), window: Window::GLOBAL, rows });
        }
        Ok(())
    }
}

struct Changes<K, T, R> {
    n: usize,
    order: Arc<R>,
    types: PhantomData<fn(K, T)>,
}

impl<K: Key, T: Record + Clone, O: Ord + 'static, R: Fn(&T) -> O + 'static> KeyedOperator
    for Changes<K, T, R>
{
    type Key = K;
    type Input = T;
    type Output = Change<T>;
    type State = Rows<T>;

    fn process(
        &mut self,
        state: &mut Rows<T>,
        row: T,
        _: &mut OperatorCx<'_, K>,
        out: &mut Output<Change<T>>,
    ) -> Result<()> {
        let (entered, left) = insert(&mut state.0, self.n, row.clone(), &*self.order);
        if let Some(left) = left {
            out.emit(Change::Left(left));
        }
        if entered {
            out.emit(Change::Entered(row));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;

    proptest! {
        #[test]
        fn the_greatest_do_not_depend_on_the_order_in_which_rows_come(
            rows in proptest::collection::vec((0_u8..9, 0_u16..5), 0..40), n in 0_usize..9, turn in 0_usize..40,
        ) {
            let greatest = |rows: &[(u8, u16)]| {
                let top = top_n(n, |row: &(u8, u16)| Reverse(row.0));
                let mut acc = Vec::new();
                rows.iter().for_each(|row| Aggregate::<u8, _>::add(&top, &mut acc, row));
                acc
            };
            let mut turned = rows.clone();
            turned.rotate_left(turn.min(rows.len()));
            turned.reverse();
            prop_assert_eq!(greatest(&rows), greatest(&turned));
            let mut plain = rows.clone();
            plain.sort_by_key(|row| (row.0, Reverse(rmp_serde::to_vec(row).unwrap())));
            plain.truncate(n);
            prop_assert_eq!(greatest(&rows), plain);
        }
    }
}
