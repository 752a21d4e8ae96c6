//! How a record's key is found.

use std::borrow::Cow;
use std::marker::PhantomData;

use crate::key::Key;

/// Finds the key of a record. Implemented by the closures given to `key_by` and `key_by_ref`.
pub trait KeyOf<T>: Send + Sync + 'static {
    /// The key.
    type Key: Key;
    /// Whether the key stands in the record, so that finding it costs nothing.
    const BORROWED: bool;
    /// The key of this record, borrowed where it can be.
    fn key<'a>(&self, row: &'a T) -> Cow<'a, Self::Key>;
    /// The hash of the key of this record.
    #[inline]
    fn hash(&self, row: &T) -> u64 {
        self.key(row).key_hash()
    }
}

/// A closure that makes the key.
pub struct ByValue<F, K> {
    pub(crate) f: F,
    pub(crate) key: PhantomData<fn() -> K>,
}

impl<T, K: Key, F: Fn(&T) -> K + Send + Sync + 'static> KeyOf<T> for ByValue<F, K> {
    type Key = K;
    const BORROWED: bool = false;
    #[inline(always)]
    fn key<'a>(&self, row: &'a T) -> Cow<'a, K> {
        Cow::Owned((self.f)(row))
    }
}

/// A closure that points at the key in the record.
pub struct ByRef<F, K> {
    pub(crate) f: F,
    pub(crate) key: PhantomData<fn() -> K>,
}

impl<T, K: Key, F: Fn(&T) -> &K + Send + Sync + 'static> KeyOf<T> for ByRef<F, K> {
    type Key = K;
    const BORROWED: bool = true;
    #[inline(always)]
    fn key<'a>(&self, row: &'a T) -> Cow<'a, K> {
        Cow::Borrowed((self.f)(row))
    }
}
