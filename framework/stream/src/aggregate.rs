//! Aggregates: what becomes of the records of one key in one window.

pub(crate) mod builtin;
pub(crate) mod rows;

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::window::Window;

/// An incremental aggregate over records `T` of one key `K`.
///
/// ```
/// use afflux_stream::{Aggregate, Window};
/// struct Sum;
/// impl Aggregate<String, u64> for Sum {
///     type Acc = u64;
///     type Output = (String, u64);
///     fn create(&self) -> u64 { 0 }
///     fn add(&self, sum: &mut u64, row: &u64) { *sum += row }
///     fn finish(&self, key: String, _: Window, sum: u64) -> (String, u64) { (key, sum) }
/// }
/// ```
pub trait Aggregate<K, T>: Send + Sync + 'static {
    /// What is kept for one key in one window; saved in checkpoints.
    type Acc: Serialize + DeserializeOwned + 'static;
    /// The result.
    type Output: 'static;
    /// The accumulator of no records.
    fn create(&self) -> Self::Acc;
    /// Takes in one record.
    fn add(&self, acc: &mut Self::Acc, row: &T);
    /// The result of a window.
    fn finish(&self, key: K, window: Window, acc: Self::Acc) -> Self::Output;
}

/// An aggregate whose accumulators can be merged: what windows need that share their work (sliding
/// ones), that grow together (sessions), or that are emitted more than once (triggers).
///
/// Law: taking in some records and merging with an accumulator that took in others gives what
/// taking in all of them gives.
///
/// An aggregate of closures gets it from [`Fold::merging`].
#[diagnostic::on_unimplemented(
    message = "the aggregate does not say how two accumulators become one",
    label = "cannot be used with this window",
    note = "sliding windows, sessions and windows with a trigger or an allowed lateness merge accumulators",
    note = "say `.aggregate(name, fold(…).merging(|into, from| …))`, or implement `MergeAggregate` beside `Aggregate`"
)]
pub trait MergeAggregate<K, T>: Aggregate<K, T> {
    /// Takes in what another accumulator has taken in.
    fn merge(&self, into: &mut Self::Acc, from: &Self::Acc);
}

/// An aggregate made of closures; see [`fold`].
pub struct Fold<C, A, F, Acc, Out> {
    create: C,
    add: A,
    finish: F,
    types: PhantomData<fn(Acc) -> Out>,
}

/// An aggregate made of closures: the empty accumulator, how a record is taken in, and the result.
///
/// ```
/// use afflux_stream::{fold, Window};
/// let count = fold(|| 0_u64, |n, _row: &String| *n += 1, |key: String, _: Window, n| (key, n));
/// # use afflux_stream::Aggregate;
/// # let mut n = count.create(); count.add(&mut n, &String::new()); assert_eq!(n, 1);
/// ```
pub fn fold<K, T, Acc, Out, C, A, F>(create: C, add: A, finish: F) -> Fold<C, A, F, Acc, Out>
where
    C: Fn() -> Acc,
    A: Fn(&mut Acc, &T),
    F: Fn(K, Window, Acc) -> Out,
{
    Fold { create, add, finish, types: PhantomData }
}

impl<K, T, Acc, Out, C, A, F> Aggregate<K, T> for Fold<C, A, F, Acc, Out>
where
    Acc: Serialize + DeserializeOwned + 'static,
    Out: 'static,
    C: Fn() -> Acc + Send + Sync + 'static,
    A: Fn(&mut Acc, &T) + Send + Sync + 'static,
    F: Fn(K, Window, Acc) -> Out + Send + Sync + 'static,
{
    type Acc = Acc;
    type Output = Out;
    fn create(&self) -> Acc {
        (self.create)()
    }
    #[inline(always)]
    fn add(&self, acc: &mut Acc, row: &T) {
        (self.add)(acc, row);
    }
    fn finish(&self, key: K, window: Window, acc: Acc) -> Out {
        (self.finish)(key, window, acc)
    }
}

impl<C, A, F, Acc, Out> Fold<C, A, F, Acc, Out> {
    /// Says how an accumulator takes in what another one has taken in.
    ///
    /// ```
    /// use afflux_stream::{MergeAggregate, Window, fold};
    /// let count = fold(|| 0_u64, |n, _: &String| *n += 1, |key: String, _: Window, n| (key, n))
    ///     .merging(|n, more| *n += more);
    /// # let mut n = 1; count.merge(&mut n, &2); assert_eq!(n, 3);
    /// ```
    pub fn merging<M: Fn(&mut Acc, &Acc)>(self, merge: M) -> Merging<Self, M> {
        Merging { aggregate: self, merge }
    }
}

/// An aggregate and how its accumulators merge; see [`Fold::merging`].
pub struct Merging<A, M> {
    aggregate: A,
    merge: M,
}

impl<K, T, A: Aggregate<K, T>, M: Send + Sync + 'static> Aggregate<K, T> for Merging<A, M> {
    type Acc = A::Acc;
    type Output = A::Output;
    fn create(&self) -> A::Acc {
        self.aggregate.create()
    }
    #[inline(always)]
    fn add(&self, acc: &mut A::Acc, row: &T) {
        self.aggregate.add(acc, row);
    }
    fn finish(&self, key: K, window: Window, acc: A::Acc) -> A::Output {
        self.aggregate.finish(key, window, acc)
    }
}

impl<K, T, A, M> MergeAggregate<K, T> for Merging<A, M>
where
    A: Aggregate<K, T>,
    M: Fn(&mut A::Acc, &A::Acc) + Send + Sync + 'static,
{
    #[inline]
    fn merge(&self, into: &mut A::Acc, from: &A::Acc) {
        (self.merge)(into, from);
    }
}
