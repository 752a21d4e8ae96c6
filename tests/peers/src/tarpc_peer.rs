//! tarpc: bincode, length-delimited frames, one connection.

use crate::rpc::{Client, OUTSTANDING_MAX, Peer};
use bytes::Bytes;
use futures_util::StreamExt;
use std::net::SocketAddr;
use tarpc::serde_transport::Transport;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, server};
use tokio::net::{TcpListener, TcpStream};

/// The payload of R1 and R2.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Pair {
    /// Number of the call.
    pub id: u64,
    /// Any number.
    pub v: u64,
}

/// The service, written by tarpc's macro; it documents nothing.
#[allow(missing_docs, unreachable_pub)]
mod service {
    use super::{Bytes, Pair};

    #[tarpc::service]
    pub trait Echo {
        async fn pair(pair: Pair) -> Pair;
        async fn body(body: Bytes) -> Bytes;
    }
}
use service::{Echo, EchoClient};

#[derive(Clone, Copy)]
struct EchoServer;

impl Echo for EchoServer {
    async fn pair(self, _: context::Context, pair: Pair) -> Pair {
        pair
    }

    async fn body(self, _: context::Context, body: Bytes) -> Bytes {
        body
    }
}

/// The peer.
#[derive(Clone, Copy, Debug)]
pub struct Tarpc;

impl Peer for Tarpc {
    type Client = TarpcClient;

    const NAME: &'static str = "tarpc";

    async fn serve(listener: TcpListener) -> Result<(), String> {
        loop {
            let (stream, _) = listener
                .accept()
                .await
                .map_err(|error| format!("accept: {error}"))?;
            stream
                .set_nodelay(true)
                .map_err(|error| format!("TCP_NODELAY: {error}"))?;
            let config = server::Config {
                pending_response_buffer: OUTSTANDING_MAX,
            };
            let channel = BaseChannel::new(config, Transport::from((stream, Bincode::default())));
            let calls = channel.execute(EchoServer.serve());
            tokio::spawn(calls.for_each(|call| async {
                tokio::spawn(call);
            }));
        }
    }

    async fn connect(address: SocketAddr, outstanding: usize) -> Result<TarpcClient, String> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("{address}: {error}"))?;
        stream
            .set_nodelay(true)
            .map_err(|error| format!("TCP_NODELAY: {error}"))?;
        let mut config = client::Config::default();
        config.max_in_flight_requests = config.max_in_flight_requests.max(outstanding);
        config.pending_request_buffer = config.pending_request_buffer.max(outstanding);
        Ok(TarpcClient(
            EchoClient::new(config, Transport::from((stream, Bincode::default()))).spawn(),
        ))
    }
}

/// A handle to the connection.
#[derive(Clone, Debug)]
pub struct TarpcClient(EchoClient);

impl Client for TarpcClient {
    async fn call(&mut self, id: u64, v: u64) -> Result<(u64, u64), String> {
        let answer = self.0.pair(context::current(), Pair { id, v }).await;
        answer
            .map(|pair| (pair.id, pair.v))
            .map_err(|error| error.to_string())
    }

    async fn echo(&mut self, body: Bytes) -> Result<Bytes, String> {
        self.0
            .body(context::current(), body)
            .await
            .map_err(|error| error.to_string())
    }
}
