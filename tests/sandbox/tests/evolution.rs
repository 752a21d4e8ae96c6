//! Builds that differ: an old client with a new server and the other way, over memory and TCP.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use afflux::actor::{Actor, ActorMetrics, ActorPath, Place, Serves, Spec};
use afflux::prelude::*;
use afflux_mesh::{MemoryNetwork, Mesh, MeshConfig, MeshMetrics, Transport};
use afflux_sandbox::{run, until_async};
use afflux_wire::{Code, Executed, Incarnation};

/// A build of the contract `shop.orders`, with the actor that serves it.
macro_rules! build {
    ($name:ident, qty: $qty:ty, order { $($field:ident: $ty:ty),* }, receipt { $($more:ident: $kind:ty),* }) => {
        mod $name {
            use super::*;

            #[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
            pub(super) struct Order {
                pub(super) id: u64,
                pub(super) qty: $qty,
                $(#[serde(default)] pub(super) $field: $ty),*
            }

            #[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
            pub(super) struct Receipt {
                pub(super) total: $qty,
                $(pub(super) $more: $kind),*
            }

            #[derive(Service)]
            #[service(name = "shop.orders", version = "1.0")]
            pub(super) enum Orders {
                #[rpc(returns = Receipt)]
                Place { order: Order },
                #[rpc(returns = u64)]
                Count,
            }

            #[derive(Actor)]
            #[actor(serves(Orders))]
            pub(super) struct Desk {
                pub(super) placed: u64,
            }

            impl OrdersHandler for Desk {
                async fn place(&mut self, _: &mut Cx, order: Order) -> Result<Receipt, Fault> {
                    self.placed += 1;
                    Ok(Receipt { total: order.qty, $($more: <$kind>::default()),* })
                }
                async fn count(&mut self, _: &mut Cx) -> Result<u64, Fault> {
                    Ok(self.placed)
                }
            }

            pub(super) fn order(id: u64) -> Order {
                Order { id, qty: 1, $($field: <$ty>::default()),* }
            }
        }
    };
}

build!(base, qty: u32, order {}, receipt {});
build!(more, qty: u32, order { note: Option<String>, tags: Vec<String> }, receipt { currency: Option<String> });
build!(wider, qty: i64, order {}, receipt {});
build!(richer, qty: u32, order {}, receipt { currency: String });

/// Without the method `Count`.
mod fewer {
    use super::*;

    #[derive(Service)]
    #[service(name = "shop.orders", version = "0.9")]
    pub(super) enum Orders {
        #[rpc(returns = base::Receipt)]
        Place { order: base::Order },
    }

    #[derive(Actor)]
    #[actor(serves(Orders))]
    pub(super) struct Desk {
        pub(super) placed: u64,
    }

    impl OrdersHandler for Desk {
        async fn place(&mut self, _: &mut Cx, order: base::Order) -> Result<base::Receipt, Fault> {
            self.placed += 1;
            Ok(base::Receipt { total: order.qty })
        }
    }
}

fn transports() -> [(Transport, &'static str); 2] {
    [(Transport::Memory(MemoryNetwork::default()), "host:0"), (Transport::Tcp, "127.0.0.1:0")]
}

fn node(name: &str, build: &str, transport: &Transport, listen: &str) -> Mesh {
    let config = MeshConfig {
        incarnation: Incarnation(1),
        build: build.to_owned(),
        listen: Some(listen.to_owned()),
        ..MeshConfig::new(name, "evolution")
    };
    let place = Place::current().unwrap();
    Mesh::start(config, transport.clone(), place, MeshMetrics::unregistered()).unwrap()
}

fn serve<A: Actor + Serves>(mesh: &Mesh, make: impl Fn() -> A + Send + 'static) {
    let place = Place::current().unwrap();
    let spec = Spec::new(ActorPath::new("desk"), ActorMetrics::unregistered());
    let handle = place.spawn::<A>(spec, move || Ok(make()));
    for entry in A::services(handle.address()) {
        mesh.serve(entry);
    }
    // The mesh holds the mailbox; the actor lives as long as the system.
    std::mem::forget(handle);
}

/// A client of one build with a server of another: calls succeed, or fail as told from the moment that the two were
/// compared.
macro_rules! pair {
    ($client:ident, $server:ident, $expected:expr) => {
        for (transport, listen) in transports() {
            for late in [false, true] {
                let (client, server) =
                    (node("a", "2", &transport, listen), node("orders-7", "1.4.2", &transport, listen));
                let address = server.local_address();
                if !late {
                    serve(&server, || $server::Desk { placed: 0 });
                }
                client.connect_unknown(&address).await.unwrap();
                let orders = client.client::<$client::Orders>();
                if late {
                    // The link is told of the service, and not of its fingerprints.
                    serve(&server, || $server::Desk { placed: 0 });
                }
                let expected: Option<&str> = $expected;
                match expected {
                    None => {
                        for id in 0..20 {
                            assert_eq!(orders.place($client::order(id)).await.unwrap().total, 1);
                        }
                    }
                    Some(text) => {
                        let text = text.replace("ADDRESS", &address);
                        let error = until_async("the comparison", async || {
                            let error = orders.place($client::order(1)).await.err()?;
                            (error.status().message == text).then(|| error.status().clone())
                        })
                        .await;
                        assert_eq!(
                            (error.code, error.was_executed()),
                            (Code::FailedPrecondition, Executed::No)
                        );
                        // The method is refused, not the connection.
                        orders.count().await.unwrap();
                    }
                }
                client.close();
                server.close();
            }
        }
    };
}

#[test]
fn equal_and_compatible_builds_call_each_other() {
    run(|| async {
        pair!(base, base, None);
        pair!(base, more, None);
        pair!(more, base, None);
    });
}

#[test]
fn a_request_that_the_server_cannot_read_fails_at_once_and_names_the_field() {
    run(|| async {
        pair!(
            wider,
            base,
            Some("shop.orders/Place: field order.qty is u32 in orders-7 (build 1.4.2, ADDRESS) but i64 here")
        );
    });
}

#[test]
fn a_result_that_the_client_cannot_read_fails_at_once_and_names_the_field() {
    run(|| async {
        pair!(
            richer,
            base,
            Some(
                "shop.orders/Place: result field currency is absent in orders-7 (build 1.4.2, ADDRESS) but required here"
            )
        );
        pair!(
            base,
            wider,
            Some(
                "shop.orders/Place: result field total is i64 in orders-7 (build 1.4.2, ADDRESS) but u32 here"
            )
        );
    });
}

#[test]
fn a_method_that_the_server_does_not_have_fails_alone() {
    run(|| async {
        for (transport, listen) in transports() {
            let (client, server) = (node("a", "", &transport, listen), node("b", "", &transport, listen));
            serve(&server, || fewer::Desk { placed: 0 });
            client.connect_unknown(&server.local_address()).await.unwrap();
            let orders = client.client::<base::Orders>();
            let expected = format!("shop.orders/Count: b ({}) has no such method", server.local_address());
            until_async("the comparison", async || {
                let error = orders.count().await.unwrap_err();
                assert_eq!(error.code(), Code::Unimplemented);
                (error.status().message == expected).then_some(())
            })
            .await;
            orders.place(base::order(1)).await.unwrap();
            client.close();
            server.close();
        }
    });
}

#[test]
fn calls_go_to_the_endpoints_that_understand_them() {
    run(|| async {
        for (transport, listen) in transports() {
            let client = node("a", "2", &transport, listen);
            let servers: Vec<Mesh> =
                ["old-1", "old-2", "new"].iter().map(|name| node(name, "", &transport, listen)).collect();
            serve(&servers[0], || base::Desk { placed: 0 });
            serve(&servers[1], || base::Desk { placed: 0 });
            serve(&servers[2], || wider::Desk { placed: 0 });
            let orders = client.client::<wider::Orders>();
            for server in &servers {
                client.connect_unknown(&server.local_address()).await.unwrap();
            }
            let old = |name: &str| client.client_on::<wider::Orders>(&name.into());
            until_async("both old endpoints judged", async || {
                let judged = async |name: &str| {
                    let error = old(name).place(wider::order(1)).await.err();
                    error.is_some_and(|error| error.code() == Code::FailedPrecondition)
                };
                (judged("old-1").await && judged("old-2").await).then_some(())
            })
            .await;
            let before = old("new").count().await.unwrap();
            for id in 0..50 {
                orders.place(wider::order(id)).await.unwrap();
            }
            assert_eq!(old("new").count().await.unwrap() - before, 50);
            client.close();
            for server in servers {
                server.close();
            }
        }
    });
}
