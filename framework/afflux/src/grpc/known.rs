//! What every gRPC server is asked: its health, and what it serves.
//!
//! [grpc.health.v1](https://github.com/grpc/grpc/blob/master/doc/health-checking.md) and
//! [server reflection](https://github.com/grpc/grpc/blob/master/doc/server-reflection.md), v1 and v1alpha.

use std::collections::BTreeSet;
use std::time::Duration;

use afflux_wire::{Code, Executed, Status};
use prost::Message as _;

use super::frames::{Answer, Messages};
use super::services::Services;
use crate::node_service::OWN_PREFIX;

pub(super) const HEALTH: &str = "grpc.health.v1.Health";
pub(super) const REFLECTION: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// How often a watched health is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthReply {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;
const SERVICE_UNKNOWN: i32 = 3;

#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(oneof = "What", tags = "3, 4, 5, 6, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileByFilename(String),
    #[prost(string, tag = "4")]
    FileContainingSymbol(String),
    #[prost(bytes, tag = "5")]
    FileContainingExtension(Vec<u8>),
    #[prost(string, tag = "6")]
    AllExtensionNumbersOfType(String),
    #[prost(string, tag = "7")]
    ListServices(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(string, tag = "1")]
    valid_host: String,
    #[prost(message, optional, tag = "2")]
    original_request: Option<Asked>,
    #[prost(oneof = "That", tags = "4, 6, 7")]
    that: Option<That>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum That {
    #[prost(message, tag = "4")]
    Files(Files),
    #[prost(message, tag = "6")]
    Services(Names),
    #[prost(message, tag = "7")]
    Wrong(Wrong),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Files {
    #[prost(bytes = "vec", repeated, tag = "1")]
    file_descriptor_proto: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Names {
    #[prost(message, repeated, tag = "1")]
    service: Vec<Name>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Name {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wrong {
    #[prost(int32, tag = "1")]
    error_code: i32,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// The health of a service, or of this node.
async fn health_of(services: &Services, service: &str) -> i32 {
    if service.is_empty() || service == HEALTH || REFLECTION.contains(&service) {
        return SERVING;
    }
    match services.catalogue.service(service).await {
        Ok(_) => SERVING,
        Err(status) if status.code == Code::NotFound => SERVICE_UNKNOWN,
        Err(_) => NOT_SERVING,
    }
}

/// Answers a call of the health service.
pub(super) async fn health(
    services: &Services,
    method: &str,
    messages: &mut Messages,
    answer: &mut Answer,
) -> Result<(), Status> {
    let request =
        HealthRequest::decode(messages.only().await?).map_err(|error| Status::invalid(error.to_string()))?;
    let gone = |_| Status::new(Code::Cancelled, "the client went away");
    match method {
        "Check" => match health_of(services, &request.service).await {
            SERVICE_UNKNOWN => {
                Err(Status::not_found(format!("no node offers a service {}", request.service)))
            }
            status => answer.send(&HealthReply { status }.encode_to_vec()).await.map_err(gone),
        },
        "Watch" => {
            let mut last = None;
            loop {
                let status = health_of(services, &request.service).await;
                if last != Some(status) {
                    answer.send(&HealthReply { status }.encode_to_vec()).await.map_err(gone)?;
                    last = Some(status);
                }
                tokio::select! {
                    biased;
                    () = answer.gone() => return Ok(()),
                    () = tokio::time::sleep(WATCH_INTERVAL) => {}
                }
            }
        }
        other => Err(Status::new(Code::Unimplemented, format!("{HEALTH} has no method {other}"))),
    }
}

/// Answers a stream of questions about what is served.
pub(super) async fn reflection(
    services: &Services,
    messages: &mut Messages,
    answer: &mut Answer,
) -> Result<(), Status> {
    while let Some(message) = messages.next().await? {
        let asked = Asked::decode(message).map_err(|error| Status::invalid(error.to_string()))?;
        let that = match told(services, asked.what.as_ref()).await {
            Ok(that) => that,
            Err(status) => {
                That::Wrong(Wrong { error_code: status.code as i32, error_message: status.message })
            }
        };
        let told = Told { valid_host: asked.host.clone(), original_request: Some(asked), that: Some(that) };
        answer
            .send(&told.encode_to_vec())
            .await
            .map_err(|_| Status::new(Code::Cancelled, "the client went away"))?;
    }
    Ok(())
}

async fn told(services: &Services, what: Option<&What>) -> Result<That, Status> {
    match what {
        Some(What::ListServices(_)) => {
            let view = services.catalogue.client().view().await.map_err(crate::error::Error::into_status)?;
            let offered = view.instances.iter().flat_map(|instance| &instance.services);
            let mut names: BTreeSet<String> = offered.map(|service| service.name.clone()).collect();
            names.retain(|name| !name.starts_with(OWN_PREFIX));
            names.extend([HEALTH, REFLECTION[0], REFLECTION[1]].map(str::to_owned));
            Ok(That::Services(Names { service: names.into_iter().map(|name| Name { name }).collect() }))
        }
        Some(What::FileContainingSymbol(symbol)) => file_of(services, symbol).await,
        Some(What::FileByFilename(name)) => {
            let service = name.strip_suffix(".proto").unwrap_or(name).replace('/', ".");
            file_of(services, &service).await
        }
        _ => Err(Status::new(Code::Unimplemented, "there are no extensions here").executed(Executed::No)),
    }
}

/// The file that describes a service, one of its methods or one of its messages.
async fn file_of(services: &Services, symbol: &str) -> Result<That, Status> {
    let mut name = symbol;
    loop {
        match services.get(name).await {
            Ok(described) => {
                let file = described.mapped.file.encode_to_vec();
                return Ok(That::Files(Files { file_descriptor_proto: vec![file] }));
            }
            Err(status) if status.code == Code::NotFound => match name.rsplit_once('.') {
                Some((outer, _)) => name = outer,
                None => break,
            },
            Err(status) => return Err(status),
        }
    }
    // A message stands beside its service: all services of its package are looked at.
    let view = services.catalogue.client().view().await.map_err(crate::error::Error::into_status)?;
    let offered: BTreeSet<&str> =
        view.instances.iter().flat_map(|i| &i.services).map(|service| service.name.as_str()).collect();
    for service in offered.into_iter().filter(|service| !service.starts_with(OWN_PREFIX)) {
        let described = services.get(service).await?;
        if described.mapped.shapes.contains_key(symbol) || described.mapped.words.contains_key(symbol) {
            let file = described.mapped.file.encode_to_vec();
            return Ok(That::Files(Files { file_descriptor_proto: vec![file] }));
        }
    }
    Err(Status::not_found(format!("nothing here is called {symbol}")))
}
