//! Locks as Leases: taken by a write that fails when another was faster.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::objects::{FENCE_BASE, Kind, annotate, extend, fence_of, free, holder_of, take};
use super::shared::Shared;
use crate::error::RegistryError;
use crate::registry::{Fence, check_name, check_ttl};

/// Whoever waits asks at least this often: an event can be missed while the watch is away.
const ASK_PAUSE_MAX: Duration = Duration::from_secs(5);

enum Attempt {
    Taken(Fence),
    /// Another holds it, until then if it is not extended.
    HeldUntil(Instant),
    /// Another was faster.
    Lost,
}

async fn attempt(shared: &Shared, name: &str, holder: &str, ttl: Duration) -> Result<Attempt, RegistryError> {
    let mut lease = match shared.get(Kind::Lock, name).await? {
        Some(lease) => lease,
        None => {
            let mut fresh = shared.fresh(Kind::Lock, name);
            let base = shared.cluster_version().await?;
            annotate(&mut fresh, FENCE_BASE, base.to_string());
            fresh
        }
    };
    match shared.alive_until(&lease) {
        Some(_) if holder_of(&lease) == Some(holder) => extend(&mut lease, shared.now()),
        Some(until) => return Ok(Attempt::HeldUntil(until)),
        None => take(&mut lease, holder, ttl, shared.now()),
    }
    Ok(match shared.write(lease).await? {
        Some(written) => Attempt::Taken(fence_of(&written)),
        None => Attempt::Lost,
    })
}

pub(super) async fn acquire(
    shared: &Shared,
    name: &str,
    holder: &str,
    ttl: Duration,
) -> Result<Option<Fence>, RegistryError> {
    check_ttl(ttl)?;
    check_name(name)?;
    match attempt(shared, name, holder, ttl).await? {
        Attempt::Taken(fence) => Ok(Some(fence)),
        Attempt::HeldUntil(_) | Attempt::Lost => Ok(None),
    }
}

pub(super) async fn wait(
    shared: &Shared,
    name: &str,
    holder: &str,
    ttl: Duration,
) -> Result<Fence, RegistryError> {
    check_ttl(ttl)?;
    check_name(name)?;
    let mut changes = shared.locks.subscribe();
    loop {
        changes.mark_unchanged();
        match attempt(shared, name, holder, ttl).await? {
            Attempt::Taken(fence) => return Ok(fence),
            Attempt::Lost => {}
            Attempt::HeldUntil(until) => {
                let until = until.min(Instant::now() + ASK_PAUSE_MAX);
                if let Ok(Err(_gone)) = timeout_at(until, changes.changed()).await {
                    sleep_until(until).await;
                }
            }
        }
    }
}

pub(super) async fn renew(shared: &Shared, name: &str, fence: Fence) -> Result<(), RegistryError> {
    loop {
        let lease = shared.get(Kind::Lock, name).await?;
        let held = lease.filter(|lease| fence_of(lease) == fence && shared.is_alive(lease));
        let Some(mut lease) = held else {
            return Err(RegistryError::NotHeld { name: name.to_owned(), fence: fence.0 });
        };
        extend(&mut lease, shared.now());
        if shared.write(lease).await?.is_some() {
            return Ok(());
        }
    }
}

pub(super) async fn release(shared: &Shared, name: &str, fence: Fence) -> Result<(), RegistryError> {
    loop {
        let lease = shared.get(Kind::Lock, name).await?;
        let held = lease.filter(|lease| fence_of(lease) == fence && holder_of(lease).is_some());
        let Some(mut lease) = held else { return Ok(()) };
        // The Lease stays: its count of holders is the next token.
        free(&mut lease);
        if shared.write(lease).await?.is_some() {
            return Ok(());
        }
    }
}

pub(super) async fn holder(shared: &Shared, name: &str) -> Result<Option<(String, Fence)>, RegistryError> {
    check_name(name)?;
    let lease = shared.get(Kind::Lock, name).await?.filter(|lease| shared.is_alive(lease));
    Ok(lease.and_then(|lease| Some((holder_of(&lease)?.to_owned(), fence_of(&lease)))))
}
