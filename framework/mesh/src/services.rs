//! What this node serves: services by name, methods by the number that stands for them on links.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use afflux_actor::{Dispatch, ServiceEntry};
use afflux_wire::contract::MethodKind;
use afflux_wire::contract::MethodSpec;
use afflux_wire::handshake::{MethodOffer, ServiceOffer};
use afflux_wire::schema::MethodDescriptor;
use afflux_wire::{Code, Executed, Method, Stage, Status};

use crate::describe;
use crate::metrics::{MeshMetrics, ServedMetrics};

/// See [`ServedMethod::key`].
static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

/// Names in an error that suggests some.
const SUGGESTIONS_MAX: usize = 3;

/// A method that links can call.
pub(crate) struct ServedMethod {
    pub(crate) service: &'static str,
    pub(crate) name: &'static str,
    /// Who may call it, as the contract says.
    pub(crate) allow: &'static str,
    /// Another one for every entry that was ever served in this process.
    pub(crate) key: u64,
    pub(crate) index: usize,
    pub(crate) one_way: bool,
    pub(crate) kind: MethodKind,
    pub(crate) dispatch: Arc<dyn Dispatch>,
    pub(crate) metrics: ServedMetrics,
}

/// One method of what is served.
pub(crate) fn served_method(
    entry: &ServiceEntry,
    index: usize,
    spec: &MethodSpec,
    metrics: &MeshMetrics,
) -> Arc<ServedMethod> {
    Arc::new(ServedMethod {
        service: entry.name,
        name: spec.name,
        allow: spec.allow,
        key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
        index,
        one_way: !spec.expects_answer(),
        kind: spec.kind,
        dispatch: Arc::clone(&entry.dispatch),
        metrics: metrics.served(entry.name, spec.name),
    })
}

#[derive(Clone)]
struct Numbered {
    name: Arc<str>,
    /// Of its schemas.
    fingerprint: u64,
    /// Nothing while its service is withdrawn.
    method: Option<Arc<ServedMethod>>,
}

/// An immutable table; [`ServiceTable::with`] and [`ServiceTable::without`] make the next one.
#[derive(Clone, Default)]
pub(crate) struct ServiceTable {
    /// Counts the changes.
    pub(crate) version: u64,
    services: BTreeMap<&'static str, ServiceEntry>,
    /// Index + 1 is the number. A number stays with its name for ever, so that peers' tables do.
    numbers: Vec<Numbered>,
    /// What tells peers of the methods; it is called by its name and is not among what is offered.
    describe: Option<Arc<ServedMethod>>,
}

impl ServiceTable {
    /// The same table with one more service, or another mailbox for one.
    pub(crate) fn with(&self, entry: ServiceEntry, metrics: &MeshMetrics) -> Self {
        let mut next = self.without(entry.name);
        for (index, spec) in entry.methods.iter().enumerate() {
            let name = full_name(entry.name, spec.name);
            let method = Some(served_method(&entry, index, spec, metrics));
            let fingerprint = MethodDescriptor::of(spec).fingerprint().0;
            match next.numbers.iter_mut().find(|numbered| *numbered.name == *name) {
                Some(known) => (known.method, known.fingerprint) = (method, fingerprint),
                None => next.numbers.push(Numbered { name: name.into(), fingerprint, method }),
            }
        }
        next.services.insert(entry.name, entry);
        next.describe = Some(Arc::new(ServedMethod {
            service: describe::SERVICE,
            name: describe::METHOD,
            // Whoever may call anything may ask what it looks like.
            allow: "authenticated",
            key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
            index: 0,
            one_way: false,
            kind: MethodKind::Unary,
            dispatch: describe::dispatch(&next.services),
            metrics: metrics.served(describe::SERVICE, describe::METHOD),
        }));
        next
    }

    /// The same table without a service.
    pub(crate) fn without(&self, service: &str) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.services.remove(service);
        for numbered in &mut next.numbers {
            if numbered.method.as_ref().is_some_and(|method| method.service == service) {
                numbered.method = None;
            }
        }
        next
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &ServiceEntry> {
        self.services.values()
    }

    pub(crate) fn entry(&self, service: &str) -> Option<&ServiceEntry> {
        self.services.get(service)
    }

    /// Number and `service/method` of all that is served.
    pub(crate) fn bound(&self) -> Vec<(u32, Arc<str>)> {
        (1..)
            .zip(&self.numbers)
            .filter(|(_, numbered)| numbered.method.is_some())
            .map(|(number, numbered)| (number, Arc::clone(&numbered.name)))
            .collect()
    }

    /// What HELLO and WELCOME say.
    pub(crate) fn offers(&self) -> Vec<ServiceOffer> {
        let place_of = |service: &str, method: &str| {
            let name = full_name(service, method);
            let at = self.numbers.iter().position(|numbered| *numbered.name == *name)?;
            Some((at as u32 + 1, self.numbers.get(at)?.fingerprint))
        };
        self.services
            .values()
            .map(|entry| ServiceOffer {
                name: entry.name.to_owned(),
                version: entry.version.to_owned(),
                methods: entry
                    .methods
                    .iter()
                    .map(|spec| {
                        let (number, fingerprint) = place_of(entry.name, spec.name).unwrap_or_default();
                        MethodOffer { name: spec.name.to_owned(), fingerprint, number }
                    })
                    .collect(),
            })
            .collect()
    }

    /// The `service/method` that a number stands for on links.
    pub(crate) fn name(&self, method: Method<'_>) -> Option<String> {
        match method {
            Method::Name(name) => Some(name.to_owned()),
            Method::Number(number) => {
                let at = (number as usize).wrapping_sub(1);
                self.numbers.get(at).map(|numbered| numbered.name.as_ref().to_owned())
            }
        }
    }

    /// Finds what a frame calls; the word is the metric's reason.
    pub(crate) fn find(&self, method: Method<'_>) -> Result<&Arc<ServedMethod>, (Status, &'static str)> {
        match method {
            Method::Number(number) => {
                let at = (number as usize).wrapping_sub(1);
                match self.numbers.get(at) {
                    Some(Numbered { method: Some(method), .. }) => Ok(method),
                    Some(Numbered { name, method: None, .. }) => Err((withdrawn(name), "withdrawn")),
                    None => Err((
                        Status::new(
                            Code::Unimplemented,
                            format!(
                                "no method is bound to number {number} ({} are): call it by its name",
                                self.numbers.len()
                            ),
                        )
                        .executed(Executed::No),
                        "unknown_method",
                    )),
                }
            }
            Method::Name(name) => self.find_name(name),
        }
    }

    fn find_name(&self, name: &str) -> Result<&Arc<ServedMethod>, (Status, &'static str)> {
        if let Some(numbered) = self.numbers.iter().find(|numbered| *numbered.name == *name) {
            return numbered.method.as_ref().ok_or_else(|| (withdrawn(name), "withdrawn"));
        }
        let (service, method) = name.rsplit_once('/').unwrap_or((name, ""));
        if let (describe::SERVICE, describe::METHOD, Some(found)) = (service, method, &self.describe) {
            return Ok(found);
        }
        let unknown = match self.services.get(service) {
            Some(entry) => {
                let methods = entry.methods.iter().map(|spec| spec.name.to_owned());
                Status::new(
                    Code::Unimplemented,
                    format!("service {service} has no method `{method}`{}", nearest(method, methods)),
                )
                .executed(Executed::No)
            }
            None => {
                let services = self.services.keys().map(|&name| name.to_owned());
                Status::not_found(format!(
                    "service `{service}` is not offered here{}",
                    nearest(service, services)
                ))
            }
        };
        Err((unknown.stage(Stage::Admission), "unknown_method"))
    }
}

fn withdrawn(name: &str) -> Status {
    Status::unavailable(format!("{name} was withdrawn from this node"))
        .executed(Executed::No)
        .stage(Stage::Admission)
}

/// `service/method`.
pub(crate) fn full_name(service: &str, method: &str) -> String {
    format!("{service}/{method}")
}

/// `; did you mean …?` with the names most like the wrong one, or nothing.
pub(crate) fn nearest(wrong: &str, names: impl Iterator<Item = String>) -> String {
    const LIKENESS_MIN: f64 = 0.6;
    let mut scored: Vec<(f64, String)> = names
        .map(|name| (strsim::jaro_winkler(wrong, &name), name))
        .filter(|(score, _)| *score >= LIKENESS_MIN)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let names: Vec<String> =
        scored.into_iter().take(SUGGESTIONS_MAX).map(|(_, name)| format!("`{name}`")).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_come_first_and_strangers_not_at_all() {
        let names = ["shop.orders", "shop.order_items", "zzz"].map(str::to_owned);
        assert_eq!(
            nearest("shop.order", names.into_iter()),
            "; did you mean `shop.orders` or `shop.order_items`?"
        );
        assert_eq!(nearest("shop.order", ["qqq".to_owned()].into_iter()), "");
    }

    #[test]
    fn an_empty_table_says_what_is_missing() {
        let table = ServiceTable::default();
        let (status, reason) = table.find(Method::Name("a/B")).err().unwrap();
        assert_eq!((status.code, reason), (Code::NotFound, "unknown_method"));
        let (status, _) = table.find(Method::Number(7)).err().unwrap();
        assert_eq!((status.code, status.was_executed()), (Code::Unimplemented, Executed::No));
        assert!(table.find(Method::Number(0)).is_err());
    }
}
