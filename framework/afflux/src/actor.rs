//! What runs: actors, their bounds, and where they live.

pub use afflux_actor::{
    Actor, ActorHandle, ActorMetrics, Address, Clock, Keyed, Lifecycle, Options, Overflow, Place, Restart,
    RestartPolicy, Serves, ServiceEntry, Spec, StopReason, Threads, Watch, system,
};
pub use afflux_wire::ActorPath;
