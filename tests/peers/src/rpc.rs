//! Calls over loopback TCP between two processes, each single-threaded: what the RPC peers share.
//!
//! The client starts the server, a copy of itself, keeps a number of calls outstanding on one connection, and
//! measures a window of time after a warm-up. The server reports its processor time when asked through
//! its standard input and ends when that closes.

use crate::args::Args;
use crate::report::{Param, Report, Work};
use crate::usage::{Mark, cpu_s, peak_rss_mb};
use bytes::Bytes;
use hdrhistogram::Histogram;
use std::cell::RefCell;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Calls before the measured window, in seconds.
const WARM_UP: Duration = Duration::from_millis(500);
/// Greatest latency that is told apart, in nanoseconds: one minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Calls outstanding at most.
pub const OUTSTANDING_MAX: usize = 65_536;
/// Bytes of a payload at most.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// A peer: how it serves and how it calls.
pub trait Peer {
    /// A handle to the connection; clones share it.
    type Client: Client;

    /// Its name in the report.
    const NAME: &'static str;

    /// Serves until the process ends.
    fn serve(listener: TcpListener) -> impl Future<Output = Result<(), String>>;

    /// Connects, ready for `outstanding` calls at once.
    fn connect(
        address: SocketAddr,
        outstanding: usize,
    ) -> impl Future<Output = Result<Self::Client, String>>;
}

/// A connected client.
pub trait Client: Clone + Send + 'static {
    /// Sends two numbers and returns the two numbers that come back, the server's echo.
    fn call(&mut self, id: u64, v: u64) -> impl Future<Output = Result<(u64, u64), String>> + Send;

    /// Sends bytes and returns the server's echo.
    fn echo(&mut self, body: Bytes) -> impl Future<Output = Result<Bytes, String>> + Send;

    /// R5: asks for items `{id, v: mix(id)}`, `id` from 0, and returns the sum of [`item_term`].
    fn give(&mut self, _count: u64) -> impl Future<Output = Result<u64, String>> + Send {
        std::future::ready(Err("this peer has no streams".to_owned()))
    }

    /// R4: sends such items and returns what the server computed.
    fn take(&mut self, _count: u64) -> impl Future<Output = Result<u64, String>> + Send {
        std::future::ready(Err("this peer has no streams".to_owned()))
    }
}

/// Items of one stream of R4 and R5.
const STREAM_ITEMS: u64 = 1_000_000;

/// What an item of R4 and R5 adds to the checksum.
#[inline]
#[must_use]
pub const fn item_term(id: u64, v: u64) -> u64 {
    (2 * id + 1).wrapping_mul(v)
}

/// R4 and R5: one stream after the other, until all items are through.
fn items<P: Peer>(bench: &str, records: u64, runtime: &Runtime) -> Result<Report, String> {
    let mut server = Server::start(bench)?;
    let up = bench == "r4";
    runtime.block_on(async {
        let mut client = P::connect(server.address, 1).await?;
        let mut one = async |count| match up {
            true => client.take(count).await,
            false => client.give(count).await,
        };
        one(STREAM_ITEMS / 10).await?;
        let (before, _) = server.usage()?;
        let mark = Mark::now()?;
        let (mut rest, mut checksum) = (records, 0u64);
        while rest > 0 {
            let count = rest.min(STREAM_ITEMS);
            checksum = checksum.wrapping_add(one(count).await?);
            rest -= count;
        }
        let (wall_s, own) = mark.spent()?;
        let (after, rss) = server.usage()?;
        Ok(Report {
            bench: format!("rpc {bench}"),
            params: vec![
                ("engine", Param::Text(P::NAME)),
                ("stream_items", Param::Number(STREAM_ITEMS)),
            ],
            work: Work::Records { records, checksum, results: None },
            wall_s,
            cpu_s: own + after - before,
            rss_mb: peak_rss_mb()? + rss,
        })
    })
}

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Load {
    outstanding: usize,
    /// `None`: two numbers.
    payload: Option<Bytes>,
}

impl Load {
    /// The load of a benchmark, `r1` to `r3`, unless the numbers say otherwise.
    fn named(bench: &str, outstanding: usize, payload: usize) -> Result<Self, String> {
        let (outstanding_default, payload_default) = match bench {
            "r1" => (1, 0),
            "r2" => (256, 0),
            "r3" => (64, 1024),
            _ => {
                return Err(format!(
                    "benchmark {bench:?} is unknown, expected r1 to r5"
                ));
            }
        };
        let outstanding = if outstanding == 0 {
            outstanding_default
        } else {
            outstanding
        };
        let payload = if payload == 0 {
            payload_default
        } else {
            payload
        };
        if outstanding > OUTSTANDING_MAX {
            return Err(format!(
                "--outstanding is {outstanding}, expected at most {OUTSTANDING_MAX}"
            ));
        }
        if payload > PAYLOAD_BYTES_MAX {
            return Err(format!(
                "--payload is {payload} bytes, expected at most {PAYLOAD_BYTES_MAX}"
            ));
        }
        let body = || (0..payload).map(|place| (place % 251) as u8).collect();
        // 16 bytes are the two numbers of R1 and R2.
        let payload = (payload != 0 && payload != 16).then(body);
        Ok(Self {
            outstanding,
            payload,
        })
    }
}

/// A peer's binary.
///
/// # Errors
/// A message about the arguments, the server or a call.
pub fn main<P: Peer>(allocator: &'static str) -> Result<(), String> {
    let mut args = Args::from_env()?;
    let bench = args.word("a benchmark, r1 to r5,")?;
    let role = args.choice("role", &["client", "server"])?;
    let (outstanding, payload) = (args.number("outstanding", 0)?, args.number("payload", 0)?);
    let seconds: f64 = args.number("seconds", 10.0)?;
    let records = args.count("records", 50_000_000)? as u64;
    args.finish()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("start of the runtime: {error}"))?;
    if role == "server" {
        return run_server::<P>(&runtime);
    }
    if matches!(bench.as_str(), "r4" | "r5") {
        println!("{}", items::<P>(&bench, records, &runtime)?.json());
        return Ok(());
    }
    if !(0.1..=3600.0).contains(&seconds) {
        return Err(format!("--seconds is {seconds}, expected 0.1 to 3600"));
    }
    let load = Load::named(&bench, outstanding, payload)?;
    let mut server = Server::start(&bench)?;
    let measured = runtime.block_on(async {
        let client = P::connect(server.address, load.outstanding).await?;
        measure(client, &load, Duration::from_secs_f64(seconds), &mut server).await
    })?;
    let report = Report {
        bench: format!("rpc {bench}"),
        params: vec![
            ("engine", Param::Text(P::NAME)),
            ("outstanding", Param::Number(load.outstanding as u64)),
            (
                "payload",
                Param::Number(load.payload.as_ref().map_or(16, |body| body.len() as u64)),
            ),
            ("allocator", Param::Text(allocator)),
        ],
        work: Work::Requests(Box::new(measured.latencies)),
        wall_s: measured.wall_s,
        cpu_s: measured.cpu_s,
        rss_mb: measured.rss_mb,
    };
    println!("{}", report.json());
    Ok(())
}

struct Measured {
    latencies: Histogram<u64>,
    wall_s: f64,
    cpu_s: f64,
    rss_mb: f64,
}

thread_local! {
    /// Latencies of the window in nanoseconds; all calls run on one thread.
    static LATENCIES: RefCell<Option<Histogram<u64>>> = const { RefCell::new(None) };
}

async fn measure<C: Client>(
    client: C,
    load: &Load,
    window: Duration,
    server: &mut Server,
) -> Result<Measured, String> {
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..load.outstanding as u64 {
        callers.spawn(call_forever(
            client.clone(),
            number << 32,
            load.payload.clone(),
        ));
    }
    run_for(WARM_UP, &mut callers).await?;
    let fresh = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
        .map_err(|error| format!("histogram: {error}"))?;
    let (server_cpu_s, _) = server.usage()?;
    LATENCIES.set(Some(fresh));
    let mark = Mark::now()?;
    run_for(window, &mut callers).await?;
    let (wall_s, client_cpu_s) = mark.spent()?;
    let latencies = LATENCIES.take().ok_or("the histogram is gone")?;
    let (server_cpu_end_s, server_rss_mb) = server.usage()?;
    if latencies.is_empty() {
        return Err(format!(
            "no call was answered within {} s",
            window.as_secs_f64()
        ));
    }
    Ok(Measured {
        latencies,
        wall_s,
        cpu_s: client_cpu_s + server_cpu_end_s - server_cpu_s,
        rss_mb: peak_rss_mb()? + server_rss_mb,
    })
}

/// Lets the callers run; they end only by an error.
async fn run_for(time: Duration, callers: &mut tokio::task::JoinSet<String>) -> Result<(), String> {
    tokio::select! {
        () = tokio::time::sleep(time) => Ok(()),
        ended = callers.join_next() => match ended {
            Some(Ok(message)) => Err(message),
            Some(Err(error)) => Err(format!("a caller panicked: {error}")),
            None => Err("no caller is left".to_owned()),
        },
    }
}

/// One call after another; returns what went wrong.
async fn call_forever<C: Client>(mut client: C, mut id: u64, payload: Option<Bytes>) -> String {
    let mut start = Instant::now();
    loop {
        id += 1;
        let v = crate::workload::mix(id);
        let good = match &payload {
            None => client.call(id, v).await.map(|answer| answer == (id, v)),
            Some(body) => client
                .echo(body.clone())
                .await
                .map(|answer| answer.len() == body.len()),
        };
        match good {
            Ok(true) => (),
            Ok(false) => return format!("call {id} was answered with something else"),
            Err(message) => return format!("call {id}: {message}"),
        }
        let end = Instant::now();
        let ns = (end - start).as_nanos() as u64;
        LATENCIES.with_borrow_mut(|latencies| {
            if let Some(latencies) = latencies {
                latencies.saturating_record(ns);
            }
        });
        start = end;
    }
}

/// The server process, seen from the client; dropping it ends the process.
struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Server {
    fn start(bench: &str) -> Result<Self, String> {
        let this =
            std::env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
        let mut child = Command::new(this)
            .args([bench, "--role", "server"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start of the server: {error}"))?;
        let input = child
            .stdin
            .take()
            .ok_or("the server has no standard input")?;
        let mut output = BufReader::new(
            child
                .stdout
                .take()
                .ok_or("the server has no standard output")?,
        );
        let line = read_line(&mut output)?;
        let address = line
            .parse()
            .map_err(|_| format!("the server said {line:?}, expected its address"))?;
        Ok(Self {
            child,
            input,
            output,
            address,
        })
    }

    /// Processor seconds since its start, and peak memory in MB.
    fn usage(&mut self) -> Result<(f64, f64), String> {
        self.input
            .write_all(b"usage\n")
            .map_err(|error| format!("the server does not listen: {error}"))?;
        let line = read_line(&mut self.output)?;
        line.split_once(' ')
            .and_then(|(cpu_s, rss_mb)| Some((cpu_s.parse().ok()?, rss_mb.parse().ok()?)))
            .ok_or_else(|| format!("the server said {line:?}, expected its usage"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_line(output: &mut BufReader<ChildStdout>) -> Result<String, String> {
    let mut line = String::new();
    match output.read_line(&mut line) {
        Ok(0) => Err("the server has ended".to_owned()),
        Ok(_) => Ok(line.trim_end().to_owned()),
        Err(error) => Err(format!("the server cannot be read: {error}")),
    }
}

fn run_server<P: Peer>(runtime: &Runtime) -> Result<(), String> {
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .map_err(|error| format!("bind: {error}"))?;
        println!(
            "{}",
            listener
                .local_addr()
                .map_err(|error| format!("the listener's address: {error}"))?
        );
        std::thread::spawn(answer_usage);
        P::serve(listener).await
    })
}

/// Answers each line of standard input with this process's usage, and ends the process after the last.
fn answer_usage() {
    for _ in std::io::stdin().lines().map_while(Result::ok) {
        match (cpu_s(), peak_rss_mb()) {
            (Ok(cpu_s), Ok(rss_mb)) => println!("{cpu_s} {rss_mb}"),
            (Err(message), _) | (_, Err(message)) => println!("error: {message}"),
        }
    }
    std::process::exit(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_benchmark_has_its_load_unless_the_numbers_say_otherwise() {
        assert_eq!(
            Load::named("r1", 0, 0).unwrap(),
            Load {
                outstanding: 1,
                payload: None
            }
        );
        assert_eq!(
            Load::named("r2", 64, 16).unwrap(),
            Load {
                outstanding: 64,
                payload: None
            }
        );
        let load = Load::named("r3", 0, 65_536).unwrap();
        assert_eq!(
            (load.outstanding, load.payload.unwrap().len()),
            (64, 65_536)
        );
        assert!(Load::named("r6", 0, 0).unwrap_err().contains("r6"));
        assert!(
            Load::named("r2", OUTSTANDING_MAX + 1, 0)
                .unwrap_err()
                .contains("65536")
        );
    }

    async fn echoes<P: Peer>() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let talk = async {
            let mut client = P::connect(address, 2).await.unwrap();
            assert_eq!(client.call(1, u64::MAX).await.unwrap(), (1, u64::MAX));
            let body = Bytes::from(vec![7u8; 65_536]);
            assert_eq!(client.echo(body.clone()).await.unwrap(), body);
        };
        tokio::select! {
            () = talk => (),
            ended = P::serve(listener) => panic!("the server ended: {ended:?}"),
        }
    }

    #[tokio::test]
    async fn tarpc_answers_both_calls() {
        echoes::<crate::tarpc_peer::Tarpc>().await;
    }

    #[tokio::test]
    async fn tonic_answers_both_calls() {
        echoes::<crate::tonic_peer::Tonic>().await;
    }

    #[tokio::test]
    async fn items_of_tonic_arrive_in_both_directions() {
        use crate::tonic_peer::Tonic;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let sum = (0..5_000u64)
            .fold(0u64, |sum, id| sum.wrapping_add(item_term(id, crate::workload::mix(id))));
        let talk = async {
            let mut client = Tonic::connect(address, 1).await.unwrap();
            assert_eq!(client.give(5_000).await.unwrap(), sum);
            assert_eq!(client.take(5_000).await.unwrap(), sum);
        };
        tokio::select! {
            () = talk => (),
            ended = Tonic::serve(listener) => panic!("the server ended: {ended:?}"),
        }
    }
}
