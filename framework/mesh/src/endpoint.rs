//! One way to a service: a link, what is known of its health, and what its operator says of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use afflux_wire::NodeId;
use afflux_wire::contract::Avoid;

use crate::balancer::{Candidate, Fit, Moment};
use crate::ejection::Health;
use crate::link::Link;

/// The label of a node that says how many calls it gets beside the others.
pub(crate) const WEIGHT_LABEL: &str = "weight";
/// The label that says where it is.
pub(crate) const ZONE_LABEL: &str = "zone";
/// The greatest weight.
const WEIGHT_MAX: u32 = 1_000_000;

/// What a node's labels say to a balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) weight: u32,
    pub(crate) zone: Option<String>,
}

impl Default for Labels {
    fn default() -> Self {
        Self { weight: 1, zone: None }
    }
}

impl Labels {
    /// A weight that is no number counts as 1, and is told once a view.
    pub(crate) fn of(node: &NodeId, labels: &BTreeMap<String, String>) -> Self {
        let weight = labels.get(WEIGHT_LABEL).map_or(1, |text| match text.parse::<u32>() {
            Ok(weight) => weight.min(WEIGHT_MAX),
            Err(_) => {
                tracing::warn!(%node, text, "the label `weight` is no whole number: 1 is taken");
                1
            }
        });
        Self { weight, zone: labels.get(ZONE_LABEL).cloned() }
    }
}

/// A live link, for the routes.
pub(crate) struct Reach {
    pub(crate) link: Arc<Link>,
    pub(crate) labels: Labels,
    /// Whether new calls may go over it: its node is not draining.
    pub(crate) open: bool,
}

/// A link as the endpoint of a service.
pub(crate) struct Endpoint {
    pub(crate) link: Arc<Link>,
    pub(crate) health: Arc<Health>,
    pub(crate) weight: u32,
    pub(crate) near: bool,
    pub(crate) hash: u64,
}

impl Candidate for Endpoint {
    #[inline]
    fn fit(&self, moment: &Moment<'_>) -> Fit {
        let link = &*self.link;
        if !link.is_up() || link.in_flight.load(Ordering::Relaxed) >= link.limits.in_flight_max {
            return Fit::Unusable;
        }
        if let Some(avoid) = moment.avoid
            && matches!(avoid, Avoid::Node(node) if *node == link.peer)
        {
            return if moment.elsewhere { Fit::Unusable } else { Fit::Avoided };
        }
        if !link.ready.load(Ordering::Relaxed) {
            return Fit::NotReady;
        }
        if self.health.is_ready() {
            Fit::Good
        } else if self.health.may_probe(moment.now()) {
            Fit::Probe
        } else {
            Fit::Ejected
        }
    }

    #[inline]
    fn load(&self, moment: &Moment<'_>) -> f32 {
        let own = self.link.in_flight.load(Ordering::Relaxed) as f32;
        if self.health.is_plain() { own } else { own + self.health.surcharge(moment.now()) }
    }

    fn claim(&self, moment: &Moment<'_>) -> bool {
        self.health.probe(moment.now())
    }

    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }
}
