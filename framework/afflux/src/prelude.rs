//! What most files of a user need: `use afflux::prelude::*;`.

#[cfg(feature = "node")]
pub use afflux_macros::{Actor, Event, Key, Operator};
pub use afflux_macros::{RpcError, Service};
pub use schemars::JsonSchema;
pub use serde::{Deserialize, Serialize};

#[cfg(feature = "node")]
pub use crate::actor::{Actor, Lifecycle, Serves, StopReason};
pub use crate::contract::{
    ActorRef, Balanced, Call, CallError, Code, Completion, Cx, Emit, Fault, Feed, Hedge, Incoming, NoError,
    Policy, RpcError, Service, Status,
};
#[cfg(feature = "node")]
pub use crate::stream::Offset;
#[cfg(feature = "node")]
pub use crate::stream::{
    Aggregate, Ahead, BoundedOutOfOrder, Event, Flow, Global, Key, Late, ListState, MapState, Monotonous,
    OperatorCx, Output, Process, Timestamp, Tumbling, ValueState, Watermarks, Window, fold, generate, hours,
    millis_of, minutes, secs,
};
#[cfg(feature = "node")]
pub use crate::stream::{AsyncCx, AsyncMap, Backoff, DeadLetter, Errors, Partitioning, replay};
#[cfg(feature = "node")]
pub use crate::stream::{AtEnd, CountWindow, Every, Evict, MergeAggregate, Session, Sliding, Trigger};
#[cfg(feature = "node")]
pub use crate::stream::{DistinctSet, Ranking, distinct, top_n};
#[cfg(feature = "node")]
pub use crate::{App, connectors::Csv};
pub use crate::{Error, Result};
