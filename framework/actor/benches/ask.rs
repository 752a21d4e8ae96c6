//! What a local ask costs between two actors' worth of tasks on one thread. `cargo bench -p afflux-actor`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark is no library")]

#[path = "../tests/ping/mod.rs"]
mod ping;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use afflux_actor::{Actor, ActorMetrics, Options, Place, Serves, Spec, system};
use afflux_wire::ActorPath;
use afflux_wire::contract::{CallMeta, Caller, Handle, Mail, MethodSpec, Outgoing, Panic, Started, Target};
use afflux_wire::{Status, contract::Cx};
use ping::{Echo, Echoer, Local};

const ROUNDS: u32 = 5;
const CALLS: u32 = 1_000_000;

struct Number(u64, CallMeta);

impl Mail for Number {
    fn meta(&self) -> &CallMeta {
        &self.1
    }
    fn reject(self, _status: Status) {}
}

struct Sum(u64);

impl Actor for Sum {
    type Mail = Number;
    const KIND: &'static str = "Sum";
    async fn handle(&mut self, _cx: &mut Cx, mail: Number) -> Result<(), Panic> {
        self.0 = self.0.wrapping_add(mail.0);
        Ok(())
    }
}

/// A local caller whose deadlines never fire: what is left is the ask itself.
struct Timeless(Local);

impl Caller for Timeless {
    fn start(
        &self,
        target: &Target,
        method: &'static MethodSpec,
        meta: CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status> {
        self.0.start(target, method, meta, call)
    }
    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.changed()
    }
    fn sleep_until(&self, _at: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
    fn now(&self) -> Instant {
        self.0.now()
    }
}

fn report(what: &str, took: std::time::Duration) {
    println!("{what}: {:.0} ns", took.as_nanos() as f64 / f64::from(CALLS));
}

fn main() {
    system(|| async {
        let place = Place::current().unwrap();
        let spec = |name: &str| Spec::new(ActorPath::new(name), ActorMetrics::unregistered());

        let echoer = place.spawn(spec("echoer"), || Ok(Echoer::default()));
        let entry = Echoer::services(echoer.address()).remove(0);
        let target = Target::service("test.ping");
        let timed = ping::client(&entry);
        let timeless = Handle::new(Some(Arc::new(Timeless(Local(Arc::clone(&entry.endpoint)))) as _), target);
        for _ in 0..ROUNDS {
            for (what, ping) in [("ask", &timed), ("ask without a timer a call", &timeless)] {
                let began = Instant::now();
                for n in 0..u64::from(CALLS) {
                    // 13 is unlucky.
                    ping.call(Echo { n: n << 8 }).await.unwrap();
                }
                report(what, began.elapsed());
            }
        }

        let options = Options { mailbox_messages_max: 2048, ..Sum::options() };
        let sum = place.spawn_with_options(spec("sum"), options, || Ok(Sum(0)));
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let mut batch = VecDeque::with_capacity(1024);
            let mut sent = 0;
            while sent < CALLS {
                while batch.len() < 1024 {
                    batch.push_back(Number(1, CallMeta::default()));
                }
                sent += u32::try_from(sum.address().send_batch(&mut batch)).unwrap();
                tokio::task::yield_now().await;
            }
            report("tell in batches of 1,024", began.elapsed());
        }
    })
    .unwrap();
}
