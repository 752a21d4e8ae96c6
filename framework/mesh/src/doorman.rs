//! Who a peer is, and whether its requests get in.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use afflux_wire::contract::{Identity, IdentityKind};
use afflux_wire::handshake::Hello;
use afflux_wire::{Code, Executed, Meta, NodeId, Stage, Status};

use crate::guard::reason;
use crate::hash::IdMap;
use crate::link::Link;
use crate::mesh::Shared;
use crate::services::ServedMethod;
use crate::tls::Shown;

/// The names of processes that dial and are no nodes begin with this.
pub const CLIENT_PREFIX: &str = "client-";
/// Methods of which a connection remembers that its peer may call them.
const REMEMBERED_METHODS_MAX: usize = 4_096;

fn refuse<T>(text: String) -> Result<T, Status> {
    Err(Status::new(Code::Unauthenticated, text).executed(Executed::No).stage(Stage::Connect))
}

/// Who has sent this HELLO.
///
/// # Errors
/// `UNAUTHENTICATED`, naming both sides: no credential, a wrong one, or one of somebody else.
pub(crate) fn identify(
    shared: &Shared,
    hello: &Hello,
    shown: Option<&Shown>,
) -> Result<Option<Arc<Identity>>, Status> {
    let own = &shared.config.node;
    let peer = &hello.node;
    let identity = match shown {
        Some(Shown { spiffe: Some(name), .. }) => Arc::new(Identity::new(name.as_str(), IdentityKind::Certificate)),
        Some(Shown { hosts, .. }) if hosts.iter().any(|host| host == peer.as_str()) => {
            Arc::new(Identity::node(peer, IdentityKind::Certificate))
        }
        Some(Shown { hosts, .. }) => {
            return refuse(format!(
                "peer {peer} shows node {own} a certificate that names neither it nor an identity \
                 spiffe://{}/ROLE/NAME, but {hosts:?}: make one with `certs node {peer}`",
                shared.config.cluster
            ));
        }
        None if !shared.guard.is_on() => return Ok(None),
        None => match &hello.token {
            Some(token) => shared.guard.owner_of(token, peer).map_err(|_| {
                let text = format!(
                    "peer {peer} (build {}) sent a token that is not the one node {own} (build {}) of cluster `{}` \
                     expects: set the same `token` on both, or add its SHA-256 to `auth.tokens` there",
                    hello.build, shared.config.build, shared.config.cluster
                );
                Status::new(Code::Unauthenticated, text).executed(Executed::No).stage(Stage::Connect)
            })?,
            None => {
                return refuse(format!(
                    "peer {peer} (build {}) sent no token, but one is what node {own} (build {}) of cluster `{}` \
                     expects: set `token` on both",
                    hello.build, shared.config.build, shared.config.cluster
                ));
            }
        },
    };
    match &identity.node {
        Some(node) if node != peer => refuse(format!(
            "peer {peer} shows node {own} the credential of {identity}: a node's name (`node.id`) and its \
             certificate's are the same, make one with `certs node {peer}`"
        )),
        None if !peer.as_str().starts_with(CLIENT_PREFIX) || !hello.address.is_empty() => refuse(format!(
            "peer {peer} shows node {own} the credential of {identity}, which is no node's: only nodes have names \
             that do not begin with `{CLIENT_PREFIX}`, and addresses"
        )),
        _ => Ok(Some(identity)),
    }
}

/// Who has answered a dial.
///
/// # Errors
/// A certificate of another node than the one that has answered.
pub(crate) fn identify_dialled(
    shared: &Shared,
    node: &NodeId,
    shown: Option<&Shown>,
) -> Result<Option<Arc<Identity>>, Status> {
    match shown {
        Some(Shown { spiffe: Some(name), .. }) => {
            let identity = Identity::new(name.as_str(), IdentityKind::Certificate);
            if identity.node.as_ref() != Some(node) {
                return refuse(format!("node {node} answered with the certificate of {name}"));
            }
            Ok(Some(Arc::new(identity)))
        }
        // The host's name was compared.
        Some(_) => Ok(Some(Arc::new(Identity::node(node, IdentityKind::Certificate)))),
        // It was dialled on purpose, and knows our token now.
        None if shared.guard.is_on() => Ok(Some(Arc::new(Identity::node(node, IdentityKind::Token)))),
        None => Ok(None),
    }
}

/// Who has shown this certificate, on a connection that says nothing else of its peer.
pub(crate) fn identify_stranger(shown: Option<&Shown>) -> Option<Arc<Identity>> {
    let name = shown?.spiffe.as_deref()?;
    Some(Arc::new(Identity::new(name, IdentityKind::Certificate)))
}

/// Asks the guard for one connection, and remembers what it allowed.
#[derive(Default)]
pub(crate) struct Doorman {
    allowed: IdMap<u64, ()>,
    version: u64,
}

impl Doorman {
    /// Whether a request gets in, and as whose.
    ///
    /// # Errors
    /// The refusal, and the metric's reason.
    #[inline]
    pub(crate) fn admit(
        &mut self,
        shared: &Shared,
        link: &Link,
        method: &ServedMethod,
        meta: &Meta,
    ) -> Result<Option<Arc<Identity>>, (Status, &'static str)> {
        if !shared.guard.is_on() {
            return Ok(None);
        }
        self.ask(shared, link, method, meta).map_err(|status| {
            let reason = reason(&status);
            (status, reason)
        })
    }

    fn ask(
        &mut self,
        shared: &Shared,
        link: &Link,
        method: &ServedMethod,
        meta: &Meta,
    ) -> Result<Option<Arc<Identity>>, Status> {
        let guard = &shared.guard;
        let check = |identity: Option<&Arc<Identity>>| {
            guard.check(identity.map(|identity| &**identity), method.service, method.name, method.allow)
        };
        if let Some(token) = meta.rare().and_then(|rare| rare.token.as_ref()) {
            // What is no text is no token either.
            let token = std::str::from_utf8(token).unwrap_or_default();
            let identity = guard.owner_of(token, &link.peer)?;
            check(Some(&identity))?;
            return Ok(Some(identity));
        }
        let version = guard.version();
        if version != self.version || self.allowed.len() >= REMEMBERED_METHODS_MAX {
            self.allowed.clear();
            self.version = version;
        }
        if let Entry::Vacant(free) = self.allowed.entry(method.key) {
            check(link.identity.as_ref())?;
            free.insert(());
        }
        Ok(link.identity.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Access, token_digest};
    use crate::{MemoryNetwork, Mesh, MeshConfig, MeshMetrics, Transport};

    fn with_shared<R: 'static + Send>(access: Access, test: impl FnOnce(&Shared) -> R + Send + 'static) -> R {
        afflux_actor::system(move || async move {
            let place = afflux_actor::Place::current().unwrap();
            let config = MeshConfig { access, build: "2".into(), ..MeshConfig::new("orders-1", "test") };
            let transport = Transport::Memory(MemoryNetwork::default());
            let mesh = Mesh::start(config, transport, place, MeshMetrics::unregistered()).unwrap();
            test(mesh.shared())
        })
        .unwrap()
    }

    fn hello(node: &str, token: Option<&str>) -> Hello {
        Hello { node: node.into(), token: token.map(str::to_owned), build: "1".into(), ..Hello::default() }
    }

    fn shown(spiffe: Option<&str>, hosts: &[&str]) -> Shown {
        Shown { spiffe: spiffe.map(str::to_owned), hosts: hosts.iter().map(|&h| h.to_owned()).collect() }
    }

    #[test]
    fn a_certificate_is_that_of_the_node_that_shows_it() {
        with_shared(Access::default().mutual(true), |shared| {
            let name = |node: &str, shown: &Shown| {
                identify(shared, &hello(node, None), Some(shown)).map(|i| i.unwrap().name.to_string())
            };
            assert_eq!(name("a", &shown(Some("node/a"), &[])).unwrap(), "node/a");
            assert_eq!(name("a", &shown(None, &["b", "a"])).unwrap(), "node/a");
            assert_eq!(name("client-7", &shown(Some("support/alice"), &[])).unwrap(), "support/alice");
            for (node, shown) in [
                ("b", shown(Some("node/a"), &[])),
                ("b", shown(None, &["a"])),
                ("b", shown(None, &[])),
                // A caller that poses as a node.
                ("b", shown(Some("support/alice"), &[])),
            ] {
                let error = name(node, &shown).unwrap_err();
                assert_eq!(error.code, Code::Unauthenticated);
                assert!(error.message.contains("peer b") && error.message.contains("orders-1"), "{error}");
            }
        });
    }

    #[test]
    fn a_caller_that_listens_is_no_caller() {
        with_shared(Access::default().mutual(true), |shared| {
            let listening = Hello { address: "10.0.0.1:7".into(), ..hello("client-7", None) };
            assert!(identify(shared, &listening, Some(&shown(Some("support/alice"), &[]))).is_err());
        });
    }

    #[test]
    fn a_missing_and_a_wrong_token_are_told_apart_and_both_sides_are_named() {
        let access = Access::default()
            .cluster_token(Some("right"))
            .token_digest("app/x", &token_digest("own"))
            .unwrap();
        with_shared(access, |shared| {
            let of = |token| identify(shared, &hello("client-7", token), None);
            assert_eq!(&*of(Some("right")).unwrap().unwrap().name, "node/client-7");
            assert_eq!(&*of(Some("own")).unwrap().unwrap().name, "app/x");
            for (token, part) in
                [(None, "sent no token"), (Some("wrong"), "sent a token that is not the one")]
            {
                let error = of(token).unwrap_err();
                for part in [part, "client-7 (build 1)", "orders-1 (build 2)", "`test`"] {
                    assert!(error.message.contains(part), "{part} is missing in: {error}");
                }
                assert!(!error.message.contains("wrong") && !error.message.contains("right"), "{error}");
            }
        });
    }

    #[test]
    fn who_answers_a_dial_shows_its_own_certificate() {
        with_shared(Access::default().mutual(true), |shared| {
            let of = |shown: &Shown| identify_dialled(shared, &NodeId::new("a"), Some(shown));
            assert_eq!(of(&shown(Some("node/a"), &[])).unwrap().unwrap().node, Some("a".into()));
            assert!(of(&shown(Some("node/b"), &[])).is_err());
        });
    }
}
