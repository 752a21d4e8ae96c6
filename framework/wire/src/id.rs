//! Names of the things that two nodes talk about.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a node, unique in its cluster and kept over restarts.
///
/// Cheap to clone. Together with an [`Incarnation`] it names one life of one process.
///
/// ```
/// use afflux_wire::NodeId;
/// let node = NodeId::new("orders-1");
/// assert_eq!(node.to_string(), "orders-1");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// A node id with this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for NodeId {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

/// One life of a node: greater than every earlier life of the same [`NodeId`].
///
/// ```
/// use afflux_wire::Incarnation;
/// assert!(Incarnation(2) > Incarnation(1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// A byte channel on a link: one producer task to one consumer task of one job attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChannelId(pub u64);

/// One try at running a job. Frames, commits and files of an older attempt are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u64);

/// Where an actor is found: `pipeline/operator/task` or the name of a service.
///
/// ```
/// use afflux_wire::ActorPath;
/// assert_eq!(ActorPath::new("hourly/source/0").as_str(), "hourly/source/0");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActorPath(Arc<str>);

impl ActorPath {
    /// A path with this text.
    pub fn new(path: impl Into<Arc<str>>) -> Self {
        Self(path.into())
    }

    /// The text of the path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ActorPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of one actor. Nothing in it outlives what it names: another process of the same node has
/// another incarnation, another actor at the same path another `life`.
///
/// A restart by the actor's own supervisor keeps the life: the mailbox and what waits in it stay.
///
/// ```
/// use afflux_wire::{ActorId, ActorPath, Incarnation};
/// let id = ActorId { node: "n1".into(), incarnation: Incarnation(7), path: ActorPath::new("desk"), life: 3 };
/// assert_eq!(id.to_string(), "desk on n1 (life 3, incarnation 7)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ActorId {
    /// Where it lives.
    pub node: NodeId,
    /// Which life of that node.
    pub incarnation: Incarnation,
    /// Its path there.
    pub path: ActorPath,
    /// Which actor of those that have had this path in that life of the node.
    pub life: u64,
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, incarnation, path, life } = self;
        write!(f, "{path} on {node} (life {life}, incarnation {})", incarnation.0)
    }
}
