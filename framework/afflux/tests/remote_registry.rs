//! The registry's own suite, over a registry that another process holds.

use std::sync::Arc;
use std::time::Duration;

use afflux::registry_service::{Home, RegistryService, RemoteRegistry, serve};
use afflux_actor::Place;
use afflux_mesh::{MemoryNetwork, Mesh, MeshConfig, MeshMetrics, Transport};
use afflux_registry::suite::{self, Fixture, every_behaviour};
use afflux_registry::{MemoryRegistry, Registry};
use futures_util::future::BoxFuture;

/// A holder and an asker, linked by a pipe.
struct Linked {
    memory: MemoryRegistry,
    remote: Arc<dyn Registry>,
    meshes: [Mesh; 2],
}

impl Linked {
    async fn new() -> Self {
        let place = Place::current().expect("inside a system");
        let transport = Transport::Memory(MemoryNetwork::default());
        let start = |name: &str| {
            let config = MeshConfig { listen: Some("host:0".into()), ..MeshConfig::new(name, "test") };
            Mesh::start(config, transport.clone(), place.clone(), MeshMetrics::unregistered())
                .expect("listens")
        };
        let (holder, asker) = (start("holder"), start("asker"));
        let memory = MemoryRegistry::new();
        let home = Home { node: "holder".into(), address: holder.local_address() };
        holder.serve(serve(Arc::new(memory.clone()), home, place.clone()));
        let node = asker.connect_unknown(&holder.local_address()).await.expect("the holder listens");
        let remote = Arc::new(RemoteRegistry::new(asker.client_on::<RegistryService>(&node), &place));
        Self { memory, remote, meshes: [holder, asker] }
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.meshes.iter().for_each(Mesh::close);
    }
}

impl Fixture for Linked {
    fn registry(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.remote)
    }

    fn cut(&self) {
        self.memory.cut("the holder's disk");
    }

    fn heal(&self) {
        self.memory.heal();
    }

    fn forget(&self) -> BoxFuture<'_, ()> {
        self.memory.forget();
        Box::pin(std::future::ready(()))
    }

    fn pass(&self, span: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

macro_rules! tests {
    ($($behaviour:ident),* $(,)?) => {$(
        #[test]
        fn $behaviour() {
            afflux_actor::test::paused(|| async {
                let linked = Linked::new().await;
                suite::$behaviour(&linked).await;
            });
        }
    )*};
}

every_behaviour!(tests);
