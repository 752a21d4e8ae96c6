//! Values of a key in a row.

use std::mem::take;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Life, State, StateField};

/// Values of a key in the order in which they were added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "V: Serialize", deserialize = "V: DeserializeOwned"))]
pub struct ListState<V> {
    values: Vec<V>,
    life: Life,
}

impl<V> Default for ListState<V> {
    fn default() -> Self {
        Self { values: Vec::new(), life: Life::default() }
    }
}

impl<V> ListState<V> {
    /// The values, oldest first.
    pub fn get(&self) -> &[V] {
        &self.values
    }
    /// Adds a value; the life of the whole list begins anew.
    pub fn add(&mut self, value: V) {
        self.life.touch();
        self.values.push(value);
    }
    /// Keeps the values that meet a predicate.
    pub fn retain(&mut self, keep: impl FnMut(&V) -> bool) {
        self.values.retain(keep);
    }
    /// Takes all values out.
    pub fn take(&mut self) -> Vec<V> {
        take(&mut self.values)
    }
    /// Puts these in place of all values; their life begins anew.
    pub fn set(&mut self, values: Vec<V>) {
        self.life.touch();
        self.values = values;
    }
}

impl<V: Serialize + DeserializeOwned + 'static> State for ListState<V> {
    fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl<V: Serialize + DeserializeOwned + 'static> StateField for ListState<V> {
    fn prepare(&mut self, now: i64, ttl: i64) {
        (self.life.now, self.life.ttl) = (now, ttl);
        if self.life.over(now) {
            self.values.clear();
        }
    }
    fn ends_at(&self) -> Option<i64> {
        if self.values.is_empty() { None } else { self.life.ends() }
    }
}
