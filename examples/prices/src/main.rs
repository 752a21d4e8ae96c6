//! Orders are read, and each is priced by a service. What cannot be read or has no price is a dead letter in a
//! file of its own; once the price list is mended, the orders in it are fed again.
use std::time::Duration;

use afflux::connectors::JsonLines;
use afflux::jobs::JobRequest;
use afflux::settings::Settings;
use afflux::stream::vec_source;
use afflux::{Node, prelude::*};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    sku: String,
    pieces: u64,
}

#[derive(RpcError, Serialize, Deserialize, JsonSchema, Debug)]
enum PriceError {
    #[rpc(code = NotFound)]
    NoPrice { sku: String },
}

#[derive(Service)]
#[service(name = "example.prices", error = PriceError)]
enum Prices {
    #[rpc(returns = u64, idempotent)]
    Of { sku: String },
    #[rpc(idempotent)]
    Set { sku: String, cents: u64 },
}

#[derive(Actor)]
#[actor(serves(Prices))]
struct PriceList(std::collections::BTreeMap<String, u64>);

impl PricesHandler for PriceList {
    async fn of(&mut self, _: &mut Cx, sku: String) -> Result<u64, Fault<PriceError>> {
        self.0.get(&sku).copied().ok_or_else(|| PriceError::NoPrice { sku }.into())
    }
    async fn set(&mut self, _: &mut Cx, sku: String, cents: u64) -> Result<(), Fault<PriceError>> {
        self.0.insert(sku, cents);
        Ok(())
    }
}

fn read(line: &str) -> Result<Order, String> {
    let (sku, pieces) = line.split_once(' ').ok_or("expected ARTICLE PIECES")?;
    let pieces = pieces.parse().map_err(|_| format!("expected a number of pieces, got `{pieces}`"))?;
    Ok(Order { sku: sku.to_owned(), pieces })
}

async fn price(cx: AsyncCx, order: Order) -> Result<(String, u64), Status> {
    let cents = cx.client::<Prices>().of(order.sku.clone()).idempotency_key(cx.idempotency_key()).await?;
    Ok((order.sku, cents * order.pieces))
}

fn orders(flow: &Flow) -> Result {
    let lines = ["tea 2", "milk 3", "bread", "salt 1", "tea many", "milk 1"].map(str::to_owned).to_vec();
    let lines = flow.source("lines", vec_source(lines)).untimed();
    let (orders, unread) = lines.try_map("read", |line| read(line), Errors::DeadLetter);
    let how = AsyncMap::ordered().in_flight(16).timeout(secs(2)).retries(2, Backoff::default());
    let (priced, unpriced) = orders.async_map("price", how.errors(Errors::DeadLetter), price);
    priced.sink("out", JsonLines::path("out/prices.jsonl"));
    unread.sink("unread", JsonLines::path("out/unread.jsonl"));
    unpriced.sink("unpriced", JsonLines::path("out/unpriced.jsonl"));
    Ok(())
}

fn again(flow: &Flow) -> Result {
    let letters = JsonLines::<DeadLetter<Order>>::path("out/unpriced.jsonl");
    let orders = flow.source("orders", replay(letters)).untimed();
    orders
        .async_map("price", AsyncMap::ordered(), price)
        .sink("out", JsonLines::path("out/prices-again.jsonl"));
    Ok(())
}

/// Runs a pipeline to its end and shows what stands in some files then.
async fn run(node: &Node, pipeline: &str, files: &[&str]) -> Result {
    let jobs = node.cluster().jobs().await?;
    let request = JobRequest { pipeline: pipeline.to_owned(), nodes_min: 2, ..JobRequest::default() };
    let mut job = jobs.submit(request).await.map_err(Status::from)?;
    while !job.has_ended() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        job = jobs.show(job.id).await.map_err(Status::from)?;
    }
    println!("{pipeline}: {}{}", job.state, job.error.map(|e| format!(", {e}")).unwrap_or_default());
    for file in files {
        print!(
            "{file}\n{}",
            std::fs::read_to_string(format!("out/{file}")).map_err(|e| Error::failed(e.to_string()))?
        );
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
    let app = App::new("prices").pipeline("orders", orders).pipeline("again", again);
    let list = || Ok::<_, Status>(PriceList([("tea".to_owned(), 250), ("milk".to_owned(), 120)].into()));
    let shop = app.node(settings("shop", String::new())).inline().service("prices", list).start().await?;
    let till = app.node(settings("till", shop.address())).inline().start().await?;

    run(&till, "orders", &["prices.jsonl", "unread.jsonl", "unpriced.jsonl"]).await?;
    till.client::<Prices>().set("salt".into(), 90).await.map_err(Status::from)?;
    run(&till, "again", &["prices-again.jsonl"]).await?;

    till.close().await;
    shop.close().await;
    Ok(())
}
