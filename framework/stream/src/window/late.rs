//! What becomes of records that come too late.

use crate::stream::{Record, Stream};

/// What to do with a record that comes after its window was purged. There is no default: a
/// pipeline says it.
pub struct Late;

#[allow(non_upper_case_globals)] // read as the variants of a choice, but each has a type of its own
impl Late {
    /// Counts it and drops it.
    pub const Drop: DropLate = DropLate;
    /// Counts it and gives it to a second stream.
    pub const Side: SideLate = SideLate;
}

/// See [`Late::Drop`].
#[derive(Clone, Copy, Debug)]
pub struct DropLate;
/// See [`Late::Side`].
#[derive(Clone, Copy, Debug)]
pub struct SideLate;
/// Nothing can be late: windows of counts, of the clock, and the one over all of time.
#[derive(Clone, Copy, Debug)]
pub struct NeverLate;
/// No policy for late records yet.
#[derive(Clone, Copy, Debug)]
pub struct NoPolicy;

/// A policy for late records: [`Late::Drop`], [`Late::Side`], or that there are none.
#[diagnostic::on_unimplemented(
    message = "these windows need a policy for records that come too late",
    label = "no policy for late records yet",
    note = "say `.late(Late::Drop)` to count and drop them, or `.late(Late::Side)` to get them as a second \
            stream, in front of the aggregation"
)]
pub trait LatePolicy: LateStreams {}
impl LatePolicy for DropLate {}
impl LatePolicy for SideLate {}
impl LatePolicy for NeverLate {}

/// What a windowed operator gives: its results, and the late records where the policy is
/// [`Late::Side`]. Apart from [`LatePolicy`] so that a missing policy is called by its name.
pub trait LateStreams {
    /// The results `O`, and the late records `T` where they are asked for.
    type Streams<T: Record, O: 'static>;
    /// Whether late records are kept.
    #[doc(hidden)]
    const ASIDE: bool;
    #[doc(hidden)]
    fn streams<T: Record, O: 'static>(results: Stream<O>, late: LateRows<T>) -> Self::Streams<T, O>;
}

/// The late records of an operator, to be made a stream if anybody wants it.
#[doc(hidden)]
pub struct LateRows<T: 'static>(pub(crate) Box<dyn FnOnce() -> Stream<T>>);

macro_rules! results_only {
    ($($policy:ty),*) => {$(
        impl LateStreams for $policy {
            type Streams<T: Record, O: 'static> = Stream<O>;
            const ASIDE: bool = false;
            fn streams<T: Record, O: 'static>(results: Stream<O>, _: LateRows<T>) -> Stream<O> {
                results
            }
        }
    )*};
}
results_only!(DropLate, NeverLate, NoPolicy);

impl LateStreams for SideLate {
    type Streams<T: Record, O: 'static> = (Stream<O>, Stream<T>);
    const ASIDE: bool = true;
    fn streams<T: Record, O: 'static>(results: Stream<O>, late: LateRows<T>) -> (Stream<O>, Stream<T>) {
        (results, (late.0)())
    }
}
