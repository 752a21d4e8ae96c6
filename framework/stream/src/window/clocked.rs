//! Windows of the clock instead of event time.

use super::{Sliding, Tumbling};

/// Windows `W` of the node's clock: a record belongs where it comes, whatever its event time. They
/// fire when the clock reaches their end; those that are pending when the input ends fire then.
///
/// Two runs over the same records give different results. Tests move the injected clock.
///
/// ```
/// use afflux_stream::{Tumbling, secs};
/// let windows = Tumbling::of(secs(10)).processing_time();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessingTime<W>(pub(crate) W);

impl Tumbling {
    /// The same windows of the clock.
    pub const fn processing_time(self) -> ProcessingTime<Self> {
        ProcessingTime(self)
    }
}

impl Sliding {
    /// The same windows of the clock.
    pub const fn processing_time(self) -> ProcessingTime<Self> {
        ProcessingTime(self)
    }
}
