//! One value of a key.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Life, State, StateField};

/// One value of a key, with a time to live where the operator gives it one.
///
/// ```
/// use afflux_stream::ValueState;
/// let mut last = ValueState::default();
/// last.set(7);
/// assert_eq!(last.get(), Some(&7));
/// assert_eq!(last.take(), Some(7));
/// assert_eq!(last.get(), None);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "V: Serialize", deserialize = "V: DeserializeOwned"))]
pub struct ValueState<V> {
    pub(super) value: Option<V>,
    pub(super) life: Life,
}

impl<V> Default for ValueState<V> {
    fn default() -> Self {
        Self { value: None, life: Life::default() }
    }
}

impl<V> ValueState<V> {
    /// The value, if there is one.
    pub fn get(&self) -> Option<&V> {
        self.value.as_ref()
    }
    /// The value to change in place, if there is one; a change does not prolong its life.
    pub fn get_mut(&mut self) -> Option<&mut V> {
        self.value.as_mut()
    }
    /// Sets the value; its life begins anew.
    pub fn set(&mut self, value: V) {
        self.life.touch();
        self.value = Some(value);
    }
    /// Takes the value out.
    pub fn take(&mut self) -> Option<V> {
        self.value.take()
    }
    /// The value, made and set when there is none; its life begins anew.
    pub fn or_insert_with(&mut self, make: impl FnOnce() -> V) -> &mut V {
        self.life.touch();
        self.value.get_or_insert_with(make)
    }
}

impl<V: Serialize + DeserializeOwned + 'static> State for ValueState<V> {
    fn is_empty(&self) -> bool {
        self.value.is_none()
    }
}

impl<V: Serialize + DeserializeOwned + 'static> StateField for ValueState<V> {
    fn prepare(&mut self, now: i64, ttl: i64) {
        (self.life.now, self.life.ttl) = (now, ttl);
        if self.value.is_some() && self.life.over(now) {
            self.value = None;
        }
    }
    fn ends_at(&self) -> Option<i64> {
        self.value.as_ref().and(self.life.ends())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_forgotten_when_its_time_is_over_and_a_new_one_lives_as_long_again() {
        let mut value = ValueState::default();
        value.prepare(1_000, 100);
        value.set("a".to_owned());
        assert_eq!(value.ends_at(), Some(1_100));
        value.prepare(1_099, 100);
        assert_eq!(value.get().map(String::as_str), Some("a"));
        value.set("b".to_owned());
        value.prepare(1_198, 100);
        assert!(!value.is_empty());
        value.prepare(1_199, 100);
        assert!(value.is_empty());
    }
}
