//! An HTTP server on an address that the user gave.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use afflux_stream::Result;
use afflux_wire::Status;

/// Connections that are served at once.
pub(super) const CONNECTIONS_MAX: usize = 1_024;
/// When a client that was told to come again may do so.
pub(super) const RETRY_AFTER_SECONDS: u64 = 1;
/// Longest wait for the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// A running server; dropping it closes its port.
pub(super) struct Server(ServerHandle);

impl Drop for Server {
    fn drop(&mut self) {
        // The request to stop is sent at once; nobody has to wait for what it gives.
        drop(self.0.stop(false));
    }
}

/// Serves on a listener, beside the task that calls.
pub(super) fn start(
    listener: TcpListener,
    routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> Result<Server> {
    let server = HttpServer::new(move || {
        let routes = routes.clone();
        App::new().configure(move |config| routes(config)).default_service(web::to(nowhere))
    })
    .workers(1)
    .max_connections(CONNECTIONS_MAX)
    .client_request_timeout(HEAD_WITHIN)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)
    .map_err(|error| Status::unavailable(format!("the HTTP server cannot be started: {error}")))?
    .run();
    let handle = server.handle();
    actix_web::rt::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "an HTTP server of a connector has failed");
        }
    });
    Ok(Server(handle))
}

/// An answer that is no success.
pub(super) fn refusal(status: StatusCode, message: impl Into<String>) -> HttpResponse {
    let mut answer = HttpResponse::build(status);
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        answer.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS));
    }
    if status == StatusCode::UNAUTHORIZED {
        answer.insert_header((WWW_AUTHENTICATE, "Bearer"));
    }
    answer.json(serde_json::json!({ "status": status.as_u16(), "message": message.into() }))
}

async fn nowhere(request: HttpRequest) -> HttpResponse {
    let what = format!("there is no {} {}", request.method(), request.path());
    refusal(
        StatusCode::NOT_FOUND,
        format!("{what}; records are POSTed to /ingest/NAME and sent from /events/NAME"),
    )
}

/// What is answered to who does not know the token, if there is one.
pub(super) fn unknown(request: &HttpRequest, token: Option<&str>) -> Option<HttpResponse> {
    let token = token?;
    let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    match given.and_then(|v| v.strip_prefix("Bearer ")) {
        Some(given) if same(given.trim().as_bytes(), token.as_bytes()) => None,
        _ => Some(refusal(
            StatusCode::UNAUTHORIZED,
            "the header `Authorization: Bearer TOKEN` is missing or has another token",
        )),
    }
}

/// Whether two texts are the same, in a time that depends on their lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}
