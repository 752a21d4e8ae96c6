//! One client: its bytes, its calls, its end.

use std::future::Future;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use afflux_actor::clock;
use afflux_wire::compat::{
    Message, Params, Refused, decode, peek_request_id, put_answer, put_error, put_number,
};
use afflux_wire::contract::{Identity, IdentityKind};
use afflux_wire::handshake::equal_in_constant_time;
use afflux_wire::{Code, Executed, Scanner, Stage, Status, WireError};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::budget::Lease;
use super::call::{Answer, Answered, Asked, Who, run};
use super::config::CompatConfig;
use super::streams::{STREAMS_MAX, Step, Streams};
use crate::doorman::identify_stranger;
use crate::mesh::Shared;
use crate::tls::Shown;
use crate::transport::{Conn, ReadHalf, WriteHalf};

/// Room for one read.
const READ_BYTES: usize = 16 << 10;
/// Bytes that a client may occupy before they count against the budget of all.
const FREE_BYTES: usize = 64 << 10;
/// Answers gathered into one write.
const GATHER_ANSWERS_MAX: usize = 256;
/// Wrong tokens before a client is closed.
const TOKENS_WRONG_MAX: u32 = 3;
/// For the last answers of a connection that ends.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Bytes that are read and thrown away, so that the last answer is not lost to a reset.
const LINGER_BYTES_MAX: u64 = 1 << 20;
/// A buffer that grew beyond this is given back to the allocator.
const BUFFER_BYTES_KEPT_MAX: usize = 64 << 10;

const ROLE: &str = "compat";

/// Serves a client whose first bytes are in `buf` until it goes.
///
/// # Errors
/// The metric's reason and what to log, when it is not served at all.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    conn: Conn,
    buf: BytesMut,
    from: &str,
    shown: Option<&Shown>,
) -> Result<(), (&'static str, String)> {
    let max = shared.config.compat.connections_max;
    let open = Open::begin(shared);
    if open.count > max {
        return Err(("compat_connections_max", format!("{max} MessagePack-RPC clients are connected")));
    }
    let metrics = &shared.metrics;
    metrics.opened.with_label_values(&[ROLE]).inc();
    let gauge = metrics.connections.with_label_values(&[ROLE, if conn.is_tls() { "true" } else { "false" }]);
    gauge.inc();
    let (read, write) = conn.split();
    let mut client = Client::new(shared, read, write, buf);
    // A certificate says who it is; a token may still say another.
    client.who.identity = identify_stranger(shown);
    let end = client.run().await;
    metrics.closed(ROLE, end.reason);
    client.finish(&end).await;
    gauge.dec();
    if end.is_fault {
        tracing::debug!(from, reason = end.reason, text = end.text, "a MessagePack-RPC client was closed");
    }
    drop(open);
    Ok(())
}

/// Counts a connection.
struct Open<'a> {
    shared: &'a Shared,
    count: usize,
}

impl<'a> Open<'a> {
    fn begin(shared: &'a Shared) -> Self {
        Self { shared, count: shared.compat.connections.fetch_add(1, Ordering::AcqRel) + 1 }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.compat.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why a connection ends.
struct End {
    /// One of a closed set.
    reason: &'static str,
    text: String,
    is_fault: bool,
    /// Whether what is still to be written may be read.
    is_heard: bool,
}

impl End {
    fn gone(reason: &'static str) -> Self {
        Self { reason, text: String::new(), is_fault: false, is_heard: reason != "io" }
    }

    fn fault(reason: &'static str, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), is_fault: true, is_heard: true }
    }

    fn deaf(reason: &'static str, text: impl Into<String>) -> Self {
        Self { is_heard: false, ..Self::fault(reason, text) }
    }
}

type Call = Pin<Box<dyn Future<Output = Answered> + Send>>;

struct Client<'a> {
    shared: &'a Arc<Shared>,
    config: &'a CompatConfig,
    read: ReadHalf,
    write: WriteHalf,
    buf: BytesMut,
    /// Bytes at the front of `buf` that need not be looked at again until more come.
    scanner: Scanner,
    /// What `buf` holds of the budget.
    lease: Lease,
    calls: FuturesUnordered<Call>,
    streams: Streams,
    out: Vec<u8>,
    /// Bytes at the front of `out` that are written.
    written: usize,
    /// Whether what was written may still lie in the connection.
    unflushed: bool,
    who: Who,
    tokens_wrong: u32,
    /// Since when a message has been incomplete.
    partial_since: Option<Instant>,
    /// The last moment at which anything moved.
    active: Instant,
    /// The last moment at which the client read something, or nothing waited for it.
    heard: Instant,
    is_eof: bool,
}

/// What the loop wakes for.
enum Event {
    Stopped,
    Read(std::io::Result<usize>),
    Written(std::io::Result<usize>),
    Answered(Answered),
    Step(Step),
    Time,
}

impl<'a> Client<'a> {
    fn new(shared: &'a Arc<Shared>, read: ReadHalf, write: WriteHalf, buf: BytesMut) -> Self {
        let config = &shared.config.compat;
        let now = clock::now();
        Self {
            shared,
            config,
            read,
            write,
            buf,
            scanner: Scanner::new(config.message_bytes_max, config.depth_max)
                .elements_max(config.elements_max),
            lease: shared.compat.budget.lease(),
            calls: FuturesUnordered::new(),
            streams: Streams::default(),
            out: Vec::new(),
            written: 0,
            unflushed: false,
            who: Who::default(),
            tokens_wrong: 0,
            partial_since: None,
            active: now,
            heard: now,
            is_eof: false,
        }
    }

    async fn run(&mut self) -> End {
        let shared = self.shared;
        let mut stopped = pin!(shared.stopped());
        loop {
            if let Err(end) = self.take_messages() {
                return end;
            }
            if self.is_eof
                && self.calls.is_empty()
                && self.streams.is_idle()
                && self.waiting() == 0
                && !self.unflushed
            {
                return End::gone("eof");
            }
            let due = match self.due() {
                Ok(due) => due,
                Err(end) => return end,
            };
            let is_heard = self.waiting() * 2 <= self.config.write_buffer_bytes_max;
            let reads = !self.is_eof && self.takes_calls() && is_heard;
            if reads {
                self.buf.reserve(READ_BYTES);
            }
            let writes = self.waiting() > 0 || self.unflushed;
            let event = tokio::select! {
                biased;
                () = &mut stopped => Event::Stopped,
                Some(answered) = self.calls.next(), if !self.calls.is_empty() => Event::Answered(answered),
                wrote = async {
                    if self.written < self.out.len() {
                        self.write.write(&self.out[self.written..]).await
                    } else {
                        self.write.flush().await.map(|()| 0)
                    }
                }, if writes => Event::Written(wrote),
                step = self.streams.next(), if is_heard => Event::Step(step),
                read = self.read.read_buf(&mut self.buf), if reads => Event::Read(read),
                () = tokio::time::sleep_until(due.into()) => Event::Time,
            };
            let result = match event {
                Event::Stopped => return End::gone("closed"),
                Event::Answered(answered) => self.answer_all(answered),
                Event::Step(step) => self.step_all(step),
                Event::Written(Ok(bytes)) => self.wrote(bytes),
                Event::Read(Ok(bytes)) => self.came(bytes),
                Event::Read(Err(error)) | Event::Written(Err(error)) => {
                    Err(End { text: error.to_string(), ..End::gone("io") })
                }
                Event::Time => Ok(()),
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    fn takes_calls(&self) -> bool {
        self.calls.len() < self.config.in_flight_max
    }

    /// When to look at the clock again, unless it is too late for something.
    fn due(&self) -> Result<Instant, End> {
        let now = clock::now();
        let mut due = now + self.config.idle_timeout;
        if let Some(since) = self.partial_since {
            let end = since + self.config.message_timeout;
            if now >= end {
                let max = self.config.message_timeout;
                let text = format!("a message was not complete within {max:?} (message_timeout)");
                return Err(End::fault("message_timeout", text));
            }
            due = due.min(end);
        }
        if self.waiting() > 0 {
            let end = self.heard + self.config.write_timeout;
            if now >= end {
                let max = self.config.write_timeout;
                let text = format!("{} bytes of answers were not read within {max:?}", self.waiting());
                return Err(End::deaf("write_timeout", text));
            }
            due = due.min(end);
        } else if self.calls.is_empty() && self.streams.len() == 0 {
            let end = self.active + self.config.idle_timeout;
            if now >= end {
                return Err(End::fault("idle", "nothing was said within idle_timeout"));
            }
            due = due.min(end);
        }
        Ok(due)
    }

    fn came(&mut self, bytes: usize) -> Result<(), End> {
        self.active = clock::now();
        if bytes == 0 {
            self.is_eof = true;
            if !self.buf.is_empty() && self.takes_calls() {
                self.shared.metrics.decode_error("truncated");
            }
            self.partial_since = None;
            return Ok(());
        }
        self.shared.metrics.bytes_in.inc_by(bytes as u64);
        Ok(())
    }

    fn wrote(&mut self, bytes: usize) -> Result<(), End> {
        if self.waiting() == 0 {
            self.unflushed = false;
            return Ok(());
        }
        if bytes == 0 {
            return Err(End::gone("io"));
        }
        self.shared.metrics.bytes_out.inc_by(bytes as u64);
        self.written += bytes;
        self.heard = clock::now();
        self.active = self.heard;
        self.unflushed = true;
        if self.waiting() == 0 {
            self.written = 0;
            self.out.clear();
            if self.out.capacity() > BUFFER_BYTES_KEPT_MAX {
                self.out = Vec::new();
            }
        }
        Ok(())
    }

    /// Begins the calls of all complete messages, as long as there is room for calls.
    fn take_messages(&mut self) -> Result<(), End> {
        while self.takes_calls() && !self.buf.is_empty() {
            match self.scanner.advance(&self.buf) {
                Ok(Some(bytes)) => {
                    self.scanner.reset();
                    self.partial_since = None;
                    let message = self.buf.split_to(bytes).freeze();
                    self.take(message)?;
                }
                Ok(None) => {
                    self.partial_since.get_or_insert_with(clock::now);
                    break;
                }
                Err(error) => return Err(self.broken(&error)),
            }
        }
        if self.buf.is_empty() && self.buf.capacity() > BUFFER_BYTES_KEPT_MAX {
            self.buf = BytesMut::new();
        }
        let counted = self.buf.len().saturating_sub(FREE_BYTES);
        if !self.lease.set(counted) {
            let id = peek_request_id(&self.buf);
            return Err(self.too_much(id));
        }
        Ok(())
    }

    /// What comes behind is not to be found: the last thing that this client is told.
    fn broken(&mut self, error: &WireError) -> End {
        self.shared.metrics.decode_error(error.reason());
        let mut status = Status::from(error.clone()).executed(Executed::No).stage(Stage::Admission);
        if matches!(error, WireError::TooLong { .. }) {
            status.code = Code::ResourceExhausted;
            status.message.push_str(": send less at once");
        }
        if let Some(id) = peek_request_id(&self.buf) {
            put_error(&mut self.out, id, &status);
        }
        End::fault(error.reason(), status.message)
    }

    fn too_much(&mut self, id: Option<u64>) -> End {
        let max = self.shared.compat.budget.max();
        let text = format!(
            "all clients together have {max} bytes of requests here (buffered_bytes_max): come again later"
        );
        self.shared.metrics.rejected("unknown", "overload");
        if let Some(id) = id {
            let status = Status::new(Code::ResourceExhausted, text.clone());
            put_error(&mut self.out, id, &status.executed(Executed::No).retry_after_ms(100));
        }
        End::fault("buffered_bytes", text)
    }

    fn take(&mut self, message: Bytes) -> Result<(), End> {
        let (id, method, params) = match decode(&message) {
            Ok(Message::Request { id, method, params }) => (Some(id), method, params),
            Ok(Message::Notification { method, params }) => (None, method, params),
            Err(Refused { id: Some(id), error }) => {
                self.shared.metrics.rejected("unknown", "malformed");
                put_error(&mut self.out, id, &Status::invalid(error.to_string()).stage(Stage::Admission));
                return self.check_backlog();
            }
            Err(Refused { id: None, error }) => {
                self.shared.metrics.decode_error(error.reason());
                return Err(End::fault(error.reason(), error.to_string()));
            }
        };
        if method == "rpc.auth" {
            let result = self.authenticate(params);
            return self.authenticated(id, result);
        }
        if let Some(what @ ("credit" | "cancel" | "item" | "end")) = method.strip_prefix("rpc.") {
            return self.stream_message(id, what, params);
        }
        let mut lease = self.shared.compat.budget.lease();
        if message.len() > FREE_BYTES && !lease.set(message.len()) {
            return Err(self.too_much(id));
        }
        let asked = Asked {
            id,
            method: part(&message, method.as_bytes()),
            params: part(&message, params),
            // A small message keeps no large read buffer alive.
            message: if message.len() < READ_BYTES { Bytes::copy_from_slice(&message) } else { message },
            who: self.who.clone(),
            _lease: lease,
            _running: self.shared.compat.begin(),
        };
        self.calls.push(Box::pin(run(Arc::clone(self.shared), asked)));
        Ok(())
    }

    /// What the client says of a stream. One that has ended meanwhile is no mistake of the client.
    fn stream_message(&mut self, id: Option<u64>, what: &str, params: &[u8]) -> Result<(), End> {
        let said = Params::read(params).and_then(|params| {
            let (stream, second) = params.numbers();
            let values = params.positional(3);
            match (what, stream, second, values.get(2)) {
                ("credit", Some(stream), Some(items), _) => self.streams.credit(stream, items),
                ("cancel", Some(stream), ..) => self.streams.cancel(stream),
                ("item", Some(stream), Some(_), Some(item)) => {
                    self.streams.item(stream, item, &mut self.out);
                }
                ("end", Some(stream), ..) => self.streams.finish(stream),
                _ => {
                    let takes = match what {
                        "credit" => "id, items",
                        "item" => "id, seq, value",
                        _ => "id",
                    };
                    return Err(Status::invalid(format!("rpc.{what} takes ({takes})")));
                }
            }
            Ok(())
        });
        if said.is_err() {
            self.shared.metrics.rejected("unknown", "malformed");
        }
        if let Some(id) = id {
            match said {
                Ok(()) => put_answer(&mut self.out, id, &[0xc0]),
                Err(status) => put_error(&mut self.out, id, &status),
            }
        }
        self.check_backlog()
    }

    /// What streams have come to: one write for all of it.
    fn step_all(&mut self, first: Step) -> Result<(), End> {
        if self.waiting() == 0 {
            self.heard = clock::now();
        }
        self.streams.step(first, &mut self.out);
        for _ in 1..GATHER_ANSWERS_MAX {
            if self.waiting() * 2 > self.config.write_buffer_bytes_max {
                break;
            }
            let Some(next) = self.streams.next_now() else { break };
            self.streams.step(next, &mut self.out);
        }
        self.active = clock::now();
        self.check_backlog()
    }

    fn authenticate(&mut self, params: &[u8]) -> Result<(), Status> {
        let Some(token) = Params::read(params)?.first_text() else {
            return Err(Status::invalid("rpc.auth takes 1 parameter (token)"));
        };
        let guard = &self.shared.guard;
        let identity = match &self.shared.config.token {
            _ if guard.is_on() => guard.authenticate(token)?,
            Some(secret) if equal_in_constant_time(token.as_bytes(), secret.as_bytes()) => {
                Arc::new(Identity::new("client/cluster-token", IdentityKind::Token))
            }
            Some(_) => {
                let text = "rpc.auth: the token is not the one of this cluster";
                return Err(Status::new(Code::Unauthenticated, text).executed(Executed::No));
            }
            // Nobody is asked here: then nothing is wrong with any token.
            None => return Ok(()),
        };
        self.who = Who { identity: Some(identity), token: Some(Arc::from(token)) };
        Ok(())
    }

    fn authenticated(&mut self, id: Option<u64>, result: Result<(), Status>) -> Result<(), End> {
        let is_wrong = result.as_ref().is_err_and(|status| status.code == Code::Unauthenticated);
        if let Some(id) = id {
            match &result {
                Ok(()) => put_answer(&mut self.out, id, &[0xc3]),
                Err(status) => put_error(&mut self.out, id, status),
            }
        }
        if is_wrong {
            self.shared.metrics.rejected("unknown", "unauthenticated");
            self.tokens_wrong += 1;
            if self.tokens_wrong >= TOKENS_WRONG_MAX {
                return Err(End::fault("auth", format!("{TOKENS_WRONG_MAX} wrong tokens")));
            }
        }
        self.check_backlog()
    }

    /// One answer, and those that are there too: one write for all of them.
    fn answer_all(&mut self, first: Answered) -> Result<(), End> {
        self.answer(first);
        for _ in 1..GATHER_ANSWERS_MAX {
            match self.calls.next().now_or_never() {
                Some(Some(next)) => self.answer(next),
                _ => break,
            }
        }
        self.active = clock::now();
        self.check_backlog()
    }

    fn answer(&mut self, answered: Answered) {
        let Answered { id, result, one_way } = answered;
        if self.waiting() == 0 {
            self.heard = clock::now();
        }
        let Some(id) = id else {
            let outcome = match (&result, one_way) {
                (Ok(_), true) => "one_way",
                (Ok(_), false) => "answer_dropped",
                (Err(_), _) => "failed",
            };
            if let Err(status) = result {
                tracing::debug!(%status, "a notification failed, and nobody waits to hear of it");
            }
            return self.shared.metrics.compat_notified(outcome);
        };
        match result {
            Ok(Answer::Stream(_)) if self.streams.len() >= STREAMS_MAX => {
                let text = format!("this client has {STREAMS_MAX} streams open: cancel one first");
                let status = Status::new(Code::ResourceExhausted, text).stage(Stage::Reply);
                put_error(&mut self.out, id, &status);
            }
            Ok(Answer::Stream(stream)) => {
                let stream = self.streams.insert(stream);
                let mut number = Vec::with_capacity(9);
                put_number(&mut number, stream);
                put_answer(&mut self.out, id, &number);
            }
            Ok(Answer::Value(bytes)) if bytes.len() > self.config.write_buffer_bytes_max / 2 => {
                let text = format!(
                    "the answer of {} bytes is larger than the {} that a client may have unread: ask for less at once",
                    bytes.len(),
                    self.config.write_buffer_bytes_max / 2
                );
                let status = Status::new(Code::ResourceExhausted, text).executed(Executed::Yes);
                put_error(&mut self.out, id, &status.stage(Stage::Reply));
            }
            Ok(Answer::Value(bytes)) => put_answer(&mut self.out, id, &bytes),
            Err(status) => put_error(&mut self.out, id, &status),
        }
    }

    fn check_backlog(&self) -> Result<(), End> {
        let max = self.config.write_buffer_bytes_max;
        if self.waiting() > max {
            let text = format!(
                "{} bytes of answers are unread, at most {max} may be (write_buffer_bytes_max)",
                self.waiting()
            );
            return Err(End::deaf("write_buffer", text));
        }
        Ok(())
    }

    /// The last answers, for a client that may still read them; the calls that are left are cancelled.
    async fn finish(&mut self, end: &End) {
        self.calls.clear();
        if !end.is_heard {
            return;
        }
        let last = async {
            let bytes = self.waiting() as u64;
            self.write.write_all(&self.out[self.written..]).await?;
            self.shared.metrics.bytes_out.inc_by(bytes);
            self.write.shutdown().await?;
            if end.is_fault {
                // Closing with unread bytes would reset the connection before the answer is read.
                tokio::io::copy(&mut (&mut self.read).take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        let _ = tokio::time::timeout(LAST_WORDS, last).await;
    }
}

/// Where a part of a message stands in it.
fn part(message: &Bytes, slice: &[u8]) -> Range<usize> {
    let start = slice.as_ptr().addr() - message.as_ptr().addr();
    start..start + slice.len()
}
