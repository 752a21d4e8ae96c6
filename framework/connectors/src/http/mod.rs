//! HTTP: records that are posted, and records that are sent to whoever subscribes.
//!
//! Behind the feature `http`. The server is actix-web's, with one worker thread of its own for each
//! address, so that a busy pipeline delays no request.

mod body;
mod events;
mod ingest;
mod queue;
mod ring;
mod server;

pub use self::events::{EVENT_SUBSCRIBERS_MAX, EventSink, SUBSCRIBER_EVENTS_MAX, ServerSentEvents};
pub use self::ingest::{HttpIngest, HttpSource};
