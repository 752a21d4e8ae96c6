//! What can be wrong with bytes from a peer.

use crate::frame::Kind;
use crate::status::{Code, Status};

/// A violation of the wire protocol.
///
/// Most of these end the connection: after a malformed frame nothing that follows can be trusted.
/// [`WireError::reason`] is the closed set of words for the metric `decode_errors_total{reason}`;
/// a conversion into [`Status`] gives the peer its answer.
///
/// ```
/// use afflux_wire::WireError;
///
/// let refused = WireError::FrameTooLarge { bytes: 1 << 30, frame_bytes_max: 1 << 24 };
/// assert_eq!(refused.reason(), "frame_too_large");
/// assert!(refused.to_string().contains("1073741824"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A length prefix, or a payload to be sent, is above the limit. Found before anything is allocated.
    #[error(
        "a frame of {bytes} bytes is above frame_bytes_max = {frame_bytes_max}: send it in chunks, or raise the limit on both sides"
    )]
    FrameTooLarge {
        /// Length claimed by the prefix, or needed by the payload.
        bytes: u64,
        /// The limit in force.
        frame_bytes_max: u64,
    },
    /// A frame of no bytes; even the smallest frame is an array of one element.
    #[error("a frame of 0 bytes: a frame is a MessagePack array whose first element is its kind")]
    FrameEmpty,
    /// The input ends inside a value.
    #[error("{what} is cut short: {missing_bytes} more bytes are needed")]
    Truncated {
        /// The element that was being read.
        what: &'static str,
        /// How many bytes are missing at least.
        missing_bytes: u64,
    },
    /// An element has another type or range than its place demands.
    #[error("{what}: expected {expected}, got {got}")]
    Malformed {
        /// The element, such as `REQUEST.id`.
        what: &'static str,
        /// What the specification demands there.
        expected: &'static str,
        /// The MessagePack type that stands there.
        got: &'static str,
    },
    /// A frame's array has fewer elements than its kind needs.
    #[error("{what}: {elements} elements, at least {elements_min} are needed")]
    TooFewElements {
        /// The frame's name.
        what: &'static str,
        /// What the array header says.
        elements: u64,
        /// What the kind needs.
        elements_min: u64,
    },
    /// A string is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// The element, such as `REQUEST.method`.
        what: &'static str,
    },
    /// Values nest deeper than allowed.
    #[error("values nest deeper than depth_max = {depth_max}")]
    TooDeep {
        /// The limit in force.
        depth_max: u32,
    },
    /// A length or a count claims more than the limit, or more than the input can hold.
    #[error("{what} claims {claimed}, the limit is {limit}")]
    TooLong {
        /// The element that makes the claim.
        what: &'static str,
        /// The claim, in bytes or elements.
        claimed: u64,
        /// The limit in the same unit.
        limit: u64,
    },
    /// Bytes stand after the end of a complete value.
    #[error("{bytes} bytes stand after the end of {what}")]
    Trailing {
        /// The value that was complete.
        what: &'static str,
        /// How many bytes are left over.
        bytes: u64,
    },
    /// A kind that the protocol names but this version does not carry.
    #[error("frames of kind {kind:?} ({}) are reserved and not carried by this version", *kind as u8)]
    Unsupported {
        /// The reserved kind.
        kind: Kind,
    },
    /// A kind below 64 that the protocol does not name.
    #[error(
        "unknown frame kind {kind}: kinds below 64 are not negotiable, so this peer speaks another protocol"
    )]
    UnknownKind {
        /// The number found.
        kind: u8,
    },
    /// The first bytes of a connection are no native preface of ours.
    #[error("not an Afflux preface: {got:02x?}, expected c1 41 46 58, major, minor, flags, 00")]
    BadPreface {
        /// What came instead.
        got: [u8; 8],
    },
}

impl WireError {
    /// The word for the metric label `reason`: one of a closed set, never text from the peer.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::FrameTooLarge { .. } => "frame_too_large",
            Self::FrameEmpty => "frame_empty",
            Self::Truncated { .. } => "truncated",
            Self::Malformed { .. } | Self::TooFewElements { .. } => "malformed",
            Self::NotUtf8 { .. } => "utf8",
            Self::TooDeep { .. } => "depth",
            Self::TooLong { .. } => "elements",
            Self::Trailing { .. } => "trailing",
            Self::Unsupported { .. } => "unsupported_kind",
            Self::UnknownKind { .. } => "unknown_kind",
            Self::BadPreface { .. } => "preface",
        }
    }

    /// The gRPC code under which this reaches a caller.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::FrameTooLarge { .. } => Code::ResourceExhausted,
            Self::Unsupported { .. } | Self::UnknownKind { .. } => Code::Unimplemented,
            _ => Code::InvalidArgument,
        }
    }
}

impl From<WireError> for Status {
    #[cold]
    fn from(error: WireError) -> Self {
        Status::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_value_the_limit_and_the_cure() {
        let text = WireError::FrameTooLarge { bytes: 20_000_000, frame_bytes_max: 16_777_216 }.to_string();
        for part in ["20000000", "16777216", "frame_bytes_max", "chunks"] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }

    #[test]
    fn a_reserved_kind_is_named_with_its_number() {
        let text = WireError::Unsupported { kind: Kind::Chunk }.to_string();
        assert!(text.contains("Chunk (15)"), "{text}");
    }
}
