//! Keyed actors in processes of their own, and the store that refuses what an earlier owner writes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use afflux::prelude::*;

/// An account for each customer, in the binary `teller`.
#[derive(Service)]
#[service(name = "test.tellers")]
pub enum Tellers {
    /// Adds to a customer's account.
    #[rpc(returns = Told, deadline = "20s")]
    Add {
        /// The key.
        customer: String,
        /// How much.
        n: u64,
    },
    /// Waits in its handler until the store lets it go, and then writes at once.
    #[rpc(returns = Told, deadline = "60s")]
    WaitAndAdd {
        /// The key.
        customer: String,
        /// How much.
        n: u64,
    },
}

/// What a write was.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The process of the owner.
    pub process: u32,
    /// Its token.
    pub fence: u64,
    /// The account's value now.
    pub value: u64,
}

/// What reached the store, in the order in which it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// The key.
    pub customer: String,
    /// Who wrote, with which token, which value.
    pub told: Told,
    /// Whether it was accepted.
    pub accepted: bool,
}

#[derive(Default)]
struct Rows {
    /// The greatest token seen of each customer, and the value.
    rows: BTreeMap<String, (u64, u64)>,
    log: Vec<Attempted>,
    waiting: BTreeSet<String>,
    held: BTreeSet<String>,
}

impl Rows {
    fn answer(&mut self, request: &str) -> Option<Result<u64, String>> {
        let words: Vec<&str> = request.split_whitespace().collect();
        let number = |at: usize| words.get(at)?.parse::<u64>().ok();
        let customer = (*words.get(1)?).to_owned();
        let (fence, process) = (number(2)?, u32::try_from(number(3)?).ok()?);
        let row = self.rows.entry(customer.clone()).or_default();
        let accepted = fence >= row.0;
        row.0 = row.0.max(fence);
        if words[0] == "write" {
            let value = number(4)?;
            if accepted {
                row.1 = value;
            }
            self.log.push(Attempted { customer, told: Told { process, fence, value }, accepted });
        }
        let refused = || format!("token {fence} is older than {}", row.0);
        Some(if accepted { Ok(row.1) } else { Err(refused()) })
    }
}

/// A store of accounts with fencing, which other processes write to over TCP: it keeps the greatest token
/// that it has seen of each customer, and refuses a smaller one.
#[derive(Clone, Default)]
pub struct FencedStore {
    rows: Arc<Mutex<Rows>>,
    let_go: Arc<Condvar>,
}

impl FencedStore {
    /// Starts it on a port of its own, and writes its address into the file `store` of a directory.
    ///
    /// # Panics
    /// When it cannot listen or write there.
    pub fn start(directory: &Path) -> Self {
        let store = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        std::fs::write(directory.join("store"), listener.local_addr().unwrap().to_string()).unwrap();
        let serving = store.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let store = serving.clone();
                std::thread::spawn(move || store.serve(stream));
            }
        });
        store
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut request = String::new();
        if BufReader::new(&stream).read_line(&mut request).is_err() {
            return;
        }
        let answer = match request.trim().strip_prefix("wait ") {
            Some(customer) => {
                let mut rows = self.rows.lock().unwrap();
                rows.waiting.insert(customer.to_owned());
                while rows.held.contains(customer) {
                    rows = self.let_go.wait(rows).unwrap();
                }
                rows.waiting.remove(customer);
                Ok(0)
            }
            None => self.rows.lock().unwrap().answer(&request).unwrap_or_else(|| Err(format!("{request}?"))),
        };
        let text = answer.map_or_else(|refused| refused, |value| value.to_string());
        // Who asked may be gone.
        let _gone = writeln!(stream, "{text}");
    }

    /// From now on, whoever waits for a customer waits.
    ///
    /// # Panics
    /// When a thread of the store has panicked.
    pub fn hold(&self, customer: &str) {
        self.rows.lock().unwrap().held.insert(customer.to_owned());
    }

    /// Answers those who wait for a customer.
    ///
    /// # Panics
    /// As [`hold`](Self::hold).
    pub fn let_go(&self, customer: &str) {
        self.rows.lock().unwrap().held.remove(customer);
        self.let_go.notify_all();
    }

    /// Whether somebody waits for a customer.
    ///
    /// # Panics
    /// As [`hold`](Self::hold).
    pub fn waits(&self, customer: &str) -> bool {
        self.rows.lock().unwrap().waiting.contains(customer)
    }

    /// All writes, accepted or not, in their order.
    ///
    /// # Panics
    /// As [`hold`](Self::hold).
    pub fn log(&self) -> Vec<Attempted> {
        self.rows.lock().unwrap().log.clone()
    }

    /// Of each customer: no two processes have written under one token, and behind the first accepted
    /// write of an owner none of an earlier one was accepted.
    ///
    /// # Panics
    /// When it is not so.
    pub fn check(&self) {
        let mut latest = BTreeMap::<String, Told>::new();
        let mut writers = BTreeMap::<(String, u64), u32>::new();
        for Attempted { customer, told, accepted } in self.log() {
            let writer = *writers.entry((customer.clone(), told.fence)).or_insert(told.process);
            assert_eq!(writer, told.process, "two owners of {customer} under token {}", told.fence);
            if !accepted {
                continue;
            }
            if let Some(before) = latest.get(&customer) {
                assert!(before.fence <= told.fence, "{customer}: {told:?} was accepted behind {before:?}");
                assert!(before.value < told.value, "{customer}: {told:?} undoes {before:?}");
            }
            latest.insert(customer, told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(store: &FencedStore, request: &str) -> Result<u64, String> {
        store.rows.lock().unwrap().answer(request).unwrap()
    }

    #[test]
    fn a_smaller_token_than_the_greatest_is_refused_and_told() {
        let store = FencedStore::default();
        assert_eq!(asked(&store, "open alice 5 1"), Ok(0));
        assert_eq!(asked(&store, "write alice 5 1 10"), Ok(10));
        assert_eq!(asked(&store, "open alice 7 2"), Ok(10));
        assert_eq!(asked(&store, "write alice 5 1 20"), Err("token 5 is older than 7".to_owned()));
        assert_eq!(asked(&store, "write alice 7 2 11"), Ok(11));
        store.check();
        let accepted: Vec<_> = store.log().into_iter().map(|a| (a.told.value, a.accepted)).collect();
        assert_eq!(accepted, [(10, true), (20, false), (11, true)]);
    }

    #[test]
    #[should_panic(expected = "two owners of alice under token 5")]
    fn two_writers_under_one_token_are_found() {
        let store = FencedStore::default();
        assert_eq!(asked(&store, "write alice 5 1 10"), Ok(10));
        assert_eq!(asked(&store, "write alice 5 2 20"), Ok(20));
        store.check();
    }
}
