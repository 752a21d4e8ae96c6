//! The logical graph of a pipeline, and the plan it becomes.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperatorKind {
    /// Brings records in.
    Source,
    /// Stateless closures, fused.
    Transform,
    /// Keeps state per key.
    Keyed,
    /// Tells a service.
    Tell,
    /// Takes records out.
    Sink,
}

/// How records cross an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exchange {
    /// Subtask to the same subtask.
    Forward,
    /// By key.
    Hash,
    /// Round robin.
    Rebalance,
    /// To all.
    Broadcast,
    /// To the only task.
    Gather,
    /// By the range that a key lies in.
    Range,
    /// At random.
    Random,
    /// By weight.
    Weighted,
    /// By a closure of the user.
    Custom,
}

/// A step of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Its name: unique, and the identity of its state.
    pub name: String,
    /// What it is.
    pub kind: OperatorKind,
    /// More about it, such as `csv` or `tumbling 1h`.
    pub detail: String,
    /// The chain it is part of.
    pub chain: u32,
    /// What a sink writes to, such as a path.
    #[serde(default)]
    pub target: Option<String>,
}

/// Operators that run as one actor, and how many of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainInfo {
    /// Its index.
    pub index: u32,
    /// Parallel tasks.
    pub parallelism: u32,
    /// Names of its operators, in order.
    pub operators: Vec<String>,
}

/// An exchange between two chains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Its index.
    pub index: u32,
    /// The chain it begins in.
    pub from_chain: u32,
    /// The chain it ends in.
    pub to_chain: u32,
    /// How records cross it.
    pub exchange: Exchange,
}

/// A pipeline as operators, the chains they are fused into, and the exchanges between those.
///
/// The same builder with the same settings gives the same graph on every node; its
/// [fingerprint](Graph::fingerprint) says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// Its name.
    pub pipeline: String,
    /// The steps.
    pub operators: Vec<Operator>,
    /// What is fused.
    pub chains: Vec<ChainInfo>,
    /// What crosses tasks.
    pub edges: Vec<Edge>,
}

impl Graph {
    /// XXH3-64 of a description of every operator, chain and edge.
    pub fn fingerprint(&self) -> u64 {
        xxh3_64(format!("{self:?}").as_bytes())
    }

    /// The first operator in which `other` differs, for a refusal that names it.
    pub fn first_difference(&self, other: &Graph) -> Option<String> {
        let mut theirs = other.operators.iter();
        for ours in &self.operators {
            match theirs.next() {
                Some(their) if their == ours => {}
                Some(their) => {
                    return Some(format!(
                        "operator {} is `{}` here, but {} is `{}` there",
                        ours.name, ours.detail, their.name, their.detail
                    ));
                }
                None => return Some(format!("operator {} is not there", ours.name)),
            }
        }
        if let Some(their) = theirs.next() {
            return Some(format!("operator {} is not here", their.name));
        }
        (self != other).then(|| "the same operators are chained in another way".to_owned())
    }

    /// The chain, and all from which records reach it.
    pub(crate) fn upstream(&self, chain: u32) -> BTreeSet<u32> {
        let (mut open, mut seen) = (vec![chain], BTreeSet::new());
        while let Some(chain) = open.pop() {
            if seen.insert(chain) {
                open.extend(self.edges.iter().filter(|e| e.to_chain == chain).map(|e| e.from_chain));
            }
        }
        seen
    }

    /// The chain, and all that records reach from it.
    pub(crate) fn downstream(&self, chain: u32) -> BTreeSet<u32> {
        let (mut open, mut seen) = (vec![chain], BTreeSet::new());
        while let Some(chain) = open.pop() {
            if seen.insert(chain) {
                open.extend(self.edges.iter().filter(|e| e.from_chain == chain).map(|e| e.to_chain));
            }
        }
        seen
    }

    /// Graphviz source.
    pub fn to_dot(&self) -> String {
        let mut dot = format!("digraph \"{}\" {{\n  rankdir=LR; node [shape=box];\n", self.pipeline);
        for chain in &self.chains {
            let _ = writeln!(
                dot,
                "  c{} [label=\"{}\\n×{}\"];",
                chain.index,
                chain.operators.join(" → "),
                chain.parallelism
            );
        }
        for edge in &self.edges {
            let _ = writeln!(
                dot,
                "  c{} -> c{} [label=\"{:?}\"];",
                edge.from_chain, edge.to_chain, edge.exchange
            );
        }
        dot.push_str("}\n");
        dot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_the_operator() {
        let operator = |name: &str, detail: &str| Operator {
            name: name.into(),
            kind: OperatorKind::Keyed,
            detail: detail.into(),
            chain: 0,
            target: None,
        };
        let a = Graph { operators: vec![operator("x", "1h")], ..Graph::default() };
        let b = Graph { operators: vec![operator("x", "2h")], ..Graph::default() };
        assert_eq!(a.first_difference(&a.clone()), None);
        assert!(a.first_difference(&b).unwrap().contains("operator x is `1h` here"));
        assert_ne!(a.fingerprint(), b.fingerprint());
    }
}
