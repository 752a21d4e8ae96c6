//! Whether a peer understands the contracts that are called here.
//!
//! Offers carry a fingerprint a method. An equal one needs nothing more; for a different one, or one that is not known
//! (a service that was announced later), the peer's descriptors are fetched once and compared. A method that cannot be
//! read on either side is refused here from then on, at once and unsent, and endpoints that can read it get its calls.
//! A call that starts before that is known goes through: the peer itself refuses what it cannot decode.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use afflux_wire::contract::{CallMeta, MethodSpec};
use afflux_wire::schema::{DescribeRequest, MethodDescriptor, ServiceDescriptor, incompatibility};
use afflux_wire::{Code, Executed, Stage, Status, codec};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::describe::{METHOD, METHODS_TOLD_MAX, SERVICE};
use crate::link::{Link, MethodName};
use crate::mesh::Shared;
use crate::router::{RawCall, RawSlot};

/// Comparisons that wait. Beyond it they are not made, and the peer refuses what it cannot decode.
const COMPARISONS_WAITING_MAX: usize = 65_536;
/// How long a peer may take to describe a service.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A method as this process calls it.
#[derive(Clone)]
struct Known {
    service: Arc<str>,
    descriptor: Arc<MethodDescriptor>,
    fingerprint: u64,
}

/// A method of this process, by the place of its spec and its service.
type SpecKey = (usize, Arc<str>);

/// A service of a peer, by the place of its link and its name.
type LinkedService = (usize, Arc<str>);

struct Comparison {
    link: Weak<Link>,
    service: Arc<str>,
    spec: &'static MethodSpec,
}

/// The contracts that this process calls, and what is still to be compared.
#[derive(Default)]
pub(crate) struct Schemas {
    called: Mutex<BTreeMap<SpecKey, &'static MethodSpec>>,
    waiting: Mutex<Vec<Comparison>>,
    wake: Notify,
}

impl Schemas {
    /// A method is called here from now on. Says whether that is news.
    fn learn(&self, service: &Arc<str>, spec: &'static MethodSpec) -> bool {
        let key = (std::ptr::from_ref(spec) as usize, Arc::clone(service));
        self.called.lock().insert(key, spec).is_none()
    }

    /// A link was asked for a method for the first time.
    pub(crate) fn first_call(&self, link: &Arc<Link>, service: &Arc<str>, spec: &'static MethodSpec) {
        self.learn(service, spec);
        self.compare(link, [(Arc::clone(service), spec)]);
    }

    /// A peer has come, or offers more than before: what is called here is compared.
    pub(crate) fn offered(&self, link: &Arc<Link>) {
        let called: Vec<_> = {
            let offers = link.offers.read();
            let called = self.called.lock();
            called
                .iter()
                .filter(|((_, service), _)| offers.contains_key(&**service))
                .map(|((_, service), spec)| (Arc::clone(service), *spec))
                .collect()
        };
        self.compare(link, called);
    }

    fn compare(&self, link: &Arc<Link>, methods: impl IntoIterator<Item = (Arc<str>, &'static MethodSpec)>) {
        let mut waiting = self.waiting.lock();
        let before = waiting.len();
        for (service, spec) in methods {
            if waiting.len() >= COMPARISONS_WAITING_MAX {
                tracing::warn!(
                    service = &*service,
                    method = spec.name,
                    "too many schemas wait to be compared"
                );
                break;
            }
            if link.judged.begin(&service, spec.name) {
                waiting.push(Comparison { link: Arc::downgrade(link), service, spec });
            }
        }
        let news = waiting.len() > before;
        drop(waiting);
        if news {
            self.wake.notify_one();
        }
    }
}

impl Shared {
    /// A contract is called here: peers that offer it are compared now, and others when they come.
    pub(crate) fn calls(&self, service: &'static str, methods: &'static [MethodSpec]) {
        let service: Arc<str> = service.into();
        let mut news = false;
        for spec in methods {
            news |= self.schemas.learn(&service, spec);
        }
        if news {
            let links = self.peers.lock().links();
            for link in links {
                self.schemas.offered(&link);
            }
        }
    }
}

/// Compares until the mesh is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut known: BTreeMap<SpecKey, Known> = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            () = shared.stopped() => return,
            () = shared.schemas.wake.notified() => {}
        }
        let waiting = std::mem::take(&mut *shared.schemas.waiting.lock());
        // By link and service: a peer is asked once for all of a service.
        let mut asks: BTreeMap<LinkedService, (Arc<Link>, Vec<Known>)> = BTreeMap::new();
        for Comparison { link, service, spec } in waiting {
            let Some(link) = link.upgrade() else { continue };
            let key = (std::ptr::from_ref(spec) as usize, Arc::clone(&service));
            let known = known.entry(key).or_insert_with(|| {
                let descriptor = Arc::new(MethodDescriptor::of(spec));
                Known { service, fingerprint: descriptor.fingerprint().0, descriptor }
            });
            let theirs = link.judged.fingerprint(&known.service, spec.name);
            if theirs == Some(known.fingerprint) {
                continue;
            }
            let place = (Arc::as_ptr(&link) as usize, Arc::clone(&known.service));
            asks.entry(place).or_insert_with(|| (link, Vec::new())).1.push(known.clone());
        }
        for ((_, service), (link, methods)) in asks {
            for methods in methods.chunks(METHODS_TOLD_MAX) {
                let (link, service, methods) = (Arc::clone(&link), Arc::clone(&service), methods.to_vec());
                shared.place.spawn_future(async move { ask(&link, &service, &methods).await });
            }
        }
    }
}

/// Asks a peer for its descriptors and judges them.
async fn ask(link: &Arc<Link>, service: &Arc<str>, methods: &[Known]) {
    match describe(link, service, methods).await {
        Ok(theirs) => {
            for known in methods {
                if let Some(status) = judge(link, known, &theirs) {
                    tracing::warn!(peer = %link.peer, reason = status.message, "a method cannot be called there");
                    link.metrics.incompatible(service);
                    link.judged.refuse(service, &known.descriptor.name, status);
                }
            }
        }
        // A peer that does not tell: it decides itself what it can decode.
        Err(status) => tracing::debug!(peer = %link.peer, %service, %status, "schemas are not compared"),
    }
}

async fn describe(
    link: &Arc<Link>,
    service: &Arc<str>,
    methods: &[Known],
) -> Result<ServiceDescriptor, Status> {
    let names = methods.iter().map(|known| known.descriptor.name.clone()).collect();
    let params = codec::to_named(&DescribeRequest { service: service.as_ref().to_owned(), methods: names })?;
    let (slot, answer) = RawSlot::new();
    let mut call = RawCall { params, slot };
    let deadline = Some(afflux_actor::clock::now() + DESCRIBE_TIMEOUT);
    let meta = CallMeta { deadline, ..CallMeta::default() };
    link.start(&Arc::from(SERVICE), MethodName::Typed(METHOD), false, &meta, &mut call)?;
    match answer.await {
        Ok(answer) => codec::from_slice(&answer?),
        Err(_) => Err(Status::internal("the call was dropped without an answer")),
    }
}

fn judge(link: &Link, known: &Known, theirs: &ServiceDescriptor) -> Option<Status> {
    let peer = match link.build.as_str() {
        "" => format!("{} ({})", link.peer, link.address),
        build => format!("{} (build {build}, {})", link.peer, link.address),
    };
    let ours = &known.descriptor;
    let (code, text) = match theirs.methods.iter().find(|method| method.name == ours.name) {
        Some(theirs) => (Code::FailedPrecondition, incompatibility(&known.service, ours, theirs, &peer)?),
        None => (Code::Unimplemented, format!("{}/{}: {peer} has no such method", known.service, ours.name)),
    };
    Some(Status::new(code, text).executed(Executed::No).stage(Stage::Connect).node(&link.peer))
}

/// What is known of the peer's methods, on one link.
#[derive(Default)]
pub(crate) struct Judged {
    /// Whether anything is refused: all that a call looks at while nothing is.
    any: AtomicBool,
    /// By service.
    methods: RwLock<BTreeMap<Box<str>, Judgements>>,
}

/// By method.
type Judgements = BTreeMap<Box<str>, Judgement>;

#[derive(Default)]
struct Judgement {
    fingerprint: Option<u64>,
    begun: bool,
    refusal: Option<Arc<Status>>,
}

impl Judged {
    /// From what the peer said in its greeting.
    pub(crate) fn of(services: &[afflux_wire::handshake::ServiceOffer]) -> Self {
        let judged = Self::default();
        let mut methods = judged.methods.write();
        for service in services {
            let offered = methods.entry(service.name.as_str().into()).or_default();
            for method in &service.methods {
                let fingerprint = (method.fingerprint != 0).then_some(method.fingerprint);
                offered
                    .insert(method.name.as_str().into(), Judgement { fingerprint, ..Judgement::default() });
            }
        }
        drop(methods);
        judged
    }

    /// Whether a method's comparison is to begin; once a link.
    fn begin(&self, service: &str, method: &str) -> bool {
        let mut methods = self.methods.write();
        let judgement = methods.entry(service.into()).or_default().entry(method.into()).or_default();
        !std::mem::replace(&mut judgement.begun, true)
    }

    fn fingerprint(&self, service: &str, method: &str) -> Option<u64> {
        self.methods.read().get(service)?.get(method)?.fingerprint
    }

    fn refuse(&self, service: &str, method: &str, status: Status) {
        let mut methods = self.methods.write();
        let judgement = methods.entry(service.into()).or_default().entry(method.into()).or_default();
        judgement.refusal = Some(Arc::new(status));
        self.any.store(true, Ordering::Release);
    }

    /// Why a method of this process cannot be called on the link, if so.
    #[inline]
    pub(crate) fn refusal(&self, service: &str, method: &str) -> Option<Arc<Status>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.methods.read().get(service)?.get(method)?.refusal.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afflux_wire::handshake::{MethodOffer, ServiceOffer};

    #[test]
    fn a_method_is_compared_once_a_link_and_refused_by_its_name() {
        let method = MethodOffer { name: "Get".into(), fingerprint: 7, number: 1 };
        let offer = ServiceOffer { name: "s".into(), version: "1".into(), methods: vec![method] };
        let judged = Judged::of(&[offer]);
        assert_eq!(judged.fingerprint("s", "Get"), Some(7));
        assert_eq!(judged.fingerprint("s", "Put"), None);
        assert!(judged.begin("s", "Get") && !judged.begin("s", "Get"));
        assert!(judged.refusal("s", "Get").is_none());
        judged.refuse("s", "Get", Status::precondition("no"));
        assert_eq!(judged.refusal("s", "Get").map(|status| status.code), Some(Code::FailedPrecondition));
        assert!(judged.refusal("s", "Put").is_none());
    }
}
