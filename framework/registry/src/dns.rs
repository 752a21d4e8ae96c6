//! DNS: the nodes are what a name resolves to.
//!
//! A fallback for where there is nothing better: DNS tells of a change when the answer's time to live
//! is over and not before, knows no more of a node than its address, and has neither leases nor locks.
//! Nothing is registered in it; whoever runs the nodes keeps the name.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use afflux_wire::{Incarnation, NodeId};
use futures_core::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::coordination::Spawner;
use crate::error::RegistryError;
use crate::instance::Instance;
use crate::registry::{Fence, LeaseId, Registry};
use crate::view::{Publisher, View, Watcher};

const NAME: &str = "dns";
/// After a failure the name is asked for again after this long.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What is resolved, and how often.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// `HOST:PORT` for A and AAAA records, or a name that begins with `_` for SRV records.
    pub name: String,
    /// The servers that are asked; the system's when there is none.
    pub servers: Vec<SocketAddr>,
    /// A question is given up after this long.
    pub operation_max: Duration,
    /// The name is asked for again when the answer's time to live is over, but not sooner than this,
    pub refresh_min: Duration,
    /// and not later.
    pub refresh_max: Duration,
}

impl DnsConfig {
    /// This name, asked of the system's servers.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            servers: Vec::new(),
            operation_max: Duration::from_secs(5),
            refresh_min: Duration::from_secs(1),
            refresh_max: Duration::from_secs(30),
        }
    }
}

/// What the name stands for.
enum Question {
    Addresses { host: String, port: u16 },
    Services(String),
}

/// A registry that reads DNS.
pub struct DnsRegistry {
    shared: Arc<Shared>,
}

struct Shared {
    config: DnsConfig,
    question: Question,
    resolver: TokioResolver,
    publisher: Publisher,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    addresses: BTreeSet<String>,
    /// What this process registered here, with its lease: nobody else sees it.
    own: Option<(LeaseId, Instance)>,
    leases: u64,
}

impl DnsRegistry {
    /// A registry that asks from now on in what `spawner` runs, until it is dropped.
    ///
    /// # Errors
    /// [`RegistryError::Setup`]: a name without a port, or a system without DNS servers.
    pub fn start(config: DnsConfig, spawner: Spawner) -> Result<Self, RegistryError> {
        let wrong = |reason: String| RegistryError::Setup { registry: NAME, reason };
        let question = match config.name.rsplit_once(':') {
            _ if config.name.starts_with('_') => Question::Services(config.name.clone()),
            Some((host, port)) if !host.is_empty() => {
                let port = port.parse().map_err(|_| wrong(format!("{:?} ends with no port", config.name)))?;
                Question::Addresses { host: host.to_owned(), port }
            }
            _ => {
                return Err(wrong(format!(
                    "{:?} is neither HOST:PORT nor a name of SRV records such as _afflux._tcp.shop.internal",
                    config.name
                )));
            }
        };
        let mut builder = match config.servers.as_slice() {
            [] => TokioResolver::builder_tokio()
                .map_err(|error| wrong(format!("the system's DNS servers are not known: {error}")))?,
            servers => {
                let servers = servers.iter().map(|server| {
                    let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
                    (udp.port, tcp.port) = (server.port(), server.port());
                    NameServerConfig::new(server.ip(), true, vec![udp, tcp])
                });
                let servers = ResolverConfig::from_name_servers(servers.collect());
                TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default())
            }
        };
        // The answers' time to live is kept here.
        builder.options_mut().cache_size = 0;
        builder.options_mut().timeout = config.operation_max / 2;
        let resolver =
            builder.build().map_err(|error| wrong(format!("the resolver cannot be used: {error}")))?;
        let publisher = Publisher::new();
        let shared = Arc::new(Shared { config, question, resolver, publisher, state: Mutex::default() });
        spawner(Box::pin(follow(Arc::downgrade(&shared))));
        Ok(Self { shared })
    }
}

/// Asks again and again until the registry is dropped.
async fn follow(shared: Weak<Shared>) {
    let mut reachable = true;
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let pause = match strong.ask().await {
            Ok(ttl) => {
                reachable = true;
                ttl.clamp(strong.config.refresh_min, strong.config.refresh_max)
            }
            Err(error) => {
                if reachable {
                    tracing::warn!(%error, "DNS cannot be asked: the last view stays");
                }
                reachable = false;
                strong.publisher.unreachable();
                RETRY_EVERY
            }
        };
        drop(strong);
        sleep(pause).await;
    }
}

/// An answer without a record is an empty list; everything else that is no answer is an error.
fn answer<T>(result: Result<T, NetError>) -> Result<Option<T>, NetError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_no_records_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn ttl(lookup: &Lookup) -> Option<Duration> {
    lookup.answers().iter().map(|record| Duration::from_secs(u64::from(record.ttl))).min()
}

impl Shared {
    /// The addresses of a host, and how long they hold.
    async fn addresses(
        &self,
        host: &str,
        port: u16,
    ) -> Result<(BTreeSet<String>, Option<Duration>), NetError> {
        let Some(found) = answer(self.resolver.lookup_ip(host).await)? else { return Ok(Default::default()) };
        let addresses = found.iter().map(|ip| SocketAddr::new(ip, port).to_string()).collect();
        Ok((addresses, ttl(found.as_lookup())))
    }

    async fn resolve(&self) -> Result<(BTreeSet<String>, Option<Duration>), NetError> {
        let name = match &self.question {
            Question::Addresses { host, port } => return self.addresses(host, *port).await,
            Question::Services(name) => name,
        };
        let Some(found) = answer(self.resolver.srv_lookup(name.as_str()).await)? else {
            return Ok(Default::default());
        };
        let targets = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(service) => Some((service.target.to_string(), service.port)),
            _ => None,
        });
        let asked = targets.map(|(host, port)| async move { self.addresses(&host, port).await });
        let (mut addresses, mut least) = (BTreeSet::new(), ttl(&found));
        for answer in futures_util::future::try_join_all(asked).await? {
            addresses.extend(answer.0);
            least = [least, answer.1].into_iter().flatten().min();
        }
        Ok((addresses, least))
    }

    /// Asks once and publishes; returns how long the answer holds.
    async fn ask(&self) -> Result<Duration, RegistryError> {
        let unreachable = |reason: String| RegistryError::Unreachable { registry: NAME, reason };
        let (addresses, ttl) = match timeout(self.config.operation_max, self.resolve()).await {
            Ok(answer) => answer.map_err(|error| unreachable(format!("{}: {error}", self.config.name)))?,
            Err(_elapsed) => {
                return Err(unreachable(format!("no answer within {:?}", self.config.operation_max)));
            }
        };
        let mut state = self.state.lock();
        state.addresses = addresses;
        self.publish(&state);
        // An empty answer says nothing of how long it holds.
        Ok(ttl.unwrap_or(self.config.refresh_min))
    }

    /// A node that is known by its address alone bears it as its name, until a handshake tells more.
    fn publish(&self, state: &State) {
        let own = state.own.as_ref().map(|(_, instance)| instance);
        let others = state.addresses.iter().filter(|address| own.is_none_or(|own| own.address != **address));
        let mut instances: Vec<Instance> = others
            .map(|address| Instance::new(NodeId::new(address.as_str()), Incarnation(0), address.as_str()))
            .collect();
        instances.extend(own.cloned());
        self.publisher.seen(instances);
    }

    /// The own record changed; what DNS says did not.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        // While DNS is not reachable the view says so: the change shows when it is.
        if self.publisher.view().reachable {
            self.publish(&state);
        }
    }
}

fn unsupported<'a, R: Send + 'a>(what: &'static str) -> BoxFuture<'a, Result<R, RegistryError>> {
    Box::pin(std::future::ready(Err(RegistryError::Unsupported { registry: NAME, what })))
}

impl Registry for DnsRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn coordinates(&self) -> Result<(), RegistryError> {
        Err(RegistryError::Unsupported { registry: NAME, what: "leases" })
    }

    fn register(&self, instance: Instance, _ttl: Duration) -> BoxFuture<'_, Result<LeaseId, RegistryError>> {
        let mut lease = LeaseId(0);
        self.shared.change(|state| {
            state.leases += 1;
            lease = LeaseId(state.leases);
            state.own = Some((lease, instance));
        });
        Box::pin(std::future::ready(Ok(lease)))
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        let held = self.shared.state.lock().own.as_ref().is_some_and(|(own, _)| *own == lease);
        let lost = RegistryError::LeaseLost { registry: NAME, lease };
        Box::pin(std::future::ready(if held { Ok(()) } else { Err(lost) }))
    }

    fn deregister(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), RegistryError>> {
        self.shared.change(|state| {
            if state.own.as_ref().is_some_and(|(own, _)| *own == lease) {
                state.own = None;
            }
        });
        Box::pin(std::future::ready(Ok(())))
    }

    fn view(&self) -> BoxFuture<'_, Result<Arc<View>, RegistryError>> {
        Box::pin(async move {
            self.shared.ask().await?;
            Ok(self.shared.publisher.view())
        })
    }

    fn record<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<Option<Instance>, RegistryError>> {
        // The own record is here alone: nobody has to be asked for it.
        let own =
            self.shared.state.lock().own.as_ref().map(|(_, own)| own.clone()).filter(|own| own.node == *node);
        match own {
            Some(own) => Box::pin(std::future::ready(Ok(Some(own)))),
            None => Box::pin(async move { Ok(self.view().await?.instance(node).cloned()) }),
        }
    }

    fn watch(&self) -> Watcher {
        self.shared.publisher.watcher()
    }

    fn acquire<'a>(
        &'a self,
        _name: &'a str,
        _holder: &'a str,
        _ttl: Duration,
    ) -> BoxFuture<'a, Result<Option<Fence>, RegistryError>> {
        unsupported("locks")
    }

    fn renew<'a>(&'a self, _name: &'a str, _fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        unsupported("locks")
    }

    fn release<'a>(&'a self, _name: &'a str, _fence: Fence) -> BoxFuture<'a, Result<(), RegistryError>> {
        unsupported("locks")
    }

    fn holder<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<Option<(String, Fence)>, RegistryError>> {
        unsupported("locks")
    }

    fn counter<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<i64, RegistryError>> {
        unsupported("counters")
    }

    fn counter_compare_and_set<'a>(
        &'a self,
        _name: &'a str,
        _expected: i64,
        _new: i64,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        unsupported("counters")
    }
}
