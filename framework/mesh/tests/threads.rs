//! Links on threads of their own, callers and tasks on another.

mod common;

use std::sync::Arc;

use afflux_actor::Threads;
use afflux_mesh::{ChannelKey, Mark, Packet, Transport};
use afflux_wire::Attempt;
use bytes::Bytes;
use common::{Desk, Net, packet, ready};

#[test]
fn callers_and_tasks_need_not_live_on_the_links_thread() {
    afflux_actor::test::system(|| async {
        let threads = Threads::start(1, 2).unwrap();
        let net = Net(Transport::Tcp);
        let (a, b) = (net.node_on(net.config("a"), threads.io()), net.node_on(net.config("b"), threads.io()));
        b.serve(&Arc::new(Desk::default()));
        a.link(&b).await;
        let sums = a.sums();
        for round in 0..20 {
            let calls = (0..200u64).map(|n| {
                let call = sums.add(n, round);
                async move { call.await.unwrap() == n + round }
            });
            assert!(futures_util::future::join_all(calls).await.into_iter().all(|right| right));
        }
        let key = ChannelKey { job: "job".into(), attempt: Attempt(1), edge: 0, from: 0, to: 0 };
        let mut receiver = b.mesh.channel_receiver(key.clone(), 1);
        let mut sender = a.mesh.channel_sender(b.mesh.node(), key, 1);
        let payload = Bytes::from(vec![3; 64 << 10]);
        let sending = async {
            for n in 0..500 {
                ready(&mut sender).await.unwrap();
                sender.send(n, payload.clone()).unwrap();
            }
            sender.mark(Mark::End).unwrap();
        };
        let receiving = async {
            for n in 0..500 {
                assert_eq!(packet(&mut receiver).await, Packet::Data { count: n, payload: payload.clone() });
            }
            assert_eq!(packet(&mut receiver).await, Packet::Mark(Mark::End));
        };
        tokio::join!(sending, receiving);
        a.mesh.close();
        b.mesh.close();
    });
}
