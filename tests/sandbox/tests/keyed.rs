//! Keyed actors on nodes that come and go, over a store that refuses writes of earlier owners: one suite
//! over every backing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use afflux::actor::{Lifecycle, StopReason};
use afflux::keyed::KeyValue;
use afflux::prelude::*;
use afflux::settings::Settings;
use afflux::{Node, NodeBuilder};
use afflux_sandbox::{BACKINGS, Backing, Cluster, run, until_async};
use parking_lot::Mutex;

#[derive(Service)]
#[service(name = "test.accounts")]
enum Accounts {
    /// Adds to a customer's account.
    #[rpc(returns = Entry, deadline = "20s")]
    Add { customer: String, n: u64 },
    /// Waits in its handler until it is let go, and then writes.
    #[rpc(returns = Entry, deadline = "20s")]
    Slow { customer: String },
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
struct Entry {
    node: usize,
    fence: u64,
    value: u64,
}

/// A store with fencing: it has the greatest token it has seen of each customer, and refuses a smaller.
#[derive(Default)]
struct Store {
    rows: Mutex<BTreeMap<String, Entry>>,
    /// Who wrote under each token of each customer.
    writers: Mutex<BTreeMap<(String, u64), Vec<usize>>>,
    refused: AtomicUsize,
    opened: AtomicUsize,
    closed: AtomicUsize,
    hold: AtomicBool,
    held: AtomicUsize,
}

impl Store {
    /// A new owner reads what is there, and shuts out all before it.
    fn open(&self, customer: &str, node: usize, fence: u64) -> Result<u64, Status> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let mut rows = self.rows.lock();
        let row = rows.entry(customer.to_owned()).or_insert(Entry { node, fence, value: 0 });
        if fence < row.fence {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(Status::precondition(format!("token {fence} is older than {}", row.fence)));
        }
        (row.node, row.fence) = (node, fence);
        Ok(row.value)
    }

    fn write(&self, customer: &str, entry: Entry) -> Result<Entry, Status> {
        let mut rows = self.rows.lock();
        let Some(row) = rows.get_mut(customer) else { return Err(Status::not_found(customer)) };
        if entry.fence < row.fence {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(Status::precondition(format!("token {} is older than {}", entry.fence, row.fence)));
        }
        let key = (customer.to_owned(), entry.fence);
        let mut writers = self.writers.lock();
        let writers = writers.entry(key).or_default();
        if !writers.contains(&entry.node) {
            writers.push(entry.node);
        }
        *row = entry.clone();
        Ok(entry)
    }

    /// No two nodes have written under one token.
    fn check(&self, backing: Backing) {
        for ((customer, fence), nodes) in &*self.writers.lock() {
            assert_eq!(nodes.len(), 1, "{backing}: nodes {nodes:?} wrote {customer} under token {fence}");
        }
    }

    fn total(&self) -> u64 {
        self.rows.lock().values().map(|row| row.value).sum()
    }
}

#[derive(Actor)]
#[actor(serves(Accounts), key = "customer", idle = "400ms", active_max = 500, lifecycle)]
struct Account {
    customer: String,
    node: usize,
    value: u64,
    store: Arc<Store>,
}

impl Account {
    fn add(&mut self, cx: &Cx, n: u64) -> Result<Entry, Status> {
        let fence = cx.fence().ok_or_else(|| Status::internal("no token"))?;
        let entry = Entry { node: self.node, fence, value: self.value + n };
        let entry = self.store.write(&self.customer, entry)?;
        self.value = entry.value;
        Ok(entry)
    }
}

impl Lifecycle for Account {
    async fn started(&mut self, cx: &mut Cx) -> Result<(), Status> {
        let fence = cx.fence().ok_or_else(|| Status::internal("no token"))?;
        self.value = self.store.open(&self.customer, self.node, fence)?;
        Ok(())
    }
    fn stopped(&mut self, _: &StopReason) {
        self.store.closed.fetch_add(1, Ordering::SeqCst);
    }
}

impl AccountsHandler for Account {
    async fn add(&mut self, cx: &mut Cx, customer: String, n: u64) -> Result<Entry, Fault> {
        assert_eq!(customer, self.customer);
        Ok(Account::add(self, cx, n)?)
    }
    async fn slow(&mut self, cx: &mut Cx, _: String) -> Result<Entry, Fault> {
        self.store.held.fetch_add(1, Ordering::SeqCst);
        while self.store.hold.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(Account::add(self, cx, 1)?)
    }
}

fn accounts(store: &Arc<Store>) -> impl Fn(usize, NodeBuilder) -> NodeBuilder + 'static {
    let store = Arc::clone(store);
    move |node, builder| {
        let store = Arc::clone(&store);
        builder.keyed("accounts", move |key: &KeyValue| {
            Ok::<_, Error>(Account { customer: key.get()?, node, value: 0, store: Arc::clone(&store) })
        })
    }
}

/// A node that is lost is noticed within a second.
fn brisk(settings: &mut Settings) {
    settings.registry_ttl_ms = 900;
    settings.drain_lame_duck_ms = 50;
    settings.drain_grace_ms = 5_000;
}

fn customers(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("customer-{i}")).collect()
}

#[test]
fn a_key_has_one_actor_whichever_node_is_asked() {
    for backing in BACKINGS {
        run(|| async move {
            let store = Arc::new(Store::default());
            let cluster = Cluster::of(3, backing).each(accounts(&store)).settings(brisk).start().await;
            let mut nodes = std::collections::BTreeSet::new();
            for customer in customers(20) {
                let mut owners = std::collections::BTreeSet::new();
                for (times, node) in cluster.nodes().iter().enumerate() {
                    let entry = node.client::<Accounts>().add(customer.clone(), 1).await.unwrap();
                    assert_eq!(entry.value, times as u64 + 1, "{backing}: {customer}");
                    owners.insert((entry.node, entry.fence));
                }
                assert_eq!(owners.len(), 1, "{backing}: {customer} has owners {owners:?}");
                nodes.extend(owners.into_iter().map(|(node, _)| node));
            }
            assert!(nodes.len() > 1, "{backing}: all keys are on one node");
            store.check(backing);
            cluster.close().await;
        });
    }
}

#[test]
fn an_idle_actor_is_passivated_and_made_anew_by_the_next_call() {
    for backing in BACKINGS {
        run(|| async move {
            let store = Arc::new(Store::default());
            let cluster = Cluster::of(1, backing).each(accounts(&store)).settings(brisk).start().await;
            let bank = cluster.nodes()[0].client::<Accounts>();
            assert_eq!(bank.add("alice".into(), 5).await.unwrap().value, 5);
            until_async("alice is passive", async || {
                (store.closed.load(Ordering::SeqCst) == 1).then_some(())
            })
            .await;
            assert_eq!(bank.add("alice".into(), 5).await.unwrap().value, 10, "{backing}: from the store");
            assert_eq!(store.opened.load(Ordering::SeqCst), 2);
            cluster.close().await;
        });
    }
}

/// Calls without a pause until it is told to stop; how many succeeded, and what failed.
async fn load(node: Node, customers: Vec<String>, go: Arc<AtomicBool>) -> (u64, Vec<String>) {
    let bank = node.client::<Accounts>();
    let (mut done, mut failed) = (0, Vec::new());
    while go.load(Ordering::SeqCst) {
        for customer in &customers {
            match bank.add(customer.clone(), 1).await {
                Ok(_) => done += 1,
                Err(error) => failed.push(error.to_string()),
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (done, failed)
}

#[test]
fn keys_move_under_load_when_nodes_join_and_leave_and_no_two_owners_write() {
    for backing in BACKINGS {
        run(|| async move {
            let store = Arc::new(Store::default());
            let mut cluster = Cluster::of(2, backing).each(accounts(&store)).settings(brisk).start().await;
            let go = Arc::new(AtomicBool::new(true));
            // The seed calls, and so does the node that will leave, until it does.
            let callers = [0, 0, 1].map(|at: usize| {
                let node = cluster.nodes()[at].clone();
                tokio::task::spawn_local(load(node, customers(12), Arc::clone(&go)))
            });
            let owners =
                || store.rows.lock().values().map(|row| row.node).collect::<std::collections::BTreeSet<_>>();
            until_async("both nodes own keys", async || (owners().len() == 2).then_some(())).await;
            cluster.join().await;
            until_async("the third owns keys", async || owners().contains(&3).then_some(())).await;
            let leaving = cluster.take("node-3");
            leaving.close().await;
            until_async("its keys have moved", async || (!owners().contains(&3)).then_some(())).await;
            go.store(false, Ordering::SeqCst);
            let mut done = 0;
            for caller in callers {
                let (calls, failed) = caller.await.unwrap();
                assert!(failed.is_empty(), "{backing}: {} failed, first: {}", failed.len(), failed[0]);
                done += calls;
            }
            store.check(backing);
            assert_eq!(store.total(), done, "{backing}: what was answered is in the store, and nothing else");
            cluster.close().await;
        });
    }
}

#[test]
fn an_owner_that_is_cut_off_is_replaced_and_what_it_writes_later_is_refused() {
    for backing in BACKINGS {
        run(|| async move {
            let store = Arc::new(Store::default());
            let mut cluster = Cluster::of(2, backing).each(accounts(&store)).settings(brisk).start().await;
            let first = cluster.nodes()[0].clone();
            let bank = first.client::<Accounts>();
            let mut owned = None;
            for customer in customers(30) {
                if bank.add(customer.clone(), 1).await.unwrap().node == 2 {
                    owned = Some(customer);
                    break;
                }
            }
            let customer = owned.unwrap();
            // Its handler hangs when its node is cut off from everybody, and goes on afterwards.
            store.hold.store(true, Ordering::SeqCst);
            let second = cluster.take("node-2");
            let hanging =
                tokio::task::spawn_local(second.client::<Accounts>().slow(customer.clone()).into_future());
            until_async("it hangs", async || (store.held.load(Ordering::SeqCst) == 1).then_some(())).await;
            second.mesh().close();
            let entry = until_async("a new owner", async || {
                let answer = bank.add(customer.clone(), 1).deadline(Duration::from_secs(1)).await;
                answer.ok().filter(|entry| entry.node == 1)
            })
            .await;
            assert!(entry.value >= 2, "{backing}: {entry:?}");
            let refused = store.refused.load(Ordering::SeqCst);
            store.hold.store(false, Ordering::SeqCst);
            assert!(hanging.await.unwrap().is_err(), "{backing}: the old owner's write was accepted");
            assert_eq!(store.refused.load(Ordering::SeqCst), refused + 1);
            store.check(backing);
            cluster.close().await;
        });
    }
}

#[test]
fn a_call_waits_for_an_owner_until_its_deadline() {
    run(|| async {
        let store = Arc::new(Store::default());
        let mut cluster = Cluster::of(2, BACKINGS[0]).each(accounts(&store)).settings(brisk).start().await;
        let bank = cluster.nodes()[0].client::<Accounts>();
        // Nobody takes its partitions for as long as its locks live: a call meanwhile waits and succeeds.
        let second = cluster.take("node-2");
        for customer in customers(30) {
            bank.add(customer, 1).await.unwrap();
        }
        second.mesh().close();
        for customer in customers(30) {
            bank.add(customer, 1).deadline(Duration::from_secs(15)).await.unwrap();
        }
        store.check(BACKINGS[0]);
        cluster.close().await;
    });
}

#[test]
fn a_registry_without_locks_refuses_keyed_actors_at_start_and_names_itself() {
    run(|| async {
        let settings = Settings {
            registry: "static".into(),
            registry_nodes: vec!["127.0.0.1:1".into()],
            admin_listen: String::new(),
            node_listen: "127.0.0.1:0".into(),
            ..Settings::default()
        };
        let builder = accounts(&Arc::default())(1, NodeBuilder::new(settings).inline());
        let Err(error) = builder.start().await else { panic!("it started") };
        let text = error.to_string();
        assert!(text.contains("accounts") && text.contains("registry static has no"), "{text}");
    });
}
