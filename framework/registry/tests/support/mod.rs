//! A real server for a test, and a proxy in front of it that can be cut.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses a part")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use afflux_registry::Spawner;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Runs the background work of a registry on the test's own runtime.
pub fn spawner() -> Spawner {
    Arc::new(|work| drop(tokio::spawn(work)))
}

/// The address of a server that runs already, from the environment.
pub fn address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: start the server with tests/servers and set it to what that prints")
    })
}

/// A name that no other test has.
pub fn unique(test: &str) -> String {
    static TESTS: AtomicU32 = AtomicU32::new(0);
    format!("{test}-{}-{}", std::process::id(), TESTS.fetch_add(1, Ordering::Relaxed))
}

/// What a proxy does with bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Connections end, and no new one is taken.
    Cut,
    /// Connections stay and nothing comes through, as behind a firewall that drops.
    Silent,
}

/// A TCP proxy in front of a server.
pub struct Proxy {
    pub address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
}

impl Proxy {
    pub async fn new(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(watch::Sender::new(Mode::Open));
        let (modes, target) = (Arc::downgrade(&mode), target.to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Some(modes) = modes.upgrade() else { return };
                tokio::spawn(carry(client, target.clone(), modes.subscribe()));
            }
        });
        Self { address, mode }
    }

    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    pub fn silence(&self) {
        self.mode.send_replace(Mode::Silent);
    }

    pub fn heal(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

async fn carry(mut client: TcpStream, target: String, mut mode: watch::Receiver<Mode>) {
    if mode.wait_for(|mode| *mode != Mode::Silent).await.is_err() || *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(&target).await else { return };
    loop {
        tokio::select! {
            biased;
            changed = mode.changed() => {
                let now = *mode.borrow_and_update();
                if changed.is_err() || now == Mode::Cut {
                    return;
                }
                if now == Mode::Silent && mode.wait_for(|mode| *mode != Mode::Silent).await.is_err() {
                    return;
                }
                if *mode.borrow() == Mode::Cut {
                    return;
                }
            }
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
        }
    }
}

/// A server of this test's own, started by a script of tests/servers; ended when dropped.
pub struct Server {
    script: PathBuf,
    directory: tempfile::TempDir,
    pub address: String,
}

impl Server {
    pub fn start(script: &str) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/servers").join(script);
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self { script, directory, address: String::new() };
        server.address = server.tell("start");
        server
    }

    /// `kill`, `start` (again, where it was), `pause`, `resume`.
    pub fn tell(&self, verb: &str) -> String {
        // The server inherits what is not a pipe: stdout is read to its end.
        let output = Command::new(&self.script).arg(verb).arg(self.directory.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tell("kill");
    }
}

/// Waits for real time: the servers have clocks of their own.
pub async fn pass(span: Duration) {
    tokio::time::sleep(span).await;
}
