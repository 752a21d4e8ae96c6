//! The health port: what a kubelet and Prometheus ask for, read-only, and nothing else. It may be open where the admin
//! port is not.

use std::net::TcpListener;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

use super::server::{Admin, AdminServer, CONNECTIONS_MAX, live, metrics, ready, started};
use crate::error::Result;

/// The pages of both ports.
pub(super) fn pages(service: &mut web::ServiceConfig) {
    service
        .route("/metrics", web::get().to(metrics))
        .route("/livez", web::get().to(live))
        .route("/readyz", web::get().to(ready))
        .route("/startupz", web::get().to(started));
}

impl Admin {
    /// Shows these pages alone on a port that is open already, without TLS: a kubelet has no certificate.
    ///
    /// Must be called inside [`afflux_actor::system`].
    ///
    /// # Errors
    /// A port that cannot be served.
    pub(crate) fn start_health(self, listener: TcpListener) -> Result<AdminServer> {
        let address = listener.local_addr()?;
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(self.clone()))
                .app_data(web::PayloadConfig::new(0))
                .configure(pages)
                .default_service(web::to(nowhere))
        })
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .disable_signals()
        .shutdown_timeout(1)
        .listen(listener)?;
        Ok(AdminServer::run(address, server.run(), "the health port has failed"))
    }
}

async fn nowhere(request: HttpRequest) -> HttpResponse {
    HttpResponse::NotFound().body(format!(
        "no page {}: this port has /metrics, /livez, /readyz and /startupz; the rest is on the admin port\n",
        request.path()
    ))
}
