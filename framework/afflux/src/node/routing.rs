//! What the settings say of where calls go.

use std::collections::BTreeMap;

use afflux_mesh::{Ejection, Mesh, MeshConfig, Policy};

use crate::error::{Error, Result};
use crate::settings::Settings;

/// The label that says where a node is.
const ZONE: &str = "zone";

/// The `rpc.*` settings and the node's zone, in a mesh's configuration.
pub(super) fn configure(config: MeshConfig, settings: &Settings) -> Result<MeshConfig> {
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(MeshConfig {
        policy: policy("rpc.balancer", &settings.rpc_balancer)?,
        zone: labels(settings)?.remove(ZONE),
        local_first: settings.rpc_local_first == "on",
        retry_percent: number(settings.rpc_retry_percent),
        retries_per_second_min: number(settings.rpc_retries_per_second_min),
        ejection: Ejection {
            endpoints_percent_max: number(settings.rpc_ejection_percent_max),
            ..Ejection::default()
        },
        trace_sample_ratio: settings.trace_sample_per_million as f64 / 1e6,
        ..config
    })
}

/// Tells a mesh the policies of single services.
pub(super) fn set_policies(mesh: &Mesh, settings: &Settings) -> Result<()> {
    for pair in &settings.rpc_balancers {
        let (service, name) = split("rpc.balancers", pair, "shop.orders=round_robin")?;
        mesh.set_policy(service, policy("rpc.balancers", name)?);
    }
    Ok(())
}

/// The labels of this node's record.
pub(super) fn labels(settings: &Settings) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for pair in &settings.node_labels {
        let (name, value) = split("node.labels", pair, "zone=eu-1a")?;
        if name == "weight" && value.parse::<u32>().is_err() {
            return Err(Error::usage(format!("node.labels: weight is a whole number, got `{value}`")));
        }
        if labels.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Error::usage(format!("node.labels: `{name}` is given twice: leave one")));
        }
    }
    Ok(labels)
}

fn policy(setting: &str, name: &str) -> Result<Policy> {
    name.parse().map_err(|why| Error::usage(format!("{setting}: {why}")))
}

fn split<'a>(setting: &str, pair: &'a str, example: &str) -> Result<(&'a str, &'a str)> {
    pair.split_once('=')
        .map(|(name, value)| (name.trim(), value.trim()))
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .ok_or_else(|| {
            Error::usage(format!("{setting}: expected NAME=VALUE such as `{example}`, got `{pair}`"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_names_and_values_and_a_weight_is_a_number() {
        let of = |pairs: &[&str]| {
            let node_labels = pairs.iter().map(|pair| (*pair).to_owned()).collect();
            labels(&Settings { node_labels, ..Settings::default() })
        };
        let good = of(&["zone=eu-1a", " weight = 3"]).unwrap();
        assert_eq!((good["zone"].as_str(), good["weight"].as_str()), ("eu-1a", "3"));
        for (wrong, part) in [
            (&["zone"][..], "expected NAME=VALUE such as `zone=eu-1a`, got `zone`"),
            (&["weight=much"][..], "whole number, got `much`"),
            (&["zone=a", "zone=b"][..], "given twice"),
        ] {
            assert!(of(wrong).unwrap_err().to_string().contains(part));
        }
    }

    #[test]
    fn the_settings_reach_the_mesh_and_a_wrong_policy_is_named() {
        let settings = Settings {
            rpc_balancer: "locality_first".into(),
            rpc_local_first: "off".into(),
            rpc_retry_percent: 7,
            node_labels: vec!["zone=z".into()],
            ..Settings::default()
        };
        let config = configure(MeshConfig::new("n", "c"), &settings).unwrap();
        assert_eq!((config.policy, config.zone.as_deref()), (Policy::LocalityFirst, Some("z")));
        assert_eq!((config.local_first, config.retry_percent), (false, 7));
        let error = policy("rpc.balancers", "fair").unwrap_err().to_string();
        assert!(error.contains("rpc.balancers") && error.contains("least_loaded"), "{error}");
    }
}
