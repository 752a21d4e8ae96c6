//! ZooKeeper: an ephemeral node for each registration, in the layout of Curator's service discovery; a
//! queue of ephemeral sequential nodes for each lock; a node for each counter.
//!
//! Under the base stand `NAME/ID` (Curator's JSON with the record as its payload), `locks/NAME/…` and
//! `counters/NAME`. Whoever has the first node of a lock holds it, and the transaction that created
//! that node is the fencing token: transactions are counted for the whole ensemble. A waiter watches
//! the node in front of its own and nothing else.
//!
//! ZooKeeper's lease is the session's, one for the process. So that a record whose owner hangs goes
//! too, what is not extended within its own time to live is also deleted from here.

mod curator;
mod follow;
mod lock;
mod session;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use afflux_wire::NodeId;
use futures_core::future::BoxFuture;
use zookeeper_client::{Client, Error};

use crate::coordination::Spawner;
use crate::error::RegistryError;
use crate::instance::Instance;
use crate::key::segment;
use crate::registry::{Fence, LeaseId, Registry, check_name, check_ttl, counter_of, sum};
use crate::view::{View, Watcher};
use curator::Entry;
use session::{Held, Shared};

const NAME: &str = "zookeeper";

/// How ZooKeeper is reached.
#[derive(Clone)]
pub struct ZookeeperConfig {
    /// `host:port` of the ensemble's servers.
    pub servers: Vec<String>,
    /// Everything stands under this path, such as `/afflux`.
    pub base: String,
    /// The service's name in Curator's layout: the cluster.
    pub cluster: String,
    /// The session's timeout, which the servers may limit: what a dead process held is free after it.
    pub session: Duration,
    /// A request is given up after this long.
    pub operation_max: Duration,
    /// Scheme and credentials, such as `digest` and `user:password`; what is created is then for that
    /// user alone.
    pub auth: Option<(String, String)>,
    /// The wall clock, for the time of registration that Curator shows.
    pub wall: fn() -> SystemTime,
}

impl ZookeeperConfig {
    /// These servers, without authentication, with a session of 5 seconds.
    pub fn new(
        servers: impl IntoIterator<Item = impl Into<String>>,
        base: impl Into<String>,
        cluster: impl Into<String>,
        wall: fn() -> SystemTime,
    ) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            base: base.into(),
            cluster: cluster.into(),
            session: Duration::from_secs(5),
            operation_max: Duration::from_secs(2),
            auth: None,
            wall,
        }
    }
}

impl std::fmt::Debug for ZookeeperConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ZookeeperConfig({} under {}, session {:?})",
            self.servers.join(","),
            self.base,
            self.session
        )
    }
}

/// A registry in ZooKeeper.
pub struct ZookeeperRegistry {
    shared: Arc<Shared>,
    spawner: Spawner,
}

impl ZookeeperRegistry {
    /// A registry that is followed from now on by what `spawner` runs, until it is dropped. A ZooKeeper
    /// that cannot be reached shows in the view.
    ///
    /// # Errors
    /// [`RegistryError::Setup`]: no server, or a base that is no path.
    pub fn start(config: ZookeeperConfig, spawner: Spawner) -> Result<Self, RegistryError> {
        let wrong = |reason: String| RegistryError::Setup { registry: NAME, reason };
        if config.servers.is_empty() {
            return Err(wrong("there is no server: list them, such as 10.0.0.4:2181".into()));
        }
        if !config.base.starts_with('/') || config.base.ends_with('/') {
            return Err(wrong(format!("the base {:?} is no path such as /afflux", config.base)));
        }
        let shared = Arc::new(Shared::new(config));
        spawner(Box::pin(follow::follow(Arc::downgrade(&shared))));
        Ok(Self { shared, spawner })
    }

    fn counter_path(&self, name: &str) -> String {
        format!("{}/counters/{}", self.shared.config.base, segment(name))
    }

    async fn put_record(&self, instance: Instance, ttl: Duration) -> Result<LeaseId, RegistryError> {
        check_ttl(ttl)?;
        let shared = &*self.shared;
        let directory = shared.nodes();
        loop {
            let client = shared.client().await?;
            let names = match shared.within(client.list_children(&directory)).await {
                Err(Error::NoNode) => Vec::new(),
                names => names.map_err(|error| said(&error))?,
            };
            let mut old = Vec::new();
            for name in &names {
                let Some(entry) = Entry::parse(name).filter(|e| e.node == instance.node) else { continue };
                instance.check_not_superseded(entry.incarnation)?;
                old.push(format!("{directory}/{name}"));
            }
            let entry = Entry {
                node: instance.node.clone(),
                incarnation: instance.incarnation,
                number: shared.next_number(),
            };
            let path = format!("{directory}/{}", entry.name());
            let data = curator::encode(&shared.config, &entry, &instance);
            match replace(shared, &client, &path, &data, &old).await {
                Ok(czxid) => {
                    let lease = LeaseId(czxid.cast_unsigned());
                    shared.hold(lease.0, Held::new(path, czxid, ttl));
                    return Ok(lease);
                }
                Err(Error::NoNode) => {
                    // Either the folder is missing, or what was to be deleted went by itself.
                    shared.make_directory(&client, &directory).await.map_err(|error| said(&error))?;
                }
                Err(error) => return Err(said(&error)),
            }
        }
    }

    async fn count(
        &self,
        name: &str,
        change: impl Fn(i64) -> Result<Option<i64>, RegistryError>,
    ) -> Result<Option<i64>, RegistryError> {
        check_name(name)?;
        let path = self.counter_path(name);
        let shared = &*self.shared;
        loop {
            let client = shared.client().await?;
            let present = present(shared.within(client.get_data(&path)).await)?;
            let value = present.as_ref().map_or(Ok(0), |(data, _)| number_of(&path, data))?;
            let Some(new) = change(value)? else { return Ok(None) };
            let data = new.to_string().into_bytes();
            let done = match present {
                Some((_, stat)) => {
                    shared.within(client.set_data(&path, &data, Some(stat.version))).await.map(drop)
                }
                None => {
                    let options = shared.options(zookeeper_client::CreateMode::Persistent);
                    shared.within(client.create(&path, &data, &options)).await.map(drop)
                }
            };
            match done {
                Ok(()) => return Ok(Some(new)),
                // Somebody else changed it in between: look again.
                Err(Error::BadVersion | Error::NodeExists) => {}
                Err(Error::NoNode) => {
                    let directory = format!("{}/counters", shared.config.base);
                    shared.make_directory(&client, &directory).await.map_err(|error| said(&error))?;
                }
                Err(error) => return Err(said(&error)),
            }
        }
    }
}

/// Creates a node and deletes others in one transaction; the transaction that created it.
async fn replace(
    shared: &Shared,
    client: &Client,
    path: &str,
    data: &[u8],
    old: &[String],
) -> Result<i64, Error> {
    let options = shared.options(zookeeper_client::CreateMode::Ephemeral);
    let mut writer = client.new_multi_writer();
    writer.add_create(path, data, &options)?;
    for old in old {
        writer.add_delete(old, None)?;
    }
    shared.within(async { writer.commit().await.map_err(Error::from) }).await?;
    // Within a transaction ZooKeeper does not say which one it was. The path is this registration's alone.
    match shared.within(client.check_stat(path)).await? {
        Some(stat) => Ok(stat.czxid),
        None => Err(Error::NoNode),
    }
}

/// The registry's error for what ZooKeeper did not do.
fn said(error: &Error) -> RegistryError {
    RegistryError::Unreachable { registry: NAME, reason: error.to_string() }
}

/// What is there, or `None`.
fn present<T>(answer: Result<T, Error>) -> Result<Option<T>, RegistryError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(said(&error)),
    }
}

fn number_of(path: &str, data: &[u8]) -> Result<i64, RegistryError> {
    counter_of(NAME, &format!("the node {path}"), data)
}

impl Registry for ZookeeperRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, RegistryError>> {
        Box::pin(self.put_record(instance, ttl))
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async move {
            match self.shared.extend(lease.0).await? {
                true => Ok(()),
                false => Err(RegistryError::LeaseLost { registry: NAME, lease }),
            }
        })
    }

    fn deregister(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(self.shared.give_up(lease.0))
    }

    fn view(&self) -> BoxFuture<'_, Result<Arc<View>, RegistryError>> {
        Box::pin(async move {
            let client = self.shared.client().await?;
            let names = present(self.shared.within(client.list_children(&self.shared.nodes())).await)?;
            let records = self.shared.read(&client, names.unwrap_or_default()).await;
            Ok(self.shared.seen(records.map_err(|error| said(&error))?))
        })
    }

    fn record<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<Option<Instance>, RegistryError>> {
        Box::pin(async move {
            let client = self.shared.client().await?;
            let names = present(self.shared.within(client.list_children(&self.shared.nodes())).await)?;
            let mut names = names.unwrap_or_default();
            names.retain(|name| Entry::parse(name).is_some_and(|entry| entry.node == *node));
            let records = self.shared.read(&client, names).await.map_err(|error| said(&error))?;
            Ok(session::latest(&records).pop())
        })
    }

    fn watch(&self) -> Watcher {
        self.shared.publisher.watcher()
    }

    fn acquire<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Option<Fence>, RegistryError>> {
        Box::pin(lock::acquire(&self.shared, &self.spawner, name, holder, ttl))
    }

    fn lock<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Fence, RegistryError>> {
        Box::pin(lock::wait(&self.shared, &self.spawner, name, holder, ttl))
    }

    fn renew<'a>(&'a self, name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(async move {
            match self.shared.extend(fence.0).await? {
                true => Ok(()),
                false => Err(RegistryError::NotHeld { name: name.to_owned(), fence: fence.0 }),
            }
        })
    }

    fn release<'a>(&'a self, _name: &'a str, fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(self.shared.give_up(fence.0))
    }

    fn holder<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<(String, Fence)>, RegistryError>> {
        Box::pin(lock::holder(&self.shared, name))
    }

    fn counter<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<i64, RegistryError>> {
        Box::pin(async move {
            check_name(name)?;
            let path = self.counter_path(name);
            let client = self.shared.client().await?;
            let found = present(self.shared.within(client.get_data(&path)).await)?;
            found.map_or(Ok(0), |(data, _)| number_of(&path, &data))
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
