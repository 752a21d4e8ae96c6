//! Whether brokers answer and have a topic, for `check --connect`.

use afflux_stream::{IoContext, Reaching};
use afflux_wire::{Code, Status};
use tokio::sync::oneshot;

use super::cluster::Kafka;
use super::partitions::Partitions;
use super::thread::apart;

/// Asks the brokers for a topic; `written` for one that they may still have to make.
pub(super) fn reaching(kafka: &Kafka, topic: &str, written: bool, cx: &IoContext) -> Reaching {
    let (kafka, topic, cx) = (kafka.clone(), topic.to_owned(), cx.clone());
    Box::pin(async move {
        let (tell, told) = oneshot::channel();
        // The library's question blocks, ten seconds at most.
        apart("reach", move || {
            let at = kafka.shown();
            let asked = Partitions::of(&kafka, &topic, false, &cx).and_then(|topic| topic.count());
            let answer = match asked {
                Ok(1) => Ok(format!("Kafka at {at} answers, topic `{topic}` has 1 partition")),
                Ok(count) => Ok(format!("Kafka at {at} answers, topic `{topic}` has {count} partitions")),
                Err(status) if written && status.code == Code::NotFound => Ok(format!(
                    "Kafka at {at} answers and has no topic `{topic}`: its brokers make it with the first record \
                     where `auto.create.topics.enable` lets them"
                )),
                Err(status) => Err(status),
            };
            // Whoever has asked may be gone.
            let _ = tell.send(answer);
        });
        told.await.unwrap_or_else(|_| Err(Status::internal("the thread that asks Kafka has ended")))
    })
}
