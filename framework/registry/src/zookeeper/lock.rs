//! Locks in ZooKeeper: a queue of ephemeral sequential nodes, each waiter watching the one before it.

use std::sync::Arc;
use std::time::Duration;

use zookeeper_client::{Client, CreateMode, Error};

use super::session::{Held, Shared};
use super::{present, said};
use crate::coordination::Spawner;
use crate::error::RegistryError;
use crate::key::segment;
use crate::registry::{Fence, check_name, check_ttl};

/// Digits of the number that ZooKeeper appends.
const SEQUENCE_DIGITS: usize = 10;

fn directory_of(shared: &Shared, name: &str) -> Result<String, RegistryError> {
    check_name(name)?;
    Ok(format!("{}/locks/{}", shared.config.base, segment(name)))
}

/// A holder's nodes begin so: one whose creation was not answered is found again by it.
fn prefix_of(holder: &str) -> String {
    format!("{}-", segment(holder))
}

/// The holder's part of a node's name and the number that ZooKeeper appended; `None` for what is no place
/// in a queue.
fn parts(node: &str) -> Option<(&str, &str)> {
    let (holder, number) = node.split_at_checked(node.len().checked_sub(SEQUENCE_DIGITS)?)?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some((holder, number))
}

fn is_of(node: &str, prefix: &str) -> bool {
    parts(node).is_some_and(|(holder, _)| holder == prefix)
}

/// The queue, first come first.
async fn queue(shared: &Shared, client: &Client, directory: &str) -> Result<Vec<String>, RegistryError> {
    let mut nodes = present(shared.within(client.list_children(directory)).await)?.unwrap_or_default();
    // What is no place in a queue is not ours to judge.
    nodes.retain(|node| parts(node).is_some());
    nodes.sort_by_key(|node| parts(node).map(|(_, number)| number.to_owned()));
    Ok(nodes)
}

/// A place in the queue that is given up when it is not wanted any more.
struct Place {
    shared: Arc<Shared>,
    spawner: Spawner,
    directory: String,
    node: String,
    czxid: i64,
    kept: bool,
}

impl Place {
    fn hold(mut self, ttl: Duration) -> Fence {
        self.kept = true;
        let id = self.czxid.cast_unsigned();
        let path = format!("{}/{}", self.directory, self.node);
        self.shared.hold(id, Held::new(path, self.czxid, ttl));
        Fence(id)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (shared, path) = (Arc::clone(&self.shared), format!("{}/{}", self.directory, self.node));
        (self.spawner)(Box::pin(async move {
            let Ok(client) = shared.client().await else { return };
            match shared.within(client.delete(&path, None)).await {
                Ok(()) | Err(Error::NoNode) => {}
                Err(error) => {
                    tracing::debug!(%error, path, "a place in a queue is left to the session's end")
                }
            }
        }));
    }
}

/// Takes a place in the queue, or finds the one this holder has.
async fn enter(
    shared: &Arc<Shared>,
    spawner: &Spawner,
    client: &Client,
    directory: &str,
    holder: &str,
) -> Result<Place, RegistryError> {
    let prefix = prefix_of(holder);
    let place = |node: String, czxid| Place {
        shared: Arc::clone(shared),
        spawner: Arc::clone(spawner),
        directory: directory.to_owned(),
        node,
        czxid,
        kept: false,
    };
    loop {
        if let Some(node) = queue(shared, client, directory).await?.into_iter().find(|n| is_of(n, &prefix)) {
            let stat = shared.within(client.check_stat(&format!("{directory}/{node}"))).await;
            match stat.map_err(|error| said(&error))? {
                Some(stat) => return Ok(place(node, stat.czxid)),
                None => continue,
            }
        }
        let options = shared.options(CreateMode::EphemeralSequential);
        let path = format!("{directory}/{prefix}");
        match shared.within(client.create(&path, holder.as_bytes(), &options)).await {
            Ok((stat, number)) => return Ok(place(format!("{prefix}{number}"), stat.czxid)),
            Err(Error::NoNode) => {
                let locks = format!("{}/locks", shared.config.base);
                shared.make_directory(client, &locks).await.map_err(|error| said(&error))?;
                // A container goes by itself when nobody queues any more.
                let options = shared.options(CreateMode::Container);
                match shared.within(client.create(directory, b"", &options)).await {
                    Ok(_) | Err(Error::NodeExists) => {}
                    Err(error) => return Err(said(&error)),
                }
            }
            Err(error) => return Err(said(&error)),
        }
    }
}

pub(super) async fn acquire(
    shared: &Arc<Shared>,
    spawner: &Spawner,
    name: &str,
    holder: &str,
    ttl: Duration,
) -> Result<Option<Fence>, RegistryError> {
    check_ttl(ttl)?;
    let directory = directory_of(shared, name)?;
    let client = shared.client().await?;
    let first = queue(shared, &client, &directory).await?.into_iter().next();
    if first.is_some_and(|first| !is_of(&first, &prefix_of(holder))) {
        return Ok(None);
    }
    let place = enter(shared, spawner, &client, &directory, holder).await?;
    let first = queue(shared, &client, &directory).await?.into_iter().next();
    Ok((first.as_deref() == Some(place.node.as_str())).then(|| place.hold(ttl)))
}

pub(super) async fn wait(
    shared: &Arc<Shared>,
    spawner: &Spawner,
    name: &str,
    holder: &str,
    ttl: Duration,
) -> Result<Fence, RegistryError> {
    check_ttl(ttl)?;
    let directory = directory_of(shared, name)?;
    'session: loop {
        let client = shared.client().await?;
        let place = enter(shared, spawner, &client, &directory, holder).await?;
        loop {
            let queue = queue(shared, &client, &directory).await?;
            let Some(at) = queue.iter().position(|node| *node == place.node) else {
                tracing::debug!(lock = name, "the place in the queue was lost: queueing again");
                continue 'session;
            };
            let Some(ahead) = at.checked_sub(1).and_then(|ahead| queue.get(ahead)) else {
                return Ok(place.hold(ttl));
            };
            let path = format!("{directory}/{ahead}");
            let watched = shared.within(client.check_and_watch_stat(&path)).await;
            let (stat, watcher) = watched.map_err(|error| said(&error))?;
            if stat.is_some() {
                // Also when the session ends; the queue is asked in any case.
                watcher.changed().await;
                if client.state().is_terminated() {
                    continue 'session;
                }
            }
        }
    }
}

pub(super) async fn holder(shared: &Shared, name: &str) -> Result<Option<(String, Fence)>, RegistryError> {
    let directory = directory_of(shared, name)?;
    let client = shared.client().await?;
    for node in queue(shared, &client, &directory).await? {
        let data = present(shared.within(client.get_data(&format!("{directory}/{node}"))).await)?;
        if let Some((data, stat)) = data {
            let holder = String::from_utf8_lossy(&data).into_owned();
            return Ok(Some((holder, Fence(stat.czxid.cast_unsigned()))));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_of_the_holder_whose_whole_name_it_bears() {
        let node = format!("{}0000000042", prefix_of("a/1-2"));
        assert_eq!(parts(&node), Some(("a%2F1-2-", "0000000042")));
        assert!(is_of(&node, &prefix_of("a/1-2")) && !is_of(&node, &prefix_of("a/1")));
        for stranger in ["", "lock", "a%2F1-00000x0042", "ü000000042"] {
            assert_eq!(parts(stranger), None, "{stranger}");
        }
    }
}
