//! The aggregates that windows have a method for; their results are `(key, window, value)`.

use std::marker::PhantomData;
use std::ops::AddAssign;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Aggregate, MergeAggregate};
use crate::window::Window;

/// A number, text or other value that aggregates keep.
pub trait Value: Clone + Serialize + DeserializeOwned + 'static {}
impl<V: Clone + Serialize + DeserializeOwned + 'static> Value for V {}

/// See [`Windowed::count`](crate::Windowed::count).
#[derive(Clone, Copy, Debug)]
pub struct Counting;

impl<K: 'static, T> Aggregate<K, T> for Counting {
    type Acc = u64;
    type Output = (K, Window, u64);
    fn create(&self) -> u64 {
        0
    }
    #[inline(always)]
    fn add(&self, acc: &mut u64, _: &T) {
        *acc += 1;
    }
    fn finish(&self, key: K, window: Window, acc: u64) -> Self::Output {
        (key, window, acc)
    }
}

impl<K: 'static, T> MergeAggregate<K, T> for Counting {
    fn merge(&self, into: &mut u64, from: &u64) {
        *into += from;
    }
}

/// See [`Windowed::sum`](crate::Windowed::sum).
pub struct Summing<G, V> {
    of: G,
    value: PhantomData<fn() -> V>,
}

impl<G, V> Summing<G, V> {
    pub(crate) const fn new(of: G) -> Self {
        Self { of, value: PhantomData }
    }
}

impl<K: 'static, T, V, G> Aggregate<K, T> for Summing<G, V>
where
    V: Value + Default + AddAssign,
    G: Fn(&T) -> V + Send + Sync + 'static,
{
    type Acc = V;
    type Output = (K, Window, V);
    fn create(&self) -> V {
        V::default()
    }
    #[inline(always)]
    fn add(&self, acc: &mut V, row: &T) {
        *acc += (self.of)(row);
    }
    fn finish(&self, key: K, window: Window, acc: V) -> Self::Output {
        (key, window, acc)
    }
}

impl<K: 'static, T, V, G> MergeAggregate<K, T> for Summing<G, V>
where
    V: Value + Default + AddAssign,
    G: Fn(&T) -> V + Send + Sync + 'static,
{
    fn merge(&self, into: &mut V, from: &V) {
        *into += from.clone();
    }
}

/// Keeps one of two values: what [`Windowed::min`](crate::Windowed::min) and
/// [`Windowed::max`](crate::Windowed::max) are made of.
pub struct Choosing<G, V> {
    of: G,
    /// Whether the second is kept.
    better: fn(&V, &V) -> bool,
}

impl<G, V: PartialOrd> Choosing<G, V> {
    pub(crate) const fn least(of: G) -> Self {
        Self { of, better: |kept, new| new < kept }
    }
    pub(crate) const fn greatest(of: G) -> Self {
        Self { of, better: |kept, new| new > kept }
    }
}

impl<G, V> Choosing<G, V> {
    #[inline(always)]
    pub(crate) fn offer(&self, acc: &mut Option<V>, new: V) {
        if acc.as_ref().is_none_or(|kept| (self.better)(kept, &new)) {
            *acc = Some(new);
        }
    }
    #[inline(always)]
    pub(crate) fn value_of<T>(&self, row: &T) -> V
    where
        G: Fn(&T) -> V,
    {
        (self.of)(row)
    }
}

/// A window gives results only when a record is in it.
fn some<V>(acc: Option<V>) -> V {
    acc.unwrap_or_else(|| unreachable!("a window without a record gives no result"))
}

impl<K: 'static, T, V: Value, G> Aggregate<K, T> for Choosing<G, V>
where
    G: Fn(&T) -> V + Send + Sync + 'static,
{
    type Acc = Option<V>;
    type Output = (K, Window, V);
    fn create(&self) -> Option<V> {
        None
    }
    #[inline(always)]
    fn add(&self, acc: &mut Option<V>, row: &T) {
        self.offer(acc, (self.of)(row));
    }
    fn finish(&self, key: K, window: Window, acc: Option<V>) -> Self::Output {
        (key, window, some(acc))
    }
}

impl<K: 'static, T, V: Value, G> MergeAggregate<K, T> for Choosing<G, V>
where
    G: Fn(&T) -> V + Send + Sync + 'static,
{
    fn merge(&self, into: &mut Option<V>, from: &Option<V>) {
        if let Some(from) = from {
            self.offer(into, from.clone());
        }
    }
}

/// See [`Windowed::reduce`](crate::Windowed::reduce).
pub struct Reducing<R>(pub(crate) R);

impl<R> Reducing<R> {
    fn take_in<T>(&self, acc: &mut Option<T>, new: T)
    where
        R: Fn(T, T) -> T,
    {
        *acc = Some(match acc.take() {
            Some(kept) => (self.0)(kept, new),
            None => new,
        });
    }
}

impl<K: 'static, T: Value, R: Fn(T, T) -> T + Send + Sync + 'static> Aggregate<K, T> for Reducing<R> {
    type Acc = Option<T>;
    type Output = (K, Window, T);
    fn create(&self) -> Option<T> {
        None
    }
    fn add(&self, acc: &mut Option<T>, row: &T) {
        self.take_in(acc, row.clone());
    }
    fn finish(&self, key: K, window: Window, acc: Option<T>) -> Self::Output {
        (key, window, some(acc))
    }
}

impl<K: 'static, T: Value, R: Fn(T, T) -> T + Send + Sync + 'static> MergeAggregate<K, T> for Reducing<R> {
    fn merge(&self, into: &mut Option<T>, from: &Option<T>) {
        if let Some(from) = from {
            self.take_in(into, from.clone());
        }
    }
}

/// See [`Windowed::fold`](crate::Windowed::fold).
pub struct Folding<C, A, Acc> {
    create: C,
    add: A,
    acc: PhantomData<fn() -> Acc>,
}

impl<C, A, Acc> Folding<C, A, Acc> {
    pub(crate) const fn new(create: C, add: A) -> Self {
        Self { create, add, acc: PhantomData }
    }
}

impl<K: 'static, T, C, A, Acc> Aggregate<K, T> for Folding<C, A, Acc>
where
    Acc: Serialize + DeserializeOwned + 'static,
    C: Fn() -> Acc + Send + Sync + 'static,
    A: Fn(&mut Acc, &T) + Send + Sync + 'static,
{
    type Acc = Acc;
    type Output = (K, Window, Acc);
    fn create(&self) -> Acc {
        (self.create)()
    }
    #[inline(always)]
    fn add(&self, acc: &mut Acc, row: &T) {
        (self.add)(acc, row);
    }
    fn finish(&self, key: K, window: Window, acc: Acc) -> Self::Output {
        (key, window, acc)
    }
}
