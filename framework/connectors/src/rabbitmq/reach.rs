//! Whether a broker answers and has what a pipeline reads or writes, for `check --connect`.

use afflux_stream::{IoContext, Reaching, Result};
use afflux_wire::{Code, Status};
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};

use super::broker::Rabbit;
use super::link::{Link, short};
use super::queue::Queue;
use super::trouble::Trouble;

impl Trouble {
    fn into_status(self) -> Status {
        match self {
            Self::Final(status) => status,
            Self::Passing(mut status) => {
                status.message.push_str("; start the broker, or mend the URL");
                status
            }
        }
    }
}

/// Connects once, looks for the exchange and the queue without declaring them, and goes away again.
pub(super) fn reaching(
    rabbit: &Rabbit,
    queue: Option<&Queue>,
    exchange: Option<&str>,
    cx: &IoContext,
) -> Reaching {
    let (rabbit, queue, exchange) = (rabbit.clone(), queue.cloned(), exchange.map(str::to_owned));
    let cx = cx.clone();
    Box::pin(async move {
        let link = Link::new(&rabbit, &cx, "check")?;
        let (connection, channel) = link.connect().await.map_err(Trouble::into_status)?;
        let mut told = vec![format!("RabbitMQ at {} answers", link.at)];
        if let Some(exchange) = exchange.filter(|name| !name.is_empty()) {
            told.push(link.find_exchange(&channel, &exchange).await?);
        }
        if let Some(queue) = queue {
            told.push(link.find_queue(&channel, &queue).await?);
        }
        // A channel that was asked for what is not there is closed by the broker; nothing depends on it.
        if let Err(error) = connection.close(200, "OK".into()).await {
            tracing::debug!(broker = %link.at, %error, "a connection was not closed in order");
        }
        Ok(told.join(", "))
    })
}

impl Link {
    async fn find_exchange(&self, channel: &Channel, name: &str) -> Result<String> {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let name_short = short(name).map_err(Trouble::into_status)?;
        // The kind is not looked at where nothing is declared.
        let kind = ExchangeKind::Direct;
        match channel.exchange_declare(name_short, kind, options, FieldTable::default()).await {
            Ok(()) => Ok(format!("exchange `{name}` is there")),
            Err(error) => Err(self.trouble(&error, &format!("find exchange `{name}`")).into_status()),
        }
    }

    async fn find_queue(&self, channel: &Channel, queue: &Queue) -> Result<String> {
        let name = queue.name();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let name_short = short(name).map_err(Trouble::into_status)?;
        match channel.queue_declare(name_short, options, FieldTable::default()).await {
            Ok(found) => Ok(format!("queue `{name}` has {} messages", found.message_count())),
            Err(error) => {
                let status = self.trouble(&error, &format!("find queue `{name}`")).into_status();
                let (declares, _) = queue.options();
                match status.code == Code::NotFound && !declares.passive {
                    true => Ok(format!("queue `{name}` is not there yet and will be declared")),
                    false => Err(status),
                }
            }
        }
    }
}
