//! R4 and R5, items that stream to the server or from it, and large answers beside pings.
//!
//! An item is `{id, v}`; a stream has [`STREAM_ITEMS`] of them, and one follows the other until all records are
//! through. Both sides are single-threaded processes, as for calls.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use afflux_actor::{ActorMetrics, Serves as _, Spec, Threads};
use afflux_macros::{Actor, Service};
use afflux_mesh::{Mesh, Transport};
use afflux_wire::ActorPath;
use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::{Body, Echo, LATENCY_NS_MAX, Server, WARM_UP, mesh};
use crate::args::Args;
use crate::kit::contract::{Cx, Emit, Fault, Incoming, NoError, Status};
use crate::report::{Param, Report, Work};
use crate::usage::{Mark, peak_rss_mb};
use crate::workload::mix;

/// Items of one stream.
const STREAM_ITEMS: u64 = 1_000_000;
/// Time from one ping to the next.
const PING_EVERY: Duration = Duration::from_millis(1);
/// Large answers that are under way at once.
const LARGE_CALLS: usize = 2;

/// What streams.
#[derive(Service)]
#[service(name = "bench.items", crate = "crate::kit")]
pub(crate) enum Items {
    /// Streams items to the caller.
    #[rpc(streams = Item)]
    Give {
        /// How many.
        count: u64,
    },
    /// Takes items and returns their checksum.
    #[rpc(accepts = Item, returns = u64, deadline = "1h")]
    Take,
    /// Answers with bytes.
    #[rpc(returns = Body, idempotent)]
    Large {
        /// How many.
        bytes: u64,
    },
}

/// One item.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub(crate) struct Item {
    id: u64,
    v: u64,
}

impl Item {
    fn new(id: u64) -> Self {
        Self { id, v: mix(id) }
    }

    /// What it adds to the checksum.
    fn term(self) -> u64 {
        (2 * self.id + 1).wrapping_mul(self.v)
    }
}

#[derive(Actor)]
#[actor(serves(Items), crate = "crate::kit")]
struct Giver;

impl ItemsHandler for Giver {
    async fn give(&mut self, _: &mut Cx, count: u64, mut out: Emit<Item>) -> Result<(), Fault<NoError>> {
        for id in 0..count {
            out.send(Item::new(id)).await?;
        }
        Ok(())
    }

    async fn take(&mut self, _: &mut Cx, mut items: Incoming<Item>) -> Result<u64, Fault<NoError>> {
        let mut sum = 0u64;
        while let Some(item) = items.next().await {
            sum = sum.wrapping_add(item?.term());
        }
        Ok(sum)
    }

    async fn large(&mut self, _: &mut Cx, bytes: u64) -> Result<Body, Fault<NoError>> {
        Ok(Body(vec![7; bytes as usize]))
    }
}

/// Serves [`Items`] on a mesh.
pub(super) fn serve(mesh: &Mesh, threads: &Threads) {
    let spec = Spec::new(ActorPath::new("items"), ActorMetrics::unregistered()).caller(mesh.caller());
    let actor = threads.io().spawn(spec, || Ok(Giver));
    for entry in Giver::services(actor.address()) {
        mesh.serve(entry);
    }
}

/// One stream from the server; its checksum.
async fn give(client: &ItemsClient, count: u64) -> Result<u64, Status> {
    let mut items = client.give(count).await.map_err(Status::from)?;
    let (mut sum, mut came) = (0u64, 0);
    while let Some(item) = items.next().await {
        sum = sum.wrapping_add(item?.term());
        came += 1;
    }
    match came == count {
        true => Ok(sum),
        false => Err(Status::internal(format!("{came} items came, not {count}"))),
    }
}

/// One stream to the server; its checksum.
async fn take(client: &ItemsClient, count: u64) -> Result<u64, Status> {
    let (mut feed, sum) = client.take().await.map_err(Status::from)?;
    for id in 0..count {
        feed.send(Item::new(id)).await?;
    }
    feed.finish();
    sum.await.map_err(Status::from)
}

/// `rpc r4|r5 --records N`
pub(super) fn run(bench: &str, mut args: Args) -> Result<(), String> {
    let records = args.count("records", 50_000_000)? as u64;
    args.finish()?;
    let up = bench == "r4";
    let mut server = Server::start(0)?;
    let (checksum, wall_s, cpu_s, rss_mb) = afflux_actor::system(|| async move {
        let threads = Threads::start(0, 0).map_err(|e| e.to_string())?;
        let mesh = mesh("client", None, &threads, Transport::Tcp)?;
        let node = mesh.connect_unknown(&server.address).await.map_err(|e| e.to_string())?;
        let client = mesh.client_on::<Items>(&node);
        let one = async |count| if up { take(&client, count).await } else { give(&client, count).await };
        one(STREAM_ITEMS / 10).await.map_err(|e| e.to_string())?;
        let before = server.usage()?;
        let mark = Mark::now()?;
        let (mut rest, mut checksum) = (records, 0u64);
        while rest > 0 {
            let count = rest.min(STREAM_ITEMS);
            checksum = checksum.wrapping_add(one(count).await.map_err(|e| e.to_string())?);
            rest -= count;
        }
        let (wall_s, own) = mark.spent()?;
        let after = server.usage()?;
        Ok::<_, String>((checksum, wall_s, own + after.cpu_s - before.cpu_s, peak_rss_mb()? + after.peak_mb))
    })
    .map_err(|e| e.to_string())??;
    crate::show(&Report {
        bench: format!("rpc {bench}"),
        params: vec![("engine", Param::Text("afflux")), ("stream_items", Param::Number(STREAM_ITEMS))],
        work: Work::Records { records, checksum, results: None },
        wall_s,
        cpu_s,
        rss_mb,
    });
    Ok(())
}

/// `rpc large --payload BYTES --seconds S`: latencies of pings, one a millisecond, each from the time it was due,
/// while [`LARGE_CALLS`] large answers are always under way on the same link.
pub(super) fn large(mut args: Args) -> Result<(), String> {
    let payload = args.number("payload", 10_000_000)?;
    let seconds: f64 = args.number("seconds", 10.0)?;
    args.finish()?;
    let mut server = Server::start(0)?;
    let (pings, answers, wall_s, cpu_s, rss_mb) = afflux_actor::system(|| async move {
        let threads = Threads::start(0, 0).map_err(|e| e.to_string())?;
        let mesh = mesh("client", None, &threads, Transport::Tcp)?;
        let node = mesh.connect_unknown(&server.address).await.map_err(|e| e.to_string())?;
        let (large, ping) = (mesh.client_on::<Items>(&node), mesh.client_on::<Echo>(&node));
        let answers: Rc<RefCell<Result<u64, String>>> = Rc::new(RefCell::new(Ok(0)));
        let local = tokio::task::LocalSet::new();
        // 0: pings alone, for comparison.
        for _ in 0..if payload == 0 { 0 } else { LARGE_CALLS } {
            let (large, answers) = (large.clone(), Rc::clone(&answers));
            local.spawn_local(async move {
                loop {
                    let answer = large.large(payload).await;
                    let mut answers = answers.borrow_mut();
                    match (answer, &mut *answers) {
                        (Ok(body), Ok(count)) if body.0.len() as u64 == payload => *count += 1,
                        (Err(error), _) => {
                            *answers = Err(format!("a large call: {error}"));
                            return;
                        }
                        _ => return,
                    }
                }
            });
        }
        local.run_until(tokio::time::sleep(WARM_UP)).await;
        let latencies = Histogram::<u64>::new_with_bounds(1, LATENCY_NS_MAX, 3).map_err(|e| e.to_string())?;
        let before = server.usage()?;
        let mark = Mark::now()?;
        if let Ok(count) = &mut *answers.borrow_mut() {
            *count = 0;
        }
        let pings = Rc::new(RefCell::new((latencies, None)));
        local
            .run_until(async {
                let end = Instant::now() + Duration::from_secs_f64(seconds);
                let mut due = tokio::time::interval(PING_EVERY);
                let mut under_way = VecDeque::new();
                loop {
                    let at = due.tick().await;
                    if at >= end {
                        break;
                    }
                    let (ping, pings) = (ping.clone(), Rc::clone(&pings));
                    // Beside those that are under way: a slow one delays no other.
                    under_way.push_back(tokio::task::spawn_local(async move {
                        let answer = ping.pair(1, 2).await;
                        let mut pings = pings.borrow_mut();
                        match answer {
                            Ok(_) => pings.0.saturating_record(at.elapsed().as_nanos() as u64),
                            Err(error) => pings.1 = Some(format!("a ping: {error}")),
                        }
                    }));
                    while under_way.front().is_some_and(|ping| ping.is_finished()) {
                        under_way.pop_front();
                    }
                }
                for ping in under_way {
                    let _ = ping.await;
                }
            })
            .await;
        let (wall_s, own) = mark.spent()?;
        let after = server.usage()?;
        let answers = answers.borrow().clone()?;
        let (latencies, failed) = pings.replace((Histogram::new(1).map_err(|e| e.to_string())?, None));
        if let Some(failed) = failed {
            return Err(failed);
        }
        Ok::<_, String>((
            latencies,
            answers,
            wall_s,
            own + after.cpu_s - before.cpu_s,
            peak_rss_mb()? + after.peak_mb,
        ))
    })
    .map_err(|e| e.to_string())??;
    crate::show(&Report {
        bench: "rpc large".into(),
        params: vec![
            ("engine", Param::Text("afflux")),
            ("payload", Param::Number(payload)),
            ("large_answers", Param::Number(answers)),
        ],
        work: Work::Requests(Box::new(pings)),
        wall_s,
        cpu_s,
        rss_mb,
    });
    Ok(())
}
