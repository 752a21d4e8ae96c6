//! What `rpc.describe` says of services, and what a node learns of the services of others.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::name::plain_name;
use super::params::Wanted;
use crate::contract::MethodSpec;
use crate::status::Status;

/// A service as another node describes it: the answer of its `afflux.node/Services`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceDescription {
    /// Its name.
    pub name: String,
    /// The version of its contract.
    #[serde(default)]
    pub version: String,
    /// Its doc comment.
    #[serde(default)]
    pub doc: String,
    /// Its methods.
    pub methods: Vec<MethodDescription>,
}

/// A method as another node describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodDescription {
    /// Its name as declared.
    pub name: String,
    /// `unary`, `oneway`, or a kind of stream.
    #[serde(default)]
    pub kind: String,
    /// Its doc comment.
    #[serde(default)]
    pub doc: String,
    /// The deadline of a call that sets none.
    #[serde(default)]
    pub deadline_ms: u64,
    /// Whether a second execution does no harm.
    #[serde(default)]
    pub idempotent: bool,
    /// Names of the parameters, in order.
    #[serde(default)]
    pub fields: Vec<String>,
    /// JSON Schema of the parameters.
    #[serde(default)]
    pub params: Value,
    /// JSON Schema of the result.
    #[serde(default)]
    pub returns: Value,
}

impl MethodDescription {
    /// What it takes.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted::new(&self.fields, &self.params)
    }

    fn to_value(&self, service: &str) -> Value {
        json!({
            "method": plain_name(service, &self.name),
            "declared": format!("{service}/{}", self.name),
            "kind": self.kind,
            "doc": self.doc,
            "deadline_ms": self.deadline_ms,
            "idempotent": self.idempotent,
            "params": self.fields,
            "params_schema": self.params,
            "returns_schema": self.returns,
        })
    }
}

impl From<&MethodSpec> for MethodDescription {
    fn from(spec: &MethodSpec) -> Self {
        Self {
            name: spec.name.to_owned(),
            kind: spec.kind.name().to_owned(),
            doc: spec.doc.trim().to_owned(),
            deadline_ms: u64::try_from(spec.deadline.as_millis()).unwrap_or(u64::MAX),
            idempotent: spec.idempotent,
            fields: spec.fields.iter().map(|field| (*field).to_owned()).collect(),
            params: (spec.params)().to_value(),
            returns: (spec.returns)().to_value(),
        }
    }
}

/// Reads the answer of `afflux.node/Services`.
///
/// # Errors
/// `INVALID_ARGUMENT` with the path of what does not fit.
pub fn read_services(answer: &[u8]) -> Result<Vec<ServiceDescription>, Status> {
    crate::codec::from_slice(answer)
}

/// What `rpc.describe` answers of a service; of one of its methods, if `method` says so.
#[must_use]
pub fn describe_service(service: &ServiceDescription, method: Option<&str>) -> Option<Value> {
    let ServiceDescription { name, version, doc, methods } = service;
    match method {
        Some(method) => methods
            .iter()
            .find(|known| super::is_method(&known.name, method))
            .map(|known| known.to_value(name)),
        None => {
            let methods: Vec<Value> = methods.iter().map(|method| method.to_value(name)).collect();
            Some(json!({ "service": name, "version": version, "doc": doc, "methods": methods }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::to_named;

    #[test]
    fn a_description_of_a_later_version_can_be_read() {
        let later = json!([{
            "name": "shop.orders", "new": 1,
            "methods": [{"name": "PlaceOrder", "kind": "server_stream", "fields": ["id"], "more": true,
                "params": {"required": ["id"]}}],
        }]);
        let services = read_services(&to_named(&later).unwrap()).unwrap();
        let method = describe_service(&services[0], Some("place_order")).unwrap();
        assert_eq!(method["method"], "shop.orders.place_order");
        assert_eq!(method["declared"], "shop.orders/PlaceOrder");
        assert_eq!(method["params"], json!(["id"]));
        assert!(describe_service(&services[0], Some("nothing")).is_none());
        assert_eq!(describe_service(&services[0], None).unwrap()["methods"][0]["kind"], "server_stream");
    }
}
