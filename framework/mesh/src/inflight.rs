//! Calls that left over a link and wait for their answer.

use std::sync::Arc;
use std::time::Instant;

use afflux_wire::contract::ResponseSlot;

use crate::hash::IdMap;

/// One call without an answer.
pub(crate) struct Pending {
    pub(crate) slot: Arc<dyn ResponseSlot>,
    pub(crate) deadline: Instant,
    /// Where its frame ends in all that was ever appended to the control connection.
    pub(crate) end: u64,
    /// Index into the link's bound methods.
    pub(crate) method: u32,
    /// Set for the calls whose duration is observed.
    pub(crate) started: Option<Instant>,
}

/// The table. Looks at deadlines only once the earliest may have passed.
#[derive(Default)]
pub(crate) struct InFlight {
    calls: IdMap<u64, Pending>,
    /// No deadline in the table is before this moment.
    earliest: Option<Instant>,
}

impl InFlight {
    /// Adds a call; true when the timer has to be set earlier for it.
    #[inline]
    pub(crate) fn insert(&mut self, id: u64, pending: Pending) -> bool {
        let earlier = self.earliest.is_none_or(|earliest| pending.deadline < earliest);
        if earlier {
            self.earliest = Some(pending.deadline);
        }
        self.calls.insert(id, pending);
        earlier
    }

    #[inline]
    pub(crate) fn remove(&mut self, id: u64) -> Option<Pending> {
        self.calls.remove(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.earliest
    }

    /// Takes out what passed its deadline, in the order of ids, and finds the next deadline.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(u64, Pending)> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let expired = self.take_if(|_, pending| pending.deadline <= now);
        self.earliest = self.calls.values().map(|pending| pending.deadline).min();
        expired
    }

    /// Takes out the calls that a test picks, in the order of ids.
    pub(crate) fn take_if(&mut self, test: impl Fn(u64, &Pending) -> bool) -> Vec<(u64, Pending)> {
        let mut taken: Vec<_> = self.calls.extract_if(|&id, pending| test(id, pending)).collect();
        taken.sort_unstable_by_key(|(id, _)| *id);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_wire::Status;
    use std::time::Duration;

    struct Nobody;
    impl ResponseSlot for Nobody {
        fn complete(&self, _: Result<&[u8], Status>) {}
    }

    fn pending(deadline: Instant) -> Pending {
        Pending { slot: Arc::new(Nobody), deadline, end: 0, method: 0, started: None }
    }

    #[test]
    fn only_what_is_due_expires_and_the_timer_moves_on() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut table = InFlight::default();
        assert!(table.insert(1, pending(at(10))));
        assert!(!table.insert(3, pending(at(20))));
        assert!(table.insert(5, pending(at(5))));
        assert_eq!(table.earliest(), Some(at(5)));
        assert!(table.expire(at(4)).is_empty());
        let expired: Vec<u64> = table.expire(at(10)).into_iter().map(|(id, _)| id).collect();
        assert_eq!(expired, [1, 5]);
        assert_eq!(table.earliest(), Some(at(20)));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn an_answered_call_costs_one_look_at_the_table_and_no_more() {
        let start = Instant::now();
        let mut table = InFlight::default();
        table.insert(1, pending(start));
        assert!(table.remove(1).is_some());
        assert!(table.remove(1).is_none());
        assert!(table.expire(start).is_empty());
        assert_eq!(table.earliest(), None);
    }
}
