//! What an actor is: one owner of its state, reached through a bounded mailbox.
//!
//! Reading order: [`Actor`] (what is hosted), [`Options`] (its bounds and its restart policy),
//! [`Address`] (how messages are admitted), [`ActorHandle`] and [`Watch`] (how it is stopped and how
//! its end is seen), [`ServiceEntry`] (how the mesh finds its services), [`Threads`] and [`Place`]
//! (where it runs), [`clock`] (what time it is), [`ActorMetrics`] (what is counted).
//!
//! This is the only crate that names actix: everything above speaks of actors. Not here: sockets and
//! frames (`afflux-mesh`), records (`afflux-stream`).
//!
//! ```
//! use afflux_actor::{Actor, ActorMetrics, Place, Spec, StopReason, system};
//! use afflux_wire::contract::{CallMeta, Cx, Mail, Panic};
//! use afflux_wire::{ActorPath, Status};
//!
//! #[derive(Debug)]
//! struct Add(u64, CallMeta);
//! impl Mail for Add {
//!     fn meta(&self) -> &CallMeta {
//!         &self.1
//!     }
//!     fn reject(self, _status: Status) {}
//! }
//!
//! struct Sum(u64);
//! impl Actor for Sum {
//!     type Mail = Add;
//!     const KIND: &'static str = "Sum";
//!     async fn handle(&mut self, cx: &mut Cx, mail: Add) -> Result<(), Panic> {
//!         self.0 += mail.0;
//!         if self.0 == 3 {
//!             cx.stop(Status::unavailable("three is enough"));
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let reason = system(|| async {
//!     let spec = Spec::new(ActorPath::new("sum"), ActorMetrics::unregistered());
//!     let sum = Place::current().expect("inside a system").spawn(spec, || Ok(Sum(0)));
//!     sum.address().try_send(Add(1, CallMeta::default())).expect("there is room");
//!     sum.address().try_send(Add(2, CallMeta::default())).expect("there is room");
//!     sum.watch().await
//! })
//! .expect("a runtime can be made");
//! assert!(matches!(reason, StopReason::Asked(_)));
//! ```

mod actor;
mod address;
pub mod clock;
mod detail;
mod host;
mod lanes;
mod mailbox;
mod metrics;
mod nursery;
mod options;
mod overlap;
mod place;
mod pool;
mod quota;
mod restart;
mod service;
#[cfg(feature = "simulated")]
pub mod simulated;
#[doc(hidden)]
pub mod sync;
mod system;
mod threads;
mod trace;
mod turn;
mod watch;

pub use actor::{Actor, ActorHandle, Lifecycle, Spec};
pub use address::Address;
pub use clock::Clock;
pub use detail::Detail;
pub use metrics::ActorMetrics;
pub use options::{Keyed, Options, Overflow, Restart, RestartPolicy};
pub use place::Place;
pub use quota::cpu_quota;
pub use service::{Dispatch, Serves, ServiceEntry};
pub use system::system;
#[cfg(any(test, feature = "test"))]
pub use system::test;
pub use threads::{THREADS_MAX, Threads};
pub use trace::{TRACE_TARGET, Tracer};
pub use watch::{Death, StopReason, Watch};
