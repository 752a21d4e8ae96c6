//! Orders fall into a directory as compressed files of JSON lines. The large ones go out over TCP as they come.
use std::time::Duration;

use afflux::connectors::{Files, JsonLines, TcpLines};
use afflux::jobs::{JobInfo, JobRequest};
use afflux::settings::Settings;
use afflux::stream::vec_source;
use afflux::{Node, prelude::*};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    customer: String,
    cents: u64,
}

/// Writes a file into the inbox. It has another name until it is whole, so nobody sees half of it.
fn deliver(flow: &Flow, day: &str, orders: &[(&str, u64)]) -> Result {
    let orders = orders.iter().map(|(customer, cents)| Order { customer: (*customer).into(), cents: *cents });
    flow.source("orders", vec_source(orders.collect()))
        .untimed()
        .sink("file", JsonLines::path(format!("out/inbox/{day}.jsonl.zst")));
    Ok(())
}

/// Never ends: what is in the directory, then what falls into it.
fn large(flow: &Flow, to: &str) -> Result {
    let inbox = Files::watch("out/inbox").poll_every(Duration::from_millis(20));
    flow.source("inbox", inbox.json::<Order>())
        .untimed()
        .filter(|order| order.cents >= 10_000)
        .map(|order| format!("{} pays {}.{:02}", order.customer, order.cents / 100, order.cents % 100))
        .sink("till", TcpLines::connect(to).text());
    Ok(())
}

async fn submit(node: &Node, pipeline: &str) -> Result<JobInfo> {
    let request = JobRequest { pipeline: pipeline.to_owned(), nodes_min: 2, ..JobRequest::default() };
    Ok(node.cluster().jobs().await?.submit(request).await.map_err(Status::from)?)
}

/// Waits until a job has ended.
async fn ended(node: &Node, mut job: JobInfo) -> Result {
    let jobs = node.cluster().jobs().await?;
    while !job.has_ended() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        job = jobs.show(job.id).await.map_err(Status::from)?;
    }
    println!("{}: {}{}", job.pipeline, job.state, job.error.map(|e| format!(", {e}")).unwrap_or_default());
    Ok(())
}

/// Shows the next lines that come in over TCP.
async fn show(lines: &mut Lines<BufReader<TcpStream>>, count: usize) -> Result {
    for _ in 0..count {
        println!("  {}", lines.next_line().await?.unwrap_or_default());
    }
    Ok(())
}

fn settings(id: &str, join: String) -> Settings {
    Settings {
        node_id: id.into(),
        node_listen: "127.0.0.1:0".into(),
        node_join: join,
        admin_listen: String::new(),
        pipeline_parallelism: 1,
        ..Settings::default()
    }
}

#[afflux::main]
async fn main() -> Result {
    let _ = std::fs::remove_dir_all("out/inbox");
    let till = TcpListener::bind("127.0.0.1:0").await?;
    let to = till.local_addr()?.to_string();
    let app = App::new("inbox")
        .pipeline("monday", |flow| deliver(flow, "monday", &[("Ada", 12_000), ("Bob", 500), ("Cy", 99_900)]))
        .pipeline("tuesday", |flow| deliver(flow, "tuesday", &[("Di", 9_999), ("Ed", 10_000)]))
        .pipeline("large", move |flow| large(flow, &to));
    let warehouse = app.node(settings("warehouse", String::new())).inline().start().await?;
    let node = app.node(settings("office", warehouse.address())).inline().start().await?;

    ended(&node, submit(&node, "monday").await?).await?;
    let large = submit(&node, "large").await?;
    let mut lines = BufReader::new(till.accept().await?.0).lines();
    show(&mut lines, 2).await?;
    ended(&node, submit(&node, "tuesday").await?).await?;
    show(&mut lines, 1).await?;
    node.cluster().jobs().await?.cancel(large.id.clone()).await.map_err(Status::from)?;
    ended(&node, large).await?;
    node.close().await;
    warehouse.close().await;
    Ok(())
}
