//! The sending side of a mailbox.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use afflux_wire::contract::{Accept, Mail, Refused, ReplyWindow};
use afflux_wire::{Executed, Stage, Status};

use crate::mailbox::Mailbox;
use crate::pool::Pool;

/// Where messages for an actor are admitted. All clones share one bound, and it outlives restarts.
///
/// Most are one mailbox; a pool's is several, and one may be whatever else decides where a message goes.
pub struct Address<M: Mail> {
    behind: Behind<M>,
}

enum Behind<M: Mail> {
    Mailbox(Arc<Mailbox<M>>),
    Pool(Arc<Pool<M>>),
    Other(Arc<dyn Accept<M>>),
}

impl<M: Mail> Address<M> {
    pub(crate) fn new(mailbox: Arc<Mailbox<M>>) -> Self {
        Self { behind: Behind::Mailbox(mailbox) }
    }

    /// One address for the actors of a pool: a message goes to the emptier of two.
    ///
    /// # Panics
    /// Without an actor.
    #[must_use]
    pub fn pool(addresses: Vec<Self>) -> Self {
        let mailboxes = addresses.into_iter().filter_map(|address| match address.behind {
            Behind::Mailbox(mailbox) => Some(mailbox),
            Behind::Pool(_) | Behind::Other(_) => None,
        });
        Self { behind: Behind::Pool(Arc::new(Pool::new(mailboxes.collect()))) }
    }

    /// An address whose messages go wherever `other` decides. What it refuses it answers itself, so that
    /// senders are told of no refusal.
    #[must_use]
    pub fn over(other: Arc<dyn Accept<M>>) -> Self {
        Self { behind: Behind::Other(other) }
    }

    /// Admits a message, made from `message` only once it is known to fit where that can be known.
    fn push<C: Mail>(&self, message: C, into: impl FnOnce(C) -> M) -> Result<(), Refused<C>> {
        match &self.behind {
            Behind::Mailbox(mailbox) => mailbox.push(message, into),
            Behind::Pool(pool) => pool.push(message, into),
            Behind::Other(other) => {
                if let Err(refused) = other.accept(into(message)) {
                    let text = "what stands behind this address takes no messages";
                    let status = Status::unavailable(text).executed(Executed::No).stage(Stage::Admission);
                    refused.into_inner().reject(status);
                }
                Ok(())
            }
        }
    }

    /// An address behind which nobody is: whatever is sent comes back. For asking the type of an actor what it
    /// serves, without starting one.
    pub fn nowhere() -> Self {
        let metrics = crate::metrics::ActorMetrics::unregistered();
        let mailbox = Mailbox::new(&crate::options::Options::default(), metrics.kind("nobody"), None);
        drop(mailbox.close());
        Self::new(Arc::new(mailbox))
    }

    /// Admits a message or gives it back.
    ///
    /// # Errors
    /// [`Refused`] with the message: no place, or the actor has ended.
    pub fn try_send(&self, message: M) -> Result<(), Refused<M>> {
        self.push(message, |m| m)
    }

    /// Admits messages from the front, with one lock and one wake, while there is room; returns how
    /// many. Those that are left were counted as refused.
    pub fn send_batch(&self, messages: &mut VecDeque<M>) -> usize {
        if let Behind::Mailbox(mailbox) = &self.behind {
            return mailbox.push_batch(messages);
        }
        let mut admitted = 0;
        while let Some(message) = messages.pop_front() {
            if let Err(refused) = self.try_send(message) {
                messages.push_front(refused.into_inner());
                break;
            }
            admitted += 1;
        }
        admitted
    }

    /// The answers that calls with idempotency keys may get again: a pool has one for all its actors.
    fn window(&self) -> Option<&Arc<ReplyWindow>> {
        match &self.behind {
            Behind::Mailbox(mailbox) => Some(mailbox.replies()),
            Behind::Pool(pool) => Some(pool.replies()),
            Behind::Other(other) => other.replies(),
        }
    }

    /// Messages whose handler has not started.
    pub fn depth(&self) -> usize {
        match &self.behind {
            Behind::Mailbox(mailbox) => mailbox.depth(),
            Behind::Pool(pool) => pool.depth(),
            Behind::Other(other) => other.depth(),
        }
    }

    /// Messages that fit.
    pub fn capacity(&self) -> usize {
        match &self.behind {
            Behind::Mailbox(mailbox) => mailbox.capacity(),
            Behind::Pool(pool) => pool.capacity(),
            Behind::Other(other) => other.capacity(),
        }
    }

    /// Whether the actor has ended for good.
    pub fn is_closed(&self) -> bool {
        match &self.behind {
            Behind::Mailbox(mailbox) => mailbox.is_closed(),
            Behind::Pool(pool) => pool.is_closed(),
            Behind::Other(_) => false,
        }
    }

    /// This address as a place for one of the message types that its mail is made from.
    pub fn accepting<C: Mail>(&self) -> Arc<dyn Accept<C>>
    where
        M: From<C>,
    {
        self.accepting_with(M::from)
    }

    /// This address as a place for messages that `into` turns into its mail, once they are known to fit.
    pub fn accepting_with<C: Mail>(&self, into: fn(C) -> M) -> Arc<dyn Accept<C>> {
        Arc::new(Accepting { address: self.clone(), into })
    }
}

impl<M: Mail> Clone for Address<M> {
    fn clone(&self) -> Self {
        let behind = match &self.behind {
            Behind::Mailbox(mailbox) => Behind::Mailbox(Arc::clone(mailbox)),
            Behind::Pool(pool) => Behind::Pool(Arc::clone(pool)),
            Behind::Other(other) => Behind::Other(Arc::clone(other)),
        };
        Self { behind }
    }
}

impl<M: Mail> fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.behind {
            Behind::Mailbox(mailbox) => mailbox.kind().name,
            Behind::Pool(pool) => pool.kind_name(),
            Behind::Other(_) => "other",
        };
        write!(f, "Address({name}, {}/{})", self.depth(), self.capacity())
    }
}

impl<M: Mail> Accept<M> for Address<M> {
    fn accept(&self, message: M) -> Result<(), Refused<M>> {
        self.try_send(message)
    }
    fn depth(&self) -> usize {
        Address::depth(self)
    }
    fn capacity(&self) -> usize {
        Address::capacity(self)
    }
    fn replies(&self) -> Option<&Arc<ReplyWindow>> {
        self.window()
    }
}

struct Accepting<C, M: Mail> {
    address: Address<M>,
    into: fn(C) -> M,
}

impl<C: Mail, M: Mail> Accept<C> for Accepting<C, M> {
    fn accept(&self, message: C) -> Result<(), Refused<C>> {
        self.address.push(message, self.into)
    }
    fn depth(&self) -> usize {
        self.address.depth()
    }
    fn capacity(&self) -> usize {
        self.address.capacity()
    }
    fn replies(&self) -> Option<&Arc<ReplyWindow>> {
        self.address.window()
    }
}
