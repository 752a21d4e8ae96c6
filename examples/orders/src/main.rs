//! Every kind of call of one service: unary, one-way, and streams in each direction. The shop and the till are two
//! nodes of one process; what the till calls goes over TCP.

mod desk;

use afflux::settings::Settings;
use afflux::{Node, NodeBuilder, prelude::*};
use desk::{Event, Line, OrderDesk, Orders};

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

#[afflux::main]
async fn main() -> Result {
    let shop = node("shop", None).service("desk", || Ok::<_, Status>(OrderDesk::default())).start().await?;
    let till = node("till", Some(&shop)).start().await?;
    let orders = till.client::<Orders>();

    // One request, one answer.
    let number = orders.place(Line { sku: "tea".into(), quantity: 2 }).await.map_err(Status::from)?;
    println!("place: order {number}");

    // One request, no answer.
    orders.touch(number).await.map_err(Status::from)?;
    println!("touch: sent");

    // One request, many items: what has happened, and what happens from now on.
    let mut events = orders.watch(0).await.map_err(Status::from)?;
    show("watch", events.next().await)?;

    // Many items, one answer.
    let (mut lines, summary) = orders.import("monday".into()).await.map_err(Status::from)?;
    for (sku, quantity) in [("milk", 3), ("bread", 1), ("salt", 0)] {
        lines.send(Line { sku: sku.into(), quantity }).await?;
    }
    lines.finish();
    let summary = summary.await.map_err(Status::from)?;
    println!("import: {} taken, {} refused", summary.taken, summary.refused);
    for _ in 0..2 {
        show("watch", events.next().await)?;
    }
    // Nobody listens any more: the desk forgets this watcher.
    drop(events);

    // Items both ways, each side at its own pace.
    let (mut questions, mut answers) = orders.chat().await.map_err(Status::from)?;
    for sku in ["milk", "salt"] {
        questions.send(sku.into()).await?;
        if let Some(answer) = answers.next().await {
            println!("chat: {sku}? {}", answer?);
        }
    }
    questions.finish();
    println!("chat: {}", if answers.next().await.is_none() { "over" } else { "goes on" });

    till.close().await;
    shop.close().await;
    Ok(())
}

fn show(call: &str, event: Option<Result<Event, Status>>) -> Result {
    match event {
        Some(event) => {
            let event = event?;
            println!("{call}: event {}, order {} of {}", event.number, event.order, event.line.sku);
        }
        None => println!("{call}: over"),
    }
    Ok(())
}
