//! One of three nodes leads; when it leaves, another follows, with a greater token. A storage that
//! compares tokens refuses the one that came too late.

use afflux::registry::{Election, Fence};
use afflux::settings::Settings;
use afflux::{Node, NodeBuilder, prelude::*};

/// What a leader writes to. It remembers the greatest token it has seen, and refuses smaller ones: a
/// leader may have been stopped, and not know that it is none any more.
#[derive(Default)]
struct Ledger {
    seen: Option<Fence>,
}

impl Ledger {
    fn write(&mut self, who: &str, what: &str, fence: Fence) {
        if self.seen.is_some_and(|seen| fence < seen) {
            return println!("{who} writes \"{what}\": refused, a later leader has written");
        }
        self.seen = Some(fence);
        println!("{who} writes \"{what}\": done");
    }
}

/// A node, which joins the others through the first.
async fn node(id: &str, first: Option<&Node>) -> Result<Node> {
    let settings = Settings {
        node_id: id.into(),
        node_join: first.map(Node::address).unwrap_or_default(),
        admin_listen: String::new(),
        ..Settings::default()
    };
    NodeBuilder::new(settings).inline().start().await
}

async fn leader(election: &Election) -> Result<String> {
    Ok(election.leader().await?.map_or("nobody".to_owned(), |leader| leader.node().to_owned()))
}

#[afflux::main]
async fn main() -> Result {
    // The first node holds the registry; it only looks on. With `registry = "etcd"` nothing else differs.
    let home = node("home", None).await?;
    let (a, b) = (node("a", Some(&home)).await?, node("b", Some(&home)).await?);

    let of_a = a.elect("scheduler")?;
    let first = of_a.elected().await;
    let of_b = b.elect("scheduler")?;
    println!("{} leads; b leads: {}", leader(&of_b).await?, of_b.leadership().is_some());
    let mut ledger = Ledger::default();
    ledger.write("a", "monday", first.fence());

    of_a.resign().await;
    println!("a has resigned; a leads: {}", first.is_held());
    let second = of_b.elected().await;
    println!("{} leads, with a greater token: {}", leader(&of_b).await?, second.fence() > first.fence());
    ledger.write("b", "tuesday", second.fence());
    ledger.write("a", "monday, late", first.fence());

    // A lock waits for its turn, a counter needs none.
    let guard = a.lock("report").await?;
    println!("b gets the lock that a holds: {}", b.try_lock("report").await?.is_some());
    guard.release().await;
    println!("b gets the lock that a gave back: {}", b.try_lock("report").await?.is_some());
    a.counter("reports")?.add(2).await?;
    println!("{} reports were counted on two nodes", b.counter("reports")?.add(1).await?);

    for node in [b, a, home] {
        node.close().await;
    }
    Ok(())
}
