//! Two nodes with mutual TLS over TCP, and callers: who is let in, as whom, and what each may call.
use std::path::Path;

use afflux::certs::{Authority, write_identity};
use afflux::prelude::*;
use afflux::settings::{Layers, Settings};
use afflux::{Client, Endpoint, Node, NodeBuilder, Security};

#[derive(Service)]
#[service(name = "mtls.greeter")]
enum Greeter {
    /// Says who calls: for whom `auth.allow` names.
    #[rpc(returns = String, idempotent)]
    Greet,
    /// The same for whoever has a certificate.
    #[rpc(returns = String, idempotent, allow = "authenticated")]
    Wave,
}

#[derive(Actor)]
#[actor(serves(Greeter))]
struct Desk;

impl GreeterHandler for Desk {
    async fn greet(&mut self, cx: &mut Cx) -> Result<String, Fault> {
        Ok(cx.identity().map_or_else(|| "hello, nobody".to_owned(), |who| format!("hello, {who}")))
    }
    async fn wave(&mut self, cx: &mut Cx) -> Result<String, Fault> {
        Ok(cx.identity().map_or_else(|| "nobody".to_owned(), |who| format!("{} waves back", who.name)))
    }
}

/// The settings that `certs` writes beside a certificate.
fn settings(authority: &Authority, dir: &Path, identity: &str) -> Result<Settings> {
    let mut layers = Layers::default();
    layers.file(&write_identity(authority, dir, identity, &[], 1, true)?)?;
    Ok(Settings { admin_listen: String::new(), node_slots: 1, ..layers.settings() })
}

async fn client(node: &Node, settings: &Settings) -> Result<Client> {
    let tls = Security::of(settings)?.tls;
    let cluster = settings.cluster.clone();
    Client::connect(&Endpoint { address: node.address(), cluster, tls, ..Endpoint::default() }).await
}

#[afflux::main]
async fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::create("afflux")?;
    let desk = || Ok::<_, Error>(Desk);
    let a =
        NodeBuilder::new(settings(&authority, dir.path(), "node/a")?).service("desk", desk).start().await?;
    a.ready().await;
    let joining = Settings { node_join: a.address(), ..settings(&authority, dir.path(), "node/b")? };
    let b = NodeBuilder::new(joining).start().await?;
    b.ready().await;
    println!("b calls a:     {}", b.client::<Greeter>().greet().await?);

    let admin = client(&a, &settings(&authority, dir.path(), "admin/cli")?).await?;
    println!("admin calls a: {}", admin.client::<Greeter>().greet().await?);

    let alice = client(&a, &settings(&authority, dir.path(), "support/alice")?).await?;
    println!("alice calls a: {}", alice.client::<Greeter>().wave().await?);
    if let Err(error) = alice.client::<Greeter>().greet().await {
        println!("alice calls a: {}", error.status().message);
    }

    let elsewhere = Authority::create("afflux")?;
    let stranger = client(&a, &settings(&elsewhere, dir.path(), "admin/stranger")?).await;
    println!("a stranger's certificate is {}", if stranger.is_err() { "refused" } else { "taken" });
    for client in [admin, alice] {
        client.close();
    }
    b.close().await;
    a.close().await;
    Ok(())
}
