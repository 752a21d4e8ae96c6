//! Lines over TCP: a source that listens, and a sink that connects.

mod connect;
mod listen;
mod reach;

use std::time::Duration;

use afflux_stream::{
    Delivery, IoContext, Reaching, Recall, Result, Sink, SinkWriter, Source, Split, SplitReader,
};
use afflux_wire::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::connect::Connector;
pub use self::connect::TCP_OUT_BYTES_MAX;
use self::listen::{Listener, counts};
pub use self::listen::{TCP_CONNECTIONS_MAX, TCP_LINE_BYTES_MAX};
use crate::lines::{Decode, Encode, decode_json, decode_text, encode_json, encode_text};
use crate::listen::{Binding, BoundAddress, guard};

/// Lines over TCP: [`TcpLines::listen`] is a [`Source`], [`TcpLines::connect`] a [`Sink`].
///
/// ```
/// use afflux_connectors::TcpLines;
/// use afflux_stream::{Flow, JobSettings};
///
/// let flow = Flow::new("relay", JobSettings::default());
/// flow.source("in", TcpLines::listen("127.0.0.1:0").text())
///     .untimed()
///     .sink("out", TcpLines::connect("127.0.0.1:9999").text());
/// assert!(flow.finish().is_ok());
/// ```
#[derive(Debug)]
pub struct TcpLines {}

impl TcpLines {
    /// Takes lines from whoever connects to this `HOST:PORT`; port 0 takes any free one.
    pub fn listen(address: impl Into<String>) -> TcpListen {
        TcpListen { address: address.into(), bound: BoundAddress::default(), open: false }
    }

    /// Sends lines to this `HOST:PORT`.
    pub fn connect(address: impl Into<String>) -> TcpConnect {
        TcpConnect { address: address.into(), patience: connect::PATIENCE }
    }
}

/// Where lines come in: ends in what they are, such as `.json::<T>()`.
///
/// One task listens, on the node it runs on. It never ends. At most [`TCP_CONNECTIONS_MAX`] peers are
/// served at once, further ones wait in the operating system; a line has at most
/// [`TCP_LINE_BYTES_MAX`] bytes. While the pipeline is busy nothing is read, so that peers are held back
/// by TCP. The last line of a peer that closes in order needs no line end; that of a connection that
/// breaks is counted as skipped.
///
/// **At most once**: nobody sends a line again. What was read and not yet through the pipeline when the
/// job fails is lost; a restored job goes on with what comes next.
///
/// Under [`OnError::Fail`](afflux_stream::OnError::Fail) a bad line of any peer stops the pipeline; a
/// port that strangers reach wants `source.on_error=skip`.
#[derive(Clone, Debug)]
pub struct TcpListen {
    address: String,
    bound: BoundAddress,
    open: bool,
}

/// Lines that come in over TCP, as a [`Source`]: see [`TcpListen`].
pub struct TcpSource<T> {
    listen: TcpListen,
    decode: Decode<T>,
    kind: &'static str,
}

impl TcpListen {
    /// Lets other machines in. Without it only addresses of loopback may be listened on, since
    /// nobody is asked who they are.
    #[must_use]
    pub fn open_to_network(mut self) -> Self {
        self.open = true;
        self
    }

    /// Tells the address once the task runs in this process.
    pub fn bound(&self) -> BoundAddress {
        self.bound.clone()
    }

    /// Each line is a JSON value; blank lines are passed over.
    pub fn json<T: DeserializeOwned + Send + 'static>(self) -> TcpSource<T> {
        TcpSource { listen: self, decode: decode_json, kind: "json lines over tcp, at most once" }
    }

    /// Each line is a text.
    pub fn text(self) -> TcpSource<String> {
        TcpSource { listen: self, decode: decode_text, kind: "text lines over tcp, at most once" }
    }
}

impl<T: Send + 'static> Source for TcpSource<T> {
    type Item = T;

    fn splits(&self, _: &IoContext) -> Result<Vec<Split>> {
        guard(&self.listen.address, self.listen.open, "listen on 127.0.0.1, or say `.open_to_network()`")?;
        Ok(vec![Split { id: format!("tcp://{}", self.listen.address), payload: Vec::new(), size: None }])
    }

    fn open(&self, _: &Split, position: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SplitReader<T>>> {
        let binding = Binding::new(&self.listen.address, &self.listen.bound, &cx.clock);
        let counted = position.map_or(Ok((0, 0)), counts)?;
        Ok(Box::new(Listener::new(binding, counted, self.decode, cx)))
    }

    fn recall(&self) -> Recall {
        Recall::Lossy
    }

    fn kind(&self) -> &'static str {
        self.kind
    }
}

/// Where lines go: ends in what they are, such as `.json::<T>()`.
///
/// Each task has a connection of its own. At most [`TCP_OUT_BYTES_MAX`] bytes wait for the peer, then the
/// pipeline waits. A connection that ends is made anew, with pauses that grow, and the line in its middle
/// is sent again whole; without a connection for [`TcpConnect::patience`] the pipeline fails.
///
/// **Neither at most nor at least once**: TCP does not tell what the peer has read. Lines that were in
/// flight when a connection ended are lost, and after a restore the lines behind the checkpoint come
/// again. Use a queue where that matters.
#[derive(Clone, Debug)]
pub struct TcpConnect {
    address: String,
    patience: Duration,
}

/// Lines that go out over TCP, as a [`Sink`]: see [`TcpConnect`].
pub struct TcpSink<T> {
    connect: TcpConnect,
    encode: Encode<T>,
    kind: &'static str,
}

impl TcpConnect {
    /// How long the peer may be away until the pipeline fails; 60 s when nothing is said.
    #[must_use]
    pub fn patience(mut self, span: Duration) -> Self {
        self.patience = span;
        self
    }

    /// Each record becomes a line of JSON.
    pub fn json<T: Serialize>(self) -> TcpSink<T> {
        TcpSink { connect: self, encode: encode_json, kind: "json lines over tcp" }
    }

    /// Each text becomes a line.
    pub fn text(self) -> TcpSink<String> {
        TcpSink { connect: self, encode: encode_text, kind: "text lines over tcp" }
    }
}

impl<T: Send + 'static> Sink<T> for TcpSink<T> {
    fn open(&self, _: Option<&[u8]>, cx: &IoContext) -> Result<Box<dyn SinkWriter<T>>> {
        let address = &self.connect.address;
        if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(Status::invalid(format!("`{address}` is not HOST:PORT, such as 127.0.0.1:9999")));
        }
        Ok(Box::new(Connector::new(address, self.connect.patience, self.encode, &cx.clock)))
    }

    fn reach(&self, _: &IoContext) -> Option<Reaching> {
        Some(reach::reaching(&self.connect.address))
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn delivery(&self) -> Delivery {
        Delivery::BestEffort
    }

    fn target(&self) -> Option<String> {
        Some(format!("tcp://{}", self.connect.address))
    }
}
