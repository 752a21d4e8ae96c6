//! The suite, and faults, over a real server of any kind: what is killed, stopped, cut off or silent.
#![allow(unreachable_pub, reason = "a module of test binaries")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use afflux_registry::suite::Fixture;
use afflux_registry::{Instance, Registration, RegistrationState, Registry, RegistryError, View, Watcher};
use afflux_wire::Incarnation;
use futures_util::future::BoxFuture;

use crate::support::{Proxy, Server, address, pass};

/// The time to live to test with: several times what an operation takes.
pub const TTL: Duration = Duration::from_secs(3);
/// Limits every wait for a view or a registration.
const PATIENCE: Duration = Duration::from_secs(30);

/// A registry that needs a server.
pub trait Backend: Send + Sync + Sized {
    /// The script of tests/servers that starts one.
    const SCRIPT: &'static str;
    /// The variable with what the script printed for a server that runs already.
    const VARIABLE: &'static str;
    /// Whether a record ends with the client's session, so that a long silence ends it, whatever its ttl.
    const ENDS_WITH_SESSION: bool = false;

    /// `host:port` of the server, from what its script printed.
    fn target(server: &str) -> String {
        server.to_owned()
    }
    /// An empty registry of this test's own, which reaches the server through `link`.
    async fn connect(server: &str, link: SocketAddr, test: &str) -> Self;
    /// The client.
    fn registry(&self) -> Arc<dyn Registry>;
    /// Removes all records and locks, behind the client's back.
    fn forget(&self) -> BoxFuture<'_, ()>;
}

/// A registry behind a link that can fail.
pub struct Linked<B> {
    pub backend: B,
    pub proxy: Proxy,
}

impl<B: Backend> Linked<B> {
    /// Over the server of the environment.
    pub async fn shared(test: &str) -> Self {
        Self::over(&address(B::VARIABLE), test).await
    }

    async fn over(server: &str, test: &str) -> Self {
        let proxy = Proxy::new(&B::target(server)).await;
        Self { backend: B::connect(server, proxy.address, test).await, proxy }
    }
}

impl<B: Backend> Fixture for Linked<B> {
    fn registry(&self) -> Arc<dyn Registry> {
        self.backend.registry()
    }
    fn cut(&self) {
        self.proxy.cut();
    }
    fn heal(&self) {
        self.proxy.heal();
    }
    fn forget(&self) -> BoxFuture<'_, ()> {
        self.backend.forget()
    }
    fn pass(&self, span: Duration) -> BoxFuture<'_, ()> {
        Box::pin(pass(span))
    }
    fn ttl(&self) -> Duration {
        TTL
    }
}

/// Makes one test of each behaviour of the suite, by its name, and of each fault of this module.
macro_rules! over_server {
    ($backend:ty, $needs:literal, $($behaviour:ident),* $(,)?) => {
        $(
            #[tokio::test]
            #[ignore = $needs]
            async fn $behaviour() {
                let linked = faults::Linked::<$backend>::shared(stringify!($behaviour)).await;
                afflux_registry::suite::$behaviour(&linked).await;
            }
        )*

        #[tokio::test]
        #[ignore = $needs]
        async fn a_link_that_carries_nothing_is_noticed_and_the_last_view_stays() {
            faults::silent_link::<$backend>().await;
        }

        #[tokio::test]
        #[ignore = $needs]
        async fn a_registration_survives_a_server_that_is_killed_and_started_again() {
            faults::killed_server::<$backend>().await;
        }

        #[tokio::test]
        #[ignore = $needs]
        async fn a_registration_survives_a_server_that_is_stopped_for_longer_than_the_lease() {
            faults::stopped_server::<$backend>().await;
        }
    };
}

/// Waits for a view.
pub async fn until(watcher: &mut Watcher, fits: impl Fn(&View) -> bool) -> Arc<View> {
    let search = async {
        loop {
            let view = watcher.next().await.unwrap();
            if fits(&view) {
                return view;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.expect("no such view came")
}

pub fn instance(name: &str) -> Instance {
    Instance::new(name, Incarnation(1), format!("{name}.test:7400"))
}

/// Whether the registry answers, with these nodes.
pub fn there(view: &View, names: &[&str]) -> bool {
    view.reachable && view.instances.iter().map(|i| i.node.as_str()).eq(names.iter().copied())
}

/// The link carries nothing and does not end, as behind a firewall that drops.
pub async fn silent_link<B: Backend>() {
    let linked = Linked::<B>::shared("silence").await;
    let registry = linked.registry();
    let mut watcher = registry.watch();
    registry.register(instance("a"), TTL * 10).await.unwrap();
    until(&mut watcher, |view| there(view, &["a"])).await;
    linked.proxy.silence();
    let during = until(&mut watcher, |view| !view.reachable).await;
    assert_eq!(during.instances.len(), 1);
    assert!(matches!(registry.view().await, Err(RegistryError::Unreachable { .. })));
    assert!(watcher.silence().is_some_and(|silence| silence >= Duration::from_secs(1)));
    linked.proxy.heal();
    until(&mut watcher, |view| there(view, &["a"]) || (B::ENDS_WITH_SESSION && view.reachable)).await;
}

/// The server ends without a word, and comes back with its data.
pub async fn killed_server<B: Backend>() {
    registered_through::<B>(async |server, watcher, _| {
        server.tell("kill");
        let during = until(watcher, |view| !view.reachable).await;
        assert_eq!(during.instances.len(), 1, "unreachable is not empty");
        server.tell("start");
    })
    .await;
}

/// The server's process stands still and goes on later.
pub async fn stopped_server<B: Backend>() {
    registered_through::<B>(async |server, watcher, registration| {
        server.tell("pause");
        until(watcher, |view| !view.reachable).await;
        let lost = registration.wait_for(|state| !state.is_registered());
        tokio::time::timeout(TTL * 3, lost).await.expect("the lease cannot be sure any more");
        server.tell("resume");
    })
    .await;
}

/// Registers over a server of its own, does something to that, and wants the record back.
async fn registered_through<B: Backend>(fault: impl AsyncFnOnce(&Server, &mut Watcher, &Registration)) {
    let server = Server::start(B::SCRIPT);
    let linked = Linked::<B>::over(&server.address, "fault").await;
    let registry = linked.registry();
    let (registration, driver) = Registration::new(Arc::clone(&registry), instance("a"), TTL);
    tokio::spawn(driver);
    let mut watcher = registry.watch();
    until(&mut watcher, |view| there(view, &["a"])).await;
    fault(&server, &mut watcher, &registration).await;
    let back = registration.wait_for(RegistrationState::is_registered);
    tokio::time::timeout(PATIENCE, back).await.expect("the node never registered again");
    until(&mut watcher, |view| there(view, &["a"])).await;
    registration.close().await;
    assert!(registry.view().await.unwrap().instances.is_empty());
}
