//! The bounds of an actor and what happens when it ends.

use std::time::Duration;

use afflux_wire::contract::ReplyLimits;

/// How there is an actor for each value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// The parameter that every method of its contracts has.
    pub param: &'static str,
    /// An actor that got no call for this long is stopped, and made anew by the next.
    pub idle: Duration,
    /// Actors of this kind alive on one node at a time.
    pub active_max: usize,
}

/// What a mailbox does with a message for which there is no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Refuses it: the caller gets `RESOURCE_EXHAUSTED`, not executed.
    #[default]
    Reject,
    /// Lets it wait for a place until its deadline, in an admission queue of
    /// [`Options::admission_messages_max`]. No thread and no link waits with it.
    Wait,
}

/// When an actor that ended is started again: the words of Erlang/OTP.
///
/// An actor that was asked to stop, by its owner or by itself through `Cx::stop`, is never restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Always.
    #[default]
    Permanent,
    /// After a panic or a failure, but not when it finished.
    Transient,
    /// Never.
    Temporary,
}

/// The restart policy with its intensity: more than `max` restarts within `within` end the actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Which ends are followed by a restart.
    pub policy: RestartPolicy,
    /// Restarts allowed within [`within`](Self::within).
    pub max: u32,
    /// The span that restarts are counted over.
    pub within: Duration,
    /// The pause before the second restart within the span. The first comes at once; each further
    /// pause is twice the one before, up to [`backoff_max`](Self::backoff_max).
    pub backoff: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::Permanent,
            max: 5,
            within: Duration::from_secs(30),
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
        }
    }
}

impl Restart {
    /// No restart at all.
    pub fn temporary() -> Self {
        Self { policy: RestartPolicy::Temporary, ..Self::default() }
    }
}

/// The bounds and the policy of one kind of actor.
///
/// ```
/// use afflux_actor::{Options, Overflow};
/// let options = Options { mailbox_messages_max: 64, overflow: Overflow::Wait, ..Options::default() };
/// assert_eq!(options.admission_messages_max, 1024);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Messages that are admitted and whose handler has not started; at least one.
    pub mailbox_messages_max: usize,
    /// What happens to the next message.
    pub overflow: Overflow,
    /// Messages that may wait for a place under [`Overflow::Wait`].
    pub admission_messages_max: usize,
    /// What happens when the actor ends.
    pub restart: Restart,
    /// What is kept of the answers of calls with an idempotency key.
    pub replies: ReplyLimits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mailbox_messages_max: 1024,
            overflow: Overflow::Reject,
            admission_messages_max: 1024,
            restart: Restart::default(),
            replies: ReplyLimits::default(),
        }
    }
}
