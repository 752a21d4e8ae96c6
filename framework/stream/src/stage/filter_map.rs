//! A closure that makes a record of some records and drops the others, fused with those beside it.

use std::marker::PhantomData;

use super::fused::Step;

/// A step, then a closure that gives at most one record for each.
pub(crate) struct FilterMap<P, F, U> {
    pub(crate) before: P,
    pub(crate) f: F,
    pub(crate) out: PhantomData<fn() -> U>,
}

impl<P: Step, U: 'static, F: Fn(P::Out) -> Option<U> + Send + Sync + 'static> Step for FilterMap<P, F, U> {
    type In = P::In;
    type Out = U;
    const TOTAL: bool = false;
    #[inline(always)]
    fn apply(&self, row: P::In) -> Option<U> {
        self.before.apply(row).and_then(&self.f)
    }
}
