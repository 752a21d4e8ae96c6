//! Sends lines to a peer, over one connection after the other.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use afflux_actor::Clock;
use afflux_stream::{Batch, Result, SinkWriter};
use afflux_wire::{Code, Status};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::lines::Encode;

/// Bytes of lines that wait for the peer of one task; above it the pipeline waits. One batch more may be
/// in hand.
pub const TCP_OUT_BYTES_MAX: usize = 1024 * 1024;

/// How long the peer may be away when nothing is said.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// The first pause between two tries; each is twice as long as the one before.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

enum State {
    /// Nobody was asked yet.
    Idle,
    Connecting(Connecting),
    Connected(TcpStream),
    /// Until the next try.
    Pausing(Pin<Box<dyn Future<Output = ()> + Send>>),
}

pub(super) struct Connector<T> {
    address: String,
    patience: Duration,
    clock: Clock,
    encode: Encode<T>,
    state: State,
    pause: Duration,
    /// Since when there is no connection.
    away_since: Option<Instant>,
    /// Lines that were not sent whole; the first begins at 0.
    text: Vec<u8>,
    /// Bytes of them that this connection has taken.
    sent: usize,
}

impl<T> Connector<T> {
    pub(super) fn new(address: &str, patience: Duration, encode: Encode<T>, clock: &Clock) -> Self {
        Self {
            address: address.to_owned(),
            patience,
            clock: clock.clone(),
            encode,
            state: State::Idle,
            pause: PAUSE_MIN,
            away_since: None,
            text: Vec::new(),
            sent: 0,
        }
    }

    /// The connection is gone, or was not to be had: what is next.
    fn lost(&mut self, error: &io::Error) -> Result<()> {
        let now = self.clock.now();
        let since = *self.away_since.get_or_insert(now);
        if now.duration_since(since) >= self.patience {
            return Err(Status::new(
                Code::Unavailable,
                format!(
                    "{} could not be reached for {} s: {error}; start what listens there, or give the sink more \
                     `.patience(…)`",
                    self.address,
                    self.patience.as_secs()
                ),
            ));
        }
        // Lines that were sent in part begin again.
        self.sent = 0;
        tracing::info!(address = %self.address, %error, "no connection; another try follows");
        self.state = State::Pausing(Box::pin(self.clock.sleep(self.pause)));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    /// Works until the next wait.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.state {
            State::Idle => {
                let address = self.address.clone();
                self.state = State::Connecting(Box::pin(async move { TcpStream::connect(address).await }));
            }
            State::Connecting(connecting) => match ready!(connecting.as_mut().poll(cx)) {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    self.state = State::Connected(stream);
                    self.away_since = None;
                }
                Err(error) => self.lost(&error)?,
            },
            State::Pausing(pause) => {
                ready!(pause.as_mut().poll(cx));
                self.state = State::Idle;
            }
            State::Connected(stream) => {
                // A peer that has closed would take one more write in silence.
                if let Some(error) = closed(stream, cx) {
                    self.lost(&error)?;
                    return Poll::Ready(Ok(()));
                }
                let rest = self.text.get(self.sent..).unwrap_or_default();
                match ready!(Pin::new(stream).poll_write(cx, rest)) {
                    Ok(count) => {
                        self.sent += count;
                        self.pause = PAUSE_MIN;
                        self.forget();
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => self.lost(&error)?,
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Drops the lines that were sent whole, when they are half of what is held.
    fn forget(&mut self) {
        if self.sent == self.text.len() || self.sent * 2 >= self.text.len() {
            let sent = self.text.get(..self.sent).unwrap_or_default();
            let whole = memchr::memrchr(b'\n', sent).map_or(0, |at| at + 1);
            self.text.drain(..whole);
            self.sent -= whole;
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, left_max: usize) -> Poll<Result<()>> {
        while self.text.len() - self.sent > left_max {
            ready!(self.poll_step(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether the peer has ended the connection; what it says is dropped.
fn closed(stream: &TcpStream, cx: &mut Context<'_>) -> Option<io::Error> {
    let mut dropped = [0; 1024];
    while stream.poll_read_ready(cx).is_ready() {
        match stream.try_read(&mut dropped) {
            Ok(0) => return Some(io::Error::new(ErrorKind::ConnectionAborted, "the peer has closed")),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Some(error),
        }
    }
    None
}

impl<T: Send> SinkWriter<T> for Connector<T> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_drain(cx, TCP_OUT_BYTES_MAX)
    }

    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        for row in &batch.rows {
            (self.encode)(row, &mut self.text).map_err(|what| {
                Status::invalid(format!("a record cannot be a line for {}: {what}", self.address))
            })?;
            self.text.push(b'\n');
        }
        batch.clear();
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_drain(cx, 0)
    }

    fn snapshot(&mut self, _: u64) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_drain(cx, 0))?;
        if let State::Connected(stream) = &mut self.state {
            // Whatever comes of it, all was handed over.
            let _ = ready!(Pin::new(stream).poll_shutdown(cx));
        }
        Poll::Ready(Ok(()))
    }
}
