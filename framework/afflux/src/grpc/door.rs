//! The listener, and its connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use afflux_actor::Place;
use afflux_registry::watch;
use afflux_wire::contract::{Identity, IdentityKind};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::call::{Who, serve};
use super::frames::{Answer, Messages};
use super::known::{HEALTH, REFLECTION, health, reflection};
use super::services::{Protos, Services};
use crate::catalogue::Catalogue;
use crate::error::{Error, Result};

/// Connections at the same time.
const CONNECTIONS_MAX: usize = 4_096;
/// Calls of one connection at the same time.
const CALLS_MAX: u32 = 256;
/// Bytes of the headers of a request.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Bytes of the messages of one call, and of one connection, that wait to be read.
const WINDOW_BYTES: u32 = 1 << 20;
/// How long a client has for its handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// A listener for gRPC clients.
pub(crate) struct Door {
    address: SocketAddr,
}

struct Shared {
    services: Services,
    place: Place,
    closing: watch::Receiver<bool>,
    connections: Arc<Semaphore>,
}

impl Door {
    /// Opens the door; it closes when `closing` is true.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub(crate) fn open(
        listen: &str,
        catalogue: Catalogue,
        protos: Protos,
        place: &Place,
        closing: watch::Receiver<bool>,
    ) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::failed(format!("cannot listen on {listen} for gRPC: {error}"))
                .hint("set grpc.listen to another address, or to an empty one for no gRPC")
        };
        let listener = std::net::TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            services: Services::new(catalogue, protos),
            place: place.clone(),
            closing,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        });
        place.spawn_future(async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => accept(shared, listener).await,
                Err(error) => tracing::error!(%error, "the gRPC listener cannot be used"),
            }
        });
        Ok(Self { address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    /// After an error of the system, such as too many open files.
    const PAUSE: Duration = Duration::from_millis(100);
    let mut closing = shared.closing.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a gRPC client could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
            tracing::warn!(%peer, max = CONNECTIONS_MAX, "a gRPC client was turned away: all connections are taken");
            continue;
        };
        let of_one = Arc::clone(&shared);
        shared.place.spawn_future(async move {
            if let Err(why) = connection(of_one, socket).await {
                tracing::debug!(%peer, why, "a gRPC connection ended");
            }
            drop(permit);
        });
    }
}

async fn connection(shared: Arc<Shared>, socket: TcpStream) -> std::result::Result<(), String> {
    let _ = socket.set_nodelay(true);
    let mesh = shared.services.catalogue.client().mesh();
    let Some(tls) = mesh.tls() else { return calls(shared, socket, None).await };
    let Some(config) = tls.server_config(&[b"h2"]) else {
        return Err("this node has no certificate to show".to_owned());
    };
    let handshake = tokio_rustls::TlsAcceptor::from(config).accept(socket);
    let stream = match tokio::time::timeout(HANDSHAKE_MAX, handshake).await {
        Ok(stream) => stream.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("no TLS handshake within {HANDSHAKE_MAX:?}")),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let identity = match certificate {
        Some(certificate) => tls.caller_name(certificate)?,
        None => None,
    };
    let identity = identity.map(|name| Arc::new(Identity::new(name, IdentityKind::Certificate)));
    calls(shared, stream, identity).await
}

async fn calls<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: Arc<Shared>,
    socket: S,
    certificate: Option<Arc<Identity>>,
) -> std::result::Result<(), String> {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(CALLS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 4);
    let mut connection =
        match tokio::time::timeout(HANDSHAKE_MAX, builder.handshake::<_, Bytes>(socket)).await {
            Ok(connection) => connection.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("no HTTP/2 preface within {HANDSHAKE_MAX:?}")),
        };
    let mut closing = shared.closing.clone();
    let mut leaving = false;
    loop {
        let request = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing), if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
                continue;
            }
            request = connection.accept() => request,
        };
        match request {
            None => return Ok(()),
            Some(Err(error)) => return Err(error.to_string()),
            Some(Ok((request, respond))) => {
                let (of_one, certificate) = (Arc::clone(&shared), certificate.clone());
                shared
                    .place
                    .spawn_future(async move { one(&of_one, certificate.as_ref(), request, respond).await });
            }
        }
    }
}

/// One call.
async fn one(
    shared: &Shared,
    certificate: Option<&Arc<Identity>>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let (head, body) = request.into_parts();
    let (mut messages, mut answer) = (Messages::new(body), Answer::new(respond));
    let kind =
        head.headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if head.method != Method::POST
        || !kind.starts_with("application/grpc")
        || kind.starts_with("application/grpc-web")
    {
        return answer.refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let path = head.uri.path().trim_start_matches('/').to_owned();
    let (service, method) = path.split_once('/').unwrap_or((&path, ""));
    let who = Who { certificate, headers: &head.headers };
    let result = if service == HEALTH {
        health(&shared.services, method, &mut messages, &mut answer).await
    } else if REFLECTION.contains(&service) {
        reflection(&shared.services, &mut messages, &mut answer).await
    } else {
        serve(&shared.services, &who, service, method, &mut messages, &mut answer).await
    };
    answer.end(result);
}
