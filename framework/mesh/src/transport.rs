//! Byte streams between nodes: TCP, or pipes inside a process. Nothing above can tell them apart.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use afflux_wire::{Code, Status};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::mpsc;

/// Bytes that a pipe of a [`MemoryNetwork`] holds, in each direction.
pub const PIPE_BYTES: usize = 256 << 10;
/// Connections that wait to be accepted by one listener of a [`MemoryNetwork`].
pub const PIPE_BACKLOG_MAX: usize = 128;

/// How the nodes of a process are connected to others.
#[derive(Clone, Debug)]
pub enum Transport {
    /// Sockets, without delay.
    Tcp,
    /// Pipes between meshes of this process.
    Memory(MemoryNetwork),
    /// The played sockets of turmoil, for meshes whose machines a simulation runs.
    #[cfg(feature = "simulated")]
    Simulated,
}

/// A network inside a process: addresses and what listens on them.
///
/// ```
/// let network = afflux_mesh::MemoryNetwork::default();
/// let transport = afflux_mesh::Transport::Memory(network.clone());
/// # let _ = transport;
/// ```
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    ports: Arc<Mutex<Ports>>,
}

#[derive(Default)]
struct Ports {
    listeners: BTreeMap<String, mpsc::Sender<(DuplexStream, String)>>,
    next_port: u32,
}

impl std::fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.ports.lock().listeners.keys()).finish()
    }
}

impl MemoryNetwork {
    fn listen(&self, address: &str) -> Result<(Acceptor, String), Status> {
        let mut ports = self.ports.lock();
        let address = match address.strip_suffix(":0") {
            Some(host) => {
                ports.next_port += 1;
                format!("{host}:{}", ports.next_port)
            }
            None => address.to_owned(),
        };
        if ports.listeners.get(&address).is_some_and(|listener| !listener.is_closed()) {
            return Err(Status::new(
                Code::AlreadyExists,
                format!("the memory address {address} is taken: listen on another, or on port 0"),
            ));
        }
        let (sender, receiver) = mpsc::channel(PIPE_BACKLOG_MAX);
        ports.listeners.insert(address.clone(), sender);
        Ok((Acceptor::Memory(receiver), address))
    }

    /// The client's end of a pipe to whatever listens there. Tests use it to send raw bytes.
    ///
    /// # Errors
    /// `ConnectionRefused` when nothing listens, or too many connections wait.
    pub fn connect(&self, address: &str) -> io::Result<DuplexStream> {
        let refused = |text| io::Error::new(io::ErrorKind::ConnectionRefused, text);
        let ports = self.ports.lock();
        let listener = ports.listeners.get(address).ok_or_else(|| refused("nothing listens there"))?;
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        listener
            .try_send((theirs, "memory".to_owned()))
            .map_err(|_| refused("the listener is gone or its backlog is full"))?;
        Ok(ours)
    }
}

/// A bound address, before its thread runs.
pub(crate) enum Bound {
    Tcp(StdListener),
    Memory(Acceptor),
    #[cfg(feature = "simulated")]
    Simulated(turmoil::net::TcpListener),
}

impl Bound {
    /// Must be called on the thread that will accept.
    pub(crate) fn into_acceptor(self) -> io::Result<Acceptor> {
        match self {
            Self::Tcp(listener) => Ok(Acceptor::Tcp(TcpListener::from_std(listener)?)),
            Self::Memory(acceptor) => Ok(acceptor),
            #[cfg(feature = "simulated")]
            Self::Simulated(listener) => Ok(Acceptor::Simulated(listener)),
        }
    }
}

/// What hands out accepted connections.
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Memory(mpsc::Receiver<(DuplexStream, String)>),
    #[cfg(feature = "simulated")]
    Simulated(turmoil::net::TcpListener),
}

impl Acceptor {
    /// The next connection and the peer's address without its port.
    pub(crate) async fn accept(&mut self) -> io::Result<(Conn, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Conn::Plain(Plain::Tcp(stream)), peer.ip().to_string()))
            }
            Self::Memory(receiver) => {
                let (stream, peer) = receiver
                    .recv()
                    .await
                    .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the network is gone"))?;
                Ok((Conn::Plain(Plain::Memory(stream)), peer))
            }
            #[cfg(feature = "simulated")]
            Self::Simulated(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Conn::Plain(Plain::Simulated(stream)), peer.ip().to_string()))
            }
        }
    }
}

impl Transport {
    /// Binds an address; returns it with the port that was taken.
    pub(crate) fn bind(&self, address: &str) -> Result<(Bound, String), Status> {
        match self {
            Self::Tcp => {
                let bind = || {
                    let listener = StdListener::bind(address)?;
                    listener.set_nonblocking(true)?;
                    let bound = listener.local_addr()?;
                    Ok((listener, bound.to_string()))
                };
                let (listener, bound) = bind().map_err(|error: io::Error| {
                    Status::unavailable(format!(
                        "cannot listen on {address}: {error}; choose a free port, or 0 for any"
                    ))
                })?;
                Ok((Bound::Tcp(listener), bound))
            }
            Self::Memory(network) => {
                let (acceptor, bound) = network.listen(address)?;
                Ok((Bound::Memory(acceptor), bound))
            }
            #[cfg(feature = "simulated")]
            Self::Simulated => {
                use futures_util::FutureExt;
                // Never waits: no other machine is asked.
                let bound = turmoil::net::TcpListener::bind(address).now_or_never();
                let listener = match bound {
                    Some(Ok(listener)) => listener,
                    Some(Err(error)) => {
                        return Err(Status::unavailable(format!("cannot listen on {address}: {error}")));
                    }
                    None => return Err(Status::internal("a played socket was not bound at once")),
                };
                let bound = listener.local_addr().map_or_else(|_| address.to_owned(), |at| at.to_string());
                Ok((Bound::Simulated(listener), bound))
            }
        }
    }

    pub(crate) async fn connect(&self, address: &str) -> io::Result<Conn> {
        match self {
            Self::Tcp => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Conn::Plain(Plain::Tcp(stream)))
            }
            Self::Memory(network) => Ok(Conn::Plain(Plain::Memory(network.connect(address)?))),
            #[cfg(feature = "simulated")]
            Self::Simulated => {
                let stream = turmoil::net::TcpStream::connect(address).await?;
                Ok(Conn::Plain(Plain::Simulated(stream)))
            }
        }
    }
}

/// One connection as the operating system gives it.
pub(crate) enum Plain {
    Tcp(TcpStream),
    Memory(DuplexStream),
    #[cfg(feature = "simulated")]
    Simulated(turmoil::net::TcpStream),
}

/// One connection.
pub(crate) enum Conn {
    Plain(Plain),
    #[cfg(feature = "tls")]
    Tls(Box<crate::tls::Stream>),
}

impl Conn {
    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Plain(Plain::Tcp(stream)) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Plain(Plain::Memory(stream)) => {
                let (read, write) = tokio::io::split(stream);
                (ReadHalf::Memory(read), WriteHalf::Memory(write))
            }
            #[cfg(feature = "simulated")]
            Self::Plain(Plain::Simulated(stream)) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Simulated(read), WriteHalf::Simulated(write))
            }
            #[cfg(feature = "tls")]
            Self::Tls(stream) => {
                let (read, write) = tokio::io::split(*stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }
}

/// Where a connection is read.
pub(crate) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Memory(tokio::io::ReadHalf<DuplexStream>),
    #[cfg(feature = "simulated")]
    Simulated(turmoil::net::tcp::OwnedReadHalf),
    #[cfg(feature = "tls")]
    Tls(tokio::io::ReadHalf<crate::tls::Stream>),
}

/// Where a connection is written.
pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Memory(tokio::io::WriteHalf<DuplexStream>),
    #[cfg(feature = "simulated")]
    Simulated(turmoil::net::tcp::OwnedWriteHalf),
    #[cfg(feature = "tls")]
    Tls(tokio::io::WriteHalf<crate::tls::Stream>),
}

macro_rules! forward_read {
    ($type:ident: $($(#[$meta:meta])? $variant:ident)*) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($(#[$meta])? Self::$variant(stream) => Pin::new(stream).poll_read(cx, buf),)*
                }
            }
        }
    };
}

macro_rules! forward_write {
    ($type:ident: $($(#[$meta:meta])? $variant:ident)*) => {
        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($(#[$meta])? Self::$variant(stream) => Pin::new(stream).poll_write(cx, bytes),)*
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($(#[$meta])? Self::$variant(stream) => Pin::new(stream).poll_write_vectored(cx, slices),)*
                }
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($(#[$meta])? Self::$variant(stream) => Pin::new(stream).poll_flush(cx),)*
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($(#[$meta])? Self::$variant(stream) => Pin::new(stream).poll_shutdown(cx),)*
                }
            }
        }
    };
}

forward_read!(Plain: Tcp Memory #[cfg(feature = "simulated")] Simulated);
forward_write!(Plain: Tcp Memory #[cfg(feature = "simulated")] Simulated);
forward_read!(Conn: Plain #[cfg(feature = "tls")] Tls);
forward_write!(Conn: Plain #[cfg(feature = "tls")] Tls);
forward_read!(ReadHalf: Tcp Memory #[cfg(feature = "simulated")] Simulated #[cfg(feature = "tls")] Tls);
forward_write!(WriteHalf: Tcp Memory #[cfg(feature = "simulated")] Simulated #[cfg(feature = "tls")] Tls);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_listeners_never_share_a_memory_address() {
        let network = MemoryNetwork::default();
        let (first, address) = network.listen("a:0").unwrap();
        assert_eq!(network.listen(&address).err().map(|e| e.code), Some(Code::AlreadyExists));
        drop(first);
        assert!(network.listen(&address).is_ok(), "an address is free again when its listener is gone");
        assert_ne!(network.listen("a:0").unwrap().1, address);
    }

    #[test]
    fn nobody_answers_where_nothing_listens() {
        let network = MemoryNetwork::default();
        assert_eq!(network.connect("b:1").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
