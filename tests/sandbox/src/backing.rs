//! What carries a cluster: the transport and the threads.

use std::fmt;

use afflux_mesh::{MemoryNetwork, Transport};

/// How nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Pipes within the process.
    Memory,
    /// Sockets on loopback.
    Tcp,
}

/// Where a node's actors run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// All nodes on the test's own thread.
    Inline,
    /// Each node on threads of its own, as in production.
    Threads,
}

/// What carries a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing {
    /// How nodes reach each other.
    pub link: Link,
    /// Where their actors run.
    pub running: Running,
}

/// Every backing: one suite function runs over each.
///
/// ```
/// for backing in afflux_sandbox::BACKINGS {
///     println!("{backing}");
/// }
/// ```
pub const BACKINGS: [Backing; 4] = [
    Backing { link: Link::Memory, running: Running::Inline },
    Backing { link: Link::Memory, running: Running::Threads },
    Backing { link: Link::Tcp, running: Running::Inline },
    Backing { link: Link::Tcp, running: Running::Threads },
];

impl Backing {
    /// A transport of this kind, and the address to listen on with it.
    pub(crate) fn transport(self) -> (Transport, &'static str) {
        match self.link {
            Link::Memory => (Transport::Memory(MemoryNetwork::default()), "host:0"),
            Link::Tcp => (Transport::Tcp, "127.0.0.1:0"),
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} on {:?}", self.link, self.running)
    }
}
