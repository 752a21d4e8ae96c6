//! One actor as plain data: kept, sent in a message, and called from whichever node holds it.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::call::Handle;
use super::caller::{CallOptions, Caller, Target};
use super::service::Service;
use super::task_local::current_caller;
use super::trace::current_trace;
use crate::id::{ActorId, ActorPath, Incarnation, NodeId};

/// What can start calls: a node, a mesh, a client, the context of a handler.
pub trait Via {
    /// What starts the calls; nothing outside a node.
    fn caller(&self) -> Option<Arc<dyn Caller>>;
    /// What the calls inherit: of a handler's context, its deadline, trace and place in the call chain.
    fn options(&self) -> CallOptions {
        CallOptions::default()
    }
}

impl Via for Arc<dyn Caller> {
    fn caller(&self) -> Option<Arc<dyn Caller>> {
        Some(Arc::clone(self))
    }
}

impl Via for super::cx::Cx {
    fn caller(&self) -> Option<Arc<dyn Caller>> {
        self.caller().cloned()
    }
    fn options(&self) -> CallOptions {
        self.inherited()
    }
}

/// One actor that serves `S`: which node, which life of it, which actor there, which life of that.
///
/// Plain data: it holds no connection and keeps nothing alive. `derive(Service)` writes a trait
/// (`OrdersCalls` for `Orders`) with the methods of the client; a call finds its node by the task it
/// runs in (a handler, or [`within`](super::within)) and fails with `FAILED_PRECONDITION` outside one.
/// [`ActorRef::via`] names the node instead.
///
/// It means one life. When the actor was restarted by its supervisor it is the same life, with the
/// same mailbox and a fresh state. When it has ended, when another has taken its path, or when its
/// node was started again, every call fails at once, not executed, with a message that says which
/// life was meant and which is there: a call never reaches another actor.
pub struct ActorRef<S: Service> {
    id: Arc<ActorId>,
    service: PhantomData<fn() -> S>,
}

impl<S: Service> ActorRef<S> {
    /// A reference to this actor. Whether it is there, and serves `S`, shows when it is called.
    pub fn new(id: ActorId) -> Self {
        Self { id: Arc::new(id), service: PhantomData }
    }

    /// Which actor.
    pub fn id(&self) -> &ActorId {
        &self.id
    }

    /// Where it lives.
    pub fn node(&self) -> &NodeId {
        &self.id.node
    }

    /// Its path there.
    pub fn path(&self) -> &ActorPath {
        &self.id.path
    }

    /// A client whose calls go to this actor by way of `node`. With the context of a handler they inherit
    /// what those of [`Cx::client`](super::Cx::client) do.
    pub fn via(&self, node: &(impl Via + ?Sized)) -> S::Client {
        S::Client::from(self.handle_of(node.caller()).with_options(node.options()))
    }

    /// The handle behind the calls of the derive's trait: by the node of the running task. They inherit
    /// nothing of the call that is answered; those of `via(cx)` do.
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        let options = CallOptions { trace: current_trace(), ..CallOptions::default() };
        self.handle_of(current_caller()).with_options(options)
    }

    fn handle_of(&self, caller: Option<Arc<dyn Caller>>) -> Handle<S> {
        Handle::new(caller, Target::actor(S::NAME, Arc::clone(&self.id)))
    }
}

impl<S: Service> Clone for ActorRef<S> {
    fn clone(&self) -> Self {
        Self { id: Arc::clone(&self.id), service: PhantomData }
    }
}

impl<S: Service> PartialEq for ActorRef<S> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<S: Service> Eq for ActorRef<S> {}

impl<S: Service> Hash for ActorRef<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<S: Service> fmt::Debug for ActorRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorRef({} {})", S::NAME, self.id)
    }
}

impl<S: Service> fmt::Display for ActorRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)
    }
}

/// A reference on the wire. The service is in it, so that one of another contract is refused when it
/// is read and not when it is called.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Record {
    service: Cow<'static, str>,
    node: String,
    incarnation: u64,
    path: String,
    life: u64,
}

impl<S: Service> Serialize for ActorRef<S> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        let record = Record {
            service: Cow::Borrowed(S::NAME),
            node: self.id.node.as_str().to_owned(),
            incarnation: self.id.incarnation.0,
            path: self.id.path.as_str().to_owned(),
            life: self.id.life,
        };
        record.serialize(serializer)
    }
}

impl<'de, S: Service> Deserialize<'de> for ActorRef<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Record { service, node, incarnation, path, life } = Record::deserialize(deserializer)?;
        if service != S::NAME {
            return Err(serde::de::Error::custom(format_args!(
                "a reference to an actor of {service}, where one of {} is wanted",
                S::NAME
            )));
        }
        Ok(Self::new(ActorId {
            node: NodeId::new(node),
            incarnation: Incarnation(incarnation),
            path: ActorPath::new(path),
            life,
        }))
    }
}

impl<S: Service> JsonSchema for ActorRef<S> {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("ActorRef")
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Record::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Double, Fake, Shop, poll};
    use super::*;
    use crate::status::{Code, Executed};
    use std::future::IntoFuture;

    fn desk() -> ActorRef<Shop> {
        ActorRef::new(ActorId {
            node: "n1".into(),
            incarnation: Incarnation(7),
            path: ActorPath::new("desk"),
            life: 3,
        })
    }

    #[test]
    fn a_reference_comes_back_from_messagepack_and_from_json() {
        let bytes = crate::codec::to_named(&desk()).unwrap();
        assert_eq!(crate::codec::from_slice::<ActorRef<Shop>>(&bytes).unwrap(), desk());
        let json = serde_json::to_value(desk()).unwrap();
        assert_eq!(json["path"], "desk");
        assert_eq!(serde_json::from_value::<ActorRef<Shop>>(json).unwrap(), desk());
    }

    #[test]
    fn a_reference_to_an_actor_of_another_contract_is_refused_when_it_is_read() {
        let mut json = serde_json::to_value(desk()).unwrap();
        json["service"] = "shop.billing".into();
        let error = serde_json::from_value::<ActorRef<Shop>>(json).unwrap_err().to_string();
        assert!(error.contains("an actor of shop.billing"), "{error}");
    }

    #[test]
    fn a_call_outside_a_node_fails_and_says_how_to_get_into_one() {
        let mut call = desk().handle().call(Double { n: 1 }).into_future();
        let std::task::Poll::Ready(Err(error)) = poll(&mut call) else { panic!("no error") };
        assert_eq!((error.code(), error.status().was_executed()), (Code::FailedPrecondition, Executed::No));
    }

    #[test]
    fn a_call_names_its_actor() {
        let caller: Arc<dyn Caller> = Fake::nowhere();
        let target = desk().handle_of(Via::caller(&caller)).target().clone();
        assert_eq!((target.node, target.actor.as_deref()), (Some("n1".into()), Some(desk().id())));
    }
}
