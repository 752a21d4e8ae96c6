//! The node port: the first byte of a connection decides what it is.

use std::pin::pin;
use std::sync::Arc;

use afflux_wire::Status;
use afflux_wire::handshake::{FirstByte, first_byte};
use afflux_wire::limits::{FIRST_BYTE_MS_MAX, HELLO_MS_MAX};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Duration, sleep, timeout};

use crate::compat;
use crate::handshake;
use crate::intake::{Handshake, Intake, Permit};
use crate::mesh::Shared;
use crate::tls::Shown;
use crate::transport::{Acceptor, Bound, Conn};

/// Bytes of an HTTP request that are read and thrown away.
const HTTP_BYTES_MAX: u64 = 64 << 10;
/// Pause after an accept that failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time to tell a peer that it is one too many.
const TELL_TIMEOUT: Duration = Duration::from_millis(100);
/// What a TLS client is told where there is no TLS: a fatal alert, handshake_failure (RFC 8446, 6).
const NO_TLS_ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];

/// Accepts until the mesh closes.
pub(crate) async fn run(shared: Arc<Shared>, bound: Bound) {
    let mut acceptor: Acceptor = match bound.into_acceptor() {
        Ok(acceptor) => acceptor,
        Err(error) => return tracing::error!(%error, "the node port cannot be listened on"),
    };
    let intake = Arc::new(Intake::default());
    let mut stopped = pin!(shared.stopped());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => return,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((mut conn, from)) => match intake.admit(&shared.config, &from) {
                Ok((permit, handshake)) => {
                    let shared_too = Arc::clone(&shared);
                    shared.place.spawn_future(async move {
                        greet(shared_too, conn, from, permit, handshake).await;
                    });
                }
                Err((reason, text)) => {
                    intake.refuse(&shared, &from, reason, &text);
                    // A fresh socket has room for it: this waits for nobody.
                    if shared.tls().is_none() {
                        let status = Status::unavailable(text).executed(afflux_wire::Executed::No);
                        let _ = timeout(TELL_TIMEOUT, handshake::tell(&mut conn, &status)).await;
                    }
                }
            },
            Err(error) => {
                shared.metrics.closed("unknown", "accept");
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection whose first bytes are here.
struct Opened {
    conn: Conn,
    buf: BytesMut,
    byte: u8,
    /// The certificate that was shown inside TLS.
    shown: Option<Shown>,
}

async fn greet(shared: Arc<Shared>, conn: Conn, from: String, permit: Permit, handshake: Handshake) {
    let intake = Arc::clone(handshake.intake());
    let refuse = |reason, text: &str| intake.refuse(&shared, &from, reason, text);
    let opened = match open(&shared, conn).await {
        Ok(opened) => opened,
        // A probe that connects and goes is not worth a line.
        Err(("empty", _)) => return shared.metrics.closed("unknown", "empty"),
        Err((reason, text)) => return refuse(reason, &text),
    };
    let Opened { mut conn, buf, byte, shown } = opened;
    let plain = shared.tls().is_some() && !conn.is_tls();
    match first_byte(byte) {
        FirstByte::Native if plain => {
            refuse("plaintext", "no TLS, which this port wants (tls.mode)");
            let text = format!(
                "node {} takes links inside TLS only: set `tls.mode` and certificates of cluster `{}` on the other \
                 side too",
                shared.config.node, shared.config.cluster
            );
            handshake::reject(&mut conn, &Status::precondition(text)).await;
        }
        FirstByte::Native => {
            if let Err(denied) = handshake::accept(&shared, conn, buf, &from, shown, permit).await {
                refuse(denied.reason, &denied.text);
                if let Some((mut conn, status)) = denied.told {
                    handshake::reject(&mut conn, &status).await;
                }
            }
        }
        FirstByte::Http => {
            refuse("http", "HTTP on the node port");
            answer_http(&shared, conn).await;
        }
        _ if plain => refuse("plaintext", "no TLS, which this port wants (tls.mode)"),
        FirstByte::MessagePackRpc => {
            let served = match compat::allowed(&shared) {
                Ok(()) => {
                    // From here on it is bounded by limits of its own.
                    drop(handshake);
                    compat::serve(&shared, conn, buf, &from, shown.as_ref()).await
                }
                Err(why) => Err(("msgpack_rpc", why.to_owned())),
            };
            if let Err((reason, text)) = served {
                refuse(reason, &text);
            }
        }
        // Inside TLS a second ClientHello is as good as any other wrong byte.
        FirstByte::Tls | FirstByte::Garbage => refuse("garbage", &format!("first byte {byte:02x}")),
    }
}

/// Reads the first byte; behind a TLS handshake, that inside.
async fn open(shared: &Shared, mut conn: Conn) -> Result<Opened, (&'static str, String)> {
    let mut buf = BytesMut::with_capacity(4 << 10);
    let byte = read_first(&mut conn, &mut buf).await?;
    if first_byte(byte) != FirstByte::Tls {
        return Ok(Opened { conn, buf, byte, shown: None });
    }
    let Some(tls) = shared.tls().filter(|tls| tls.can_accept()) else {
        let telling = async {
            conn.write_all(&NO_TLS_ALERT).await?;
            conn.shutdown().await
        };
        let _ = timeout(TELL_TIMEOUT, telling).await;
        return Err(("tls", "TLS, which is not enabled on this port (tls.mode)".to_owned()));
    };
    let limit = Duration::from_millis(HELLO_MS_MAX);
    let (mut conn, shown) = match timeout(limit, tls.accept(conn, buf)).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => return Err(("tls_handshake", error.to_string())),
        Err(_) => return Err(("tls_handshake_timeout", format!("no TLS handshake within {limit:?}"))),
    };
    let mut buf = BytesMut::with_capacity(4 << 10);
    let byte = read_first(&mut conn, &mut buf).await?;
    Ok(Opened { conn, buf, byte, shown })
}

async fn read_first(conn: &mut Conn, buf: &mut BytesMut) -> Result<u8, (&'static str, String)> {
    let limit = Duration::from_millis(FIRST_BYTE_MS_MAX);
    let read = timeout(limit, conn.read_buf(buf)).await;
    match (read, buf.first()) {
        (Ok(Ok(_)), Some(byte)) => Ok(*byte),
        (Err(_), _) => Err(("first_byte_timeout", format!("nothing came within {limit:?}"))),
        // Inside TLS this is where a peer's refusal of our certificate shows.
        (Ok(Err(error)), _) if conn.is_tls() => Err(("tls_handshake", error.to_string())),
        _ => Err(("empty", String::new())),
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
