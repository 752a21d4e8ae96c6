//! The HTTP server behind the admin port.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use actix_web::dev::{Server, ServerHandle};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use afflux_wire::Status;
use futures_util::future::BoxFuture;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio_rustls::rustls::ServerConfig;

use super::errors::failure;
use super::gateway::{Gateway, RPC_BODY_BYTES_MAX, rpc};
use super::hosts::Hosts;
use super::openapi;
use super::probes::Probes;
use super::pulse::Pulse;
use crate::dashboard::{Dashboard, may_read};
use crate::error::{Error, Result};
use crate::series::SeriesGuard;

/// Bytes of a request's body, but for calls: no page takes one.
const BODY_BYTES_MAX: usize = 1_024;

/// Connections that are served at once.
pub(super) const CONNECTIONS_MAX: usize = 256;

type Page = Arc<dyn Fn(String) -> BoxFuture<'static, Result<serde_json::Value, Status>> + Send + Sync>;

/// What the admin port will show.
///
/// ```
/// use std::sync::Arc;
/// use afflux::admin::{Admin, Probes};
///
/// let admin = Admin::new(prometheus::Registry::new(), Arc::new(Probes::default()))
///     .page("nodes", |_| async { Ok(serde_json::json!([{ "id": "node-1" }])) });
/// ```
#[derive(Clone)]
pub struct Admin {
    metrics: Registry,
    probes: Arc<Probes>,
    pages: BTreeMap<&'static str, Page>,
    gateway: Option<Gateway>,
    series: Option<Arc<SeriesGuard>>,
    pulse: Option<Arc<Pulse>>,
    dashboard: Option<Dashboard>,
    tls: Option<ServerConfig>,
    hosts: Hosts,
}

impl Admin {
    /// Metrics and probes, no page yet.
    pub fn new(metrics: Registry, probes: Arc<Probes>) -> Self {
        Self {
            metrics,
            probes,
            pages: BTreeMap::new(),
            gateway: None,
            series: None,
            pulse: None,
            dashboard: None,
            tls: None,
            hosts: Hosts::default(),
        }
    }

    /// Exports as many series as the guard lets through.
    #[must_use]
    pub(crate) fn guarded(mut self, guard: SeriesGuard) -> Self {
        self.series = Some(Arc::new(guard));
        self
    }

    /// Asks these threads whether they live, for `/livez`.
    #[must_use]
    pub(crate) fn alive(mut self, pulse: Arc<Pulse>) -> Self {
        self.pulse = Some(pulse);
        self
    }

    /// Answers also under these names who shows no token.
    #[must_use]
    pub(crate) fn named(mut self, hosts: Hosts) -> Self {
        self.hosts = hosts;
        self
    }

    /// Serves inside TLS.
    #[must_use]
    pub(crate) fn inside(mut self, tls: Option<ServerConfig>) -> Self {
        self.tls = tls;
        self
    }

    /// Adds `/api/v1/{name}` and `/api/v1/{name}/{rest}`; `rest` goes to the function, empty for the first.
    #[must_use]
    pub fn page<F>(mut self, name: &'static str, answer: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<serde_json::Value, Status>> + Send + 'static,
    {
        self.pages.insert(name, Arc::new(move |rest| Box::pin(answer(rest))));
        self
    }

    /// Opens the door to the services of the cluster.
    #[must_use]
    pub(crate) fn gateway(mut self, gateway: Gateway) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Shows the cluster to people, at `/`.
    #[must_use]
    pub(crate) fn dashboard(mut self, dashboard: Dashboard) -> Self {
        self.dashboard = Some(dashboard);
        self
    }

    /// Listens and serves, on a thread of its own, until the handle is stopped.
    ///
    /// Must be called inside [`afflux_actor::system`].
    ///
    /// # Errors
    /// An address that cannot be listened on, with the setting to change.
    pub fn start(self, listen: &str) -> Result<AdminServer> {
        self.start_on(bind(listen, "admin.listen")?)
    }

    /// The same on a port that is open already.
    pub(crate) fn start_on(mut self, listener: TcpListener) -> Result<AdminServer> {
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the admin port is open beyond loopback: /metrics and the probes ask for no password");
        }
        let tls = self.tls.take();
        let server = HttpServer::new(move || {
            let calls = web::resource("/rpc/{service}/{method}")
                .app_data(web::PayloadConfig::new(RPC_BODY_BYTES_MAX))
                .route(web::post().to(rpc))
                .route(web::get().to(rpc))
                .route(web::to(only_post));
            let calls = match &self.gateway {
                Some(gateway) => calls.app_data(web::Data::new(gateway.clone())),
                None => calls,
            };
            let dashboard = self.dashboard.clone();
            App::new()
                .app_data(web::Data::new(self.clone()))
                .app_data(web::Data::new(self.hosts.clone()))
                .service(calls)
                .configure(move |service| {
                    if let Some(dashboard) = dashboard {
                        service.app_data(web::Data::new(dashboard)).configure(crate::dashboard::routes);
                    }
                })
                .route("/api/v1/openapi.json", web::get().to(described))
                .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
                .configure(super::health::pages)
                .route("/api/v1", web::get().to(index))
                .route("/api/v1/{page}", web::get().to(page))
                .route("/api/v1/{page}/{rest:.*}", web::get().to(page))
                .default_service(web::to(nowhere))
        })
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .disable_signals()
        .shutdown_timeout(1);
        let server = match tls {
            Some(tls) => server.listen_rustls_0_23(listener, tls)?,
            None => server.listen(listener)?,
        };
        Ok(AdminServer::run(address, server.run(), "the admin port has failed"))
    }
}

/// Opens the port of a setting, so that its number is known before it serves.
pub(crate) fn bind(listen: &str, setting: &str) -> Result<TcpListener> {
    TcpListener::bind(listen).map_err(|error| cannot_listen(listen, &error, setting))
}

/// The error of a node port that the mesh could not listen on.
pub(crate) fn listen_failed(listen: &str, status: Status, setting: &str) -> Error {
    // The mesh reports a status; the operating system is asked again for the exact reason.
    match TcpListener::bind(listen) {
        Err(error) => cannot_listen(listen, &error, setting),
        Ok(_) => Error::from(status).context(format!("{setting} = {listen}")),
    }
}

/// The error of a port that is taken, or an address that is not ours.
pub(crate) fn cannot_listen(listen: &str, error: &std::io::Error, setting: &str) -> Error {
    let variable = crate::settings::find(setting).map(crate::settings::Setting::variable).unwrap_or_default();
    let (what, cure) = match error.kind() {
        std::io::ErrorKind::AddrInUse => (
            format!("{setting} = {listen}: the port is in use by another process"),
            format!(
                "stop that process, or choose another port with `{setting}` ({variable}); port 0 takes any free one"
            ),
        ),
        std::io::ErrorKind::AddrNotAvailable => (
            format!("{setting} = {listen}: this machine has no such address"),
            format!(
                "set `{setting}` ({variable}) to an address of this machine, such as 127.0.0.1:0 or 0.0.0.0:0"
            ),
        ),
        std::io::ErrorKind::PermissionDenied => (
            format!("{setting} = {listen}: not allowed to listen there"),
            format!("ports below 1024 need a privilege: choose another with `{setting}` ({variable})"),
        ),
        _ => {
            (format!("{setting} = {listen}: cannot listen: {error}"), format!("see `{setting}` ({variable})"))
        }
    };
    Error::failed(what).hint(cure)
}

/// The running admin port, or health port.
pub struct AdminServer {
    address: SocketAddr,
    handle: ServerHandle,
}

impl AdminServer {
    /// Runs a server beside everything else; `failed` is what is said when it ends by an error.
    pub(super) fn run(address: SocketAddr, server: Server, failed: &'static str) -> Self {
        let handle = server.handle();
        actix_web::rt::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "{failed}");
            }
        });
        Self { address, handle }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops after the requests that are being answered.
    pub async fn stop(&self) {
        self.handle.stop(true).await;
    }
}

pub(super) async fn metrics(admin: web::Data<Admin>) -> HttpResponse {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    let families = admin.metrics.gather();
    let families = match &admin.series {
        Some(guard) => guard.bounded(families),
        None => families,
    };
    match encoder.encode(&families, &mut text) {
        Ok(()) => HttpResponse::Ok().content_type(encoder.format_type().to_owned()).body(text),
        Err(error) => HttpResponse::InternalServerError().body(format!("metrics: {error}\n")),
    }
}

/// Whether the threads of links, timers and services take turns. Never peers or stores: a restart mends none of them.
pub(super) async fn live(admin: web::Data<Admin>) -> HttpResponse {
    match admin.pulse.as_ref().map_or(Ok(()), |pulse| pulse.check(afflux_actor::clock::now())) {
        Ok(()) => HttpResponse::Ok().body("ok\n"),
        Err(why) => HttpResponse::ServiceUnavailable().body(format!("{why}\n")),
    }
}

/// Whether the node has been ready once; it stays so.
pub(super) async fn started(admin: web::Data<Admin>) -> HttpResponse {
    match admin.probes.has_started() {
        true => HttpResponse::Ok().body("started\n"),
        false => {
            let lines = admin.probes.ready().err().unwrap_or_default();
            HttpResponse::ServiceUnavailable().body(format!("{lines}not started\n"))
        }
    }
}

pub(super) async fn ready(admin: web::Data<Admin>) -> HttpResponse {
    match admin.probes.ready() {
        Ok(lines) => HttpResponse::Ok().body(format!("{lines}ready\n")),
        Err(lines) => HttpResponse::ServiceUnavailable().body(format!("{lines}not ready\n")),
    }
}

impl Admin {
    /// Refuses a stranger's look at `/api/v1`.
    fn readable(&self, request: &HttpRequest) -> std::result::Result<(), Status> {
        match &self.gateway {
            Some(gateway) => may_read(gateway.catalogue.client().mesh(), request),
            None => Ok(()),
        }
    }
}

async fn index(request: HttpRequest, admin: web::Data<Admin>) -> HttpResponse {
    if let Err(status) = admin.readable(&request) {
        return failure(&status);
    }
    let pages: Vec<String> = admin.pages.keys().map(|name| format!("/api/v1/{name}")).collect();
    HttpResponse::Ok().json(serde_json::json!({ "pages": pages }))
}

async fn page(request: HttpRequest, admin: web::Data<Admin>) -> HttpResponse {
    if let Err(status) = admin.readable(&request) {
        return failure(&status);
    }
    let path = request.match_info();
    let name = path.query("page");
    let Some(answer) = admin.pages.get(name) else {
        let hint = crate::error::suggest(name, admin.pages.keys().copied());
        return failure(&Status::not_found(format!("no page /api/v1/{name}: {hint}")));
    };
    match answer(path.get("rest").unwrap_or_default().to_owned()).await {
        Ok(value) => HttpResponse::Ok().json(value),
        Err(status) => failure(&status),
    }
}

/// The OpenAPI document of this port.
async fn described(request: HttpRequest, admin: web::Data<Admin>) -> HttpResponse {
    if let Err(status) = admin.readable(&request) {
        return failure(&status);
    }
    let pages: Vec<&str> = admin.pages.keys().copied().collect();
    let services = match &admin.gateway {
        None => Vec::new(),
        Some(gateway) => match gateway.catalogue.client().services().await {
            Ok(offered) => offered
                .into_iter()
                .map(|offered| offered.service)
                .filter(|service| !service.name.starts_with(crate::node_service::OWN_PREFIX))
                .collect(),
            Err(error) => return failure(&error.into_status()),
        },
    };
    HttpResponse::Ok().json(openapi::document(&services, &pages))
}

async fn only_post() -> HttpResponse {
    HttpResponse::MethodNotAllowed()
        .insert_header(("Allow", "POST, GET"))
        .json(serde_json::json!({ "code": "INVALID_ARGUMENT", "message": "calls are made with POST" }))
}

async fn nowhere(request: HttpRequest) -> HttpResponse {
    failure(&Status::not_found(format!(
        "no page {}: there is /, /metrics, /livez, /readyz, /startupz, /api/v1 and /rpc",
        request.path()
    )))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// One request over a real socket: status line and headers, then the body.
    fn get(address: SocketAddr, path: &str) -> (String, String) {
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[test]
    fn the_port_shows_metrics_probes_and_pages_and_says_what_is_missing() {
        afflux_actor::system(|| async {
            let registry = Registry::new();
            let counter = prometheus::IntCounter::new("afflux_seen_total", "Seen.").unwrap();
            counter.inc_by(7);
            registry.register(Box::new(counter)).unwrap();
            let probes = Arc::new(Probes::default());
            probes.unmet("registered", "no answer yet");
            let admin = Admin::new(registry, Arc::clone(&probes))
                .page("nodes", |rest| async move { Ok(serde_json::json!({ "rest": rest })) })
                .page("jobs", |_| async { Err(Status::unavailable("no coordinator")) })
                .start("127.0.0.1:0")
                .unwrap();
            let address = admin.address();
            let asked = move |path: &'static str| async move {
                actix_web::rt::task::spawn_blocking(move || get(address, path)).await.unwrap()
            };
            let (head, body) = asked("/metrics").await;
            assert!(head.contains("text/plain; version=0.0.4"), "{head}");
            assert!(body.contains("afflux_seen_total 7"), "{body}");
            assert!(asked("/livez").await.0.starts_with("HTTP/1.1 200"));
            let (head, body) = asked("/readyz").await;
            assert!(head.starts_with("HTTP/1.1 503") && body.contains("registered: no answer yet"), "{body}");
            probes.met("registered");
            assert!(asked("/readyz").await.0.starts_with("HTTP/1.1 200"));
            assert_eq!(asked("/api/v1/nodes").await.1, "{\"rest\":\"\"}");
            assert_eq!(asked("/api/v1/nodes/n1/x").await.1, "{\"rest\":\"n1/x\"}");
            assert!(asked("/api/v1/jobs").await.0.starts_with("HTTP/1.1 503"));
            let (head, body) = asked("/api/v1/node").await;
            assert!(head.starts_with("HTTP/1.1 404") && body.contains("did you mean `nodes`?"), "{body}");
            assert!(asked("/").await.1.contains("/metrics"));
            admin.stop().await;
        })
        .unwrap();
    }

    #[test]
    fn a_port_in_use_names_the_port_and_the_setting() {
        afflux_actor::system(|| async {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let listen = taken.local_addr().unwrap().to_string();
            let admin = Admin::new(Registry::new(), Arc::new(Probes::default()));
            let error = admin.start(&listen).err().unwrap().to_string();
            assert!(error.starts_with(&format!("admin.listen = {listen}: the port is in use")), "{error}");
            assert!(error.contains("AFFLUX_ADMIN_LISTEN"), "{error}");
        })
        .unwrap();
    }
}
