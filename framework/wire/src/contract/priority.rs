//! Where a call stands in a mailbox.

/// One of the three lanes of a mailbox. Within a lane calls keep their order.
///
/// Lanes are weighted, so that none starves: see `afflux_actor::Options`.
///
/// ```
/// use afflux_wire::contract::Priority;
/// assert_eq!(Priority::from_wire(Priority::Low.to_wire()), Priority::Low);
/// assert_eq!(Priority::from_wire(77), Priority::Normal);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Before all others: control, health.
    High,
    /// Without a word about it.
    #[default]
    Normal,
    /// When nothing else waits: bulk work, caches.
    Low,
}

impl Priority {
    /// The number in a frame's meta: 0 normal, 1 high, 2 low.
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Normal => 0,
            Self::High => 1,
            Self::Low => 2,
        }
    }

    /// The lane behind a number of the wire; a number that this version does not know is normal.
    pub const fn from_wire(number: u32) -> Self {
        match number {
            1 => Self::High,
            2 => Self::Low,
            _ => Self::Normal,
        }
    }

    /// The word that options and documents use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}
