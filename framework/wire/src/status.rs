//! What can go wrong, in the words of gRPC's sixteen codes, with what the caller needs to act.
//!
//! On the wire an error is `[code, message]` or `[code, message, details]`; see `docs/specs/frame.md`.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{Incarnation, NodeId};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal),* $(,)?) => {
        /// The kind of failure: gRPC's status codes (0, OK, is not an error and has no member).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Code { $($(#[$doc])* $name = $number),* }

        impl Code {
            /// Every code, in the order of its number.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The number on the wire; an unknown number is [`Code::Unknown`].
            pub fn from_number(number: u8) -> Self {
                match number { $($number => Code::$name,)* _ => Code::Unknown }
            }

            /// The number on the wire, 1 to 16.
            pub fn number(self) -> u8 { self as u8 }

            /// The name as metrics and messages write it, such as `NOT_FOUND`.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text),* }
            }
        }
    };
}

codes! {
    /// The caller gave up.
    Cancelled = 1 "CANCELLED",
    /// A failure nobody classified.
    Unknown = 2 "UNKNOWN",
    /// The request is wrong whatever the state of the system.
    InvalidArgument = 3 "INVALID_ARGUMENT",
    /// The deadline passed first.
    DeadlineExceeded = 4 "DEADLINE_EXCEEDED",
    /// The thing asked for is not there.
    NotFound = 5 "NOT_FOUND",
    /// The thing to be made is there already.
    AlreadyExists = 6 "ALREADY_EXISTS",
    /// Known caller, not allowed.
    PermissionDenied = 7 "PERMISSION_DENIED",
    /// A limit or a full mailbox; see `retry_after_ms`.
    ResourceExhausted = 8 "RESOURCE_EXHAUSTED",
    /// Not now: the state of the system has to change first.
    FailedPrecondition = 9 "FAILED_PRECONDITION",
    /// Lost a race; try the whole operation again.
    Aborted = 10 "ABORTED",
    /// Past the valid range.
    OutOfRange = 11 "OUT_OF_RANGE",
    /// No such method here.
    Unimplemented = 12 "UNIMPLEMENTED",
    /// A bug or a panic on the other side.
    Internal = 13 "INTERNAL",
    /// Nobody there to answer.
    Unavailable = 14 "UNAVAILABLE",
    /// Stored data is damaged.
    DataLoss = 15 "DATA_LOSS",
    /// Unknown caller.
    Unauthenticated = 16 "UNAUTHENTICATED",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the call had an effect on the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Executed {
    /// Certainly not: it may be tried again elsewhere.
    No = 0,
    /// Nobody can tell.
    #[default]
    Maybe = 1,
    /// The handler ran to its end.
    Yes = 2,
}

/// How far a call had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Before the request left: no endpoint, no connection.
    Connect,
    /// On the way into the mailbox.
    Admission,
    /// In the mailbox.
    Queued,
    /// In the handler.
    Running,
    /// On the way back.
    Reply,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Connect => "connect",
            Stage::Admission => "admission",
            Stage::Queued => "queued",
            Stage::Running => "running",
            Stage::Reply => "reply",
        })
    }
}

/// What goes with an error beside its code and message. Every field is optional on the wire.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// The name of a typed error's variant, when the service has one.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The typed error itself, as MessagePack.
    #[serde(skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub data: Option<Vec<u8>>,
    /// When another try may succeed, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Whether the call had an effect: 0 no, 1 maybe, 2 yes.
    #[serde(with = "executed")]
    pub executed: Executed,
    /// How far the call had come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// The node that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Whether this is an answer from memory, to a call whose idempotency key came back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
    /// Messages waiting in the mailbox that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_depth: Option<u32>,
    /// Where to call instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
}

/// Where what was called lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// The node.
    pub node: NodeId,
    /// Which life of it; 0 when that is not known.
    #[serde(default)]
    pub incarnation: Incarnation,
}

mod executed {
    use super::Executed;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Executed, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u8(*value as u8)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Executed, D::Error> {
        Ok(match u8::deserialize(d)? {
            0 => Executed::No,
            2 => Executed::Yes,
            _ => Executed::Maybe,
        })
    }
}

/// A failure as it crosses a mailbox or a wire.
///
/// ```
/// use afflux_wire::{Code, Executed, Status};
/// let full = Status::new(Code::ResourceExhausted, "mailbox of shop.orders is full (1024 messages)")
///     .executed(Executed::No)
///     .retry_after_ms(50);
/// assert!(full.may_retry_elsewhere());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The kind of failure.
    pub code: Code,
    /// What, where, the limit and the cure.
    pub message: String,
    /// The rest; absent for most errors of local origin.
    pub details: Option<Box<Details>>,
}

impl Status {
    /// An error with nothing but its code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: None }
    }

    /// `INVALID_ARGUMENT`, certainly not executed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message).executed(Executed::No)
    }

    /// `INTERNAL`.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// `UNAVAILABLE`.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    /// `NOT_FOUND`, certainly not executed.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message).executed(Executed::No)
    }

    /// `FAILED_PRECONDITION`, certainly not executed.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, message).executed(Executed::No)
    }

    /// The details, made when they are absent.
    pub fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }

    /// Says whether the call had an effect.
    #[must_use]
    pub fn executed(mut self, executed: Executed) -> Self {
        self.details_mut().executed = executed;
        self
    }

    /// Says how far the call had come.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        self.details_mut().stage = Some(stage);
        self
    }

    /// Says which node failed.
    #[must_use]
    pub fn node(mut self, node: &NodeId) -> Self {
        self.details_mut().node = Some(node.clone());
        self
    }

    /// Says when another try may succeed, in milliseconds.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.details_mut().retry_after_ms = Some(ms);
        self
    }

    /// Says where to call instead.
    #[must_use]
    pub fn redirect(mut self, node: NodeId, incarnation: Incarnation) -> Self {
        self.details_mut().redirect = Some(Redirect { node, incarnation });
        self
    }

    /// Where to call instead, if the other side has said so.
    pub fn redirected(&self) -> Option<&Redirect> {
        self.details.as_ref()?.redirect.as_ref()
    }

    /// Whether the call had an effect, as far as is known: maybe, unless somebody said otherwise.
    pub fn was_executed(&self) -> Executed {
        self.details.as_ref().map_or(Executed::Maybe, |d| d.executed)
    }

    /// Whether the same call may be sent to another endpoint without being asked: it was not
    /// executed, and the failure is one of place or moment.
    pub fn may_retry_elsewhere(&self) -> bool {
        self.was_executed() == Executed::No
            && matches!(self.code, Code::Unavailable | Code::ResourceExhausted)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if let Some(details) = &self.details {
            if let Some(node) = &details.node {
                write!(f, " [node {node}]")?;
            }
            if let Some(stage) = details.stage {
                write!(f, " [stage {stage}]")?;
            }
            if let Some(ms) = details.retry_after_ms {
                write!(f, " [retry after {ms} ms]")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Status {}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(if self.details.is_some() { 3 } else { 2 })?;
        tuple.serialize_element(&self.code.number())?;
        tuple.serialize_element(&self.message)?;
        if let Some(details) = &self.details {
            tuple.serialize_element(details)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Status;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an error array [code, message] or [code, message, details]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Status, A::Error> {
                use serde::de::Error;
                let code = seq.next_element::<u8>()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                let message = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
                let details = seq.next_element::<Option<Box<Details>>>()?.flatten();
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Status { code: Code::from_number(code), message, details })
            }
        }
        deserializer.deserialize_seq(Parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_messagepack_as_an_array() {
        let status = Status::new(Code::ResourceExhausted, "full")
            .executed(Executed::No)
            .stage(Stage::Admission)
            .node(&NodeId::new("n1"))
            .retry_after_ms(7);
        let bytes = rmp_serde::to_vec_named(&status).unwrap();
        assert_eq!(bytes[0], 0x93);
        assert_eq!(rmp_serde::from_slice::<Status>(&bytes).unwrap(), status);
    }

    #[test]
    fn a_status_without_details_is_a_pair() {
        let bytes = rmp_serde::to_vec_named(&Status::internal("x")).unwrap();
        assert_eq!(bytes[0], 0x92);
        assert_eq!(rmp_serde::from_slice::<Status>(&bytes).unwrap(), Status::internal("x"));
    }

    #[test]
    fn only_a_call_that_was_not_executed_may_go_elsewhere() {
        assert!(!Status::unavailable("gone").may_retry_elsewhere());
        assert!(Status::unavailable("gone").executed(Executed::No).may_retry_elsewhere());
        assert!(!Status::invalid("bad").may_retry_elsewhere());
    }

    #[test]
    fn every_code_keeps_its_number() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), *code);
        }
        assert_eq!(Code::from_number(99), Code::Unknown);
    }
}
