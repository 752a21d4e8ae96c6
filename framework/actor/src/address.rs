//! The sending side of a mailbox.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use afflux_wire::contract::{Accept, Mail, Refused, ReplyWindow};

use crate::mailbox::Mailbox;

/// Where messages for an actor are admitted. All clones share one bound, and it outlives restarts.
pub struct Address<M: Mail> {
    mailbox: Arc<Mailbox<M>>,
}

impl<M: Mail> Address<M> {
    pub(crate) fn new(mailbox: Arc<Mailbox<M>>) -> Self {
        Self { mailbox }
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
        self.mailbox.push(message, |m| m)
    }

    /// Admits messages from the front, with one lock and one wake, while there is room; returns how
    /// many. Those that are left were counted as refused.
    pub fn send_batch(&self, messages: &mut VecDeque<M>) -> usize {
        self.mailbox.push_batch(messages)
    }

    /// Messages whose handler has not started.
    pub fn depth(&self) -> usize {
        self.mailbox.depth()
    }

    /// Messages that fit.
    pub fn capacity(&self) -> usize {
        self.mailbox.capacity()
    }

    /// Whether the actor has ended for good.
    pub fn is_closed(&self) -> bool {
        self.mailbox.is_closed()
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
        Self { mailbox: Arc::clone(&self.mailbox) }
    }
}

impl<M: Mail> fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({}, {}/{})", self.mailbox.kind().name, self.depth(), self.capacity())
    }
}

impl<M: Mail> Accept<M> for Address<M> {
    fn accept(&self, message: M) -> Result<(), Refused<M>> {
        self.try_send(message)
    }
    fn depth(&self) -> usize {
        self.mailbox.depth()
    }
    fn capacity(&self) -> usize {
        self.mailbox.capacity()
    }
    fn replies(&self) -> Option<&Arc<ReplyWindow>> {
        Some(self.mailbox.replies())
    }
}

struct Accepting<C, M: Mail> {
    address: Address<M>,
    into: fn(C) -> M,
}

impl<C: Mail, M: Mail> Accept<C> for Accepting<C, M> {
    fn accept(&self, message: C) -> Result<(), Refused<C>> {
        self.address.mailbox.push(message, self.into)
    }
    fn depth(&self) -> usize {
        self.address.depth()
    }
    fn capacity(&self) -> usize {
        self.address.capacity()
    }
    fn replies(&self) -> Option<&Arc<ReplyWindow>> {
        Some(self.address.mailbox.replies())
    }
}
