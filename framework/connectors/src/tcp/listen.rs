//! Reads the lines of whoever connects. Sockets are polled by the task itself: no other task, no queue.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use afflux_actor::Clock;
use afflux_stream::{Batch, IoContext, OnError, ReadState, Result, SplitReader};
use afflux_wire::{Code, Status};
use tokio::net::{TcpListener, TcpStream};

use crate::lines::{CURE, Decode, Found, LineSplitter, too_long};
use crate::listen::Binding;
use crate::waiting::caught_up;

/// Peers that a source of lines over TCP serves at once; further ones wait to be accepted.
pub const TCP_CONNECTIONS_MAX: usize = 256;
/// Longest line that comes in over TCP, in bytes.
pub const TCP_LINE_BYTES_MAX: usize = 1024 * 1024;

/// Lines of one peer before the next has its turn.
const LINES_PER_TURN: usize = 64;
/// Until peers are accepted again when the operating system has refused to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many lines came and were skipped, as a checkpoint has it: two `u64`, little-endian.
pub(super) fn counts(position: &[u8]) -> Result<(u64, u64)> {
    let number = |at: usize| position.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    number(0).zip(number(8)).ok_or_else(|| {
        let bytes = position.len();
        let what = format!("the checkpoint's position has {bytes} bytes, not the 16 of lines over TCP");
        Status::new(Code::DataLoss, format!("{what}; start without it"))
    })
}

struct Peer {
    stream: TcpStream,
    address: SocketAddr,
    lines: LineSplitter,
    ended: bool,
}

/// What became of a peer in its turn.
enum Turn {
    /// It may have more at once.
    More,
    /// It has nothing now.
    Waits,
    /// It is gone.
    Gone,
}

pub(super) struct Listener<T> {
    binding: Binding,
    listener: Option<TcpListener>,
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    peers: Vec<Peer>,
    /// Whose turn it is.
    next: usize,
    decode: Decode<T>,
    on_error: OnError,
    clock: Clock,
    lines: u64,
    skipped: u64,
    told: bool,
}

impl<T> Listener<T> {
    pub(super) fn new(
        binding: Binding,
        (lines, skipped): (u64, u64),
        decode: Decode<T>,
        cx: &IoContext,
    ) -> Self {
        Self {
            binding,
            listener: None,
            pause: None,
            peers: Vec::new(),
            next: 0,
            decode,
            on_error: cx.on_error,
            clock: cx.clock.clone(),
            lines,
            skipped,
            told: false,
        }
    }

    /// Takes new peers until there are none or enough.
    fn accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let listener = match &mut self.listener {
            Some(listener) => listener,
            None => {
                let bound = ready!(self.binding.poll(cx))?;
                let listener = TcpListener::from_std(bound)
                    .map_err(|error| Status::unavailable(format!("the listener cannot be used: {error}")))?;
                self.listener.insert(listener)
            }
        };
        while self.peers.len() < TCP_CONNECTIONS_MAX {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(listener.poll_accept(cx)) {
                Ok((stream, address)) => {
                    keep_alive(&stream);
                    let lines = LineSplitter::new(TCP_LINE_BYTES_MAX);
                    self.peers.push(Peer { stream, address, lines, ended: false });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted; is the limit of open files too low?");
                    self.pause = Some(Box::pin(self.clock.sleep(ACCEPT_PAUSE)));
                }
            }
        }
        // Whoever leaves makes room, which is seen in the same turn.
        Poll::Pending
    }

    #[cold]
    fn bad(&mut self, what: &str, address: SocketAddr, line: u64) -> Result<()> {
        if self.on_error == OnError::Skip {
            self.skipped += 1;
            return Ok(());
        }
        Err(Status::invalid(format!("line {line} of peer {address}, {what}; {CURE}")))
    }

    /// Some lines of one peer.
    fn serve(
        &mut self,
        index: usize,
        cx: &mut Context<'_>,
        rows: &mut Vec<T>,
        lines_max: usize,
    ) -> Result<Turn> {
        let mut left = lines_max;
        while left > 0 {
            let Some(peer) = self.peers.get_mut(index) else { return Ok(Turn::Gone) };
            let address = peer.address;
            let found = match peer.lines.next() {
                Found::Nothing if peer.ended => peer.lines.last(),
                found => found,
            };
            let fault = match found {
                Found::Line(line) => {
                    let decoded = (self.decode)(line);
                    left -= 1;
                    self.lines += 1;
                    match decoded {
                        Ok(record) => {
                            rows.extend(record);
                            continue;
                        }
                        Err(what) => Some(what),
                    }
                }
                Found::TooLong => {
                    left -= 1;
                    self.lines += 1;
                    Some(too_long(TCP_LINE_BYTES_MAX))
                }
                Found::Nothing => None,
            };
            let (line, ended) = (peer.lines.lines(), peer.ended);
            if let Some(what) = fault {
                self.bad(&what, address, line)?;
                continue;
            }
            if ended {
                return Ok(Turn::Gone);
            }
            if peer.lines.is_overlong() && self.on_error == OnError::Fail {
                self.bad(&too_long(TCP_LINE_BYTES_MAX), address, line + 1)?;
                continue;
            }
            let ready = peer.stream.poll_read_ready(cx);
            if ready.is_pending() {
                return Ok(Turn::Waits);
            }
            match peer.lines.fill(|into| peer.stream.try_read(into)) {
                Ok(count) => peer.ended = count == 0,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => {
                    // A line that was cut off in its middle is no line.
                    let within = peer.lines.is_within();
                    tracing::info!(%address, %error, within, "a connection broke");
                    if within {
                        self.skipped += 1;
                    }
                    return Ok(Turn::Gone);
                }
            }
        }
        Ok(Turn::More)
    }

    fn read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let mut lines_left = rows_max;
        loop {
            if let Poll::Ready(result) = self.accept(cx) {
                result?;
            }
            let full = self.peers.len() >= TCP_CONNECTIONS_MAX;
            let (mut waiting, mut gone) = (0, false);
            for _ in 0..self.peers.len() {
                let count = self.peers.len();
                if lines_left == 0 {
                    return Poll::Ready(Ok(ReadState::More));
                }
                if count == 0 {
                    break;
                }
                let index = self.next % count;
                let lines_max = lines_left.min(LINES_PER_TURN);
                let before = self.lines;
                let turn = self.serve(index, cx, &mut batch.rows, lines_max)?;
                lines_left -= lines_left.min((self.lines - before) as usize);
                match turn {
                    Turn::More => self.next = index + 1,
                    Turn::Waits => {
                        waiting += 1;
                        self.next = index + 1;
                    }
                    Turn::Gone => {
                        self.peers.swap_remove(index);
                        gone = true;
                    }
                }
            }
            // Somebody may wait to be accepted whom nobody would wake us for.
            if waiting == self.peers.len() && !(full && gone) {
                return Poll::Pending;
            }
        }
    }
}

/// A peer that vanished without a word is noticed within about two minutes.
fn keep_alive(stream: &TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    let mut set = setsockopt(stream, sockopt::KeepAlive, &true);
    #[cfg(target_os = "linux")]
    {
        set = set
            .and_then(|()| setsockopt(stream, sockopt::TcpKeepIdle, &60))
            .and_then(|()| setsockopt(stream, sockopt::TcpKeepInterval, &15))
            .and_then(|()| setsockopt(stream, sockopt::TcpKeepCount, &4));
    }
    if let Err(error) = set {
        tracing::debug!(%error, "keep-alive could not be set");
    }
}

impl<T: Send> SplitReader<T> for Listener<T> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch<T>,
        rows_max: usize,
    ) -> Poll<Result<ReadState>> {
        let before = batch.rows.len();
        let state = self.read(cx, batch, rows_max);
        caught_up(state, batch.rows.len() > before, &mut self.told, cx)
    }

    fn position(&self) -> Vec<u8> {
        [self.lines.to_le_bytes(), self.skipped.to_le_bytes()].concat()
    }

    fn skipped(&self) -> u64 {
        self.skipped
    }
}
