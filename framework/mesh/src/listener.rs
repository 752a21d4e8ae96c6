//! The node port: the first byte of a connection decides what it is.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use afflux_wire::handshake::{FirstByte, first_byte};
use afflux_wire::limits::FIRST_BYTE_MS_MAX;
use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Duration, sleep, timeout};

use crate::compat;
use crate::handshake;
use crate::mesh::Shared;
use crate::transport::{Acceptor, Bound, Conn};

/// Peer addresses whose first refusal was logged; later ones are only counted.
const LOGGED_PEERS_MAX: usize = 1_024;
/// Bytes of an HTTP request that are read and thrown away.
const HTTP_BYTES_MAX: u64 = 64 << 10;
/// Pause after an accept that failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the mesh closes.
pub(crate) async fn run(shared: Arc<Shared>, bound: Bound) {
    let mut acceptor: Acceptor = match bound.into_acceptor() {
        Ok(acceptor) => acceptor,
        Err(error) => return tracing::error!(%error, "the node port cannot be listened on"),
    };
    let refusals = Arc::new(Refusals::default());
    let mut stopped = pin!(shared.stopped());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => return,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((conn, from)) => {
                let handshake = Handshake::begin(&refusals);
                let max = shared.config.handshakes_max;
                if refusals.handshakes.load(Ordering::Acquire) > max {
                    let text = format!("{max} handshakes are under way (handshakes_max)");
                    refusals.refuse(&shared, &from, "handshakes_max", &text);
                } else if shared.links() * 2 >= shared.config.connections_max {
                    let text = format!("{} connections are open (connections_max)", shared.links() * 2);
                    refusals.refuse(&shared, &from, "connections_max", &text);
                } else {
                    let shared_too = Arc::clone(&shared);
                    shared.place.spawn_future(async move {
                        greet(shared_too, conn, from, handshake).await;
                    });
                }
            }
            Err(error) => {
                shared.metrics.closed("unknown", "accept");
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[derive(Default)]
struct Refusals {
    handshakes: AtomicUsize,
    logged: Mutex<BTreeSet<String>>,
}

impl Refusals {
    fn refuse(&self, shared: &Shared, from: &str, reason: &'static str, text: &str) {
        shared.metrics.closed("unknown", reason);
        let mut logged = self.logged.lock();
        if logged.len() < LOGGED_PEERS_MAX && logged.insert(from.to_owned()) {
            drop(logged);
            tracing::warn!(from, reason, text, "a connection was refused; later ones of it are only counted");
        }
    }
}

/// Counts a connection that has not finished its handshake.
struct Handshake(Arc<Refusals>);

impl Handshake {
    fn begin(refusals: &Arc<Refusals>) -> Self {
        refusals.handshakes.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(refusals))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn greet(shared: Arc<Shared>, mut conn: Conn, from: String, handshake: Handshake) {
    let mut buf = BytesMut::with_capacity(4 << 10);
    let first = timeout(Duration::from_millis(FIRST_BYTE_MS_MAX), conn.read_buf(&mut buf)).await;
    let refusals = Arc::clone(&handshake.0);
    let refuse = |reason, text: &str| refusals.refuse(&shared, &from, reason, text);
    let byte = match (first, buf.first()) {
        (Ok(Ok(_)), Some(byte)) => *byte,
        (Err(_), _) => return refuse("first_byte_timeout", "nothing came"),
        // A probe that connects and goes is not worth a line.
        _ => return shared.metrics.closed("unknown", "empty"),
    };
    match first_byte(byte) {
        FirstByte::Native => {
            if let Err((reason, text)) = handshake::accept(&shared, conn, buf, &from).await {
                refuse(reason, &text);
            }
        }
        FirstByte::Http => {
            refuse("http", "HTTP on the node port");
            answer_http(&shared, conn).await;
        }
        FirstByte::Tls => refuse("tls", "TLS, which is not enabled on this port"),
        FirstByte::MessagePackRpc => {
            let served = match compat::allowed(&shared) {
                Ok(()) => {
                    // From here on it is bounded by limits of its own.
                    drop(handshake);
                    compat::serve(&shared, conn, buf, &from).await
                }
                Err(why) => Err(("msgpack_rpc", why.to_owned())),
            };
            if let Err((reason, text)) = served {
                refuse(reason, &text);
            }
        }
        FirstByte::Garbage => refuse("garbage", &format!("first byte {byte:02x}")),
    }
}

/// A person has opened the node port in a browser: tell where to look.
async fn answer_http(shared: &Shared, mut conn: Conn) {
    let hint = match &shared.config.admin_hint {
        Some(admin) => format!("metrics, probes and the dashboard are at http://{admin}/"),
        None => "metrics, probes and the dashboard are on the admin port".to_owned(),
    };
    let body = format!("this is the node port of {}, which speaks no HTTP: {hint}\n", shared.config.node);
    let head = format!(
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: afflux/1\r\nConnection: close, upgrade\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let telling = async {
        conn.write_all(head.as_bytes()).await?;
        conn.write_all(body.as_bytes()).await?;
        conn.shutdown().await?;
        // Closing with unread bytes would reset the connection before the answer is read.
        tokio::io::copy(&mut conn.take(HTTP_BYTES_MAX), &mut tokio::io::sink()).await
    };
    let _ = timeout(Duration::from_millis(FIRST_BYTE_MS_MAX), telling).await;
}
