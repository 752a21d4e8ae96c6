//! etcd: a key with a lease for each node, a queue of keys for each lock, a key for each counter.
//!
//! Under the base stand `nodes/NAME` (the record as JSON), `locks/NAME/LEASE` (the holder) and
//! `counters/NAME` (a decimal number). Whoever has the oldest key of a lock holds it, and that key's
//! create revision is the fencing token: etcd counts revisions for the whole cluster, so a token is
//! greater than all before it. A waiter watches the key in front of its own and nothing else.
//!
//! It speaks etcd's gRPC itself (v3, from etcd 3.4 on): the JSON gateway can be switched off on a
//! server, and the usual client needs protoc to build.

mod client;
mod follow;
mod lock;
mod proto;

use std::sync::Arc;
use std::time::Duration;

use afflux_wire::NodeId;
use futures_core::future::BoxFuture;
use tonic::Status;

use crate::coordination::Spawner;
use crate::error::RegistryError;
use crate::instance::Instance;
use crate::key::segment;
use crate::registry::{Fence, LeaseId, Registry, check_name, check_ttl, counter_of, sum};
use crate::view::{View, Watcher};
use client::{Client, error_of, unchanged, under};
use follow::Seen;
use proto::{KeyValue, PutRequest};

const NAME: &str = "etcd";

/// How etcd is reached.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// Client URLs, such as `http://10.0.0.4:2379`.
    pub endpoints: Vec<String>,
    /// Everything stands under this key, such as `/afflux/shop`.
    pub base: String,
    /// Certificates, for endpoints with TLS.
    pub tls: Option<EtcdTls>,
    /// User and password, where etcd has authentication switched on.
    pub user: Option<(String, String)>,
    /// A request is given up after this long.
    pub operation_max: Duration,
    /// A silent watch is asked for a sign of life after this long.
    pub probe_every: Duration,
}

impl EtcdConfig {
    /// These endpoints, everything under `base`, without TLS.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>, base: impl Into<String>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            base: base.into(),
            tls: None,
            user: None,
            operation_max: Duration::from_secs(2),
            probe_every: Duration::from_secs(1),
        }
    }
}

/// Certificates in PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// Of the authority that signed the server's.
    pub ca_pem: String,
    /// The client's own certificate and its key.
    pub identity_pem: Option<(String, String)>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EtcdTls(identity: {})", self.identity_pem.is_some())
    }
}

/// A registry in etcd.
pub struct EtcdRegistry {
    client: Arc<Client>,
    seen: Arc<Seen>,
    spawner: Spawner,
}

impl EtcdRegistry {
    /// A registry that is followed from now on by what `spawner` runs, until it is dropped. Nothing is
    /// asked yet: an etcd that cannot be reached shows in the view. Must be called inside tokio.
    ///
    /// # Errors
    /// [`RegistryError::Setup`]: an endpoint or a certificate that cannot be one.
    pub fn start(config: EtcdConfig, spawner: Spawner) -> Result<Self, RegistryError> {
        let client = Arc::new(Client::new(config)?);
        let seen = Arc::new(Seen::new(format!("{}/nodes/", client.config().base)));
        spawner(Box::pin(follow::follow(Arc::clone(&client), Arc::downgrade(&seen))));
        Ok(Self { client, seen, spawner })
    }

    fn node_key(&self, node: &NodeId) -> String {
        format!("{}{}", self.seen.prefix(), segment(node.as_str()))
    }

    fn counter_key(&self, name: &str) -> String {
        format!("{}/counters/{}", self.client.config().base, segment(name))
    }

    async fn put_record(&self, instance: Instance, ttl: Duration) -> Result<LeaseId, RegistryError> {
        check_ttl(ttl)?;
        let key = self.node_key(&instance.node);
        let value = serde_json::to_vec(&instance)
            .map_err(|error| RegistryError::Setup { registry: NAME, reason: error.to_string() })?;
        loop {
            let present = self.client.get(&key).await.map_err(said)?;
            if let Some(there) = present.as_ref().and_then(record_of) {
                instance.check_not_superseded(there.incarnation)?;
            }
            let lease = self.client.grant(ttl).await.map_err(said)?;
            let same = unchanged(&key, present.as_ref().map_or(0, |kv| kv.mod_revision));
            let put = PutRequest { key: key.clone().into(), value: value.clone(), lease };
            let done = self.client.put_if(Some(same), put).await;
            match done {
                Ok(Some(_)) => {
                    // The key belongs to the new lease, so this ends the old life's and removes nothing.
                    if let Some(old) = present.filter(|kv| kv.lease != 0) {
                        let _runs_out = self.client.revoke(old.lease).await;
                    }
                    return Ok(LeaseId(lease.cast_unsigned()));
                }
                // Somebody else registered in between: look again.
                Ok(None) => drop(self.client.revoke(lease).await),
                Err(status) => return Err(error_of(&status)),
            }
        }
    }

    async fn count(
        &self,
        name: &str,
        change: impl Fn(i64) -> Result<Option<i64>, RegistryError>,
    ) -> Result<Option<i64>, RegistryError> {
        check_name(name)?;
        let key = self.counter_key(name);
        loop {
            let present = self.client.get(&key).await.map_err(said)?;
            let Some(new) = change(number_of(present.as_ref())?)? else { return Ok(None) };
            let same = unchanged(&key, present.as_ref().map_or(0, |kv| kv.mod_revision));
            let put = PutRequest { key: key.clone().into(), value: new.to_string().into(), lease: 0 };
            if self.client.put_if(Some(same), put).await.map_err(said)?.is_some() {
                return Ok(Some(new));
            }
        }
    }
}

fn said(status: Status) -> RegistryError {
    error_of(&status)
}

fn record_of(kv: &KeyValue) -> Option<Instance> {
    match serde_json::from_slice(&kv.value) {
        Ok(instance) => Some(instance),
        Err(error) => {
            let key = String::from_utf8_lossy(&kv.key);
            tracing::warn!(%key, %error, "a record in etcd cannot be read and is left out");
            None
        }
    }
}

fn number_of(kv: Option<&KeyValue>) -> Result<i64, RegistryError> {
    let Some(kv) = kv else { return Ok(0) };
    counter_of(NAME, &format!("the key {}", String::from_utf8_lossy(&kv.key)), &kv.value)
}

impl Registry for EtcdRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, RegistryError>> {
        Box::pin(self.put_record(instance, ttl))
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move {
            match self.client.keep_alive(lease.0.cast_signed()).await.map_err(said)? {
                true => Ok(()),
                false => Err(RegistryError::LeaseLost { registry: NAME, lease }),
            }
        })
    }

    fn deregister(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move { self.client.revoke(lease.0.cast_signed()).await.map_err(said) })
    }

    fn view(&self) -> BoxFuture<'_, Result<Arc<View>, RegistryError>> {
        Box::pin(async move {
            let (kvs, revision) = self.client.range(under(self.seen.prefix())).await.map_err(said)?;
            Ok(self.seen.all(&kvs, revision))
        })
    }

    fn record<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<Option<Instance>, RegistryError>> {
        Box::pin(async move {
            let kv = self.client.get(&self.node_key(node)).await.map_err(said)?;
            Ok(kv.as_ref().and_then(record_of))
        })
    }

    fn watch(&self) -> Watcher {
        self.seen.watcher()
    }

    fn acquire<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Option<Fence>, RegistryError>> {
        Box::pin(lock::acquire(&self.client, name, holder, ttl))
    }

    fn lock<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Fence, RegistryError>> {
        Box::pin(lock::wait(&self.client, &self.spawner, name, holder, ttl))
    }

    fn renew<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(lock::renew(&self.client, name, fence))
    }

    fn release<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(lock::release(&self.client, name, fence))
    }

    fn holder<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<(String, Fence)>, RegistryError>> {
        Box::pin(lock::holder(&self.client, name))
    }

    fn counter<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<i64, RegistryError>> {
        Box::pin(async move {
            check_name(name)?;
            number_of(self.client.get(&self.counter_key(name)).await.map_err(said)?.as_ref())
        })
    }

    fn counter_compare_and_set<'a>(
        &'a self,
        name: &'a str,
        expected: i64,
        new: i64,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        Box::pin(async move {
            let set = self.count(name, |value| Ok((value == expected).then_some(new))).await?;
            Ok(set.is_some())
        })
    }

    fn counter_add<'a>(&'a self, name: &'a str, n: i64) -> BoxFuture<'a, Result<i64, RegistryError>> {
        Box::pin(async move {
            let new = self.count(name, |value| sum(name, value, n).map(Some)).await?;
            Ok(new.unwrap_or_default())
        })
    }
}
