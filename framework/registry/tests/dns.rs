//! The registry over DNS, against a server in this process that says what a test wants.
#![cfg(feature = "dns")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use afflux_registry::{
    Coordination, DnsConfig, DnsRegistry, Instance, Registry, RegistryError, View, Watcher,
};
use afflux_wire::Incarnation;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record};
use support::spawner;

/// What the server knows; `Err` is answered as it is.
type Zone = Arc<Mutex<Result<Vec<(String, RData)>, ResponseCode>>>;

/// Seconds that an answer holds.
const TTL: u32 = 1;

struct Server {
    address: SocketAddr,
    zone: Zone,
}

impl Server {
    async fn new(records: Vec<(String, RData)>) -> Self {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, zone): (_, Zone) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(Ok(records))));
        let known = Arc::clone(&zone);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((bytes, from)) = socket.recv_from(&mut buffer).await {
                let asked = Message::from_vec(&buffer[..bytes]).unwrap();
                let answer = respond(&asked, &known);
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        Self { address, zone }
    }

    fn set(&self, zone: Result<Vec<(String, RData)>, ResponseCode>) {
        *self.zone.lock().unwrap() = zone;
    }

    fn registry(&self, name: &str) -> DnsRegistry {
        let mut config = DnsConfig::new(name);
        config.servers = vec![self.address];
        config.operation_max = Duration::from_secs(2);
        DnsRegistry::start(config, spawner()).unwrap()
    }
}

fn respond(asked: &Message, zone: &Zone) -> Message {
    let (id, op_code) = (asked.metadata.id, asked.metadata.op_code);
    let query = asked.queries[0].clone();
    let (name, kind) = (query.name.to_string(), query.query_type);
    let zone = zone.lock().unwrap();
    let mut message = match &*zone {
        Err(code) => Message::error_msg(id, op_code, *code),
        Ok(records) if !records.iter().any(|(known, _)| *known == name) => {
            Message::error_msg(id, op_code, ResponseCode::NXDomain)
        }
        Ok(records) => {
            let mut message = Message::response(id, op_code);
            for (known, data) in records {
                if *known == name && data.record_type() == kind {
                    let owner = Name::from_ascii(known).unwrap();
                    message.add_answer(Record::from_rdata(owner, TTL, data.clone()));
                }
            }
            message
        }
    };
    message.add_query(query);
    message
}

fn ip(name: &str, address: &str) -> (String, RData) {
    let data = match address.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    (name.to_owned(), data)
}

fn srv(name: &str, target: &str, port: u16) -> (String, RData) {
    (name.to_owned(), RData::SRV(SRV::new(1, 1, port, Name::from_ascii(target).unwrap())))
}

fn addresses(view: &View) -> Vec<&str> {
    view.instances.iter().map(|i| i.address.as_str()).collect()
}

async fn until(watcher: &mut Watcher, fits: impl Fn(&View) -> bool) -> Arc<View> {
    let search = async {
        loop {
            let view = watcher.next().await.unwrap();
            if fits(&view) {
                return view;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), search).await.expect("no such view came")
}

#[tokio::test]
async fn a_change_of_the_addresses_is_seen_when_the_answer_is_over() {
    let server = Server::new(vec![ip("shop.test.", "10.0.0.1"), ip("shop.test.", "fd00::1")]).await;
    let registry = server.registry("shop.test.:7000");
    let mut watcher = registry.watch();
    let view = until(&mut watcher, |view| view.instances.len() == 2).await;
    assert_eq!(addresses(&view), ["10.0.0.1:7000", "[fd00::1]:7000"]);
    assert!(view.reachable && view.instances.iter().all(|i| !i.is_identified()));
    server.set(Ok(vec![ip("shop.test.", "10.0.0.2")]));
    until(&mut watcher, |view| addresses(view) == ["10.0.0.2:7000"]).await;
}

#[tokio::test]
async fn srv_records_bring_their_ports_along() {
    let server = Server::new(vec![
        srv("_afflux._tcp.shop.test.", "a.shop.test.", 7001),
        srv("_afflux._tcp.shop.test.", "b.shop.test.", 7002),
        ip("a.shop.test.", "10.0.0.1"),
        ip("b.shop.test.", "10.0.0.2"),
    ])
    .await;
    let registry = server.registry("_afflux._tcp.shop.test.");
    assert_eq!(addresses(&registry.view().await.unwrap()), ["10.0.0.1:7001", "10.0.0.2:7002"]);
}

#[tokio::test]
async fn a_name_that_is_gone_is_an_empty_list_and_a_server_that_fails_is_not() {
    let server = Server::new(vec![ip("shop.test.", "10.0.0.1")]).await;
    let registry = server.registry("shop.test.:7000");
    let mut watcher = registry.watch();
    until(&mut watcher, |view| view.instances.len() == 1).await;
    server.set(Err(ResponseCode::ServFail));
    let during = until(&mut watcher, |view| !view.reachable).await;
    assert_eq!(addresses(&during), ["10.0.0.1:7000"], "the last good view stays");
    assert!(matches!(registry.view().await, Err(RegistryError::Unreachable { .. })));
    server.set(Ok(Vec::new()));
    let after = until(&mut watcher, |view| view.reachable).await;
    assert!(after.instances.is_empty());
}

#[tokio::test]
async fn the_own_record_takes_the_place_of_its_address_and_nobody_else_sees_it() {
    let server = Server::new(vec![ip("shop.test.", "10.0.0.1"), ip("shop.test.", "10.0.0.2")]).await;
    let (here, there) = (server.registry("shop.test.:7000"), server.registry("shop.test.:7000"));
    here.view().await.unwrap();
    let own = Instance::new("me", Incarnation(4), "10.0.0.2:7000");
    let lease = here.register(own.clone(), Duration::from_secs(1)).await.unwrap();
    here.keep_alive(lease).await.unwrap();
    let view = here.view().await.unwrap();
    assert_eq!(view.instances.iter().map(|i| i.node.as_str()).collect::<Vec<_>>(), ["10.0.0.1:7000", "me"]);
    assert_eq!(here.record(&own.node).await.unwrap(), Some(own));
    assert!(there.view().await.unwrap().instances.iter().all(|i| !i.is_identified()));
    here.deregister(lease).await.unwrap();
    assert!(matches!(here.keep_alive(lease).await, Err(RegistryError::LeaseLost { .. })));
}

#[tokio::test]
async fn locks_elections_and_counters_are_refused_with_the_name_and_the_cure() {
    let server = Server::new(Vec::new()).await;
    let registry = Arc::new(server.registry("shop.test.:7000"));
    let wanted = "the registry dns has no leases: use memory, etcd, ZooKeeper or Kubernetes for that";
    let here = Coordination::new(Arc::clone(&registry) as _, "a/1", Duration::from_secs(5), spawner());
    assert_eq!(here.lock("x").await.unwrap_err().to_string(), wanted);
    assert_eq!(here.elect("x").map(drop).unwrap_err().to_string(), wanted);
    assert_eq!(here.counter("x").map(drop).unwrap_err().to_string(), wanted);
    assert!(registry.acquire("x", "a", Duration::from_secs(1)).await.is_err());
}

#[tokio::test]
async fn a_name_without_a_port_is_refused() {
    for wrong in ["shop.test", "shop.test:http", ":7000"] {
        let refused = DnsRegistry::start(DnsConfig::new(wrong), spawner()).map(drop).unwrap_err();
        assert!(matches!(refused, RegistryError::Setup { .. }), "{refused}");
    }
}
