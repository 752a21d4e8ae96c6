//! gRPC's own framing in HTTP/2: messages with a length in front, and the status behind them.

use std::future::poll_fn;
use std::time::Duration;

use afflux_wire::{Code, Executed, Stage, Status};
use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// Bytes of one message from a client.
pub(super) const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes in front of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// Bytes of the status text in the trailers.
const TEXT_BYTES_MAX: usize = 4_096;

/// Messages of a client, one after the other.
pub(super) struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    pub(super) fn new(body: RecvStream) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next message; nothing after the last one.
    ///
    /// # Errors
    /// A message that is compressed, too large or cut, a client that went away.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            match self.body.data().await {
                Some(Ok(data)) => {
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.buffer.extend_from_slice(&data);
                }
                Some(Err(error)) => {
                    return Err(Status::new(Code::Cancelled, format!("the client went away: {error}")));
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(invalid("the request ends in the middle of a message")),
            }
        }
    }

    fn whole(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((prefix, _)) = self.buffer.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            let text = "the message is compressed: this door takes grpc-encoding identity alone";
            return Err(Status::new(Code::Unimplemented, text).executed(Executed::No));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MESSAGE_BYTES_MAX {
            let text =
                format!("a message of {length} bytes: at most {MESSAGE_BYTES_MAX} are taken over gRPC");
            return Err(Status::new(Code::ResourceExhausted, text).executed(Executed::No));
        }
        if self.buffer.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let _ = self.buffer.split_to(PREFIX_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The only message of a request that has one.
    ///
    /// # Errors
    /// As [`Messages::next`]; none, or a second one.
    pub(super) async fn only(&mut self) -> Result<Bytes, Status> {
        let first = self.next().await?.ok_or_else(|| invalid("the request has no message"))?;
        match self.next().await? {
            None => Ok(first),
            Some(_) => Err(invalid("the request has a second message, and the method takes one")),
        }
    }
}

fn invalid(text: &str) -> Status {
    Status::invalid(text).executed(Executed::No).stage(Stage::Admission)
}

/// The answer of a call: headers with the first message, trailers with the status.
pub(super) struct Answer {
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
}

impl Answer {
    pub(super) fn new(respond: SendResponse<Bytes>) -> Self {
        Self { respond, stream: None }
    }

    /// Resolves when the client takes no answer any more.
    pub(super) async fn gone(&mut self) {
        let reset = poll_fn(|cx| match &mut self.stream {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        });
        let _why = reset.await;
    }

    fn open(&mut self) -> Result<&mut SendStream<Bytes>, h2::Error> {
        if self.stream.is_none() {
            let mut head = Response::new(());
            head.headers_mut()
                .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            self.stream = Some(self.respond.send_response(head, false)?);
        }
        self.stream.as_mut().ok_or_else(|| h2::Error::from(h2::Reason::INTERNAL_ERROR))
    }

    /// Sends a message, as fast as the client takes it.
    ///
    /// # Errors
    /// The client went away.
    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), h2::Error> {
        let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
        framed.put_u8(0);
        framed
            .put_u32(u32::try_from(message.len()).map_err(|_| h2::Error::from(h2::Reason::INTERNAL_ERROR))?);
        framed.put_slice(message);
        let mut left = framed.freeze();
        let stream = self.open()?;
        while !left.is_empty() {
            stream.reserve_capacity(left.len());
            let room = match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Err(h2::Reason::CANCEL.into()),
            };
            if room > 0 {
                stream.send_data(left.split_to(room.min(left.len())), false)?;
            }
        }
        Ok(())
    }

    /// Ends the call with its status.
    pub(super) fn end(mut self, result: Result<(), Status>) {
        let mut trailers = HeaderMap::new();
        let (code, text) = match result {
            Ok(()) => (0, String::new()),
            Err(status) => (status.code as u8, status.message),
        };
        trailers.insert("grpc-status", HeaderValue::from(u16::from(code)));
        if let Ok(text) = HeaderValue::from_str(&percent(&text)) {
            trailers.insert("grpc-message", text);
        }
        // An error means that the client has gone: nobody misses the status.
        if let Some(stream) = &mut self.stream {
            let _gone = stream.send_trailers(trailers);
            return;
        }
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::OK;
        *head.headers_mut() = trailers;
        head.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let _gone = self.respond.send_response(head, true);
    }

    /// Ends what is no gRPC call with a status of HTTP.
    pub(super) fn refuse(mut self, status: StatusCode) {
        let mut head = Response::new(());
        *head.status_mut() = status;
        let _gone = self.respond.send_response(head, true);
    }
}

/// The text as `grpc-message` carries it: printable ASCII as it is, everything else by its bytes.
fn percent(text: &str) -> String {
    let mut percent = String::new();
    for byte in text.bytes().take(TEXT_BYTES_MAX) {
        match byte {
            b' '..=b'~' if byte != b'%' => percent.push(char::from(byte)),
            _ => percent.push_str(&format!("%{byte:02X}")),
        }
    }
    percent
}

/// `grpc-timeout`: at most eight digits and a unit.
///
/// # Errors
/// `INVALID_ARGUMENT` with what was sent.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let parsed = text.split_at_checked(text.len().saturating_sub(1)).and_then(|(digits, unit)| {
        let number: u64 = (digits.len() <= 8).then(|| digits.parse().ok()).flatten()?;
        Some(match unit {
            "H" => Duration::from_secs(number * 3_600),
            "M" => Duration::from_secs(number * 60),
            "S" => Duration::from_secs(number),
            "m" => Duration::from_millis(number),
            "u" => Duration::from_micros(number),
            "n" => Duration::from_nanos(number),
            _ => return None,
        })
    });
    parsed
        .map(Some)
        .ok_or_else(|| invalid(&format!("grpc-timeout is `{text}`: expected digits and one of H M S m u n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_at_most_eight_digits_and_a_unit() {
        let parse = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            timeout(&headers)
        };
        assert_eq!(parse("1500m"), Ok(Some(Duration::from_millis(1_500))));
        assert_eq!(parse("2S"), Ok(Some(Duration::from_secs(2))));
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        for wrong in ["", "S", "1", "123456789S", "-1S", "1s", "1.5S"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_text_with_other_letters_travels_by_its_bytes() {
        assert_eq!(percent("100% »"), "100%25 %C2%BB");
    }
}
