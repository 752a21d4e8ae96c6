//! Options that only a keyed actor has, and those that exclude each other.
use afflux::prelude::*;

#[derive(Service)]
#[service(name = "bank.accounts")]
enum Accounts {
    Add { customer: String },
}

#[derive(Actor)]
#[actor(serves(Accounts), idle = "5m")]
struct NoKey;

#[derive(Actor)]
#[actor(serves(Accounts), key = "customer", instances = 4)]
struct Both;

#[derive(Actor)]
#[actor(serves(Accounts), instances = 0)]
struct None;

fn main() {}
