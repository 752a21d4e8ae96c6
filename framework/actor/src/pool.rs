//! Several actors behind one name: a message goes to the emptier of two mailboxes, one in turn and one
//! picked at random (after Mitzenmacher 2001), and to any other that has room when both are full.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use afflux_wire::contract::{Mail, Refused, ReplyWindow};

use crate::mailbox::Mailbox;

pub(crate) struct Pool<M: Mail> {
    /// At least one.
    mailboxes: Vec<Arc<Mailbox<M>>>,
    turn: AtomicU64,
}

impl<M: Mail> Pool<M> {
    pub(crate) fn new(mailboxes: Vec<Arc<Mailbox<M>>>) -> Self {
        assert!(!mailboxes.is_empty(), "a pool has at least one actor");
        Self { mailboxes, turn: AtomicU64::new(0) }
    }

    /// The mailbox for the next message: one that has room, if any has.
    fn pick(&self) -> &Arc<Mailbox<M>> {
        let n = self.mailboxes.len();
        // In turn, so that equals share: a mailbox does not show that its actor is at work.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let a = turn as usize % n;
        let b = if n == 1 { a } else { (a + 1 + mix(turn) as u32 as usize % (n - 1)) % n };
        let room = |at: usize| {
            let mailbox = &self.mailboxes[at];
            let depth = mailbox.depth();
            (depth < mailbox.capacity() && !mailbox.is_closed()).then_some(depth)
        };
        let at = match (room(a), room(b)) {
            (Some(x), Some(y)) => {
                if x <= y {
                    a
                } else {
                    b
                }
            }
            (Some(_), None) => a,
            (None, Some(_)) => b,
            (None, None) => {
                let other = (0..n).find(|at| room(*at).is_some());
                // All are full or gone: one that lives says which.
                other.or_else(|| (0..n).find(|at| !self.mailboxes[*at].is_closed())).unwrap_or(a)
            }
        };
        &self.mailboxes[at]
    }

    pub(crate) fn push<C: Mail>(&self, message: C, into: impl FnOnce(C) -> M) -> Result<(), Refused<C>> {
        self.pick().push(message, into)
    }

    pub(crate) fn depth(&self) -> usize {
        self.mailboxes.iter().map(|mailbox| mailbox.depth()).sum()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.mailboxes.iter().map(|mailbox| mailbox.capacity()).sum()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.mailboxes.iter().all(|mailbox| mailbox.is_closed())
    }

    pub(crate) fn replies(&self) -> &Arc<ReplyWindow> {
        self.mailboxes[0].replies()
    }

    pub(crate) fn kind_name(&self) -> &'static str {
        self.mailboxes[0].kind().name
    }
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ActorMetrics;
    use crate::options::Options;
    use afflux_wire::Status;
    use afflux_wire::contract::CallMeta;

    struct Note(CallMeta);
    impl Mail for Note {
        fn meta(&self) -> &CallMeta {
            &self.0
        }
        fn reject(self, _: Status) {}
    }

    fn pool(mailboxes: &[Arc<Mailbox<Note>>]) -> Pool<Note> {
        Pool::new(mailboxes.to_vec())
    }

    fn mailboxes(n: usize, room: usize) -> Vec<Arc<Mailbox<Note>>> {
        let metrics = ActorMetrics::unregistered();
        let options = Options { mailbox_messages_max: room, ..Options::default() };
        (0..n).map(|_| Arc::new(Mailbox::new(&options, metrics.kind("Note"), None))).collect()
    }

    fn send(pool: &Pool<Note>) -> bool {
        pool.push(Note(CallMeta::default()), |note| note).is_ok()
    }

    #[test]
    fn messages_are_spread_evenly_and_the_bound_is_that_of_all_together() {
        let boxes = mailboxes(4, 100);
        let pool = pool(&boxes);
        for _ in 0..200 {
            assert!(send(&pool));
        }
        let depths: Vec<usize> = boxes.iter().map(|mailbox| mailbox.depth()).collect();
        assert!(depths.iter().all(|depth| (40..=60).contains(depth)), "{depths:?}");
        let admitted = 200 + (0..300).filter(|_| send(&pool)).count();
        assert_eq!((admitted, pool.depth(), pool.capacity()), (400, 400, 400));
    }

    #[test]
    fn an_actor_that_has_ended_gets_nothing_while_another_lives() {
        let boxes = mailboxes(3, 10);
        let pool = pool(&boxes);
        drop(boxes[0].close());
        drop(boxes[2].close());
        assert_eq!((0..20).filter(|_| send(&pool)).count(), 10);
        assert!(!pool.is_closed());
        drop(boxes[1].close());
        assert!(pool.is_closed() && !send(&pool));
    }
}
