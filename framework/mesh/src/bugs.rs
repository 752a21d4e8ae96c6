//! Deliberate mistakes, so that a simulation can show that it would find them.
//!
//! Only with the feature `bugs`, and only on a thread that asked for one: never in a release.

/// A mistake that the framework makes on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A checkpoint is declared complete although a task has not saved its part.
    EarlyCommit,
    /// A gate hands a barrier on as soon as one channel has sent it.
    SkippedBarrier,
    /// A receiver gives no credit back.
    LostCredit,
    /// A sink acknowledges a barrier before its rows last.
    SkippedSync,
    /// Each report of a task is counted as if another task had sent it, too.
    ReportTwice,
    /// A task restores the state of the epoch before the one it was told.
    WrongEpoch,
    /// A watermark promises more than the records behind it keep.
    WatermarkAhead,
    /// Now and then a batch is sent twice.
    DuplicateBatch,
    /// The next attempt has the number of the one before.
    ReusedAttempt,
    /// A restored sink does not commit what its checkpoint holds.
    ForgottenCommit,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 10] = [
        Bug::EarlyCommit,
        Bug::SkippedBarrier,
        Bug::LostCredit,
        Bug::SkippedSync,
        Bug::ReportTwice,
        Bug::WrongEpoch,
        Bug::WatermarkAhead,
        Bug::DuplicateBatch,
        Bug::ReusedAttempt,
        Bug::ForgottenCommit,
    ];
}

#[cfg(feature = "bugs")]
thread_local! {
    static MADE: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// From now on this thread makes this mistake, or none.
#[cfg(feature = "bugs")]
pub fn make(bug: Option<Bug>) {
    MADE.set(bug);
}

/// Whether this thread makes this mistake.
#[cfg(feature = "bugs")]
pub fn on(bug: Bug) -> bool {
    MADE.get() == Some(bug)
}

/// Never, without the feature `bugs`.
#[cfg(not(feature = "bugs"))]
#[inline(always)]
pub const fn on(_: Bug) -> bool {
    false
}
