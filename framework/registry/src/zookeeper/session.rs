//! The one session of a registry, what it holds, and what was seen through it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

use super::curator::{Entry, decode};
use super::{NAME, ZookeeperConfig, said};
use crate::error::RegistryError;
use crate::instance::Instance;
use crate::view::{Publisher, View};

/// A node that belongs to this process: a registration or a place in the queue of a lock.
#[derive(Clone)]
pub(super) struct Held {
    path: String,
    czxid: i64,
    ttl: Duration,
    expires_at: Instant,
}

impl Held {
    pub(super) fn new(path: String, czxid: i64, ttl: Duration) -> Self {
        Self { path, czxid, ttl, expires_at: Instant::now() + ttl }
    }
}

/// Records by the names of their nodes.
pub(super) type Records = BTreeMap<String, Instance>;

pub(super) struct Shared {
    pub(super) config: ZookeeperConfig,
    pub(super) publisher: Publisher,
    /// The session's client; `None` while there is none.
    pub(super) current: watch::Sender<Option<Client>>,
    /// What is held, by the transaction that created it: the lease or the fence.
    held: Mutex<BTreeMap<u64, Held>>,
    /// Records never change under their name, so they are read once.
    known: Mutex<Records>,
    numbers: AtomicU64,
}

impl Shared {
    pub(super) fn new(config: ZookeeperConfig) -> Self {
        Self {
            config,
            publisher: Publisher::new(),
            current: watch::Sender::new(None),
            held: Mutex::default(),
            known: Mutex::default(),
            numbers: AtomicU64::new(0),
        }
    }

    /// The folder of the registrations.
    pub(super) fn nodes(&self) -> String {
        format!("{}/{}", self.config.base, self.config.cluster)
    }

    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The client of a living session, as soon as there is one.
    pub(super) async fn client(&self) -> Result<Client, RegistryError> {
        let mut current = self.current.subscribe();
        let alive = |client: &Option<Client>| client.as_ref().is_some_and(|c| !c.state().is_terminated());
        let client = timeout(self.config.operation_max, current.wait_for(alive)).await;
        match client {
            Ok(Ok(client)) => client.clone().ok_or_else(|| said(&Error::ConnectionLoss)),
            _ => {
                let reason = format!("there was no session within {:?}", self.config.operation_max);
                Err(RegistryError::Unreachable { registry: NAME, reason })
            }
        }
    }

    pub(super) async fn within<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout(self.config.operation_max, answer).await.unwrap_or(Err(Error::Timeout))
    }

    pub(super) fn options(&self, mode: CreateMode) -> CreateOptions<'static> {
        mode.with_acls(match self.config.auth {
            Some(_) => Acls::creator_all(),
            None => Acls::anyone_all(),
        })
    }

    pub(super) async fn make_directory(&self, client: &Client, path: &str) -> Result<(), Error> {
        let options = self.options(CreateMode::Persistent);
        self.within(client.mkdir(path, &options)).await
    }

    pub(super) fn hold(&self, id: u64, held: Held) {
        self.held.lock().insert(id, held);
    }

    /// Extends what is held; false when it is lost, and then it is forgotten.
    pub(super) async fn extend(&self, id: u64) -> Result<bool, RegistryError> {
        let asked = Instant::now();
        let Some(held) = self.held.lock().get(&id).cloned() else { return Ok(false) };
        if held.expires_at <= asked {
            // The follower deletes it, as soon as it can.
            return Ok(false);
        }
        let client = self.client().await?;
        let stat = self.within(client.check_stat(&held.path)).await.map_err(|error| said(&error))?;
        let ours = stat.is_some_and(|stat| stat.czxid == held.czxid);
        let mut all = self.held.lock();
        match all.get_mut(&id) {
            Some(held) if ours && held.expires_at > Instant::now() => {
                held.expires_at = asked + held.ttl;
                Ok(true)
            }
            Some(_) if ours => Ok(false),
            _ => {
                all.remove(&id);
                Ok(false)
            }
        }
    }

    /// Deletes what is held; what is lost already is no error.
    pub(super) async fn give_up(&self, id: u64) -> Result<(), RegistryError> {
        let Some(held) = self.held.lock().get(&id).cloned() else { return Ok(()) };
        let client = self.client().await?;
        match self.within(client.delete(&held.path, None)).await {
            Ok(()) | Err(Error::NoNode) => {
                self.held.lock().remove(&id);
                Ok(())
            }
            Err(error) => Err(said(&error)),
        }
    }

    /// Deletes what nobody has extended in time.
    pub(super) async fn reap(&self) {
        let now = Instant::now();
        let over: Vec<u64> =
            self.held.lock().iter().filter(|(_, held)| held.expires_at <= now).map(|(id, _)| *id).collect();
        for id in over {
            match self.give_up(id).await {
                Ok(()) => tracing::info!(node = id, "a registration or a lock expired"),
                Err(error) => tracing::debug!(%error, "what has expired could not be deleted yet"),
            }
        }
    }

    /// When something is next due to be deleted.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.held.lock().values().map(|held| held.expires_at).min()
    }

    /// The records under these names; one that vanished meanwhile is not among them.
    pub(super) async fn read(&self, client: &Client, names: Vec<String>) -> Result<Records, Error> {
        let directory = self.nodes();
        let known = self.known.lock().clone();
        let reads = names.into_iter().map(|name| {
            let (known, path) = (known.get(&name).cloned(), format!("{directory}/{name}"));
            async move {
                if let Some(instance) = known {
                    return Ok(Some((name, instance)));
                }
                match self.within(client.get_data(&path)).await {
                    Ok((data, _)) => Ok(decode(&name, &data).map(|instance| (name, instance))),
                    Err(Error::NoNode) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        });
        join_all(reads).await.into_iter().filter_map(Result::transpose).collect()
    }

    /// Publishes all records; returned as a view.
    pub(super) fn seen(&self, records: Records) -> Arc<View> {
        let mut known = self.known.lock();
        self.publisher.seen(latest(&records));
        *known = records;
        self.publisher.view()
    }
}

/// One record a node: that of its latest life and registration.
pub(super) fn latest(records: &Records) -> Vec<Instance> {
    let mut best: BTreeMap<&str, (u64, u64, &Instance)> = BTreeMap::new();
    for (name, instance) in records {
        let entry = Entry::parse(name);
        let rank = entry.map_or((0, 0), |entry| (entry.incarnation.0, entry.number));
        let known = best.entry(instance.node.as_str()).or_insert((rank.0, rank.1, instance));
        if (known.0, known.1) < rank {
            *known = (rank.0, rank.1, instance);
        }
    }
    best.into_values().map(|(_, _, instance)| instance.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_wire::Incarnation;

    #[test]
    fn of_two_lives_of_a_node_the_later_is_seen() {
        let named = |name: &str, life| (name.to_owned(), Instance::new("a", Incarnation(life), "h:1"));
        let records: Records = [named("a:9:4", 9), named("a:10:0", 10), named("a:10:1", 10)].into();
        let seen = latest(&records);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].incarnation, Incarnation(10));
    }
}
