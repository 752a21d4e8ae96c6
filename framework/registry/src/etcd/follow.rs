//! Following the records: a list, then a watch from its revision on, taken up again where it broke.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tonic::Status;

use super::client::{Client, end_of, under};
use super::proto::{DELETE, KeyValue, WatchResponse};
use super::record_of;
use crate::instance::Instance;
use crate::view::{Publisher, View, Watcher};

/// Between two tries to reach an etcd that does not answer.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// What was seen last, and at which revision.
pub(super) struct Seen {
    prefix: String,
    publisher: Publisher,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: i64,
    records: BTreeMap<Vec<u8>, Instance>,
}

impl Seen {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, publisher: Publisher::new(), state: Mutex::default() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn watcher(&self) -> Watcher {
        self.publisher.watcher()
    }

    /// All records as of a revision; returned as a view, and published unless something newer is.
    pub(super) fn all(&self, kvs: &[KeyValue], revision: i64) -> Arc<View> {
        let records: BTreeMap<_, _> =
            kvs.iter().filter_map(|kv| Some((kv.key.clone(), record_of(kv)?))).collect();
        let instances = records.values().cloned().collect();
        let mut state = self.state.lock();
        if revision >= state.revision {
            *state = State { revision, records };
            self.publish(&state);
            return self.publisher.view();
        }
        Arc::new(View { version: self.publisher.view().version, instances, reachable: true })
    }

    /// An etcd restored from a backup counts its revisions from an earlier one.
    fn start_over(&self) {
        self.state.lock().revision = 0;
    }

    fn publish(&self, state: &State) {
        self.publisher.seen(state.records.values().cloned().collect());
    }

    fn revision(&self) -> i64 {
        self.state.lock().revision
    }

    fn apply(&self, message: &WatchResponse) {
        let mut state = self.state.lock();
        for event in &message.events {
            let Some(kv) = &event.kv else { continue };
            // A view that was asked for in between has it already.
            if kv.mod_revision <= state.revision {
                continue;
            }
            // What is deleted has no value that could be read.
            let record = if event.kind == DELETE { None } else { record_of(kv) };
            match record {
                Some(record) => state.records.insert(kv.key.clone(), record),
                None => state.records.remove(&kv.key),
            };
        }
        if let Some(header) = &message.header {
            state.revision = state.revision.max(header.revision);
        }
        match message.events.is_empty() {
            true => self.publisher.heard(),
            false => self.publish(&state),
        }
    }
}

enum Broken {
    /// The registry is gone: nobody looks any more.
    Dropped,
    /// What happened since is no longer known: list again.
    Compacted,
    Lost(Status),
}

/// Keeps what was seen fresh until it is dropped.
pub(super) async fn follow(client: Arc<Client>, seen: Weak<Seen>) {
    let mut listed = false;
    let mut reachable = true;
    loop {
        let broken = turn(&client, &seen, &mut listed, &mut reachable).await;
        match broken {
            Broken::Dropped => return,
            Broken::Compacted => {
                tracing::info!("the watch of etcd fell behind a compaction: listing again");
                listed = false;
                if let Some(seen) = seen.upgrade() {
                    seen.start_over();
                }
            }
            Broken::Lost(status) => {
                let Some(seen) = seen.upgrade() else { return };
                if reachable {
                    tracing::warn!(error = status.message(), "etcd cannot be reached: the last view stays");
                }
                reachable = false;
                seen.publisher.unreachable();
                drop(seen);
                tokio::time::sleep(RETRY_EVERY).await;
            }
        }
    }
}

async fn turn(client: &Client, seen: &Weak<Seen>, listed: &mut bool, reachable: &mut bool) -> Broken {
    let Some(strong) = seen.upgrade() else { return Broken::Dropped };
    let prefix = strong.prefix().to_owned();
    if !*listed {
        match client.range(under(&prefix)).await {
            Ok((kvs, revision)) => drop(strong.all(&kvs, revision)),
            Err(status) => return Broken::Lost(status),
        }
        *listed = true;
    }
    let from = strong.revision() + 1;
    drop(strong);
    let mut watch = match client.watch(prefix.as_bytes(), &end_of(&prefix), from).await {
        Ok(watch) => watch,
        Err(status) => return Broken::Lost(status),
    };
    let mut probed = false;
    loop {
        let patience = if probed { client.config().operation_max } else { client.config().probe_every };
        let message = tokio::time::timeout(patience, watch.next()).await;
        let Some(strong) = seen.upgrade() else { return Broken::Dropped };
        match message {
            Ok(Ok(message)) if message.compact_revision > 0 => return Broken::Compacted,
            Ok(Ok(message)) if message.canceled => {
                return Broken::Lost(Status::unavailable(message.cancel_reason));
            }
            Ok(Ok(message)) => {
                probed = false;
                if !*reachable {
                    tracing::info!("etcd answers again");
                    *reachable = true;
                    // An outage ends with a full view, even where nothing has changed.
                    let state = strong.state.lock();
                    strong.publish(&state);
                }
                strong.apply(&message);
            }
            Ok(Err(status)) => return Broken::Lost(status),
            Err(_elapsed) if probed => return Broken::Lost(Status::unavailable("the watch is silent")),
            Err(_elapsed) => {
                watch.probe();
                probed = true;
            }
        }
    }
}
