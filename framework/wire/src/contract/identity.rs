//! Who calls: a name that somebody else has vouched for.

use std::fmt;
use std::sync::Arc;

use crate::id::NodeId;

/// What vouches for an [`Identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// A certificate that the cluster's authority has signed (mutual TLS).
    Certificate,
    /// A secret that the caller knows: the cluster's token, or one of `auth.tokens`.
    Token,
}

impl fmt::Display for IdentityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
        })
    }
}

/// An authenticated caller: `role/name`, such as `node/orders-7` or `support/alice`.
///
/// ```
/// use afflux_wire::contract::{Identity, IdentityKind};
///
/// let alice = Identity::new("support/alice", IdentityKind::Token);
/// assert_eq!((alice.role(), alice.node.is_none()), ("support", true));
/// let node = Identity::new("node/orders-7", IdentityKind::Certificate);
/// assert_eq!(node.node, Some("orders-7".into()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// `role/name`.
    pub name: Arc<str>,
    /// What vouches for it.
    pub kind: IdentityKind,
    /// The node, when it is one of the cluster: the role `node`.
    pub node: Option<NodeId>,
}

/// The role of the cluster's own nodes.
const NODE_ROLE: &str = "node";

impl Identity {
    /// An identity of this name. `node/NAME` is the node of that name.
    pub fn new(name: impl Into<Arc<str>>, kind: IdentityKind) -> Self {
        let name = name.into();
        let node = match name.split_once('/') {
            Some((NODE_ROLE, node)) if !node.is_empty() => Some(NodeId::new(node)),
            _ => None,
        };
        Self { name, kind, node }
    }

    /// The identity of a node.
    pub fn node(node: &NodeId, kind: IdentityKind) -> Self {
        Self { name: format!("{NODE_ROLE}/{node}").into(), kind, node: Some(node.clone()) }
    }

    /// What stands in front of the name's `/`; the whole name where there is none.
    pub fn role(&self) -> &str {
        self.name.split_once('/').map_or(&self.name, |(role, _)| role)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (by {})", self.name, self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_role_node_names_a_node() {
        assert_eq!(Identity::new("node/a", IdentityKind::Token).node, Some(NodeId::new("a")));
        for name in ["nodes/a", "node", "node/", "support/node/a"] {
            assert_eq!(Identity::new(name, IdentityKind::Token).node, None, "{name}");
        }
        let node = Identity::node(&NodeId::new("a"), IdentityKind::Certificate);
        assert_eq!((&*node.name, node.role()), ("node/a", "node"));
        assert_eq!(node.to_string(), "node/a (by certificate)");
    }
}
