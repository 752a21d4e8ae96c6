//! R4 and R5: items in one direction, a million to a stream, one stream after the other.
//!
//! R4 sends them to the server, which answers with their number and sum; R5 has the server send them. Client and
//! server are processes of their own on loopback, each single-threaded.

use std::time::{Duration, Instant};

use afflux_actor::Threads;
use afflux_mesh::Transport;

use crate::args::Args;
use crate::report::{Param, Report, Work};
use crate::rpc::{Items, ItemsClient, Server, mesh};
use crate::usage::{Mark, peak_rss_mb};

/// Items of one stream, unless `--items` says otherwise.
const ITEMS: usize = 1_000_000;

/// One stream; returns the sum of what came, which is what was sent.
async fn stream(client: &ItemsClient, sends: bool, items: u64) -> Result<u64, String> {
    let expected = (0..items).fold(0u64, |sum, id| sum.wrapping_add(id ^ !id.rotate_left(9)));
    let (count, sum) = if sends {
        let (mut feed, answer) = client.collect().await.map_err(|e| e.to_string())?;
        for id in 0..items {
            feed.send((id, !id.rotate_left(9))).await.map_err(|e| e.to_string())?;
        }
        feed.finish();
        answer.await.map_err(|e| e.to_string())?
    } else {
        let mut incoming = client.numbers(items).await.map_err(|e| e.to_string())?;
        let (mut count, mut sum) = (0, 0u64);
        while let Some(item) = incoming.next().await {
            let (id, v) = item.map_err(|e| e.to_string())?;
            count += 1;
            sum = sum.wrapping_add(id ^ v);
        }
        (count, sum)
    };
    match (count, sum) == (items, expected) {
        true => Ok(sum),
        false => Err(format!("{count} items with the sum {sum:x} of {items} with {expected:x}")),
    }
}

/// `rpc r4|r5 …`
pub(crate) fn run(bench: &str, mut args: Args) -> Result<(), String> {
    let items = args.count("items", ITEMS)? as u64;
    let seconds: f64 = args.number("seconds", 10.0)?;
    args.finish()?;
    let sends = bench == "r4";
    let mut server = Server::start(0)?;
    let (records, checksum, wall_s, cpu_s, rss_mb) = afflux_actor::system(|| async move {
        let threads = Threads::start(0, 0).map_err(|e| e.to_string())?;
        let mesh = mesh("client", None, &threads, Transport::Tcp)?;
        let node = mesh.connect_unknown(&server.address).await.map_err(|e| e.to_string())?;
        let client = mesh.client_on::<Items>(&node);
        stream(&client, sends, items).await?;
        let before = server.usage()?;
        let mark = Mark::now()?;
        let (until, mut records, mut checksum) = (Instant::now() + Duration::from_secs_f64(seconds), 0, 0u64);
        while Instant::now() < until {
            checksum = stream(&client, sends, items).await?;
            records += items;
        }
        let (wall, own) = mark.spent()?;
        let after = server.usage()?;
        Ok::<_, String>((
            records,
            checksum,
            wall,
            own + after.cpu_s - before.cpu_s,
            peak_rss_mb()? + after.peak_mb,
        ))
    })
    .map_err(|e| e.to_string())??;
    let report = Report {
        bench: format!("rpc {bench}"),
        params: vec![
            ("engine", Param::Text("afflux")),
            ("items", Param::Number(items)),
            ("cpu_ps_per_item", Param::Number((cpu_s * 1e12 / records.max(1) as f64) as u64)),
        ],
        work: Work::Records { records, checksum, results: None },
        wall_s,
        cpu_s,
        rss_mb,
    };
    crate::show(&report);
    Ok(())
}
