//! A network that breaks: what a node's peers say to it passes here, and is held back, cut or torn.
//!
//! One proxy stands in front of each node's port, and one between each node and the launcher. A connection
//! dialled by a node to another passes the other's proxy, so a node is cut off when its own proxies are.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

/// Bytes that are passed on at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Between two tries of a proxy to accept.
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// How the connections of a proxy fare.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// Rises with each reset: connections that are older end.
    resets: u64,
    /// Rises with each tear: connections pass on half of what comes next, and end.
    tears: u64,
    /// Nothing passes until then, in either direction.
    silent_until: Option<Instant>,
    /// Nobody is let in until then.
    closed_until: Option<Instant>,
    /// What comes until then waits so long.
    slow: Option<(Instant, Duration)>,
}

/// A proxy.
pub(crate) struct Proxy {
    address: String,
    weather: watch::Sender<Weather>,
}

impl Proxy {
    /// Begins to pass on what comes to an address of its own. Must be called in a runtime.
    ///
    /// # Errors
    /// No free port.
    pub(crate) fn to(target: String) -> io::Result<Self> {
        let listener = StdListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?.to_string();
        let weather = watch::Sender::new(Weather::default());
        let seen = weather.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                };
                tokio::spawn(serve(stream, target.clone(), seen.subscribe()));
            }
        });
        Ok(Self { address, weather })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Ends all connections with a reset.
    pub(crate) fn reset(&self) {
        self.weather.send_modify(|weather| weather.resets += 1);
    }

    /// Ends all connections in the middle of what they pass on next.
    pub(crate) fn tear(&self) {
        self.weather.send_modify(|weather| weather.tears += 1);
    }

    /// Holds everything back for so long, and says nothing.
    pub(crate) fn silence(&self, time: Duration) {
        self.weather.send_modify(|weather| weather.silent_until = Some(Instant::now() + time));
    }

    /// Ends all connections, and lets nobody in for so long.
    pub(crate) fn close(&self, time: Duration) {
        self.weather.send_modify(|weather| {
            weather.resets += 1;
            weather.closed_until = Some(Instant::now() + time);
        });
    }

    /// Makes all that comes in this time wait for so long.
    pub(crate) fn slow(&self, time: Duration, wait: Duration) {
        self.weather.send_modify(|weather| weather.slow = Some((Instant::now() + time, wait)));
    }
}

/// A port of this machine that is free now.
///
/// # Errors
/// None is.
pub(crate) fn free_port() -> io::Result<SocketAddr> {
    StdListener::bind("127.0.0.1:0")?.local_addr()
}

async fn serve(near: TcpStream, target: String, weather: watch::Receiver<Weather>) {
    if weather.borrow().closed_until.is_some_and(|until| Instant::now() < until) {
        // Dropped with bytes unread: a reset.
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    for stream in [&near, &far] {
        // Without it answers wait for more.
        let _slow = stream.set_nodelay(true);
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let back = weather.clone();
    // Who of the two ends first ends both, so that neither side waits for the other.
    tokio::select! {
        biased;
        () = pass(near_in, far_out, weather) => {}
        () = pass(far_in, near_out, back) => {}
    }
}

/// Passes on what comes until it ends, or is ended.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>) {
    let born = *weather.borrow_and_update();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            changed = weather.changed() => {
                if changed.is_err() || weather.borrow_and_update().resets != born.resets {
                    return;
                }
                continue;
            }
            read = from.read(&mut chunk) => read,
        };
        let Ok(bytes @ 1..) = read else { return };
        let now = *weather.borrow();
        if let Some((until, wait)) = now.slow
            && Instant::now() < until
        {
            tokio::time::sleep(wait).await;
        }
        loop {
            let silent_until = weather.borrow().silent_until;
            match silent_until {
                Some(until) if Instant::now() < until => tokio::time::sleep_until(until).await,
                _ => break,
            }
        }
        let now = *weather.borrow();
        if now.resets != born.resets {
            return;
        }
        let torn = now.tears != born.tears;
        let bytes = if torn { bytes / 2 } else { bytes };
        if to.write_all(&chunk[..bytes]).await.is_err() || torn {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says what it hears.
    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn said(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![0; text.len()];
        let read = stream.read(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
    }

    #[tokio::test]
    async fn what_passes_is_as_it_was_until_it_is_held_back_torn_or_cut() {
        let proxy = Proxy::to(echo().await).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said(&mut stream, "hello").await.unwrap(), "hello");
        let (began, held) = (Instant::now(), Duration::from_millis(60));
        proxy.silence(held);
        assert_eq!(said(&mut stream, "later").await.unwrap(), "later");
        assert!(began.elapsed() >= held);
        proxy.tear();
        let torn = said(&mut stream, "12345678").await.unwrap_or_default();
        assert!(torn.len() < 8, "{torn}");
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said(&mut stream, "again").await.unwrap(), "again");
        proxy.close(Duration::from_secs(60));
        assert_eq!(said(&mut stream, "over").await.unwrap_or_default(), "");
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said(&mut refused, "in?").await.unwrap_or_default(), "");
    }
}
