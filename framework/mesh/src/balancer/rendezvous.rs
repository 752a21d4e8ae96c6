//! Highest random weight: of all endpoints that one whose hash with the key is the highest
//! (Thaler and Ravishankar 1998). A set that changes moves only the keys of what came or went.

use super::Candidate;
use crate::config::mix;

/// The weight of a key at the node with this hash.
#[inline]
pub(crate) fn score(key: u64, node: u64) -> u64 {
    mix(key ^ node)
}

/// The usable endpoint with the highest score.
#[inline]
pub(super) fn highest<E: Candidate>(key: u64, endpoints: &[E], usable: impl Fn(&E) -> bool) -> Option<&E> {
    // By score first: whether it is usable is asked of the winner alone, nearly always.
    let mut above = u64::MAX;
    for _ in 0..endpoints.len() {
        let best =
            endpoints.iter().filter(|e| score(key, e.hash()) < above).max_by_key(|e| score(key, e.hash()))?;
        if usable(best) {
            return Some(best);
        }
        above = score(key, best.hash());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{Fit, Moment};
    use super::*;
    use crate::config::name_hash;

    struct Node(u64, bool);
    impl Candidate for Node {
        fn fit(&self, _: &Moment<'_>) -> Fit {
            if self.1 { Fit::Good } else { Fit::Unusable }
        }
        fn load(&self, _: &Moment<'_>) -> f32 {
            0.0
        }
        fn claim(&self, _: &Moment<'_>) -> bool {
            true
        }
        fn hash(&self) -> u64 {
            self.0
        }
    }

    fn nodes(names: impl IntoIterator<Item = u32>) -> Vec<Node> {
        names.into_iter().map(|n| Node(name_hash(&format!("orders-{n}")), true)).collect()
    }

    fn owner(key: u64, nodes: &[Node]) -> u64 {
        highest(mix(key), nodes, |e| e.1).unwrap().0
    }

    #[test]
    fn a_changed_set_moves_only_the_keys_of_what_came_or_went() {
        for n in 1..20_u32 {
            let before = nodes(0..n);
            for gone in 0..n {
                let after = nodes((0..n).filter(|node| *node != gone));
                let gone = before[gone as usize].0;
                for key in (0..200).filter(|_| n > 1) {
                    let (old, new) = (owner(key, &before), owner(key, &after));
                    assert!(old == new || old == gone, "key {key} moved without need");
                }
            }
            let joined = nodes(0..n + 1);
            let came = joined[n as usize].0;
            for key in 0..200 {
                let (old, new) = (owner(key, &before), owner(key, &joined));
                assert!(old == new || new == came, "key {key} moved without need");
            }
        }
    }

    #[test]
    fn keys_are_shared_evenly() {
        let nodes = nodes(0..8);
        let mut counts = std::collections::BTreeMap::new();
        (0..16_000).for_each(|key| *counts.entry(owner(key, &nodes)).or_insert(0) += 1);
        assert!(counts.len() == 8 && counts.values().all(|n| (1_800..2_200).contains(n)), "{counts:?}");
    }

    #[test]
    fn the_keys_of_an_unusable_endpoint_go_to_their_next_and_come_back() {
        let mut all = nodes(0..5);
        let before: Vec<u64> = (0..500).map(|key| owner(key, &all)).collect();
        all[2].1 = false;
        for (key, old) in before.iter().enumerate() {
            let new = owner(key as u64, &all);
            assert!(new == *old || *old == all[2].0);
            assert_ne!(new, all[2].0);
        }
        all[2].1 = true;
        assert!(before.iter().enumerate().all(|(key, old)| owner(key as u64, &all) == *old));
    }
}
