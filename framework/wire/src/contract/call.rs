//! A service by its name, and a call of it that has not started.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::caller::{CallOptions, Caller, Target};
use super::future::{Answer, CallFuture};
use super::placement::{Hedge, Policy, key_hash};
use super::priority::Priority;
use super::service::{Params, Service};

/// A service by its name: what a client holds instead of a connection.
pub struct Handle<S: Service> {
    /// Shared by its clones, so that a call costs one count and moves one pointer.
    pub(super) bound: Arc<Bound>,
    service: PhantomData<fn() -> S>,
}

/// What a handle knows.
#[derive(Clone)]
pub(super) struct Bound {
    pub(super) caller: Option<Arc<dyn Caller>>,
    pub(super) target: Target,
    pub(super) options: CallOptions,
}

impl<S: Service> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self { bound: Arc::clone(&self.bound), service: PhantomData }
    }
}

impl<S: Service> Handle<S> {
    /// A handle whose calls are started by `caller`; without one they fail with `FAILED_PRECONDITION`.
    pub fn new(caller: Option<Arc<dyn Caller>>, target: Target) -> Self {
        let bound = Bound { caller, target, options: CallOptions::default() };
        Self { bound: Arc::new(bound), service: PhantomData }
    }

    /// The same handle with other defaults for its calls.
    #[must_use]
    pub fn with_options(mut self, options: CallOptions) -> Self {
        *self.options_mut() = options;
        self
    }

    /// The same handle with another policy than the service's.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.options_mut().policy = Some(policy);
        self
    }

    /// Whom its calls are for.
    pub fn target(&self) -> &Target {
        &self.bound.target
    }

    /// Its options; a copy of its own where it has clones.
    pub(super) fn options_mut(&mut self) -> &mut CallOptions {
        &mut Arc::make_mut(&mut self.bound).options
    }

    /// From now on any endpoint of the service will do.
    pub(super) fn forget_node(&mut self) {
        Arc::make_mut(&mut self.bound).target.node = None;
    }

    /// A call of one streaming method, not yet started.
    pub fn open<P: super::stream::StreamParams<Service = S>>(
        &self,
        params: P,
    ) -> super::stream::StreamCall<P> {
        super::stream::StreamCall::new(self.clone(), params)
    }

    /// A call of one method, not yet started.
    pub fn call<P: Params<Service = S>>(&self, params: P) -> Call<P> {
        Call { handle: self.clone(), params }
    }
}

/// A call that starts when it is awaited.
///
/// ```
/// # use std::time::Duration;
/// # use afflux_wire::contract::{Call, CallError, Params, Service};
/// # async fn example<P: Params>(call: Call<P>)
/// #     -> Result<P::Output, CallError<<P::Service as Service>::Error>> {
/// call.deadline(Duration::from_secs(1)).await
/// # }
/// ```
#[must_use = "a call starts when it is awaited"]
pub struct Call<P: Params> {
    handle: Handle<P::Service>,
    params: P,
}

impl<P: Params> Call<P> {
    /// Gives up after this long, instead of the method's own deadline. A deadline that was inherited
    /// from the call being answered still holds when it is earlier.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.handle.options_mut().deadline = Some(deadline);
        self
    }

    /// The same key means the same effect.
    pub fn idempotency_key(mut self, key: impl Into<Arc<[u8]>>) -> Self {
        self.handle.options_mut().idempotency_key = Some(key.into());
        self
    }

    /// Calls as the owner of this token (`auth.tokens` of the called node) instead of as this process.
    pub fn token(mut self, token: impl Into<Arc<str>>) -> Self {
        self.handle.options_mut().token = Some(token.into());
        self
    }

    /// Where the call stands in the mailbox, instead of the method's own priority.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.handle.options_mut().priority = Some(priority);
        self
    }

    /// Fails at once when no endpoint is known, instead of waiting for one until the deadline.
    pub fn fail_fast(mut self) -> Self {
        self.handle.options_mut().fail_fast = true;
        self
    }
}

impl<P: Params> Call<P> {
    /// Calls with equal keys go to the same endpoint while the set of endpoints stays as it is; when
    /// it changes, only the keys of what came or went move (rendezvous hashing). Whatever the policy.
    pub fn route_by<K: serde::Serialize + ?Sized>(mut self, key: &K) -> Self {
        self.handle.options_mut().key = Some(key_hash(key));
        self
    }

    /// Another policy than the service's, for this call.
    pub fn balanced(mut self, policy: Policy) -> Self {
        self.handle.options_mut().policy = Some(policy);
        self
    }

    /// A second attempt goes to another endpoint when the first takes longer than this; the answer
    /// that comes first stands, and the other attempt is cancelled. Only calls that may be executed
    /// twice are hedged: of an idempotent method.
    pub fn hedge(mut self, hedge: Hedge) -> Self {
        self.handle.options_mut().hedge = Some(hedge);
        self
    }
}

impl<P: Params> IntoFuture for Call<P> {
    type Output = Answer<P>;
    type IntoFuture = CallFuture<P>;

    fn into_future(self) -> CallFuture<P> {
        CallFuture::new(self.handle, self.params)
    }
}
