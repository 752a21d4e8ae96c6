//! A node of keyed actors over a store that is a process of its own: what tests stop and wake.
//!
//! `teller node --id NAME --set registry=etcd …`; the store's address stands in the file `store` of the
//! working directory. The actor speaks with it without giving its thread back, so that nothing of the
//! node runs between the store's answer to `wait` and the write that follows it: a node that was stopped
//! in `wait` writes, when it is woken, before it can notice what it has lost.

#![allow(clippy::unwrap_used, reason = "for tests: a panic is the verdict")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use afflux::App;
use afflux::actor::Lifecycle;
use afflux::keyed::KeyValue;
use afflux::prelude::*;
use afflux_sandbox::Tellers as Accounts;
use afflux_sandbox::{TellersHandler as AccountsHandler, Told};

#[derive(Actor)]
#[actor(serves(Accounts), key = "customer", lifecycle)]
struct Account {
    customer: String,
    value: u64,
}

/// One request to the store; its answer is a number, or why it was refused.
fn ask(request: &str) -> Result<u64, Status> {
    let failed = |error: std::io::Error| Status::internal(format!("the store: {error}"));
    let address = std::fs::read_to_string("store").map_err(failed)?;
    let mut stream = TcpStream::connect(address.trim()).map_err(failed)?;
    writeln!(stream, "{request}").map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(failed)?;
    answer.trim().parse().map_err(|_| Status::precondition(answer.trim()))
}

impl Account {
    fn write(&mut self, cx: &Cx, n: u64) -> Result<Told, Status> {
        let fence = cx.fence().ok_or_else(|| Status::internal("no token"))?;
        let (process, value) = (std::process::id(), self.value + n);
        self.value = ask(&format!("write {} {fence} {process} {value}", self.customer))?;
        Ok(Told { process, fence, value: self.value })
    }
}

impl Lifecycle for Account {
    async fn started(&mut self, cx: &mut Cx) -> Result<(), Status> {
        let fence = cx.fence().ok_or_else(|| Status::internal("no token"))?;
        self.value = ask(&format!("open {} {fence} {}", self.customer, std::process::id()))?;
        Ok(())
    }
}

impl AccountsHandler for Account {
    async fn add(&mut self, cx: &mut Cx, _: String, n: u64) -> Result<Told, Fault> {
        Ok(self.write(cx, n)?)
    }
    async fn wait_and_add(&mut self, cx: &mut Cx, _: String, n: u64) -> Result<Told, Fault> {
        ask(&format!("wait {}", self.customer))?;
        Ok(self.write(cx, n)?)
    }
}

#[afflux::main]
async fn main() -> afflux::Result {
    let open = |key: &KeyValue| Ok::<_, Error>(Account { customer: key.get()?, value: 0 });
    App::new("teller").keyed("accounts", open).run().await
}
