//! The actors that wait for a call: how a call that waits for itself is found before it waits.
//!
//! A serial actor handles one message at a time. When its handler waits for a call that, over however many
//! hops, needs the same actor, nobody ever answers. So a call made by a handler says who waits for it, and
//! a mailbox whose actor is among them refuses it at once.
//!
//! A call from outside an actor carries no chain, and nothing is allocated for it.

use std::fmt::{self, Write};
use std::sync::Arc;

use crate::id::{ActorPath, Incarnation, NodeId};
use crate::status::{Code, Executed, Stage, Status};

/// Actors that may wait for one call, one behind the other.
pub const CHAIN_LINKS_MAX: u32 = 32;

/// Bytes of a chain in a frame.
pub const CHAIN_BYTES_MAX: usize = 16 << 10;

/// One actor of the cluster, in one life of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActorKey {
    /// Its node.
    pub node: NodeId,
    /// The life of its node.
    pub incarnation: Incarnation,
    /// Counts the actors of that life.
    pub number: u64,
}

impl fmt::Display for ActorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.node, self.incarnation.0, self.number)
    }
}

/// The name of a method: of this process, or as a peer wrote it.
#[derive(Clone, Debug)]
pub(super) enum MethodText {
    Of(&'static str, &'static str),
    Text(Arc<str>),
}

impl fmt::Display for MethodText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of("", method) => f.write_str(method),
            Self::Of(service, method) => write!(f, "{service}/{method}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[derive(Debug)]
struct Waiting {
    key: ActorKey,
    path: ActorPath,
    method: MethodText,
    /// Whether it handles one message at a time; others are named in messages and never the cause.
    serial: bool,
    links: u32,
    before: Option<CallChain>,
}

/// The actors that wait for a call, the nearest first. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CallChain(Arc<Waiting>);

/// One link as it is written: node, incarnation, number, path, method, serial.
type Written<'a> = (&'a str, u64, u64, &'a str, String, bool);
type Read = (String, u64, u64, String, String, bool);

impl CallChain {
    pub(super) fn new(
        before: Option<Self>,
        key: ActorKey,
        path: ActorPath,
        method: MethodText,
        serial: bool,
    ) -> Self {
        let links = before.as_ref().map_or(0, Self::links) + 1;
        Self(Arc::new(Waiting { key, path, method, serial, links, before }))
    }

    /// Actors in it.
    pub fn links(&self) -> u32 {
        self.0.links
    }

    fn iter(&self) -> impl Iterator<Item = &Waiting> {
        std::iter::successors(Some(&*self.0), |waiting| waiting.before.as_ref().map(|chain| &*chain.0))
    }

    /// Whether this actor waits for the call and handles nothing until it has its answer.
    pub fn holds(&self, key: &ActorKey) -> bool {
        self.iter().any(|waiting| waiting.serial && waiting.key == *key)
    }

    /// Refuses what nests too deep.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION`, not executed, that names the chain.
    pub fn check(&self) -> Result<(), Status> {
        if self.links() <= CHAIN_LINKS_MAX {
            return Ok(());
        }
        Err(Status::precondition(format!(
            "{} actors wait for this call, one behind the other, at most {CHAIN_LINKS_MAX} may \
             (CHAIN_LINKS_MAX): a recursion without an end? {self}",
            self.links()
        ))
        .stage(Stage::Connect))
    }

    /// The error of a call of `method` that would wait for itself at `node`.
    #[cold]
    pub fn cycle(&self, method: &str, node: &NodeId) -> Status {
        Status::new(
            Code::FailedPrecondition,
            format!(
                "call cycle: {self} → {method} on {node}: an actor answers one call at a time and cannot \
                 answer this one while it waits for it. Make the last call one-way, or from a task that \
                 the handler does not wait for (`cx.detached()`), or split the actor in two"
            ),
        )
        .executed(Executed::No)
        .stage(Stage::Admission)
        .node(node)
    }

    /// The chain as it travels in a frame's meta: a MessagePack array, the outermost actor first.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when it is longer than [`CHAIN_BYTES_MAX`].
    pub fn to_wire(&self) -> Result<Vec<u8>, Status> {
        let mut links: Vec<Written<'_>> = self
            .iter()
            .map(|waiting| {
                let key = &waiting.key;
                (
                    key.node.as_str(),
                    key.incarnation.0,
                    key.number,
                    waiting.path.as_str(),
                    waiting.method.to_string(),
                    waiting.serial,
                )
            })
            .collect();
        links.reverse();
        let bytes = crate::codec::to_named(&links)?;
        if bytes.len() > CHAIN_BYTES_MAX {
            return Err(Status::precondition(format!(
                "the {} actors that wait for this call have names of {} bytes together, at most \
                 {CHAIN_BYTES_MAX} may travel (CHAIN_BYTES_MAX): nest calls less deep",
                self.links(),
                bytes.len()
            ))
            .stage(Stage::Connect));
        }
        Ok(bytes)
    }

    /// The chain in a frame's meta. Nothing when it is empty.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no chain, and for one that is too long.
    pub fn from_wire(bytes: &[u8]) -> Result<Option<Self>, Status> {
        let too_long = |what: &str| {
            Status::invalid(format!(
                "meta.chain: {what}, at most {CHAIN_LINKS_MAX} actors in {CHAIN_BYTES_MAX} bytes may be there"
            ))
        };
        if bytes.len() > CHAIN_BYTES_MAX {
            return Err(too_long(&format!("{} bytes", bytes.len())));
        }
        let links: Vec<Read> = crate::codec::from_slice(bytes)
            .map_err(|status| Status::invalid(format!("meta.chain: {}", status.message)))?;
        if links.len() > CHAIN_LINKS_MAX as usize {
            return Err(too_long(&format!("{} actors", links.len())));
        }
        Ok(links.into_iter().fold(None, |before, (node, incarnation, number, path, method, serial)| {
            let key = ActorKey { node: NodeId::new(node), incarnation: Incarnation(incarnation), number };
            Some(Self::new(before, key, ActorPath::new(path), MethodText::Text(method.into()), serial))
        }))
    }
}

impl PartialEq for CallChain {
    fn eq(&self, other: &Self) -> bool {
        self.links() == other.links()
            && self.iter().zip(other.iter()).all(|(a, b)| a.key == b.key && a.serial == b.serial)
    }
}

/// `a.x/Foo on n1 → b.y/Bar on n2`.
impl fmt::Display for CallChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<String> = Vec::with_capacity(self.links() as usize);
        for waiting in self.iter() {
            let mut name = format!("{}", waiting.method);
            // An actor with a name of its own is told by it.
            if !name.starts_with(waiting.path.as_str()) {
                let _ = write!(name, " of {}", waiting.path);
            }
            let _ = write!(name, " on {}", waiting.key.node);
            names.push(name);
        }
        names.reverse();
        f.write_str(&names.join(" → "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> ActorKey {
        ActorKey { node: NodeId::new(format!("n{number}")), incarnation: Incarnation(1), number }
    }

    fn chain(numbers: &[u64]) -> CallChain {
        let link = |before, &number: &u64| {
            let method = MethodText::Of("a.x", "Foo");
            Some(CallChain::new(before, key(number), ActorPath::new("a.x"), method, number < 100))
        };
        numbers.iter().fold(None, link).unwrap()
    }

    #[test]
    fn a_chain_holds_its_serial_actors_and_survives_the_wire() {
        let chain = chain(&[1, 2, 100]);
        let back = CallChain::from_wire(&chain.to_wire().unwrap()).unwrap().unwrap();
        for chain in [&chain, &back] {
            assert!(chain.holds(&key(1)) && chain.holds(&key(2)));
            assert!(!chain.holds(&key(100)), "a concurrent actor is no cycle");
            assert!(!chain.holds(&ActorKey { incarnation: Incarnation(2), ..key(1) }), "another life");
            assert_eq!(chain.to_string(), "a.x/Foo on n1 → a.x/Foo on n2 → a.x/Foo on n100");
        }
        assert_eq!(chain, back);
    }

    #[test]
    fn a_cycle_names_every_actor_and_a_cure() {
        let status = chain(&[1, 2]).cycle("a.x/Baz", &NodeId::new("n1"));
        assert!(
            status.message.starts_with("call cycle: a.x/Foo on n1 → a.x/Foo on n2 → a.x/Baz on n1: "),
            "{status}"
        );
        assert_eq!((status.code, status.was_executed()), (Code::FailedPrecondition, Executed::No));
        assert!(status.message.contains("one-way"), "{status}");
    }

    #[test]
    fn an_actor_under_another_name_is_told_by_it() {
        let method = MethodText::Of("a.x", "Foo");
        let chain = CallChain::new(None, key(1), ActorPath::new("desk"), method, true);
        assert_eq!(chain.to_string(), "a.x/Foo of desk on n1");
    }

    #[test]
    fn a_chain_is_as_long_as_its_bound_and_no_longer() {
        let numbers: Vec<u64> = (0..u64::from(CHAIN_LINKS_MAX)).collect();
        let full = chain(&numbers);
        assert!(full.check().is_ok());
        assert!(CallChain::from_wire(&full.to_wire().unwrap()).is_ok());
        let over = CallChain::new(Some(full), key(99), ActorPath::new("a"), MethodText::Of("", "F"), true);
        let error = over.check().unwrap_err();
        assert!(error.message.contains("33 actors") && error.message.contains("recursion"), "{error}");
        let error = CallChain::from_wire(&over.to_wire().unwrap()).unwrap_err();
        assert!(error.message.contains("33 actors") && error.code == Code::InvalidArgument, "{error}");
    }

    #[test]
    fn what_is_no_chain_is_refused_and_an_empty_one_is_none() {
        for bytes in [&b"\xc1"[..], b"", b"\x91\x01", b"\x01", &[0; CHAIN_BYTES_MAX + 1]] {
            assert_eq!(CallChain::from_wire(bytes).unwrap_err().code, Code::InvalidArgument, "{bytes:?}");
        }
        assert!(CallChain::from_wire(b"\x90").unwrap().is_none());
    }
}
