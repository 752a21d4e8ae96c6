//! A service on one node, its caller on another: two processes of this binary. Without arguments it is the node `hall`,
//! which serves, and starts itself once more with its own address; with an address it is the node `guest`, which calls.

use std::process::Command;

use afflux::settings::Settings;
use afflux::{NodeBuilder, prelude::*};

/// The contract: what both processes know.
#[derive(Service)]
#[service(name = "two_nodes.greeter")]
enum Greeter {
    /// Greets somebody, and counts.
    #[rpc(returns = String)]
    Greet { name: String },
}

/// The actor: it has the state, and it lives in the process that serves.
#[derive(Actor, Default)]
#[actor(serves(Greeter))]
struct Hall {
    greeted: u32,
}

impl GreeterHandler for Hall {
    async fn greet(&mut self, _: &mut Cx, name: String) -> Result<String, Fault> {
        self.greeted += 1;
        println!("hall:  {name} is number {}", self.greeted);
        Ok(format!("hello, {name}; {} so far", self.greeted))
    }
}

/// A node with a name. With an address it joins the node that listens there; without one others join it.
fn node(id: &str, join: &str) -> NodeBuilder {
    NodeBuilder::new(Settings {
        node_id: id.into(),
        node_join: join.into(),
        admin_listen: String::new(),
        ..Settings::default()
    })
    .inline()
}

#[afflux::main]
async fn main() -> Result {
    match std::env::args().nth(1) {
        None => hall().await,
        Some(address) => guest(&address).await,
    }
}

/// Serves until the guest, a process of its own, has ended.
async fn hall() -> Result {
    let node = node("hall", "").service("hall", || Ok::<_, Status>(Hall::default())).start().await?;
    let mut guest = Command::new(std::env::current_exe()?).arg(node.address()).spawn()?;
    let ended = tokio::task::spawn_blocking(move || guest.wait()).await??;
    println!("hall:  the guest {}", if ended.success() { "has gone" } else { "has failed" });
    node.close().await;
    Ok(())
}

async fn guest(address: &str) -> Result {
    let node = node("guest", address).start().await?;
    let greeter = node.client::<Greeter>();
    for name in ["Ada", "Grace"] {
        let answer = greeter.greet(name.into()).await.map_err(Status::from)?;
        println!("guest: {answer}");
    }
    node.close().await;
    Ok(())
}
