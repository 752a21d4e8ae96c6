//! Values of a key that become one.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{State, StateField, ValueState};

/// How two values become one: the rule of a [`ReducingState`].
pub trait Reducer: 'static {
    /// The values.
    type Value: Serialize + DeserializeOwned + 'static;
    /// Takes another value into the one that is kept.
    fn reduce(kept: &mut Self::Value, value: Self::Value);
}

/// One value of a key that every value added is reduced into.
///
/// ```
/// use afflux_stream::{Reducer, ReducingState};
/// struct Longest;
/// impl Reducer for Longest {
///     type Value = String;
///     fn reduce(kept: &mut String, value: String) {
///         if value.len() > kept.len() { *kept = value }
///     }
/// }
/// let mut longest = ReducingState::<Longest>::default();
/// longest.add("ab".into());
/// longest.add("a".into());
/// assert_eq!(longest.get().map(String::as_str), Some("ab"));
/// ```
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = ""))]
pub struct ReducingState<R: Reducer>(ValueState<R::Value>);

impl<R: Reducer> Default for ReducingState<R> {
    fn default() -> Self {
        Self(ValueState::default())
    }
}

impl<R: Reducer> ReducingState<R> {
    /// Reduces a value into what is kept; its life begins anew.
    pub fn add(&mut self, value: R::Value) {
        match self.0.value.as_mut() {
            Some(kept) => {
                R::reduce(kept, value);
                self.0.life.touch();
            }
            None => self.0.set(value),
        }
    }
    /// What is kept, if anything was added.
    pub fn get(&self) -> Option<&R::Value> {
        self.0.get()
    }
    /// Takes out what is kept.
    pub fn take(&mut self) -> Option<R::Value> {
        self.0.take()
    }
}

impl<R: Reducer> State for ReducingState<R> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<R: Reducer> StateField for ReducingState<R> {
    fn prepare(&mut self, now: i64, ttl: i64) {
        self.0.prepare(now, ttl);
    }
    fn ends_at(&self) -> Option<i64> {
        self.0.ends_at()
    }
}

/// How values are gathered and what they give: the rule of an [`AggregatingState`].
pub trait Aggregator: 'static {
    /// What is added.
    type Input;
    /// What is kept.
    type Acc: Default + Serialize + DeserializeOwned + 'static;
    /// What is asked for.
    type Output;
    /// Takes a value in.
    fn add(acc: &mut Self::Acc, input: Self::Input);
    /// The result of all values so far.
    fn result(acc: &Self::Acc) -> Self::Output;
}

/// An accumulator of a key, whose result is another type than what is added.
#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = ""))]
pub struct AggregatingState<A: Aggregator>(ValueState<A::Acc>);

impl<A: Aggregator> Default for AggregatingState<A> {
    fn default() -> Self {
        Self(ValueState::default())
    }
}

impl<A: Aggregator> AggregatingState<A> {
    /// Takes a value in; the life of the accumulator begins anew.
    pub fn add(&mut self, input: A::Input) {
        A::add(self.0.or_insert_with(A::Acc::default), input);
    }
    /// The result so far, if anything was added.
    pub fn get(&self) -> Option<A::Output> {
        self.0.get().map(A::result)
    }
    /// Forgets everything and gives the last result.
    pub fn take(&mut self) -> Option<A::Output> {
        self.0.take().as_ref().map(A::result)
    }
}

impl<A: Aggregator> State for AggregatingState<A> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<A: Aggregator> StateField for AggregatingState<A> {
    fn prepare(&mut self, now: i64, ttl: i64) {
        self.0.prepare(now, ttl);
    }
    fn ends_at(&self) -> Option<i64> {
        self.0.ends_at()
    }
}
