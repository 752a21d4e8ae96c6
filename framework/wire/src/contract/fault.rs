//! Typed errors: what a handler returns and what a caller gets.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::status::{Code, Executed, Status};

/// A service's own error type. Implemented by `derive(RpcError)`.
pub trait RpcError:
    Serialize + DeserializeOwned + schemars::JsonSchema + fmt::Debug + Send + 'static
{
    /// The status code of this error.
    fn code(&self) -> Code;
    /// The variant's name.
    fn kind(&self) -> &'static str;
    /// When another try may succeed, in milliseconds.
    fn retry_after_ms(&self) -> Option<u64> {
        None
    }
    /// The text of the error.
    fn message(&self) -> String {
        format!("{self:?}")
    }
}

/// The error type of a service without typed errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoError {}

impl schemars::JsonSchema for NoError {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NoError".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // No value is one.
        schemars::Schema::from(false)
    }
}

impl RpcError for NoError {
    fn code(&self) -> Code {
        match *self {}
    }
    fn kind(&self) -> &'static str {
        match *self {}
    }
}

/// Why a handler fails: its own typed error, or a status.
#[derive(Debug)]
pub enum Fault<E = NoError> {
    /// An error the contract names.
    Typed(E),
    /// Any other failure.
    Status(Status),
}

impl<E: RpcError> Fault<E> {
    /// The failure as it crosses the wire.
    pub fn into_status(self) -> Status {
        match self {
            Fault::Status(status) => status,
            Fault::Typed(error) => {
                let mut status = describe(&error);
                status.details_mut().data = crate::codec::to_named(&error).ok();
                status
            }
        }
    }
}

/// What a typed error looks like to who does not know its type; the error itself is not in it.
pub(super) fn describe<E: RpcError>(error: &E) -> Status {
    let mut status = Status::new(error.code(), error.message()).executed(Executed::Yes);
    let details = status.details_mut();
    details.kind = Some(error.kind().to_owned());
    details.retry_after_ms = error.retry_after_ms();
    status
}

impl<E: RpcError> fmt::Display for Fault<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Typed(error) => write!(f, "{}: {}", error.code(), error.message()),
            Fault::Status(status) => status.fmt(f),
        }
    }
}

impl<E> From<Status> for Fault<E> {
    fn from(status: Status) -> Self {
        Fault::Status(status)
    }
}

/// The failure of a call that a handler made, as the handler's own failure.
///
/// The other service's typed error stays behind: its bytes would be read as this service's. And what
/// that call says of its execution says nothing of this one: the handler had begun.
impl<E, F> From<CallError<F>> for Fault<E> {
    fn from(error: CallError<F>) -> Self {
        let mut status = error.into_status();
        if let Some(details) = &mut status.details {
            details.kind = None;
            details.data = None;
            details.executed = Executed::Maybe;
        }
        Fault::Status(status)
    }
}

/// Why a call failed: the service's typed error, or a status.
#[derive(Debug)]
pub enum CallError<E = NoError> {
    /// An error the contract names.
    Typed(E, Status),
    /// Any other failure.
    Status(Status),
}

impl<E: RpcError> CallError<E> {
    /// The error behind a status: typed when its data says so.
    pub fn from_status(status: Status) -> Self {
        let typed = status.details.as_ref().and_then(|d| d.kind.as_deref().zip(d.data.as_deref())).and_then(
            |(kind, data)| crate::codec::from_slice::<E>(data).ok().filter(|error| error.kind() == kind),
        );
        match typed {
            Some(error) => CallError::Typed(error, status),
            None => CallError::Status(status),
        }
    }
}

impl<E> CallError<E> {
    /// The status, whichever kind of error this is.
    pub fn status(&self) -> &Status {
        match self {
            CallError::Typed(_, status) | CallError::Status(status) => status,
        }
    }

    /// Adds to the text of the failure.
    pub(super) fn note(&mut self, note: &str) {
        let (CallError::Typed(_, status) | CallError::Status(status)) = self;
        status.message.push_str("; ");
        status.message.push_str(note);
    }

    /// The status, by value.
    pub fn into_status(self) -> Status {
        match self {
            CallError::Typed(_, status) | CallError::Status(status) => status,
        }
    }

    /// The code of the failure.
    pub fn code(&self) -> Code {
        self.status().code
    }

    /// The typed error, when there is one.
    pub fn typed(&self) -> Option<&E> {
        match self {
            CallError::Typed(error, _) => Some(error),
            CallError::Status(_) => None,
        }
    }
}

impl<E> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status().fmt(f)
    }
}

impl<E: fmt::Debug> std::error::Error for CallError<E> {}

impl<E> From<CallError<E>> for Status {
    fn from(error: CallError<E>) -> Self {
        error.into_status()
    }
}
