//! From one topic of Kafka to another, exactly once: transfers of money come in, and what each account has then goes out.
use afflux::connectors::{Kafka, KafkaRead};
use afflux::{App, prelude::*};

/// A message of the topic `transfers`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transfer {
    from: String,
    to: String,
    cents: i64,
}

/// A message of the topic `balances`: what an account has after its transfers so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Balance {
    account: String,
    transfers: u64,
    cents: i64,
}

impl Transfer {
    /// What it changes: both accounts.
    fn sides(self) -> [Balance; 2] {
        let side = |account, cents| Balance { account, transfers: 1, cents };
        [side(self.from, -self.cents), side(self.to, self.cents)]
    }
}

/// `KAFKA_BROKERS`, or the broker of this machine.
fn kafka() -> Kafka {
    Kafka::at(std::env::var("KAFKA_BROKERS").unwrap_or_else(|_| "127.0.0.1:9092".to_owned()))
}

fn balances(flow: &Flow, transfers: KafkaRead) -> Result {
    flow.source("transfers", transfers.json::<Transfer>())
        .untimed()
        .flat_map(Transfer::sides)
        .key_by(|side: &Balance| side.account.clone())
        .reduce("balance", |a, b| Balance {
            transfers: a.transfers + b.transfers,
            cents: a.cents + b.cents,
            ..b
        })
        .sink(
            "balances",
            kafka().write("balances").json().key(|balance: &Balance| balance.account.clone()).exactly_once(),
        );
    Ok(())
}

#[afflux::main]
async fn main() -> Result {
    App::new("transfer-kafka")
        // Runs until it is stopped.
        .pipeline("balances", |flow| balances(flow, kafka().read("transfers")))
        // Ends where the topic ends now.
        .pipeline("balances-so-far", |flow| balances(flow, kafka().read("transfers").bounded()))
        .run()
        .await
}
