//! What nodes have counted, as rows of a picture: rates are between two looks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::look::Look;
use crate::load::{ActorLoad, MethodLoad, NodeLoad};
use crate::node_service::OWN_PREFIX;

/// The counters of a node at the look before, unless it has begun anew.
fn load_before<'a>(before: Option<&'a Look>, node: &str, now: &NodeLoad) -> Option<&'a NodeLoad> {
    before?.loads.get(node).filter(|old| old.at_ms < now.at_ms)
}

/// A row for each node.
pub(super) fn nodes(before: Option<&Look>, now: &Look) -> Vec<Value> {
    let running: BTreeMap<&str, usize> =
        now.jobs.iter().filter(|job| !job.info.has_ended()).flat_map(|job| &job.info.tasks).fold(
            BTreeMap::new(),
            |mut counts, task| {
                *counts.entry(task.node.as_str()).or_default() += 1;
                counts
            },
        );
    let mut shown = Vec::with_capacity(now.nodes.len());
    for node in &now.nodes {
        let mut row = json!({
            "id": node.id, "pid": node.pid, "state": node.state, "address": node.address, "admin": node.admin,
            "incarnation": node.incarnation, "build": node.build, "slots": node.slots,
            "resident_bytes": node.resident_bytes, "cpu_s": node.cpu_s, "services": node.services,
            "tasks": running.get(node.id.as_str()).copied().unwrap_or_default(),
        });
        if let Some(drain) = &node.drain {
            row["drain"] = json!(drain);
        }
        if let Some(instance) = now.view.instances.iter().find(|i| i.node.as_str() == node.id) {
            row["labels"] = json!(instance.labels);
        }
        if let Some(load) = now.loads.get(&node.id) {
            row["connections"] = json!(load.connections);
            row["in_flight"] = json!(load.in_flight.values().sum::<u64>());
            if let Some(old) = load_before(before, &node.id, load) {
                let span = (load.at_ms - old.at_ms).max(1) as f64 / 1e3;
                let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / span;
                let calls = |load: &NodeLoad| load.methods.iter().map(|method| method.calls).sum();
                row["cpus"] = json!((load.cpu_s - old.cpu_s).max(0.0) / span);
                row["bytes_in_per_s"] = json!(rate(load.bytes_in, old.bytes_in));
                row["bytes_out_per_s"] = json!(rate(load.bytes_out, old.bytes_out));
                row["calls_per_s"] = json!(rate(calls(load), calls(old)));
            }
        }
        shown.push(row);
    }
    shown
}

/// Methods over all nodes, and actors by node and kind.
pub(super) fn services(before: Option<&Look>, now: &Look) -> (Vec<Value>, Vec<Value>) {
    let mut methods: BTreeMap<(&str, &str), (MethodLoad, MethodLoad, f64)> = BTreeMap::new();
    let mut in_flight: BTreeMap<&str, u64> = BTreeMap::new();
    let mut actors = Vec::new();
    for (node, load) in &now.loads {
        let old = load_before(before, node, load);
        let span = old.map_or(0.0, |old| (load.at_ms - old.at_ms).max(1) as f64 / 1e3);
        for (service, count) in &load.in_flight {
            *in_flight.entry(service).or_default() += count;
        }
        for method in &load.methods {
            let same =
                |known: &&MethodLoad| (&known.service, &known.method) == (&method.service, &method.method);
            let key = (method.service.as_str(), method.method.as_str());
            let (all, recent, longest) = methods.entry(key).or_default();
            add(all, method);
            if let Some(old) = old {
                add(recent, &method.since(old.methods.iter().find(same)));
                *longest = span.max(*longest);
            }
        }
        for kind in &load.actors {
            let known = old.and_then(|old| old.actors.iter().find(|known| known.kind == kind.kind));
            let per_second = |of: fn(&ActorLoad) -> u64| match known {
                Some(known) if span > 0.0 => of(kind).saturating_sub(of(known)) as f64 / span,
                _ => 0.0,
            };
            actors.push(json!({
                "node": node, "kind": kind.kind, "actors": kind.actors, "waiting": kind.waiting,
                "waiting_max": kind.waiting_max, "capacity": kind.capacity, "rejected": kind.rejected,
                "rejected_per_s": per_second(|load| load.rejected), "panics": kind.panics,
            }));
        }
    }
    let methods = methods
        .into_iter()
        .map(|((service, method), (all, recent, span))| {
            let rate = |count: u64| if span > 0.0 { count as f64 / span } else { 0.0 };
            // Without a call since the last picture: those since the nodes began.
            let timed = if recent.observed_all > 0 { &recent } else { &all };
            json!({
                "service": service, "method": method, "own": service.starts_with(OWN_PREFIX),
                "calls": all.calls, "errors": all.errors,
                "calls_per_s": rate(recent.calls), "errors_per_s": rate(recent.errors),
                "p50_s": timed.quantile(0.5), "p99_s": timed.quantile(0.99),
                "in_flight": in_flight.get(service).copied().unwrap_or_default(),
            })
        })
        .collect();
    (methods, actors)
}

/// Adds the calls of a method on another node.
fn add(sum: &mut MethodLoad, more: &MethodLoad) {
    sum.calls += more.calls;
    sum.errors += more.errors;
    sum.observed_all += more.observed_all;
    if sum.bounds_s.is_empty() {
        sum.bounds_s.clone_from(&more.bounds_s);
        sum.observed = vec![0; more.bounds_s.len()];
    }
    for (sum, more) in sum.observed.iter_mut().zip(&more.observed) {
        *sum += more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_all_nodes_are_one_row_and_quantiles_are_of_all() {
        let method = |calls: u64, observed: Vec<u64>| MethodLoad {
            service: "shop.orders".into(),
            method: "Get".into(),
            calls,
            errors: calls / 10,
            bounds_s: vec![1.0, 2.0],
            observed_all: observed[1],
            observed,
        };
        let look = |at_ms: u64, factor: u64| {
            let load = |n: u64| NodeLoad {
                at_ms,
                methods: vec![method(n * factor, vec![n * factor, n * factor])],
                ..NodeLoad::default()
            };
            Look { loads: [("a".into(), load(10)), ("b".into(), load(30))].into(), ..Look::default() }
        };
        let (methods, actors) = services(Some(&look(1_000, 1)), &look(2_000, 2));
        assert!(actors.is_empty());
        assert_eq!(methods.len(), 1);
        assert_eq!(
            (methods[0]["calls"].as_u64(), methods[0]["calls_per_s"].as_f64()),
            (Some(80), Some(40.0))
        );
        assert_eq!(methods[0]["p50_s"].as_f64(), Some(0.5));
    }
}
