//! Following the records: the listing sets the watch, so that nothing can happen between the two.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use zookeeper_client::{Client, Error, SessionState};

use super::session::Shared;

/// Between two tries to reach a ZooKeeper that does not answer.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// Whether anybody still looks is asked this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps a session, and with it what was seen, until the registry is dropped. A session that expired
/// is followed by another; whoever had something in the old one finds it gone and registers again.
pub(super) async fn follow(shared: Weak<Shared>) {
    let mut reachable = true;
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let config = strong.config.clone();
        drop(strong);
        let mut connector = Client::connector().with_session_timeout(config.session).with_fail_eagerly();
        if let Some((scheme, credentials)) = &config.auth {
            connector = connector.with_auth(scheme, credentials.as_bytes());
        }
        let connected = timeout(config.session, connector.connect(&config.servers.join(","))).await;
        let Some(strong) = shared.upgrade() else { return };
        match connected.unwrap_or(Err(Error::Timeout)) {
            Ok(client) => {
                tracing::debug!(session = %client.session_id(), "a session with ZooKeeper");
                strong.current.send_replace(Some(client.clone()));
                drop(strong);
                if use_session(&shared, &client, &mut reachable).await.is_none() {
                    return;
                }
                tracing::warn!(state = %client.state(), "the session with ZooKeeper is over: another begins");
                if let Some(strong) = shared.upgrade() {
                    strong.current.send_replace(None);
                }
            }
            Err(error) => {
                lost(&strong, &mut reachable, &error);
                drop(strong);
                sleep(RETRY_EVERY).await;
            }
        }
    }
}

fn lost(shared: &Shared, reachable: &mut bool, error: &Error) {
    if *reachable {
        tracing::warn!(%error, "ZooKeeper cannot be reached: the last view stays");
    }
    *reachable = false;
    shared.publisher.unreachable();
}

/// Follows the records as long as the session lives; `None` when the registry was dropped.
async fn use_session(shared: &Weak<Shared>, client: &Client, reachable: &mut bool) -> Option<()> {
    let mut states = client.state_watcher();
    loop {
        if client.state().is_terminated() {
            return Some(());
        }
        let strong = shared.upgrade()?;
        let directory = strong.nodes();
        let listed = match strong.within(client.list_and_watch_children(&directory)).await {
            Ok((names, watcher)) => strong.read(client, names).await.map(|records| (records, watcher)),
            Err(error) => Err(error),
        };
        let watcher = match listed {
            Ok((records, watcher)) => {
                if !*reachable {
                    tracing::info!("ZooKeeper answers again");
                }
                *reachable = true;
                strong.seen(records);
                watcher
            }
            Err(Error::NoNode) => {
                if let Err(error) = strong.make_directory(client, &directory).await {
                    lost(&strong, reachable, &error);
                    drop(strong);
                    sleep(RETRY_EVERY).await;
                }
                continue;
            }
            Err(error) => {
                lost(&strong, reachable, &error);
                drop(strong);
                sleep(RETRY_EVERY).await;
                continue;
            }
        };
        drop(strong);
        let mut changed = std::pin::pin!(watcher.changed());
        loop {
            let strong = shared.upgrade()?;
            let now = Instant::now();
            // Due and not deleted yet, since nobody answers: not at once again.
            let due = strong.next_expiry().map_or(now + LOOK_EVERY, |at| at.max(now + RETRY_EVERY));
            drop(strong);
            tokio::select! {
                biased;
                state = states.changed() => {
                    let strong = shared.upgrade()?;
                    match state {
                        SessionState::Disconnected => lost(&strong, reachable, &Error::ConnectionLoss),
                        // What the watch missed while it was away is in the list.
                        _ => break,
                    }
                }
                _ = &mut changed => break,
                () = sleep_until(due.min(now + LOOK_EVERY)) => {
                    let strong = shared.upgrade()?;
                    strong.reap().await;
                    if *reachable {
                        strong.publisher.heard();
                    }
                }
            }
        }
    }
}
