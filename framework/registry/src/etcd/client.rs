//! Calls to etcd: each with a time limit, each failure said as the registry's.

use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};

use super::proto::{
    ASCEND, AuthenticateRequest, AuthenticateResponse, BY_CREATE, Compare, CompareWith, Done, KeyValue,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRequest, MOD, PutRequest,
    RangeRequest, RangeResponse, Request as Op, RequestOp, TxnRequest, TxnResponse, WatchAsk,
    WatchCreateRequest, WatchRequest, WatchResponse,
};
use super::{EtcdConfig, NAME};
use crate::error::RegistryError;

/// Requests that wait to be sent on one watch.
const ASKED_MAX: usize = 4;

pub(super) struct Client {
    channel: Channel,
    config: EtcdConfig,
    /// What authentication gave; empty without it.
    token: Mutex<String>,
}

/// What etcd says, or that it does not.
pub(super) type Answer<T> = Result<T, Status>;

impl Client {
    pub(super) fn new(config: EtcdConfig) -> Result<Self, RegistryError> {
        let wrong = |reason: String| RegistryError::Setup { registry: NAME, reason };
        let mut endpoints = Vec::new();
        for url in &config.endpoints {
            let url = match url.contains("://") {
                true => url.clone(),
                false if config.tls.is_some() => format!("https://{url}"),
                false => format!("http://{url}"),
            };
            let mut endpoint = Endpoint::from_shared(url.clone())
                .map_err(|error| wrong(format!("the endpoint {url:?} is no address: {error}")))?
                .connect_timeout(config.operation_max)
                .http2_keep_alive_interval(config.probe_every)
                .keep_alive_timeout(config.operation_max)
                .keep_alive_while_idle(true);
            if let Some(tls) = &config.tls {
                let mut client = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
                if let Some((certificate, key)) = &tls.identity_pem {
                    client = client.identity(Identity::from_pem(certificate, key));
                }
                endpoint = endpoint
                    .tls_config(client)
                    .map_err(|error| wrong(format!("the certificates cannot be used: {error}")))?;
            }
            endpoints.push(endpoint);
        }
        let channel = match endpoints.as_slice() {
            [] => return Err(wrong("there is no endpoint: list them, such as http://10.0.0.4:2379".into())),
            [one] => one.connect_lazy(),
            _ => Channel::balance_list(endpoints.into_iter()),
        };
        Ok(Self { channel, config, token: Mutex::default() })
    }

    pub(super) fn config(&self) -> &EtcdConfig {
        &self.config
    }

    fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        let token = self.token.lock().clone();
        if let Ok(value) = token.parse()
            && !token.is_empty()
        {
            request.metadata_mut().insert("token", value);
        }
        request
    }

    async fn within<T>(&self, answer: impl Future<Output = Answer<T>>) -> Answer<T> {
        match tokio::time::timeout(self.config.operation_max, answer).await {
            Ok(answer) => answer,
            Err(_elapsed) => {
                Err(Status::unavailable(format!("no answer within {:?}", self.config.operation_max)))
            }
        }
    }

    async fn once<Q, A>(&self, path: &'static str, message: Q) -> Answer<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        self.within(async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let path = PathAndQuery::from_static(path);
            grpc.unary(self.request(message), path, codec).await.map(tonic::Response::into_inner)
        })
        .await
    }

    /// One call; with a user set, authenticated first where etcd asks for it.
    async fn call<Q, A>(&self, path: &'static str, message: Q) -> Answer<A>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        match self.once(path, message.clone()).await {
            Err(status) if self.config.user.is_some() && asks_for_a_token(&status) => {
                self.authenticate().await?;
                self.once(path, message).await
            }
            answer => answer,
        }
    }

    async fn authenticate(&self) -> Answer<()> {
        let Some((name, password)) = self.config.user.clone() else { return Ok(()) };
        let answer: AuthenticateResponse =
            self.once("/etcdserverpb.Auth/Authenticate", AuthenticateRequest { name, password }).await?;
        *self.token.lock() = answer.token;
        Ok(())
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Answer<(Vec<KeyValue>, i64)> {
        let answer: RangeResponse = self.call("/etcdserverpb.KV/Range", request).await?;
        Ok((answer.kvs, answer.header.unwrap_or_default().revision))
    }

    pub(super) async fn get(&self, key: &str) -> Answer<Option<KeyValue>> {
        let request = RangeRequest { key: key.into(), ..RangeRequest::default() };
        Ok(self.range(request).await?.0.pop())
    }

    /// The oldest key under a prefix.
    pub(super) async fn first(&self, prefix: &str) -> Answer<Option<KeyValue>> {
        let request = RangeRequest { limit: 1, sort_order: ASCEND, sort_target: BY_CREATE, ..under(prefix) };
        Ok(self.range(request).await?.0.pop())
    }

    /// Puts a value if the comparison holds; the revision of it, or `None`.
    pub(super) async fn put_if(&self, compare: Option<Compare>, put: PutRequest) -> Answer<Option<i64>> {
        let success = vec![RequestOp { request: Some(Op::Put(put)) }];
        let request = TxnRequest { compare: compare.into_iter().collect(), success };
        let answer: TxnResponse = self.call("/etcdserverpb.KV/Txn", request).await?;
        Ok(answer.succeeded.then(|| answer.header.unwrap_or_default().revision))
    }

    pub(super) async fn grant(&self, ttl: Duration) -> Answer<i64> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = LeaseGrantRequest { ttl: i64::try_from(seconds).unwrap_or(i64::MAX) };
        let answer: LeaseGrantResponse = self.call("/etcdserverpb.Lease/LeaseGrant", request).await?;
        if answer.error.is_empty() { Ok(answer.id) } else { Err(Status::unavailable(answer.error)) }
    }

    /// Ends a lease and what is attached to it; one that is over already is no error.
    pub(super) async fn revoke(&self, lease: i64) -> Answer<()> {
        match self.call::<_, Done>("/etcdserverpb.Lease/LeaseRevoke", LeaseRequest { id: lease }).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            answer => answer.map(|_| ()),
        }
    }

    /// Extends a lease once; whether it was still there.
    pub(super) async fn keep_alive(&self, lease: i64) -> Answer<bool> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        self.within(async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = tonic_prost::ProstCodec::<LeaseRequest, LeaseKeepAliveResponse>::default();
            // The stream of requests stays open until the answer is there.
            let asked = futures_util::stream::iter([LeaseRequest { id: lease }])
                .chain(futures_util::stream::pending());
            let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
            let mut answers = grpc.streaming(self.request(asked), path, codec).await?.into_inner();
            let answer = answers.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))?;
            Ok(answer.ttl > 0)
        })
        .await
    }

    /// Watches a range from a revision on.
    pub(super) async fn watch(&self, key: &[u8], range_end: &[u8], from: i64) -> Answer<Watch> {
        let (asks, mut asked) = mpsc::channel::<WatchRequest>(ASKED_MAX);
        let requests = futures_util::stream::poll_fn(move |cx| asked.poll_recv(cx));
        let create =
            WatchCreateRequest { key: key.into(), range_end: range_end.into(), start_revision: from };
        let ask = WatchRequest { ask: Some(WatchAsk::Create(create)) };
        asks.try_send(ask).map_err(|_| Status::internal("the queue of a watch is full"))?;
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        self.within(async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = tonic_prost::ProstCodec::<WatchRequest, WatchResponse>::default();
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            let answers = grpc.streaming(self.request(requests), path, codec).await?.into_inner();
            Ok(Watch { asks, answers })
        })
        .await
    }
}

/// A running watch.
pub(super) struct Watch {
    asks: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watch {
    /// The next message; events come in it, or nothing but a revision.
    pub(super) async fn next(&mut self) -> Answer<WatchResponse> {
        self.answers.message().await?.ok_or_else(|| Status::unavailable("the watch ended"))
    }

    /// Asks for a sign of life.
    pub(super) fn probe(&self) {
        // A full queue means that a question is under way.
        let _full = self.asks.try_send(WatchRequest { ask: Some(WatchAsk::Progress(Done {})) });
    }
}

fn asks_for_a_token(status: &Status) -> bool {
    status.code() == Code::Unauthenticated
        || status.code() == Code::InvalidArgument && status.message().contains("user name is empty")
}

/// All keys with a prefix.
pub(super) fn under(prefix: &str) -> RangeRequest {
    RangeRequest { key: prefix.into(), range_end: end_of(prefix), ..RangeRequest::default() }
}

/// The first key behind all with a prefix: its last byte plus one.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // A prefix here ends with `/`.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// That a key was last changed at this revision; 0 for one that is not there.
pub(super) fn unchanged(key: &str, mod_revision: i64) -> Compare {
    let with = Some(CompareWith::ModRevision(mod_revision));
    Compare { target: MOD, key: key.into(), with, range_end: Vec::new() }
}

/// The registry's error for what etcd did not do.
pub(super) fn error_of(status: &Status) -> RegistryError {
    let reason = match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    };
    RegistryError::Unreachable { registry: NAME, reason }
}
