//! Who may call what.

use std::sync::Arc;

use afflux_wire::Status;
use afflux_wire::contract::Identity;

/// Turns credentials into identities, and decides which method an identity may call.
///
/// Every door asks it, once a call, before anything is decoded: links, HTTP, gRPC and MessagePack-RPC.
#[derive(Debug, Default)]
pub struct Guard {}

impl Guard {
    /// Whether callers are asked who they are. While this is false [`Guard::check`] allows everything.
    pub fn is_on(&self) -> bool {
        false
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` for a token that nobody owns.
    pub fn authenticate(&self, token: &str) -> Result<Arc<Identity>, Status> {
        let _ = token;
        Err(Status::new(afflux_wire::Code::Unauthenticated, "no token is known here (auth.tokens)"))
    }

    /// Whether this caller may call `service/method`; `allow` is the method's own rule
    /// ([`MethodSpec::allow`](afflux_wire::contract::MethodSpec::allow)), empty when the method is not served here.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` without an identity, `PERMISSION_DENIED` with one; both name the setting to change.
    pub fn check(
        &self,
        identity: Option<&Identity>,
        service: &str,
        method: &str,
        allow: &str,
    ) -> Result<(), Status> {
        let _ = (identity, service, method, allow);
        Ok(())
    }
}
