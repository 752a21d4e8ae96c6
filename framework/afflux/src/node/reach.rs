//! The registry that the settings name.

use std::sync::Arc;

use afflux_actor::Place;
use afflux_mesh::Mesh;
use afflux_registry::{MemoryRegistry, Registry, Spawner, StaticRegistry};
use afflux_wire::NodeId;

use crate::client::find_home;
use crate::error::{Error, Result};
use crate::registry_service::{Home, RegistryService, RemoteRegistry};
use crate::settings::Settings;

/// Runs the background work of a registry on a place.
pub(super) fn spawner(place: &Place) -> Spawner {
    let place = place.clone();
    Arc::new(move |work| place.spawn_future(work))
}

/// Checks that the settings of the registry fit together.
fn check(settings: &Settings) -> Result<()> {
    let registry = settings.registry.as_str();
    if registry != "embedded" && !settings.node_join.is_empty() {
        return Err(Error::usage(format!(
            "node.join = {} and registry = {registry}: two ways to find the nodes",
            settings.node_join
        ))
        .hint("leave node.join empty, or set registry = \"embedded\""));
    }
    let (missing, example) = match registry {
        "static" if settings.registry_nodes.is_empty() => ("nodes", "[\"10.0.0.4:7000\", \"10.0.0.5:7000\"]"),
        "dns" if settings.registry_dns_name.is_empty() => {
            ("dns_name", "\"orders.internal:7000\" or \"_afflux._tcp.orders.internal\"")
        }
        "etcd" if settings.registry_endpoints.is_empty() => ("endpoints", "[\"http://10.0.0.4:2379\"]"),
        "zookeeper" if settings.registry_endpoints.is_empty() => ("endpoints", "[\"10.0.0.4:2181\"]"),
        _ => return Ok(()),
    };
    Err(Error::usage(format!("registry = {registry}, but registry.{missing} is empty"))
        .hint(format!("set it, such as registry.{missing} = {example}")))
}

/// The registry of the settings, and where it is. Must be called inside the system.
pub(super) async fn reach(
    settings: &Settings,
    mesh: &Mesh,
    id: &str,
    address: &str,
    place: &Place,
) -> Result<(Arc<dyn Registry>, Home)> {
    check(settings)?;
    let here = Home { node: id.to_owned(), address: address.to_owned() };
    match settings.registry.as_str() {
        "embedded" if settings.node_join.is_empty() => {
            // Later than what an earlier life of this process gave out.
            Ok((Arc::new(MemoryRegistry::with_tokens_above(mesh.incarnation().0)), here))
        }
        "embedded" => {
            let (home, node): (Home, NodeId) = find_home(mesh, &settings.node_join).await?;
            let client = mesh.client_on::<RegistryService>(&node);
            let registry = RemoteRegistry::new_until(client, place, Some(mesh.drains()));
            Ok((Arc::new(registry), home))
        }
        "static" => {
            let nodes = settings.registry_nodes.iter().map(String::as_str);
            Ok((Arc::new(StaticRegistry::new(nodes)), here))
        }
        #[cfg(feature = "dns")]
        "dns" => Ok((Arc::new(dns(settings, place)?), here)),
        #[cfg(feature = "etcd")]
        "etcd" => Ok((Arc::new(etcd(settings, place)?), here)),
        #[cfg(feature = "zookeeper")]
        "zookeeper" => Ok((Arc::new(zookeeper(settings, place)?), here)),
        #[cfg(feature = "kubernetes")]
        "kubernetes" => Ok((Arc::new(kubernetes(settings, place).await?), here)),
        other => Err(Error::usage(format!("registry = {other}, but this program was built without it"))
            .hint(format!(
                "add the feature `{other}` to the dependency on afflux in Cargo.toml, and build again"
            ))),
    }
}

#[cfg(any(feature = "etcd", feature = "kubernetes"))]
fn read(setting: &str, path: &str) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::failed(format!("{setting} = {path} cannot be read: {error}")))
}

#[cfg(any(feature = "etcd", feature = "zookeeper"))]
fn base(settings: &Settings) -> Result<&str> {
    let base = settings.registry_base.trim_end_matches('/');
    match base.starts_with('/') {
        true => Ok(base),
        false => Err(Error::usage(format!("registry.base = {} is no path", settings.registry_base))
            .hint("begin it with a slash, such as /afflux")),
    }
}

#[cfg(feature = "dns")]
fn dns(settings: &Settings, place: &Place) -> Result<afflux_registry::DnsRegistry> {
    use afflux_registry::{DnsConfig, DnsRegistry};
    let mut config = DnsConfig::new(settings.registry_dns_name.as_str());
    for server in &settings.registry_endpoints {
        let server = server.parse().map_err(|_| {
            Error::usage(format!("registry.endpoints = {server} is no DNS server"))
                .hint("write it as IP:PORT, such as 10.0.0.2:53, or leave it empty for the system's")
        })?;
        config.servers.push(server);
    }
    Ok(DnsRegistry::start(config, spawner(place))?)
}

#[cfg(feature = "etcd")]
fn etcd(settings: &Settings, place: &Place) -> Result<afflux_registry::EtcdRegistry> {
    use afflux_registry::{EtcdConfig, EtcdRegistry, EtcdTls};
    let base = format!("{}/{}", base(settings)?, settings.cluster);
    let mut config = EtcdConfig::new(settings.registry_endpoints.iter().map(String::as_str), base);
    if !settings.registry_user.is_empty() {
        config.user = Some((settings.registry_user.clone(), settings.registry_password.clone()));
    }
    if !settings.registry_ca_file.is_empty() {
        let identity_pem = match settings.registry_cert_file.as_str() {
            "" => None,
            certificate => Some((
                read("registry.cert_file", certificate)?,
                read("registry.key_file", &settings.registry_key_file)?,
            )),
        };
        let ca_pem = read("registry.ca_file", &settings.registry_ca_file)?;
        config.tls = Some(EtcdTls { ca_pem, identity_pem });
    }
    Ok(EtcdRegistry::start(config, spawner(place))?)
}

#[cfg(feature = "zookeeper")]
fn zookeeper(settings: &Settings, place: &Place) -> Result<afflux_registry::ZookeeperRegistry> {
    use afflux_registry::{ZookeeperConfig, ZookeeperRegistry};
    let servers = settings.registry_endpoints.iter().map(String::as_str);
    // The cluster's own folder, so that two clusters share neither locks nor counters.
    let base = format!("{}/{}", base(settings)?, settings.cluster);
    let mut config =
        ZookeeperConfig::new(servers, base, settings.cluster.as_str(), std::time::SystemTime::now);
    config.session = std::time::Duration::from_millis(settings.registry_ttl_ms);
    if !settings.registry_user.is_empty() {
        let credentials = format!("{}:{}", settings.registry_user, settings.registry_password);
        config.auth = Some(("digest".to_owned(), credentials));
    }
    Ok(ZookeeperRegistry::start(config, spawner(place))?)
}

#[cfg(feature = "kubernetes")]
async fn kubernetes(settings: &Settings, place: &Place) -> Result<afflux_registry::KubernetesRegistry> {
    use afflux_registry::{KubernetesConfig, KubernetesRegistry};
    let mut config = KubernetesConfig::new(settings.cluster.as_str(), std::time::SystemTime::now);
    config.namespace = settings.registry_namespace.clone();
    config.service = (!settings.registry_service.is_empty()).then(|| settings.registry_service.clone());
    if !settings.registry_kubeconfig.is_empty() {
        config.kubeconfig = Some(read("registry.kubeconfig", &settings.registry_kubeconfig)?);
    }
    Ok(KubernetesRegistry::start(config, spawner(place)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::default();
        change(&mut settings);
        check(&settings).map_or_else(|error| error.to_string(), |()| "ok".to_owned())
    }

    #[test]
    fn settings_that_do_not_fit_together_are_told_with_the_cure() {
        assert_eq!(message(|_| {}), "ok");
        assert_eq!(message(|s| s.node_join = "h:1".into()), "ok");
        let both = message(|s| (s.node_join, s.registry) = ("h:1".into(), "etcd".into()));
        assert!(
            both.contains("two ways to find the nodes") && both.contains("leave node.join empty"),
            "{both}"
        );
        for (registry, missing) in [
            ("static", "registry.nodes"),
            ("dns", "registry.dns_name"),
            ("etcd", "registry.endpoints"),
            ("zookeeper", "registry.endpoints"),
        ] {
            let told = message(|s| s.registry = registry.into());
            assert!(told.contains(&format!("registry = {registry}, but {missing} is empty")), "{told}");
        }
        assert_eq!(message(|s| s.registry = "kubernetes".into()), "ok");
    }
}
