//! An account for each customer and a pool of clerks, on two nodes in one process.
//!
//! Prints the same every time: `cargo run --bin afflux-keyed`.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use afflux::keyed::KeyValue;
use afflux::prelude::*;
use afflux::settings::Settings;
use afflux::{Node, NodeBuilder};

#[derive(Service)]
#[service(name = "bank.accounts")]
enum Accounts {
    /// Adds to a customer's balance; returns what it is then.
    #[rpc(returns = u64)]
    Deposit { customer: String, cents: u64 },
}

/// What a database is elsewhere: it refuses writes of an owner before the last.
#[derive(Default)]
struct Store(Mutex<BTreeMap<String, (u64, u64)>>);

impl Store {
    fn write(&self, customer: &str, fence: u64, cents: u64) -> Result<(), Status> {
        let mut rows = self.0.lock().map_err(|_| Status::internal("a panic in the store"))?;
        let (newest, balance) = rows.entry(customer.to_owned()).or_default();
        if fence < *newest {
            return Err(Status::precondition(format!("{customer} has an owner with a later token")));
        }
        (*newest, *balance) = (fence, cents);
        Ok(())
    }

    fn read(&self, customer: &str) -> u64 {
        self.0.lock().map_or(0, |rows| rows.get(customer).map_or(0, |(_, balance)| *balance))
    }
}

/// One customer's account. There is one in the cluster; it is made by its first call.
#[derive(Actor)]
#[actor(serves(Accounts), key = "customer", idle = "5m")]
struct Account {
    balance: u64,
    store: Arc<Store>,
}

impl AccountsHandler for Account {
    async fn deposit(&mut self, cx: &mut Cx, customer: String, cents: u64) -> Result<u64, Fault> {
        let fence = cx.fence().ok_or_else(|| Status::precondition("an account has a key"))?;
        self.store.write(&customer, fence, self.balance + cents)?;
        self.balance += cents;
        Ok(self.balance)
    }
}

#[derive(Service)]
#[service(name = "bank.clerks")]
enum Clerks {
    /// How many customers this clerk has greeted.
    #[rpc(returns = u64)]
    Greet { customer: String },
}

/// One of three behind one name.
#[derive(Actor, Default)]
#[actor(serves(Clerks), instances = 3)]
struct Clerk(u64);

impl ClerksHandler for Clerk {
    async fn greet(&mut self, _: &mut Cx, _: String) -> Result<u64, Fault> {
        self.0 += 1;
        Ok(self.0)
    }
}

async fn node(id: &str, join: String, store: &Arc<Store>) -> Result<Node> {
    let settings = Settings {
        node_id: id.to_owned(),
        node_listen: "127.0.0.1:0".to_owned(),
        node_join: join,
        admin_listen: String::new(),
        drain_lame_duck_ms: 50,
        ..Settings::default()
    };
    let store = Arc::clone(store);
    let open = move |key: &KeyValue| {
        let customer: String = key.get()?;
        Ok::<_, Error>(Account { balance: store.read(&customer), store: Arc::clone(&store) })
    };
    let builder = NodeBuilder::new(settings).keyed("accounts", open);
    let node = builder.service("clerks", || Ok::<_, Error>(Clerk::default())).start().await?;
    node.ready().await;
    Ok(node)
}

#[afflux::main]
async fn main() -> Result {
    let store = Arc::default();
    let first = node("bank-1", String::new(), &store).await?;
    let second = node("bank-2", first.address(), &store).await?;
    // Whichever node is asked, a customer has one account.
    for node in [&first, &second, &first] {
        for customer in ["alice", "bob"] {
            let balance = node.client::<Accounts>().deposit(customer.into(), 50).await?;
            println!("{customer} has {balance} cents");
        }
    }
    // When a node leaves, its accounts move; the store has what they wrote.
    second.close().await;
    for customer in ["alice", "bob"] {
        let balance = first.client::<Accounts>().deposit(customer.into(), 50).await?;
        println!("{customer} has {balance} cents after bank-2 has left");
    }
    // Six greetings over three clerks.
    let mut greeted = Vec::new();
    for _ in 0..6 {
        greeted.push(first.client::<Clerks>().greet("alice".into()).await?);
    }
    println!("the clerks have greeted {greeted:?}");
    let clerk = first.lookup::<Clerks>("clerks/0").await?;
    println!("{} has greeted {}", clerk.path(), clerk.via(&first).greet("bob".into()).await?);
    first.close().await;
    Ok(())
}
