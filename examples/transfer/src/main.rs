//! Money moved between two services as an idempotent, resumable saga: what a distributed transaction
//! means here. Two banks and the desk that moves the money are three nodes; the desk crashes once.

mod bank;
mod journal;
mod transfers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use afflux::settings::Settings;
use afflux::{Node, NodeBuilder, prelude::*};
use bank::{Accounts, AccountsClient, Bank};
use transfers::{Desk, Order, Outcome, Transfers, TransfersClient};

fn node(id: &str, join: Option<&Node>) -> NodeBuilder {
    NodeBuilder::new(Settings {
        node_id: id.into(),
        node_listen: "127.0.0.1:0".into(),
        node_join: join.map(Node::address).unwrap_or_default(),
        admin_listen: String::new(),
        ..Settings::default()
    })
    .inline()
}

async fn ask(desk: &TransfersClient, id: &str, cents: i64, to: &str) {
    let order = Order { from: ("north".into(), "ann".into()), to: ("south".into(), to.into()), cents };
    match desk.transfer(id.into(), order).await {
        Ok(Outcome::Done) => println!("{id}: {cents} from ann to {to}: done"),
        Ok(Outcome::Refused { why }) => println!("{id}: {cents} from ann to {to}: refused, {why}"),
        Err(error) => println!("{id}: {cents} from ann to {to}: {}, nobody knows: ask again", error.code()),
    }
}

async fn balances(banks: &BTreeMap<String, AccountsClient>) -> Result<()> {
    let mut sum = 0;
    for (bank, account) in [("north", "ann"), ("south", "bob")] {
        let cents = banks[bank].balance(account.into()).await.map_err(Status::from)?;
        println!("{account} has {cents} in the {bank}");
        sum += cents;
    }
    println!("{sum} together");
    Ok(())
}

#[afflux::main]
async fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let file = |name: &str| dir.path().join(name);
    let (north, south, journal) = (file("north"), file("south"), file("transfers"));
    let north =
        node("north", None).service("bank", move || Bank::open(&north, &[("ann", 100)])).start().await?;
    let south = node("south", Some(&north))
        .service("bank", move || Bank::open(&south, &[("bob", 50)]))
        .start()
        .await?;

    let crash_once = Arc::new(AtomicBool::new(false));
    let desk = node("desk", Some(&north)).start().await?;
    // Each bank is the same service on another node.
    let banks: BTreeMap<String, AccountsClient> = ["north", "south"]
        .map(|bank| (bank.to_owned(), desk.mesh().client_on::<Accounts>(&bank.into())))
        .into();
    let (known, crashes) = (banks.clone(), Arc::clone(&crash_once));
    let desk_here = node("moves", Some(&north))
        .service("desk", move || Desk::open(&journal, known.clone(), Arc::clone(&crashes)))
        .start()
        .await?;

    let transfers = desk_here.client::<Transfers>();
    balances(&banks).await?;
    ask(&transfers, "t-1", 30, "bob").await;
    ask(&transfers, "t-2", 500, "bob").await;
    ask(&transfers, "t-3", 10, "eve").await;
    crash_once.store(true, Ordering::SeqCst);
    ask(&transfers, "t-4", 20, "bob").await;
    ask(&transfers, "t-4", 20, "bob").await;
    ask(&transfers, "t-1", 30, "bob").await;
    balances(&banks).await?;
    for node in [desk_here, desk, south, north] {
        node.close().await;
    }
    Ok(())
}
