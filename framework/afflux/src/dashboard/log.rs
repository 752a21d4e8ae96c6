//! What has happened in the cluster since this node began: nodes that come, go and are lost, and who leads.
//!
//! What happens to jobs their coordinator remembers; a picture has both.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use afflux_actor::{Clock, Place};
use afflux_mesh::{CLIENT_PREFIX, PeerEvent};
use afflux_registry::{InstanceState, View};
use afflux_wire::contract::Service;
use parking_lot::Mutex;
use serde::Serialize;

use crate::client::Client;
use crate::jobs::Jobs;

/// Events that are remembered.
const EVENTS_MAX: usize = 500;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LoggedEvent {
    /// Milliseconds since 1970.
    pub(super) at_ms: i64,
    /// `good`, `note`, `warning` or `bad`.
    pub(super) severity: &'static str,
    /// `node`, `leader`, `registry` or `job`.
    pub(super) kind: &'static str,
    /// Which one.
    pub(super) subject: String,
    /// What has happened.
    pub(super) text: String,
}

/// The last events.
#[derive(Default)]
pub(super) struct EventLog {
    events: Mutex<VecDeque<LoggedEvent>>,
}

pub(super) fn wall_ms(clock: &Clock) -> i64 {
    let since = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl EventLog {
    /// A log that follows registry and links for as long as they live.
    pub(super) fn following(client: &Client, clock: &Clock, place: &Place) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let mut watcher = client.watch();
        let (views, stamps) = (Arc::clone(&log), clock.clone());
        place.spawn_future(async move {
            let mut before: Option<Arc<View>> = None;
            while let Some(view) = watcher.next().await {
                let at_ms = wall_ms(&stamps);
                views.add(between(before.as_deref(), &view, at_ms));
                before = Some(view);
            }
        });
        let (links, stamps, mut peers) = (Arc::clone(&log), clock.clone(), client.mesh().peer_events());
        place.spawn_future(async move {
            while let Some(event) = peers.next().await {
                if let PeerEvent::Down(node, _, reason) = event
                    && !node.as_str().starts_with(CLIENT_PREFIX)
                {
                    links.add(vec![LoggedEvent {
                        at_ms: wall_ms(&stamps),
                        severity: "warning",
                        kind: "node",
                        subject: node.to_string(),
                        text: format!("the link to {node} ended: {}", reason.message),
                    }]);
                }
            }
        });
        log
    }

    fn add(&self, new: Vec<LoggedEvent>) {
        let mut events = self.events.lock();
        events.extend(new);
        let excess = events.len().saturating_sub(EVENTS_MAX);
        events.drain(..excess);
    }

    /// All that are remembered, the oldest first.
    pub(super) fn all(&self) -> Vec<LoggedEvent> {
        self.events.lock().iter().cloned().collect()
    }
}

/// Who coordinates the jobs.
pub(super) fn leader(view: &View) -> Option<String> {
    let leads = |instance: &&afflux_registry::Instance| instance.offers(<Jobs as Service>::NAME);
    view.instances.iter().find(leads).map(|instance| instance.node.to_string())
}

/// What has changed from one view to the next.
fn between(before: Option<&View>, now: &View, at_ms: i64) -> Vec<LoggedEvent> {
    let event = |severity, kind, subject: &str, text: String| LoggedEvent {
        at_ms,
        severity,
        kind,
        subject: subject.to_owned(),
        text,
    };
    let mut events = Vec::new();
    if before.is_some_and(|before| before.reachable) && !now.reachable {
        let text = "the registry does not answer: what was seen last goes on to count";
        return vec![event("bad", "registry", "registry", text.to_owned())];
    }
    if !now.reachable {
        return events;
    }
    if before.is_some_and(|before| !before.reachable) {
        events.push(event("good", "registry", "registry", "the registry answers again".to_owned()));
    }
    let nothing = View::default();
    let old = before.unwrap_or(&nothing);
    let lives: BTreeMap<&str, _> = old.instances.iter().map(|i| (i.node.as_str(), i)).collect();
    for instance in now.instances.iter().filter(|instance| instance.is_identified()) {
        let name = instance.node.as_str();
        match lives.get(name) {
            None => events.push(event(
                "note",
                "node",
                name,
                format!("{name} has joined ({}, {} slots)", instance.address, instance.slots),
            )),
            Some(known) if known.incarnation != instance.incarnation && known.is_identified() => {
                events.push(event("warning", "node", name, format!("{name} has begun another life")));
            }
            Some(known) if known.state != instance.state && instance.state == InstanceState::Draining => {
                events.push(event("note", "node", name, format!("{name} drains and takes no new work")));
            }
            Some(_) => {}
        }
    }
    for gone in old.instances.iter().filter(|i| i.is_identified() && now.instance(&i.node).is_none()) {
        let name = gone.node.as_str();
        events.push(match gone.state {
            InstanceState::Draining => event("note", "node", name, format!("{name} has left")),
            InstanceState::Ready => event(
                "bad",
                "node",
                name,
                format!("{name} is lost: its lease ended, and it did not say that it leaves"),
            ),
        });
    }
    let (was, is) = (leader(old), leader(now));
    if was != is {
        events.push(match &is {
            Some(node) => event("note", "leader", node, format!("{node} coordinates the jobs")),
            None => event(
                "warning",
                "leader",
                was.as_deref().unwrap_or_default(),
                "no node coordinates the jobs".to_owned(),
            ),
        });
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_registry::Instance;
    use afflux_wire::Incarnation;

    fn view(nodes: &[(&str, u64)]) -> View {
        let instances =
            nodes.iter().map(|(name, life)| Instance::new(*name, Incarnation(*life), "h:1")).collect();
        View { version: 1, instances, reachable: true }
    }

    fn texts(before: &View, now: &View) -> Vec<String> {
        between(Some(before), now, 0).into_iter().map(|e| format!("{} {}", e.severity, e.text)).collect()
    }

    #[test]
    fn a_node_that_says_goodbye_has_left_and_one_that_does_not_is_lost() {
        let mut before = view(&[("a", 1), ("b", 1)]);
        assert!(texts(&before, &view(&[("a", 1)]))[0].starts_with("bad b is lost"));
        before.instances[1].state = InstanceState::Draining;
        assert_eq!(texts(&before, &view(&[("a", 1)])), ["note b has left"]);
        assert_eq!(texts(&view(&[("a", 1)]), &view(&[("a", 2)])), ["warning a has begun another life"]);
        assert!(texts(&view(&[]), &view(&[("a", 1)]))[0].starts_with("note a has joined"));
    }

    #[test]
    fn leaders_and_the_registrys_silence_are_told_and_nobody_is_lost_by_silence() {
        let mut led = view(&[("a", 1)]);
        led.instances[0] = led.instances[0].clone().offering("afflux.jobs", "1.0");
        assert_eq!(texts(&view(&[("a", 1)]), &led), ["note a coordinates the jobs"]);
        assert_eq!(texts(&led, &view(&[("a", 1)])), ["warning no node coordinates the jobs"]);
        let silent = View { reachable: false, ..View::default() };
        assert_eq!(texts(&led, &silent).len(), 1);
        assert!(texts(&led, &silent)[0].starts_with("bad the registry does not answer"));
        assert!(texts(&silent, &silent).is_empty());
    }

    #[test]
    fn the_oldest_events_are_forgotten() {
        let log = EventLog::default();
        for n in 0..600 {
            let text = n.to_string();
            log.add(vec![LoggedEvent {
                at_ms: n,
                severity: "note",
                kind: "node",
                subject: text.clone(),
                text,
            }]);
        }
        assert_eq!((log.all().len(), log.all()[0].at_ms), (EVENTS_MAX, 100));
    }
}
