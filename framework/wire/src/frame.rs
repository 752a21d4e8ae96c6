//! Frames: what stands on a native connection after the preface.
//!
//! A frame is `len: u32 big-endian` and then exactly one MessagePack array of `len` bytes, whose first element is
//! its [`Kind`]. `params`, `result` and rows are opaque `bin`, so a link never walks user data. The rules stand in
//! `docs/specs/frame.md`; each names its test.
//!
//! Reading order: [`Kind`] and [`Frame`] here, `meta` for what travels beside a call, `encode` for the `put_*`
//! functions, `decode` for [`Frame::decode`], `split` for [`next_frame`].

mod any;
mod decode;
mod encode;
mod meta;
mod read;
mod split;

use bytes::Bytes;

use crate::status::Status;

pub use crate::contract::TraceParent;
pub use encode::{
    FRAME_PREFIX_BYTES, FrameBuf, REASON_BYTES_MAX, put_attach, put_bind, put_cancel, put_chunk, put_credit,
    put_data, put_data_header, put_detach, put_end_err, put_end_ok, put_goaway, put_health, put_hello,
    put_item, put_item_header, put_mark, put_notify, put_open, put_ping, put_pong, put_reject, put_request,
    put_response_err, put_response_ok, put_welcome, response_around,
};
pub use encode::{put_down, put_redirect, put_watch};
pub use meta::{Meta, RareMeta};
pub use split::{Frames, READ_AHEAD_BYTES, next_frame, take_frames};

/// The number in front of every frame. Numbers are never reused.
///
/// ```
/// use afflux_wire::Kind;
///
/// assert_eq!(Kind::Data as u8, 16);
/// assert_eq!(Kind::from_number(23), Some(Kind::Mark));
/// assert!(Kind::Chunk.is_carried());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// `[0, id, method, params, meta]`: a call.
    Request = 0,
    /// `[1, id, error|nil, result|nil, meta]`: its answer.
    Response = 1,
    /// `[2, method, params, meta]`: a one-way message.
    Notify = 2,
    /// `[3, map]`: the dialler introduces itself.
    Hello = 3,
    /// `[4, map]`: the acceptor agrees.
    Welcome = 4,
    /// `[5, error]`: the acceptor refuses, and closes.
    Reject = 5,
    /// `[6, [[number, method], …]]`: numbers for method names.
    Bind = 6,
    /// `[7, last_id, code, reason, grace_ms]`: no further ids are admitted.
    Goaway = 7,
    /// `[8, nonce]`.
    Ping = 8,
    /// `[9, nonce]`.
    Pong = 9,
    /// `[10, id, reason]`: the caller no longer waits.
    Cancel = 10,
    /// `[11, id, method, params, meta]`: opens a stream.
    Open = 11,
    /// `[12, id, first_seq, count, bin]`: items of a stream.
    Item = 12,
    /// `[13, id, error|nil, result|nil]`: the end of a stream, or of the caller's items.
    End = 13,
    /// `[14, id, n]`: room for n more items or bytes.
    Credit = 14,
    /// `[15, id, flags, bin]`, the first with the whole length behind it: a part of a large frame.
    Chunk = 15,
    /// `[16, channel, seq, count, bin]`: one batch of an exchange channel.
    Data = 16,
    /// `[17, channel, attempt, fingerprint, job, edge, from, to]`: opens an exchange channel.
    Attach = 17,
    /// `[18, id, bin]`: tells when an actor ends.
    Watch = 18,
    /// `[19, id, reason, error|nil]`: a watched actor has ended.
    Down = 19,
    /// `[20, bin]`: what a node says about its load.
    Health = 20,
    /// `[21, channel]`: closes an exchange channel.
    Detach = 21,
    /// `[22, id, node, incarnation]`: what was called lives there; the call was not executed.
    Redirect = 22,
    /// `[23, channel, seq, kind, value]`: watermark, idle, barrier, end.
    Mark = 23,
}

/// Kinds from here on may be skipped by a receiver that does not know them.
pub const IGNORABLE_KIND_MIN: u64 = 64;

impl Kind {
    /// Every kind that the protocol names, in order.
    pub const ALL: [Self; 24] = [
        Self::Request,
        Self::Response,
        Self::Notify,
        Self::Hello,
        Self::Welcome,
        Self::Reject,
        Self::Bind,
        Self::Goaway,
        Self::Ping,
        Self::Pong,
        Self::Cancel,
        Self::Open,
        Self::Item,
        Self::End,
        Self::Credit,
        Self::Chunk,
        Self::Data,
        Self::Attach,
        Self::Watch,
        Self::Down,
        Self::Health,
        Self::Detach,
        Self::Redirect,
        Self::Mark,
    ];

    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether this version encodes and decodes it; the others are reserved.
    #[must_use]
    pub const fn is_carried(self) -> bool {
        // None is reserved now.
        (self as u8) < Self::ALL.len() as u8
    }

    /// The word for a metric label `kind`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Notify => "notify",
            Self::Hello => "hello",
            Self::Welcome => "welcome",
            Self::Reject => "reject",
            Self::Bind => "bind",
            Self::Goaway => "goaway",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Cancel => "cancel",
            Self::Open => "open",
            Self::Item => "item",
            Self::End => "end",
            Self::Credit => "credit",
            Self::Chunk => "chunk",
            Self::Data => "data",
            Self::Attach => "attach",
            Self::Watch => "watch",
            Self::Down => "down",
            Self::Health => "health",
            Self::Detach => "detach",
            Self::Redirect => "redirect",
            Self::Mark => "mark",
        }
    }
}

/// A method as a frame names it: in full, or by the number that WELCOME or BIND gave it on this link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method<'a> {
    /// `shop.orders/Place`.
    Name(&'a str),
    /// The bound number.
    Number(u32),
}

impl<'a> From<&'a str> for Method<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl From<u32> for Method<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number)
    }
}

/// Why a caller no longer waits. The called side needs it for its metrics only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CancelReason {
    /// 0: the caller dropped its future.
    Dropped,
    /// 1: the deadline passed.
    Deadline,
    /// 2: another attempt of the same call was faster.
    Hedged,
    /// 3: the caller's process is going down.
    Closing,
    /// A reason of a later version.
    Other(u32),
}

impl CancelReason {
    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Dropped => 0,
            Self::Deadline => 1,
            Self::Hedged => 2,
            Self::Closing => 3,
            Self::Other(number) => number,
        }
    }

    /// The reason with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Dropped,
            1 => Self::Deadline,
            2 => Self::Hedged,
            3 => Self::Closing,
            other => Self::Other(other),
        }
    }
}

/// A mark on an exchange channel: it needs no credit and keeps its place among the batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// 0: no later record of this channel has an earlier event time, in milliseconds since 1970.
    Watermark(i64),
    /// 1: the channel has nothing to say about time until its next record.
    Idle,
    /// 2: the barrier of a checkpoint epoch.
    Barrier(u64),
    /// 3: nothing follows.
    End,
}

/// What a receiver must know of a channel before its first batch.
///
/// `job`, `edge`, `from` and `to` say which gate the channel feeds: a channel's number alone belongs to the link,
/// and two jobs may open channels over the same link at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach<'a> {
    /// The channel's id on this link; never reused.
    pub channel: u64,
    /// The job's attempt. Data of any other attempt is dropped and counted.
    pub attempt: u64,
    /// Fingerprint of the build: rows are not self-describing, so both ends must be the same build.
    pub fingerprint: u64,
    /// The job's name.
    pub job: &'a str,
    /// Index of the edge in the execution plan.
    pub edge: u32,
    /// Sending subtask on that edge.
    pub from: u32,
    /// Receiving subtask on that edge.
    pub to: u32,
}

/// A decoded frame. `Bytes` are slices of the input, not copies, and strings borrow from it.
///
/// ```
/// use afflux_wire::{Frame, Limits, Mark, next_frame, put_mark};
/// use bytes::BytesMut;
///
/// let mut buf = BytesMut::new();
/// put_mark(&mut buf, 7, 41, Mark::Barrier(3));
/// let bytes = next_frame(&mut buf, &Limits::default()).unwrap().expect("a whole frame");
/// assert_eq!(Frame::decode(&bytes).unwrap(), Frame::Mark { channel: 7, seq: 41, mark: Mark::Barrier(3) });
/// ```
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // REQUEST and RESPONSE are the hot ones; a box would cost them an allocation
pub enum Frame<'a> {
    /// See [`Kind::Request`].
    Request {
        /// The call's id on this link.
        id: u64,
        /// What is called.
        method: Method<'a>,
        /// MessagePack of the parameters.
        params: Bytes,
        /// Deadline, trace and so on.
        meta: Meta,
    },
    /// See [`Kind::Response`].
    Response {
        /// The call's id.
        id: u64,
        /// MessagePack of the result (empty for nil), or the error.
        result: Result<Bytes, Status>,
        /// Mostly empty.
        meta: Meta,
    },
    /// See [`Kind::Notify`].
    Notify {
        /// What is told.
        method: Method<'a>,
        /// MessagePack of the parameters.
        params: Bytes,
        /// Trace and so on.
        meta: Meta,
    },
    /// See [`Kind::Hello`]; MessagePack of a [`Hello`](crate::Hello).
    Hello(Bytes),
    /// See [`Kind::Welcome`]; MessagePack of a [`Welcome`](crate::Welcome).
    Welcome(Bytes),
    /// See [`Kind::Reject`].
    Reject(Status),
    /// See [`Kind::Bind`].
    Bind(Vec<(u32, &'a str)>),
    /// See [`Kind::Goaway`].
    Goaway {
        /// Highest id that was admitted.
        last_id: u64,
        /// A status code's number.
        code: u32,
        /// For people.
        reason: &'a str,
        /// Time until the sender closes.
        grace_ms: u64,
    },
    /// See [`Kind::Ping`]; the nonce.
    Ping(u64),
    /// See [`Kind::Pong`]; the nonce of the PING.
    Pong(u64),
    /// See [`Kind::Cancel`].
    Cancel {
        /// The call's id.
        id: u64,
        /// Why.
        reason: CancelReason,
    },
    /// See [`Kind::Open`].
    Open {
        /// The stream's id on this link, one space with calls.
        id: u64,
        /// What is called.
        method: Method<'a>,
        /// MessagePack of the parameters.
        params: Bytes,
        /// Deadline, trace and so on.
        meta: Meta,
    },
    /// See [`Kind::Item`].
    Item {
        /// The stream's id.
        id: u64,
        /// The number of the first item, counted from 1 in each direction.
        first_seq: u64,
        /// Items in the frame, at least one.
        count: u32,
        /// MessagePack of the items, one behind the other.
        items: Bytes,
    },
    /// See [`Kind::End`].
    End {
        /// The stream's id.
        id: u64,
        /// MessagePack of the result (empty for nil), or the error.
        result: Result<Bytes, Status>,
    },
    /// See [`Kind::Chunk`].
    Chunk {
        /// The id of the call or stream that the whole belongs to.
        id: u64,
        /// Bytes of the whole, in its first part alone.
        total: Option<u64>,
        /// Whether it is the last part.
        last: bool,
        /// The next bytes of a frame without its prefix.
        part: Bytes,
    },
    /// See [`Kind::Credit`].
    Credit {
        /// The stream's or channel's id.
        id: u64,
        /// Items of a stream, bytes of a channel.
        n: u64,
    },
    /// See [`Kind::Data`].
    Data {
        /// The channel's id.
        channel: u64,
        /// One more than that of the frame before on this channel.
        seq: u64,
        /// Rows in the batch.
        count: u32,
        /// The rows, in the batch format.
        rows: Bytes,
    },
    /// See [`Kind::Attach`].
    Attach(Attach<'a>),
    /// See [`Kind::Detach`].
    Detach {
        /// The channel's id.
        channel: u64,
    },
    /// See [`Kind::Mark`].
    Mark {
        /// The channel's id.
        channel: u64,
        /// One more than that of the frame before on this channel.
        seq: u64,
        /// What it marks.
        mark: Mark,
    },
    /// See [`Kind::Watch`].
    Watch {
        /// The watch's id on this link, in one row with those of calls.
        id: u64,
        /// MessagePack of an [`ActorId`](crate::ActorId).
        actor: Bytes,
    },
    /// See [`Kind::Down`].
    Down {
        /// The watch's id.
        id: u64,
        /// 0 finished, 1 asked to stop, 2 panicked, 3 failed, 4 restarted too often, 5 no such life of
        /// the actor, 6 the watch was refused.
        reason: u32,
        /// More of it.
        error: Option<Status>,
    },
    /// See [`Kind::Redirect`].
    Redirect {
        /// The call's id.
        id: u64,
        /// The node to call instead.
        node: &'a str,
        /// Which life of it; 0 when that is not known.
        incarnation: u64,
    },
    /// See [`Kind::Health`]; MessagePack of the report.
    Health(Bytes),
    /// A kind of [`IGNORABLE_KIND_MIN`] or above that this version does not know.
    Ignored {
        /// Its number.
        kind: u64,
    },
}

impl Frame<'_> {
    /// The frame's kind, `None` for an ignored one.
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Request { .. } => Kind::Request,
            Self::Response { .. } => Kind::Response,
            Self::Notify { .. } => Kind::Notify,
            Self::Hello(_) => Kind::Hello,
            Self::Welcome(_) => Kind::Welcome,
            Self::Reject(_) => Kind::Reject,
            Self::Bind(_) => Kind::Bind,
            Self::Goaway { .. } => Kind::Goaway,
            Self::Ping(_) => Kind::Ping,
            Self::Pong(_) => Kind::Pong,
            Self::Cancel { .. } => Kind::Cancel,
            Self::Open { .. } => Kind::Open,
            Self::Item { .. } => Kind::Item,
            Self::End { .. } => Kind::End,
            Self::Chunk { .. } => Kind::Chunk,
            Self::Credit { .. } => Kind::Credit,
            Self::Data { .. } => Kind::Data,
            Self::Attach(_) => Kind::Attach,
            Self::Detach { .. } => Kind::Detach,
            Self::Mark { .. } => Kind::Mark,
            Self::Watch { .. } => Kind::Watch,
            Self::Down { .. } => Kind::Down,
            Self::Redirect { .. } => Kind::Redirect,
            Self::Health(_) => Kind::Health,
            Self::Ignored { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_at_its_own_number() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            assert_eq!(Kind::from_number(number as u8), Some(kind));
        }
        assert_eq!(Kind::from_number(24), None);
    }

    #[test]
    fn a_cancel_reason_survives_its_number() {
        for number in 0..10 {
            assert_eq!(CancelReason::from_number(number).number(), number);
        }
    }
}
