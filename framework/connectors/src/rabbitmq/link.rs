//! A connection to the broker, and the next one when it is lost.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use afflux_stream::{IoContext, Result};
use afflux_wire::{Code, Status};
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::time::Instant;

use super::broker::{Rabbit, shown};
use super::queue::Queue;
use super::trouble::{Trouble, explain};

/// Longest wait for one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest stretch of tries to reach a broker that was never reached.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// Wait before the first new try; each further one doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the last acknowledgements when a task ends.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(2);

/// What one reader or writer connects with.
pub(super) struct Link {
    uri: AMQPUri,
    /// The URL without its password.
    pub(super) at: String,
    /// Pipeline, operator and subtask: shown by the broker as the connection's name.
    name: String,
    patience: Duration,
    pub(super) cx: IoContext,
    /// Set when a session has got as far as its work.
    well: Cell<bool>,
}

/// The wait before a new try: doubled with each, and of it something between a half and the whole, so
/// that many tasks do not come at one moment. Which part follows from the name and the try alone.
fn backoff(name: &str, tries: u32) -> Duration {
    let most = BACKOFF_MIN.saturating_mul(1 << tries.min(16)).min(BACKOFF_MAX);
    // FNV-1a, with the mixing step of SplitMix64.
    let mut hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ u64::from(tries)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 31;
    most / 2 + most.mul_f64((hash % 1000) as f64 / 2000.0)
}

impl Link {
    pub(super) fn new(rabbit: &Rabbit, cx: &IoContext, part: &str) -> Result<Self> {
        let uri = rabbit.uri()?;
        let at = shown(&uri);
        let name = format!("{}/{}/{part}", cx.pipeline, cx.operator);
        Ok(Self { uri, at, name, patience: rabbit.how_long(), cx: cx.clone(), well: Cell::new(false) })
    }

    /// Starts `work` on the thread of the task that calls this.
    pub(super) fn spawn(work: impl Future<Output = ()> + 'static) -> Result<()> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Status::precondition(
                "a connection to RabbitMQ needs the threads of a node to run on",
            ));
        }
        tokio::task::spawn_local(work);
        Ok(())
    }

    pub(super) fn trouble(&self, error: &lapin::Error, doing: &str) -> Trouble {
        explain(error, &self.at, doing)
    }

    /// The session has got as far as its work: waiting begins anew when it is lost.
    pub(super) fn well(&self) {
        self.well.set(true);
    }

    pub(super) async fn connect(&self) -> std::result::Result<(Connection, Channel), Trouble> {
        let properties = ConnectionProperties::default().with_connection_name(self.name.as_str().into());
        let connecting = async {
            let connection = Connection::connect_uri(self.uri.clone(), properties).await?;
            let channel = connection.create_channel().await?;
            Ok((connection, channel))
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(self.trouble(&error, "take a connection")),
            Err(_) => Err(Trouble::Passing(Status::unavailable(format!(
                "RabbitMQ at {} does not answer within {} s",
                self.at,
                CONNECT_TIMEOUT.as_secs()
            )))),
        }
    }

    /// Runs sessions one after another until one ends by itself. The future may be dropped at any time,
    /// which closes the connection: what was not acknowledged goes back to its queue.
    pub(super) async fn keep(
        &self,
        mut session: impl AsyncFnMut(&Channel) -> std::result::Result<(), Trouble>,
    ) -> Result<()> {
        let (mut tries, mut patience) = (0, self.patience.min(FIRST_PATIENCE));
        let mut since = Instant::now();
        loop {
            let ended = match self.connect().await {
                Ok((connection, channel)) => {
                    let ended = session(&channel).await;
                    if ended.is_ok() {
                        // Nothing depends on it: the broker would notice the closed socket, too.
                        if let Err(error) = connection.close(200, "OK".into()).await {
                            tracing::debug!(broker = %self.at, %error, "a connection was not closed in order");
                        }
                    }
                    ended
                }
                Err(trouble) => Err(trouble),
            };
            let status = match ended {
                Ok(()) => return Ok(()),
                Err(Trouble::Final(status)) => return Err(status),
                Err(Trouble::Passing(status)) => status,
            };
            if self.well.replace(false) {
                (tries, patience) = (0, self.patience);
                since = Instant::now();
            }
            let lasted = since.elapsed();
            if lasted >= patience {
                return Err(Status::new(
                    Code::Unavailable,
                    format!(
                        "{}; given up after {tries} tries in {:.0} s: start the broker, or mend the URL",
                        status.message,
                        lasted.as_secs_f64()
                    ),
                ));
            }
            let pause = backoff(&self.name, tries);
            tries += 1;
            tracing::warn!(name = %self.name, error = %status.message, tries, ?pause, "RabbitMQ is tried again");
            self.cx.clock.sleep(pause).await;
        }
    }

    /// Declares a queue, or makes sure that it is there, and binds it.
    pub(super) async fn declare(&self, channel: &Channel, queue: &Queue) -> std::result::Result<(), Trouble> {
        let name = short(queue.name())?;
        let (options, arguments) = queue.options();
        let doing = match options {
            QueueDeclareOptions { passive: true, .. } => format!("find queue `{}`", queue.name()),
            _ => format!("declare queue `{}` ({})", queue.name(), queue.described()),
        };
        channel
            .queue_declare(name.clone(), options, arguments)
            .await
            .map_err(|error| self.trouble(&error, &doing))?;
        for (exchange, key) in queue.bindings() {
            channel
                .queue_bind(
                    name.clone(),
                    short(exchange)?,
                    short(key)?,
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await
                .map_err(|error| {
                    let doing = format!("bind queue `{}` to exchange `{exchange}`", queue.name());
                    self.trouble(&error, &doing)
                })?;
        }
        Ok(())
    }
}

/// A name of AMQP: at most 255 bytes.
pub(super) fn short(text: &str) -> std::result::Result<ShortString, Trouble> {
    ShortString::try_new(text).map_err(|_| {
        Trouble::Final(Status::invalid(format!(
            "`{}…` has {} bytes; names, routing keys and message ids of AMQP have 255 at most",
            text.chars().take(40).collect::<String>(),
            text.len()
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_differ_between_tasks() {
        for tries in 0..40 {
            let most = (BACKOFF_MIN * (1 << tries.min(10))).min(BACKOFF_MAX);
            for subtask in 0..50 {
                let wait = backoff(&format!("p/o/{subtask}"), tries);
                assert!(wait >= most / 2 && wait <= most, "{wait:?} at try {tries}");
            }
        }
        let mut waits: Vec<Duration> = (0..50).map(|s| backoff(&format!("p/o/{s}"), 3)).collect();
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 40, "only {} of 50 tasks wait differently", waits.len());
        assert_eq!(backoff("p/o/0", 3), backoff("p/o/0", 3));
    }

    #[test]
    fn a_name_that_is_too_long_is_refused_with_its_length() {
        assert!(short(&"x".repeat(255)).is_ok());
        let Err(Trouble::Final(status)) = short(&"ü".repeat(200)) else { panic!() };
        assert!(status.message.contains("400 bytes") && status.message.contains("255"), "{status}");
    }
}
