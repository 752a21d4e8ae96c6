//! Many clients of one node: what a connection costs the server in memory, and what calls that are spread
//! over all of them take.
//!
//! A client is a mesh of its own, with two TCP connections (control and data), as each client process has.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use afflux_actor::Threads;
use afflux_mesh::{Mesh, Transport};
use hdrhistogram::Histogram;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::args::Args;
use crate::open_loop::{Arrivals, Seen};
use crate::rpc::{Echo, EchoClient, LATENCY_NS_MAX, Server, mesh};

/// Clients that connect at the same time.
const CONNECTING_MAX: usize = 32;
/// Time for the server to become idle before its memory is read.
const SETTLE: Duration = Duration::from_secs(3);
/// Files of this process beside its sockets.
const FILES_BESIDE: u64 = 256;

/// As many open files as two connections a client need.
fn raise_files(clients: u64) -> Result<(), String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| format!("getrlimit: {e}"))?;
    let wanted = 2 * clients + FILES_BESIDE;
    if soft >= wanted {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).map_err(|e| format!("setrlimit: {e}"))?;
    match wanted <= hard {
        true => Ok(()),
        false => Err(format!(
            "{clients} clients need {wanted} open files, the limit is {hard}: raise it, or take fewer"
        )),
    }
}

async fn connect_all(
    clients: usize,
    address: &str,
    threads: &Threads,
) -> Result<Vec<(Mesh, EchoClient)>, String> {
    let mut all = Vec::with_capacity(clients);
    while all.len() < clients {
        let from = all.len();
        let group = (from..clients.min(from + CONNECTING_MAX)).map(|number| async move {
            let mesh = mesh(&format!("client-{number}"), None, threads, Transport::Tcp)?;
            let node = mesh.connect_unknown(address).await.map_err(|e| format!("client {number}: {e}"))?;
            let client = mesh.client_on::<Echo>(&node);
            client.pair(number as u64, 0).await.map_err(|e| format!("client {number}: {e}"))?;
            Ok::<_, String>((mesh, client))
        });
        for one in futures_util::future::join_all(group).await {
            all.push(one?);
        }
    }
    Ok(all)
}

/// `rpc connections …`
pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let clients = args.count("clients", 2_000)?;
    let rate = args.count("rate", 20_000)?;
    let seconds: f64 = args.number("seconds", 10.0)?;
    args.finish()?;
    raise_files(clients as u64)?;
    let mut server = Server::start(0)?;
    let line = afflux_actor::system(|| async move {
        let threads = Threads::start(0, 0).map_err(|e| e.to_string())?;
        // One first: what is made once is not counted.
        let first = connect_all(1, &server.address, &threads).await?;
        tokio::time::sleep(SETTLE).await;
        let empty = server.usage()?;
        drop(first);
        let all = connect_all(clients, &server.address, &threads).await?;
        tokio::time::sleep(SETTLE).await;
        let idle = server.usage()?;
        let seen: Seen = Rc::new(RefCell::new((
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).map_err(|e| e.to_string())?,
            None,
        )));
        let handles: Vec<EchoClient> = all.iter().map(|(_, client)| client.clone()).collect();
        Arrivals::new(rate as f64).run(&handles, Duration::from_secs_f64(seconds), &seen).await?;
        let busy = server.usage()?;
        tokio::time::sleep(SETTLE).await;
        let after = server.usage()?;
        let kib = |mb: f64| (mb - empty.now_mb) * 1e6 / 1024.0 / clients as f64;
        let seen = seen.borrow();
        let us = |quantile| seen.0.value_at_quantile(quantile) as f64 / 1e3;
        Ok::<_, String>(format!(
            "{{\"bench\":\"rpc connections\",\"clients\":{clients},\"rate\":{rate},\"requests\":{},\
             \"server_kib_per_client_idle\":{:.1},\"server_kib_per_client_called\":{:.1},\
             \"server_kib_per_client_after\":{:.1},\"server_cpu_us_per_call\":{:.2},\
             \"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},\"server_rss_mb\":{:.1}}}",
            seen.0.len(),
            kib(idle.now_mb),
            kib(busy.now_mb),
            kib(after.now_mb),
            (busy.cpu_s - idle.cpu_s) * 1e6 / seen.0.len().max(1) as f64,
            us(0.5),
            us(0.99),
            us(0.999),
            after.now_mb,
        ))
    })
    .map_err(|e| e.to_string())??;
    println!("{line}");
    Ok(())
}
