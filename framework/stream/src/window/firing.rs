//! Which of a window's results a result is.

use serde::{Deserialize, Serialize};

/// When a result came, seen from the end of its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Timing {
    /// Before its end: more is to be expected.
    Early,
    /// At its end: the watermark says that the window is whole.
    OnTime,
    /// After its end: a late record has changed it.
    Late,
}

/// Which of a window's results a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Firing {
    /// When it came.
    pub timing: Timing,
    /// How many results the window had before it.
    pub index: u32,
}

impl Firing {
    /// Whether it is the window's first result.
    pub const fn is_first(&self) -> bool {
        self.index == 0
    }
}
