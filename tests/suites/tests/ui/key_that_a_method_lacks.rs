//! Every method of a keyed actor's contract says whose actor it is for.
use afflux::prelude::*;

#[derive(Service)]
#[service(name = "bank.accounts")]
enum Accounts {
    Add { customer: String, n: u64 },
    Total,
}

#[derive(Actor)]
#[actor(serves(Accounts), key = "customer", idle = "5m")]
struct Account;

impl AccountsHandler for Account {
    async fn add(&mut self, _: &mut Cx, _: String, _: u64) -> Result<(), Fault> {
        Ok(())
    }
    async fn total(&mut self, _: &mut Cx) -> Result<(), Fault> {
        Ok(())
    }
}

fn main() {}
