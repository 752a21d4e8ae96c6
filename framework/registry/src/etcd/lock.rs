//! Locks in etcd: a queue of keys, the oldest of which holds.

use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, end_of, error_of, under};
use super::proto::{
    ASCEND, BY_CREATE, CREATE, Compare, CompareWith, DELETE, DESCEND, KeyValue, PutRequest, RangeRequest,
};
use super::said;
use crate::coordination::Spawner;
use crate::error::RegistryError;
use crate::key::segment;
use crate::registry::{Fence, check_name, check_ttl};

/// A waiter extends its place this often within its time to live.
const EXTENSIONS_PER_TTL: u32 = 3;

fn prefix_of(client: &Client, name: &str) -> Result<String, RegistryError> {
    check_name(name)?;
    Ok(format!("{}/locks/{}/", client.config().base, segment(name)))
}

fn fence_of(kv: &KeyValue) -> Fence {
    Fence(kv.create_revision.cast_unsigned())
}

fn place(prefix: &str, holder: &str, lease: i64) -> PutRequest {
    PutRequest { key: format!("{prefix}{lease:016x}").into(), value: holder.into(), lease }
}

/// The lock of this holder already, extended.
async fn again(client: &Client, first: &KeyValue) -> Result<Option<Fence>, RegistryError> {
    let alive = client.keep_alive(first.lease).await.map_err(said)?;
    Ok(alive.then(|| fence_of(first)))
}

pub(super) async fn acquire(
    client: &Client,
    name: &str,
    holder: &str,
    ttl: Duration,
) -> Result<Option<Fence>, RegistryError> {
    check_ttl(ttl)?;
    let prefix = prefix_of(client, name)?;
    match client.first(&prefix).await.map_err(said)? {
        Some(first) if first.value == holder.as_bytes() => return again(client, &first).await,
        Some(_) => return Ok(None),
        None => {}
    }
    let lease = client.grant(ttl).await.map_err(said)?;
    // No key of this lock at all: the comparison of a range that is empty sees zeros.
    let free = Compare {
        target: CREATE,
        key: prefix.clone().into(),
        range_end: end_of(&prefix),
        with: Some(CompareWith::CreateRevision(0)),
    };
    match client.put_if(Some(free), place(&prefix, holder, lease)).await {
        Ok(Some(revision)) => Ok(Some(Fence(revision.cast_unsigned()))),
        Ok(None) => {
            // Left over, it would run out by itself.
            let _runs_out = client.revoke(lease).await;
            Ok(None)
        }
        Err(status) => {
            let _runs_out = client.revoke(lease).await;
            Err(error_of(&status))
        }
    }
}

/// A place in the queue that is given up when its waiter stops waiting.
struct Place {
    client: Arc<Client>,
    spawner: Spawner,
    lease: Option<i64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(lease) = self.lease {
            let client = Arc::clone(&self.client);
            (self.spawner)(Box::pin(async move {
                if let Err(status) = client.revoke(lease).await {
                    tracing::debug!(%status, "a place in a queue is left to run out");
                }
            }));
        }
    }
}

pub(super) async fn wait(
    client: &Arc<Client>,
    spawner: &Spawner,
    name: &str,
    holder: &str,
    ttl: Duration,
) -> Result<Fence, RegistryError> {
    check_ttl(ttl)?;
    let prefix = prefix_of(client, name)?;
    loop {
        if let Some(first) = client.first(&prefix).await.map_err(said)?
            && first.value == holder.as_bytes()
            && let Some(fence) = again(client, &first).await?
        {
            return Ok(fence);
        }
        let lease = client.grant(ttl).await.map_err(said)?;
        let mut place_held =
            Place { client: Arc::clone(client), spawner: Arc::clone(spawner), lease: Some(lease) };
        let revision = client.put_if(None, place(&prefix, holder, lease)).await.map_err(said)?;
        let Some(revision) = revision else { continue };
        if queue(client, &prefix, lease, revision, ttl).await? {
            place_held.lease = None;
            return Ok(Fence(revision.cast_unsigned()));
        }
        tracing::debug!(lock = name, "the place in the queue was lost: queueing again");
    }
}

/// Waits until nothing older is there; false when the own key is gone.
async fn queue(
    client: &Client,
    prefix: &str,
    lease: i64,
    revision: i64,
    ttl: Duration,
) -> Result<bool, RegistryError> {
    loop {
        let ahead = RangeRequest {
            limit: 1,
            sort_order: DESCEND,
            sort_target: BY_CREATE,
            max_create_revision: revision - 1,
            ..under(prefix)
        };
        let (mut ahead, now) = client.range(ahead).await.map_err(said)?;
        let Some(ahead) = ahead.pop() else {
            return Ok(entry(client, prefix, revision).await?.is_some());
        };
        let mut watch = client.watch(&ahead.key, &[], now + 1).await.map_err(said)?;
        loop {
            match tokio::time::timeout(ttl / EXTENSIONS_PER_TTL, watch.next()).await {
                Ok(Ok(message)) if message.canceled => break,
                Ok(Ok(message)) if message.events.iter().any(|event| event.kind == DELETE) => break,
                Ok(Ok(_)) => {}
                // Whether etcd is there at all shows when it is asked next.
                Ok(Err(_ended)) => break,
                Err(_elapsed) => {
                    if !client.keep_alive(lease).await.map_err(said)? {
                        return Ok(false);
                    }
                }
            }
        }
    }
}

/// The key of the queue that was created at this revision.
async fn entry(client: &Client, prefix: &str, revision: i64) -> Result<Option<KeyValue>, RegistryError> {
    let exactly = RangeRequest {
        limit: 1,
        min_create_revision: revision,
        max_create_revision: revision,
        sort_order: ASCEND,
        sort_target: BY_CREATE,
        ..under(prefix)
    };
    Ok(client.range(exactly).await.map_err(said)?.0.pop())
}

pub(super) async fn renew(client: &Client, name: &str, fence: Fence) -> Result<(), RegistryError> {
    let first = client.first(&prefix_of(client, name)?).await.map_err(said)?;
    let lost = || RegistryError::NotHeld { name: name.to_owned(), fence: fence.0 };
    let first = first.filter(|first| fence_of(first) == fence).ok_or_else(lost)?;
    if client.keep_alive(first.lease).await.map_err(said)? { Ok(()) } else { Err(lost()) }
}

pub(super) async fn release(client: &Client, name: &str, fence: Fence) -> Result<(), RegistryError> {
    let prefix = prefix_of(client, name)?;
    match entry(client, &prefix, fence.0.cast_signed()).await? {
        Some(entry) => client.revoke(entry.lease).await.map_err(said),
        None => Ok(()),
    }
}

pub(super) async fn holder(client: &Client, name: &str) -> Result<Option<(String, Fence)>, RegistryError> {
    let first = client.first(&prefix_of(client, name)?).await.map_err(said)?;
    Ok(first.map(|first| (String::from_utf8_lossy(&first.value).into_owned(), fence_of(&first))))
}
