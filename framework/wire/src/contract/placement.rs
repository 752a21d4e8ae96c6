//! Where a call may go, and what follows when it failed there.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::call::Handle;
use super::service::Service;
use crate::id::NodeId;
use crate::status::{Code, Status};

/// How the endpoints of a service share its calls.
///
/// ```
/// use afflux_wire::contract::Policy;
/// assert_eq!("round_robin".parse(), Ok(Policy::RoundRobin));
/// assert!("rr".parse::<Policy>().unwrap_err().contains("least_loaded"));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Each in turn.
    RoundRobin,
    /// Any, each as likely.
    Random,
    /// Each in turn, as often as its label `weight` says (1 without one), spread out smoothly.
    Weighted,
    /// The less loaded of two picked at random (Mitzenmacher 2001). Load is this process's unanswered
    /// calls, the work of others that the endpoint reports, and a charge for recent failures.
    #[default]
    LeastLoaded,
    /// By the call's key: the endpoint with the highest hash of key and node (rendezvous; Thaler and
    /// Ravishankar 1998). A call without a key takes the calling node's name for one.
    ConsistentHash,
    /// Endpoints of the own zone, the less loaded of two, until they have clearly more to do than
    /// those elsewhere.
    LocalityFirst,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::Random,
        Self::Weighted,
        Self::LeastLoaded,
        Self::ConsistentHash,
        Self::LocalityFirst,
    ];

    /// The word for settings and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::Weighted => "weighted",
            Self::LeastLoaded => "least_loaded",
            Self::ConsistentHash => "consistent_hash",
            Self::LocalityFirst => "locality_first",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|policy| policy.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|policy| policy.name()).collect();
            format!("no policy is called `{text}`: there are {}", names.join(", "))
        })
    }
}

/// When a second attempt of an idempotent call goes to another endpoint, while the first still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hedge {
    /// After this long.
    After(Duration),
    /// After the time within which 95 of 100 calls of the method were answered lately; not at all
    /// while too few are known.
    P95,
}

/// Whom the next attempt of a call keeps away from, while there is anybody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Avoid {
    /// The mailbox of this process.
    Here,
    /// A node.
    Node(NodeId),
}

/// What a call says of the place where it is to go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Placement<'a> {
    /// The hash of its key: equal keys go to one endpoint.
    pub key: Option<u64>,
    /// Instead of the service's policy.
    pub policy: Option<Policy>,
    /// Where it was before.
    pub avoid: Option<&'a Avoid>,
    /// Whether it stays away rather than goes there again, and goes over a link in any case.
    pub elsewhere: bool,
}

/// A failed attempt, for who decides about another.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// Attempts so far.
    pub tries: u32,
    /// Where it failed, as far as is known.
    pub at: Option<&'a Avoid>,
    /// How.
    pub status: &'a Status,
}

impl Failure<'_> {
    /// The time that whoever refused asks for; nothing where the next attempt goes elsewhere.
    #[must_use]
    pub fn hint(&self) -> Duration {
        if self.status.code != Code::ResourceExhausted || self.at == Some(&Avoid::Here) {
            return Duration::ZERO;
        }
        let ms = self.status.details.as_ref().and_then(|details| details.retry_after_ms);
        Duration::from_millis(ms.unwrap_or(RETRY_AFTER_FULL_MS))
    }
}

/// When a caller refused by a full mailbox may try again, in milliseconds.
pub(super) const RETRY_AFTER_FULL_MS: u64 = 20;

/// Whether a failed call is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After this long.
    After(Duration),
    /// No: there is nowhere else to go.
    No,
    /// No, although it might help; the text says which bound was reached.
    Spent(String),
}

/// The hash of a call's key: of its MessagePack, so that it is the same in every process and build,
/// and the same for a `u32` and a `u64`, a `&str` and a `String`.
///
/// ```
/// use afflux_wire::contract::key_hash;
/// assert_eq!(key_hash(&7_u8), key_hash(&7_u64));
/// assert_ne!(key_hash("a"), key_hash("b"));
/// ```
#[must_use]
pub fn key_hash<K: Serialize + ?Sized>(key: &K) -> u64 {
    super::reply::with_scratch(|scratch| {
        // A key that cannot be encoded is like every other such key.
        let _ = crate::codec::to_named_in(key, scratch);
        // FNV-1a; whoever ranks endpoints by it mixes it further.
        scratch.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    })
}

/// Clients whose calls share the endpoints in a way of their own. Every generated client is one.
///
/// ```
/// # use afflux_wire::contract::{Balanced, Handle, Policy, Service};
/// # fn example<S: Service>(orders: S::Client) where S::Client: Balanced<S> {
/// let orders = orders.balanced(Policy::RoundRobin);
/// # }
/// ```
pub trait Balanced<S: Service>: AsRef<Handle<S>> + From<Handle<S>> {
    /// The same client with another policy than the service's.
    #[must_use]
    fn balanced(&self, policy: Policy) -> Self {
        Self::from(self.as_ref().clone().with_policy(policy))
    }
}

impl<S: Service, C: AsRef<Handle<S>> + From<Handle<S>>> Balanced<S> for C {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_found_by_its_name() {
        for policy in Policy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
    }

    #[test]
    fn equal_keys_of_different_types_have_one_hash() {
        assert_eq!(key_hash(&300_u16), key_hash(&300_i64));
        assert_eq!(key_hash("ab"), key_hash(&"ab".to_owned()));
        assert_ne!(key_hash(&("a", "bc")), key_hash(&("ab", "c")));
    }

    #[test]
    fn a_refusal_of_this_process_does_not_delay_a_try_elsewhere() {
        let status = Status::new(Code::ResourceExhausted, "full").retry_after_ms(70);
        let at = |at| Failure { tries: 1, at, status: &status }.hint();
        assert_eq!(at(Some(&Avoid::Here)), Duration::ZERO);
        let there = Avoid::Node("n".into());
        assert_eq!(at(Some(&there)), Duration::from_millis(70));
        assert_eq!(at(None), Duration::from_millis(70));
    }
}
