//! An address to listen on, given by the user.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use afflux_actor::Clock;
use afflux_stream::Result;
use afflux_wire::{Code, Status};
use tokio::sync::watch;

/// How long an address that is in use is tried: the attempt before may still hold it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// The address that a source or sink listens on, once its task runs in this process: with port 0 the
/// operating system chooses, and this tells what it chose.
#[derive(Clone, Debug)]
pub struct BoundAddress {
    told: Arc<watch::Sender<Option<SocketAddr>>>,
}

impl Default for BoundAddress {
    fn default() -> Self {
        Self { told: Arc::new(watch::Sender::new(None)) }
    }
}

impl BoundAddress {
    /// The address, if there is one by now.
    pub fn get(&self) -> Option<SocketAddr> {
        *self.told.borrow()
    }

    /// Waits until there is one.
    pub async fn wait(&self) -> SocketAddr {
        let mut told = self.told.subscribe();
        loop {
            if let Some(address) = *told.borrow_and_update() {
                return address;
            }
            // The sender is held by this very handle.
            let _ = told.changed().await;
        }
    }

    pub(crate) fn tell(&self, address: Option<SocketAddr>) {
        self.told.send_replace(address);
    }
}

/// Opens a listener, again and again while the address is in use.
pub(crate) struct Binding {
    /// As the user wrote it.
    address: String,
    bound: BoundAddress,
    clock: Clock,
    until: Option<Instant>,
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Binding {
    pub(crate) fn new(address: &str, bound: &BoundAddress, clock: &Clock) -> Self {
        Self {
            address: address.to_owned(),
            bound: bound.clone(),
            clock: clock.clone(),
            until: None,
            pause: None,
        }
    }

    /// The listener, which does not block.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<TcpListener>> {
        loop {
            if let Some(pause) = &mut self.pause
                && pause.as_mut().poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            self.pause = None;
            let opened = TcpListener::bind(&self.address)
                .and_then(|l| l.set_nonblocking(true).and(l.local_addr().map(|address| (l, address))));
            let error = match opened {
                Ok((listener, address)) => {
                    self.bound.tell(Some(address));
                    return Poll::Ready(Ok(listener));
                }
                Err(error) => error,
            };
            let now = self.clock.now();
            let until = *self.until.get_or_insert(now + PATIENCE);
            if error.kind() != ErrorKind::AddrInUse || now >= until {
                return Poll::Ready(Err(cannot_listen(&self.address, &error)));
            }
            self.pause = Some(Box::pin(self.clock.sleep(PAUSE)));
        }
    }
}

fn cannot_listen(address: &str, error: &std::io::Error) -> Status {
    let (code, what) = match error.kind() {
        ErrorKind::AddrInUse => (
            Code::AlreadyExists,
            "the port is in use by another process; stop that or choose another port, 0 takes any free one"
                .to_owned(),
        ),
        ErrorKind::AddrNotAvailable => (
            Code::InvalidArgument,
            "this machine has no such address; give one of its own, such as 127.0.0.1:0".to_owned(),
        ),
        ErrorKind::PermissionDenied => (
            Code::PermissionDenied,
            "not allowed; ports below 1024 need a privilege, choose another".to_owned(),
        ),
        _ => (Code::Unavailable, error.to_string()),
    };
    Status::new(code, format!("cannot listen on {address}: {what}"))
}

/// Refuses an address that others than this machine reach, unless `allowed`; `cure` says how it would be.
pub(crate) fn guard(address: &str, allowed: bool, cure: &str) -> Result<()> {
    let wrong = |what: String| {
        Status::invalid(format!("cannot listen on `{address}`: {what}; give HOST:PORT, such as 127.0.0.1:0"))
    };
    let mut addresses = address.to_socket_addrs().map_err(|error| wrong(error.to_string()))?.peekable();
    if addresses.peek().is_none() {
        return Err(wrong("the name has no address".to_owned()));
    }
    match addresses.find(|a| !a.ip().is_loopback()) {
        Some(open) if !allowed => Err(Status::new(
            Code::PermissionDenied,
            format!("{open} is reached from other machines, and nobody would be asked who they are; {cure}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::SystemTime;

    fn binding(address: &str, bound: &BoundAddress) -> Binding {
        Binding::new(address, bound, &Clock::starting_at(SystemTime::UNIX_EPOCH))
    }

    #[test]
    fn a_port_that_becomes_free_in_time_is_taken_and_told() {
        afflux_actor::test::paused(|| async {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = taken.local_addr().unwrap();
            let bound = BoundAddress::default();
            let mut binding = binding(&address.to_string(), &bound);
            let first = tokio::time::timeout(Duration::from_secs(2), poll_fn(|cx| binding.poll(cx)));
            assert!(first.await.is_err() && bound.get().is_none());
            drop(taken);
            poll_fn(|cx| binding.poll(cx)).await.unwrap();
            assert_eq!((bound.get(), bound.wait().await), (Some(address), address));
        });
    }

    #[test]
    fn a_port_that_stays_in_use_is_named_with_the_cure() {
        afflux_actor::test::paused(|| async {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = taken.local_addr().unwrap().to_string();
            let mut binding = binding(&address, &BoundAddress::default());
            let status = poll_fn(|cx| binding.poll(cx)).await.unwrap_err();
            assert!(status.message.contains(&address) && status.message.contains("choose another port"));
        });
    }

    #[test]
    fn other_machines_are_let_in_only_when_it_is_said() {
        assert!(guard("127.0.0.1:0", false, "").is_ok() && guard("[::1]:0", false, "").is_ok());
        assert!(guard("0.0.0.0:0", true, "").is_ok());
        let status = guard("0.0.0.0:80", false, "say so").unwrap_err();
        assert_eq!(status.code, Code::PermissionDenied);
        assert!(status.message.contains("0.0.0.0:80") && status.message.ends_with("say so"), "{status}");
        let status = guard("localhost", false, "").unwrap_err();
        assert!(status.message.contains("give HOST:PORT"), "{status}");
    }
}
