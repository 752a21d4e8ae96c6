//! The layout of Curator's service discovery, so that its clients find nodes and nodes find its services.

use afflux_wire::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use super::ZookeeperConfig;
use crate::instance::Instance;
use crate::key::{segment, unsegment};

/// The id of a registration: `node:incarnation:number`. Each registration has a node of its own, so
/// that its data never changes and deleting it can meet no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) number: u64,
}

impl Entry {
    pub(super) fn name(&self) -> String {
        format!("{}:{}:{}", segment(self.node.as_str()), self.incarnation.0, self.number)
    }

    /// `None` for what somebody else registered.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (rest, number) = name.rsplit_once(':')?;
        let (node, incarnation) = rest.rsplit_once(':')?;
        Some(Self {
            node: NodeId::new(unsegment(node)?),
            incarnation: Incarnation(incarnation.parse().ok()?),
            number: number.parse().ok()?,
        })
    }
}

/// What Curator's `JsonInstanceSerializer` writes and reads.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceInstance {
    name: String,
    id: String,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    ssl_port: Option<u16>,
    #[serde(default)]
    payload: Option<serde_json::Value>,
    #[serde(default, rename = "registrationTimeUTC")]
    registration_time_utc: u64,
    #[serde(default)]
    service_type: Option<String>,
    #[serde(default)]
    uri_spec: Option<serde_json::Value>,
}

pub(super) fn encode(config: &ZookeeperConfig, entry: &Entry, instance: &Instance) -> Vec<u8> {
    let (host, port) = match instance.address.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), port.parse().ok()),
        None => (instance.address.clone(), None),
    };
    let since = (config.wall)().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let record = ServiceInstance {
        name: config.cluster.clone(),
        id: entry.name(),
        address: Some(host),
        port,
        ssl_port: None,
        payload: serde_json::to_value(instance).ok(),
        registration_time_utc: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        service_type: Some("DYNAMIC".to_owned()),
        uri_spec: None,
    };
    // Plain structs and strings: it cannot fail.
    serde_json::to_vec(&record).unwrap_or_default()
}

/// The record in a node's data; of what another program registered its address alone.
pub(super) fn decode(name: &str, data: &[u8]) -> Option<Instance> {
    let record: ServiceInstance = match serde_json::from_slice(data) {
        Ok(record) => record,
        Err(error) => {
            tracing::warn!(name, %error, "a record in ZooKeeper cannot be read and is left out");
            return None;
        }
    };
    if let Some(instance) = record.payload.and_then(|payload| serde_json::from_value(payload).ok()) {
        return Some(instance);
    }
    let address = format!("{}:{}", record.address?, record.port.or(record.ssl_port)?);
    Some(Instance::new(NodeId::new(record.id), Incarnation(0), address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn config() -> ZookeeperConfig {
        ZookeeperConfig::new(["h:2181"], "/afflux", "shop", || {
            UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
        })
    }

    #[test]
    fn a_record_has_the_fields_of_curators_serializer() {
        let instance =
            Instance::new("orders-1", Incarnation(7), "10.0.0.4:7400").offering("shop.orders", "1");
        let entry = Entry { node: instance.node.clone(), incarnation: instance.incarnation, number: 2 };
        let data = encode(&config(), &entry, &instance);
        let json: serde_json::Value = serde_json::from_slice(&data).unwrap();
        let fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut wanted = [
            "name",
            "id",
            "address",
            "port",
            "sslPort",
            "payload",
            "registrationTimeUTC",
            "serviceType",
            "uriSpec",
        ];
        wanted.sort_unstable();
        let mut fields = fields;
        fields.sort_unstable();
        assert_eq!(fields, wanted);
        assert_eq!(json["name"], "shop");
        assert_eq!(json["id"], "orders-1:7:2");
        assert_eq!((&json["address"], &json["port"]), (&"10.0.0.4".into(), &7400.into()));
        assert_eq!(json["registrationTimeUTC"], 1_700_000_000_123_u64);
        assert_eq!(json["serviceType"], "DYNAMIC");
        assert_eq!(decode("orders-1:7:2", &data), Some(instance));
    }

    #[test]
    fn what_a_java_program_registered_is_known_by_its_address() {
        let data = br#"{"name":"shop","id":"6f8e","address":"10.0.0.9","port":8080,"sslPort":null,
            "payload":{"@class":"com.example.Details","zone":"a"},"registrationTimeUTC":1,
            "serviceType":"DYNAMIC","uriSpec":{"parts":[]},"enabled":true}"#;
        let instance = decode("6f8e", data).unwrap();
        assert_eq!((instance.address.as_str(), instance.is_identified()), ("10.0.0.9:8080", false));
        assert_eq!(decode("x", b"not json"), None);
    }

    #[test]
    fn a_name_is_read_as_it_was_written() {
        for node in ["a", "a:b", "host/1", "ü%"] {
            let entry = Entry { node: NodeId::new(node), incarnation: Incarnation(u64::MAX), number: 3 };
            assert_eq!(Entry::parse(&entry.name()), Some(entry));
        }
        assert_eq!(Entry::parse("6f8e-uuid"), None);
    }
}
