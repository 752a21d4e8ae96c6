//! Following Leases and EndpointSlices: a list, then watches from its resource version on; a list again
//! when that version is gone, and now and then anyway.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Weak;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use super::objects::Kind;
use super::shared::{Shared, State};

/// Between two tries to reach an API server that does not answer.
const RETRY_EVERY: Duration = Duration::from_millis(300);
/// A watch ends after this long, whatever comes: one that died silently cannot last.
const WATCH_SECONDS_MAX: u32 = 240;
/// After this long everything is listed again.
const LIST_EVERY: Duration = Duration::from_secs(600);
/// The code of a resource version that is forgotten.
const GONE: u16 = 410;

/// What differs between the two kinds.
struct Followed<K> {
    what: &'static str,
    api: fn(&Shared) -> &Api<K>,
    labels: fn(&Shared) -> String,
    table: fn(&mut State) -> &mut BTreeMap<String, K>,
    up: fn(&mut State) -> &mut bool,
    /// Told of every list, after it.
    listed: fn(&mut State),
    /// Told of every change, after it.
    changed: fn(&Shared, &K, bool),
}

pub(super) async fn follow_leases(shared: Weak<Shared>) {
    let leases = Followed::<Lease> {
        what: "Leases",
        api: |shared| &shared.leases,
        labels: Shared::lease_labels,
        table: |state| &mut state.leases,
        up: |state| &mut state.leases_up,
        listed: State::forget_others,
        changed: |shared, lease, gone| {
            if gone {
                shared.forget(super::objects::name_of(lease));
            }
            if Kind::of(lease) == Some(Kind::Lock) {
                shared.locks.send_modify(|changes| *changes += 1);
            }
        },
    };
    follow(shared, leases).await;
}

pub(super) async fn follow_slices(shared: Weak<Shared>) {
    let slices = Followed::<EndpointSlice> {
        what: "EndpointSlices",
        api: |shared| &shared.slices,
        labels: Shared::slice_labels,
        table: |state| &mut state.slices,
        up: |state| &mut state.slices_up,
        listed: |_| {},
        changed: |_, _, _| {},
    };
    follow(shared, slices).await;
}

enum Ended {
    Dropped,
    /// List again.
    Forgotten,
    Lost(String),
}

async fn follow<K>(shared: Weak<Shared>, kind: Followed<K>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut told = false;
    loop {
        match turn(&shared, &kind, &mut told).await {
            Ended::Dropped => return,
            Ended::Forgotten => {}
            Ended::Lost(reason) => {
                let Some(strong) = shared.upgrade() else { return };
                if !told {
                    tracing::warn!(
                        what = kind.what,
                        reason,
                        "the API server cannot be reached: the last view stays"
                    );
                }
                told = true;
                *(kind.up)(&mut strong.state.lock()) = false;
                strong.publisher.unreachable();
                drop(strong);
                sleep(RETRY_EVERY).await;
            }
        }
    }
}

/// One list and the watches after it.
async fn turn<K>(shared: &Weak<Shared>, kind: &Followed<K>, told: &mut bool) -> Ended
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let Some(strong) = shared.upgrade() else { return Ended::Dropped };
    let params = ListParams::default().labels(&(kind.labels)(&strong));
    let list = match strong.within((kind.api)(&strong).list(&params)).await {
        Ok(Ok(list)) => list,
        Ok(Err(error)) => return Ended::Lost(error.to_string()),
        Err(error) => return Ended::Lost(error.to_string()),
    };
    let mut version = list.metadata.resource_version.clone().unwrap_or_default();
    {
        let mut state = strong.state.lock();
        *(kind.table)(&mut state) = list
            .items
            .into_iter()
            .map(|object| (object.meta().name.clone().unwrap_or_default(), object))
            .collect();
        *(kind.up)(&mut state) = true;
        (kind.listed)(&mut state);
    }
    if *told {
        tracing::info!(what = kind.what, "the API server answers again");
    }
    *told = false;
    strong.publish();
    strong.locks.send_modify(|changes| *changes += 1);
    let params = WatchParams::default().labels(&(kind.labels)(&strong)).timeout(WATCH_SECONDS_MAX);
    let (api, probe_every) = ((kind.api)(&strong).clone(), strong.config.probe_every);
    let listed_at = Instant::now();
    drop(strong);
    while listed_at.elapsed() < LIST_EVERY {
        let events = match tokio::time::timeout(probe_every * 2, api.watch(&params, &version)).await {
            Ok(Ok(events)) => events,
            Ok(Err(kube::Error::Api(status))) if status.code == GONE => return Ended::Forgotten,
            Ok(Err(error)) => return Ended::Lost(error.to_string()),
            Err(_elapsed) => return Ended::Lost("a watch was not answered".to_owned()),
        };
        let mut events = pin!(events);
        loop {
            let Some(strong) = shared.upgrade() else { return Ended::Dropped };
            let probe_at = Instant::now() + probe_every;
            let wake_at = strong.publish().map_or(probe_at, |next| next.min(probe_at));
            drop(strong);
            let event = timeout_at(wake_at, events.next()).await;
            let Some(strong) = shared.upgrade() else { return Ended::Dropped };
            match event {
                Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                    version = object.meta().resource_version.clone().unwrap_or(version);
                    let name = object.meta().name.clone().unwrap_or_default();
                    (kind.table)(&mut strong.state.lock()).insert(name, object.clone());
                    (kind.changed)(&strong, &object, false);
                }
                Ok(Some(Ok(WatchEvent::Deleted(object)))) => {
                    version = object.meta().resource_version.clone().unwrap_or(version);
                    let name = object.meta().name.clone().unwrap_or_default();
                    (kind.table)(&mut strong.state.lock()).remove(&name);
                    (kind.changed)(&strong, &object, true);
                }
                Ok(Some(Ok(WatchEvent::Bookmark(mark)))) => version = mark.metadata.resource_version,
                Ok(Some(Ok(WatchEvent::Error(status)))) if status.code == GONE => return Ended::Forgotten,
                Ok(Some(Ok(WatchEvent::Error(status)))) => return Ended::Lost(status.message.clone()),
                Ok(Some(Err(error))) => return Ended::Lost(error.to_string()),
                // Its time is over: the next goes on from the last version.
                Ok(None) => break,
                Err(_elapsed) => {
                    if Instant::now() >= probe_at {
                        // Nothing may have happened, or nothing gets through.
                        let one = ListParams::default().labels(&(kind.labels)(&strong)).limit(1);
                        match strong.within((kind.api)(&strong).list(&one)).await {
                            Ok(Ok(_)) => strong.publisher.heard(),
                            Ok(Err(error)) => return Ended::Lost(error.to_string()),
                            Err(error) => return Ended::Lost(error.to_string()),
                        }
                        for dead in strong.litter() {
                            match strong.delete(&dead).await {
                                Ok(_) => tracing::info!(
                                    lease = super::objects::name_of(&dead),
                                    "a dead node's Lease is deleted"
                                ),
                                Err(error) => tracing::debug!(%error, "a dead node's Lease stays"),
                            }
                        }
                    }
                }
            }
        }
    }
    Ended::Forgotten
}
