//! What services look like, remembered for a while: doors that speak JSON need it for every call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afflux_wire::{Code, Executed, NodeId, Stage, Status};
use parking_lot::Mutex;

use crate::client::Client;
use crate::error::suggest;
use crate::node_service::{MethodInfo, ServiceInfo};

/// How long what a node told of a service is believed.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Services that are remembered.
const SERVICES_MAX: usize = 1_024;

/// A service by its name, and until when it is believed.
type Remembered = BTreeMap<String, (Arc<ServiceInfo>, Instant)>;

/// The services of the cluster, as they can be called.
#[derive(Clone)]
pub(crate) struct Catalogue {
    client: Client,
    known: Arc<Mutex<Remembered>>,
}

impl Catalogue {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, known: Arc::default() }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A service, asked of one of the nodes that offer it.
    ///
    /// # Errors
    /// `NOT_FOUND` with the nearest names; whatever the node's answer fails with.
    pub(crate) async fn service(&self, name: &str) -> Result<Arc<ServiceInfo>, Status> {
        let now = afflux_actor::clock::now();
        if let Some((known, until)) = self.known.lock().get(name)
            && now < *until
        {
            return Ok(Arc::clone(known));
        }
        let view = self.client.view().await.map_err(crate::error::Error::into_status)?;
        let mut last = None;
        let offering: Vec<NodeId> = view.offering(name).map(|instance| instance.node.clone()).collect();
        for node in &offering {
            match self.client.node(node).services().await {
                Ok(services) => {
                    let mut known = self.known.lock();
                    known.retain(|_, (_, until)| now < *until);
                    for service in services {
                        if known.len() < SERVICES_MAX {
                            known.insert(service.name.clone(), (Arc::new(service), now + REMEMBERED));
                        }
                    }
                    if let Some((found, _)) = known.get(name) {
                        return Ok(Arc::clone(found));
                    }
                }
                Err(error) => last = Some(error.into_status()),
            }
        }
        Err(last.unwrap_or_else(|| {
            let names: std::collections::BTreeSet<&str> =
                view.instances.iter().flat_map(|i| i.services.iter().map(|s| s.name.as_str())).collect();
            Status::not_found(format!("no node offers a service `{name}`: {}", suggest(name, names)))
                .executed(Executed::No)
                .stage(Stage::Connect)
        }))
    }

    /// A method of it.
    ///
    /// # Errors
    /// As [`Catalogue::service`]; `UNIMPLEMENTED` with the nearest names.
    pub(crate) async fn method(&self, service: &str, name: &str) -> Result<MethodInfo, Status> {
        let info = self.service(service).await?;
        info.methods.iter().find(|method| method.name == name).cloned().ok_or_else(|| {
            let names = info.methods.iter().map(|method| method.name.as_str());
            let text = format!("service {service} has no method `{name}`: {}", suggest(name, names));
            Status::new(Code::Unimplemented, text).executed(Executed::No).stage(Stage::Connect)
        })
    }
}
