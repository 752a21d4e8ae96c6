//! tonic: gRPC over HTTP/2, one connection; the service is written by hand, so that nothing needs protoc,
//! and serves without the router.

use crate::rpc::{Client, Peer, item_term};
use bytes::Bytes;
use futures_util::stream::{Iter, iter};
use http::uri::PathAndQuery;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::iter::Map;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// Unacknowledged bytes of a call; the default of 64 KiB would stop R3's larger payload halfway.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Unacknowledged bytes of the connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The payload of R1 and R2.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Pair {
    /// Number of the call.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Any number.
    #[prost(uint64, tag = "2")]
    pub v: u64,
}

/// The payload of R3.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    /// Any bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
}

const PAIR_PATH: &str = "/peers.Echo/Pair";
const BLOB_PATH: &str = "/peers.Echo/Blob";
const GIVE_PATH: &str = "/peers.Echo/Give";
const TAKE_PATH: &str = "/peers.Echo/Take";

/// Streams as many items as are asked for.
#[derive(Clone, Copy)]
struct GiveCall;

/// The items of R5.
type Given = Iter<Map<Range<u64>, fn(u64) -> Result<Pair, Status>>>;

fn given(id: u64) -> Result<Pair, Status> {
    Ok(pair(id))
}

impl Service<Request<Pair>> for GiveCall {
    type Response = Response<Given>;
    type Error = Status;
    type Future = Ready<Result<Response<Given>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Pair>) -> Self::Future {
        let items = (0..request.into_inner().id).map(given as fn(u64) -> _);
        ready(Ok(Response::new(iter(items))))
    }
}

/// Takes items and answers with their checksum.
#[derive(Clone, Copy)]
struct TakeCall;

impl Service<Request<Streaming<Pair>>> for TakeCall {
    type Response = Response<Pair>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Pair>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Pair>>) -> Self::Future {
        let mut items = request.into_inner();
        Box::pin(async move {
            let (mut sum, mut came) = (0u64, 0);
            while let Some(item) = items.message().await? {
                sum = sum.wrapping_add(item_term(item.id, item.v));
                came += 1;
            }
            Ok(Response::new(Pair { id: came, v: sum }))
        })
    }
}

fn pair(id: u64) -> Pair {
    Pair { id, v: crate::workload::mix(id) }
}

/// Answers with what it got.
#[derive(Clone, Copy)]
struct EchoCall;

impl<M> Service<Request<M>> for EchoCall {
    type Response = Response<M>;
    type Error = Status;
    type Future = Ready<Result<Response<M>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<M>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

/// The service, which picks the method by path.
#[derive(Clone, Copy)]
struct EchoService;

impl Service<http::Request<Body>> for EchoService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path() {
            PAIR_PATH => Box::pin(async move {
                let codec = ProstCodec::<Pair, Pair>::default();
                Ok(tonic::server::Grpc::new(codec)
                    .unary(EchoCall, request)
                    .await)
            }),
            BLOB_PATH => Box::pin(async move {
                let codec = ProstCodec::<Blob, Blob>::default();
                Ok(tonic::server::Grpc::new(codec)
                    .unary(EchoCall, request)
                    .await)
            }),
            GIVE_PATH => Box::pin(async move {
                let codec = ProstCodec::<Pair, Pair>::default();
                Ok(tonic::server::Grpc::new(codec).server_streaming(GiveCall, request).await)
            }),
            TAKE_PATH => Box::pin(async move {
                let codec = ProstCodec::<Pair, Pair>::default();
                Ok(tonic::server::Grpc::new(codec).client_streaming(TakeCall, request).await)
            }),
            path => {
                let status = Status::unimplemented(format!("no method {path}"));
                Box::pin(ready(Ok(status.into_http())))
            }
        }
    }
}

/// The peer.
#[derive(Clone, Copy, Debug)]
pub struct Tonic;

impl Peer for Tonic {
    type Client = TonicClient;

    const NAME: &'static str = "tonic";

    async fn serve(listener: TcpListener) -> Result<(), String> {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .serve_with_incoming(EchoService, incoming)
            .await
            .map_err(|error| format!("serve: {error}"))
    }

    async fn connect(address: SocketAddr, outstanding: usize) -> Result<TonicClient, String> {
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| format!("{address}: {error}"))?
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .buffer_size(outstanding.max(1024))
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| format!("{address}: {error}"))?;
        Ok(TonicClient(tonic::client::Grpc::new(channel)))
    }
}

/// A handle to the connection.
#[derive(Clone)]
pub struct TonicClient(tonic::client::Grpc<Channel>);

impl TonicClient {
    async fn unary<M>(&mut self, message: M, path: &'static str) -> Result<M, String>
    where
        M: prost::Message + Default + 'static,
    {
        self.0.ready().await.map_err(|error| error.to_string())?;
        let codec = ProstCodec::<M, M>::default();
        let answer = self
            .0
            .unary(
                Request::new(message),
                PathAndQuery::from_static(path),
                codec,
            )
            .await;
        answer
            .map(Response::into_inner)
            .map_err(|status| status.to_string())
    }
}

impl Client for TonicClient {
    async fn call(&mut self, id: u64, v: u64) -> Result<(u64, u64), String> {
        let answer = self.unary(Pair { id, v }, PAIR_PATH).await?;
        Ok((answer.id, answer.v))
    }

    async fn echo(&mut self, body: Bytes) -> Result<Bytes, String> {
        Ok(self.unary(Blob { body }, BLOB_PATH).await?.body)
    }
    async fn give(&mut self, count: u64) -> Result<u64, String> {
        self.0.ready().await.map_err(|error| error.to_string())?;
        let codec = ProstCodec::<Pair, Pair>::default();
        let path = PathAndQuery::from_static(GIVE_PATH);
        let asked = Request::new(Pair { id: count, v: 0 });
        let answer = self.0.server_streaming(asked, path, codec).await;
        let mut items = answer.map_err(|status| status.to_string())?.into_inner();
        let (mut sum, mut came) = (0u64, 0);
        while let Some(item) = items.message().await.map_err(|status| status.to_string())? {
            sum = sum.wrapping_add(item_term(item.id, item.v));
            came += 1;
        }
        if came == count { Ok(sum) } else { Err(format!("{came} items came, not {count}")) }
    }

    async fn take(&mut self, count: u64) -> Result<u64, String> {
        self.0.ready().await.map_err(|error| error.to_string())?;
        let codec = ProstCodec::<Pair, Pair>::default();
        let path = PathAndQuery::from_static(TAKE_PATH);
        let items = Request::new(iter((0..count).map(pair)));
        let answer = self.0.client_streaming(items, path, codec).await;
        let answer: Pair = answer.map_err(|status| status.to_string())?.into_inner();
        if answer.id == count { Ok(answer.v) } else { Err(format!("{} items came, not {count}", answer.id)) }
    }
}
