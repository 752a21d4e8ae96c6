//! Streams over HTTP: Server-Sent Events, or a JSON value a line.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header::CACHE_CONTROL;
use afflux_mesh::RawStream;
use futures_util::stream::unfold;
use serde_json::{Value, json};

use super::gateway::{failed, value_of};

/// A comment is sent when there is nothing else for so long: it keeps proxies from closing, and shows within that time
/// that the reader has gone, which cancels the call.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What is told next.
enum Told {
    Item(u64, Value),
    Silence,
    Failed(Value),
    End(Value),
}

struct Telling {
    stream: RawStream,
    seq: u64,
    over: bool,
}

impl Telling {
    async fn next(&mut self) -> Option<Told> {
        if self.over {
            return None;
        }
        // `next` waits for an item and takes it in one step: nothing is lost when the heartbeat comes first.
        let told = match tokio::time::timeout(HEARTBEAT, self.stream.next()).await {
            Err(_) => Told::Silence,
            Ok(Some(Ok(item))) => match value_of(&item) {
                Ok(value) => {
                    self.seq += 1;
                    Told::Item(self.seq - 1, value)
                }
                Err(status) => Told::Failed(failed(&status)),
            },
            Ok(Some(Err(status))) => Told::Failed(failed(&status)),
            Ok(None) => match self.stream.result().await.and_then(|result| value_of(&result)) {
                Ok(value) => Told::End(value),
                Err(status) => Told::Failed(failed(&status)),
            },
        };
        self.over = matches!(told, Told::Failed(_) | Told::End(_));
        Some(told)
    }
}

/// `id` is the item's number from 0; the last event is `end` or `error`.
pub(super) fn server_sent(stream: RawStream) -> HttpResponse {
    answer("text/event-stream", stream, |told| match told {
        Told::Item(seq, value) => format!("id: {seq}\nevent: item\ndata: {value}\n\n"),
        Told::Silence => ": still here\n\n".to_owned(),
        Told::Failed(value) => format!("event: error\ndata: {value}\n\n"),
        Told::End(value) => format!("event: end\ndata: {value}\n\n"),
    })
}

/// One object a line: `{"item":…}`, and at last `{"end":…}` or `{"error":…}`. A line that is empty is a heartbeat.
pub(super) fn lines(stream: RawStream) -> HttpResponse {
    answer("application/x-ndjson", stream, |told| match told {
        Told::Item(_, value) => format!("{}\n", json!({ "item": value })),
        Told::Silence => "\n".to_owned(),
        Told::Failed(value) => format!("{}\n", json!({ "error": value })),
        Told::End(value) => format!("{}\n", json!({ "end": value })),
    })
}

fn answer(kind: &'static str, stream: RawStream, write: fn(Told) -> String) -> HttpResponse {
    let telling = Telling { stream, seq: 0, over: false };
    let body = unfold(telling, move |mut telling| async move {
        let told = telling.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes::Bytes::from(write(told))), telling))
    });
    HttpResponse::Ok().content_type(kind).insert_header((CACHE_CONTROL, "no-store")).streaming(Box::pin(body))
}
