//! Finding actors by their names, on all nodes.

use std::sync::Arc;
use std::time::Duration;

use afflux_wire::contract::{ActorRef, Caller, Service, Via};
use afflux_wire::{ActorId, ActorPath, Code, Executed, Incarnation, NodeId, Status};
use futures_util::future::join_all;

use crate::client::Client;
use crate::error::{Error, Result};

/// A node that has not said by then which actors it has counts as not asked.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

impl Client {
    /// The actor of this name that serves `S`: of the first node, by name, that has one; of this
    /// process's own node before all others.
    ///
    /// A node's answer is of a moment: the actor may have ended when the reference is used, which the
    /// call then says.
    ///
    /// # Errors
    /// `NOT_FOUND` when no node has one, `UNAVAILABLE` when some could not be asked.
    pub async fn lookup<S: Service>(&self, name: &str) -> Result<ActorRef<S>> {
        if let Some((id, services)) = self.mesh().named_actor(&ActorPath::new(name))
            && services.contains(&S::NAME)
        {
            self.mesh().looked_up("found");
            return Ok(ActorRef::new(id));
        }
        let mut found = self.lookup_all::<S>(name).await?;
        Ok(found.swap_remove(0))
    }

    /// The actors of this name that serve `S`, at least one, in the order of their nodes' names. Nodes
    /// that do not answer within two seconds are left out.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn lookup_all<S: Service>(&self, name: &str) -> Result<Vec<ActorRef<S>>> {
        let view = self.view().await.inspect_err(|_| self.mesh().looked_up("unavailable"))?;
        let asked = view.instances.iter().filter(|instance| instance.is_identified()).map(|instance| async {
            let answer = self.node(&instance.node).actors(name.to_owned()).deadline(ASK_TIMEOUT).await;
            (instance.node.clone(), answer)
        });
        let (mut found, mut silent, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (node, answer) in join_all(asked).await {
            match answer {
                Ok(actors) => {
                    for actor in actors {
                        if actor.services.iter().any(|service| service == S::NAME) {
                            found.push(reference(node.clone(), actor));
                        } else {
                            others.push(format!(
                                "{} on {node} serves {}",
                                actor.path,
                                actor.services.join(", ")
                            ));
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%node, %error, "a node does not tell its actors");
                    silent.push(node.to_string());
                }
            }
        }
        if !found.is_empty() {
            self.mesh().looked_up("found");
            return Ok(found);
        }
        self.mesh().looked_up(if silent.is_empty() { "not_found" } else { "unavailable" });
        let status = if silent.is_empty() {
            let mut text = format!(
                "none of {} nodes has an actor `{name}` that serves {}",
                view.instances.len(),
                S::NAME
            );
            if !others.is_empty() {
                text.push_str(&format!(" ({})", others.join("; ")));
            }
            Status::not_found(text)
        } else {
            let text = format!(
                "no node that answered has an actor `{name}` that serves {}, and these did not answer: {}",
                S::NAME,
                silent.join(", ")
            );
            Status::new(Code::Unavailable, text).executed(Executed::No)
        };
        Err(Error::from(status))
    }
}

fn reference<S: Service>(node: NodeId, actor: crate::node_service::NamedActor) -> ActorRef<S> {
    ActorRef::new(ActorId {
        node,
        incarnation: Incarnation(actor.incarnation),
        path: ActorPath::new(actor.path),
        life: actor.life,
    })
}

impl Via for Client {
    fn caller(&self) -> Option<Arc<dyn Caller>> {
        Some(self.mesh().caller())
    }
}
