//! Actors whose handlers overlap, and what an actor does at its beginning and end.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::cell::RefCell;
use std::sync::Arc;

use afflux::NodeBuilder;
use afflux::actor::system;
use afflux::prelude::*;
use afflux::settings::Settings;

/// A place where two callers meet.
#[derive(Service)]
#[service(name = "test.meeting")]
enum Meeting {
    /// Waits until somebody else has come; answers with the other's name.
    #[rpc(returns = String)]
    Meet { name: String },
    /// Who has come so far.
    #[rpc(returns = Vec<String>, idempotent)]
    Guests,
}

#[derive(Actor)]
#[actor(serves(Meeting), concurrent = 8, lifecycle)]
struct Room {
    guests: RefCell<Vec<String>>,
    end: Arc<tokio::sync::Notify>,
    waiting: RefCell<Option<(String, tokio::sync::oneshot::Sender<String>)>>,
}

impl Lifecycle for Room {
    async fn started(&mut self, _: &mut Cx) -> Result<(), Status> {
        self.guests.get_mut().push("the host".into());
        Ok(())
    }

    fn stopped(&mut self, _: &StopReason) {
        self.end.notify_one();
    }
}

impl MeetingShared for Room {
    async fn meet(&self, _: &mut Cx, name: String) -> Result<String, Fault> {
        self.guests.borrow_mut().push(name.clone());
        let first = self.waiting.borrow_mut().take();
        if let Some((other, told)) = first {
            told.send(name).map_err(|_| Status::unavailable("the first has left"))?;
            return Ok(other);
        }
        let (told, other) = tokio::sync::oneshot::channel();
        *self.waiting.borrow_mut() = Some((name, told));
        // One at a time, nobody would ever come.
        other.await.map_err(|_| Status::unavailable("nobody comes any more").into())
    }

    async fn guests(&self, _: &mut Cx) -> Result<Vec<String>, Fault> {
        Ok(self.guests.borrow().clone())
    }
}

#[test]
fn two_handlers_of_one_actor_meet_and_its_life_begins_and_ends() {
    system(|| async {
        let end = Arc::new(tokio::sync::Notify::new());
        let settings = Settings {
            node_id: "a".into(),
            node_listen: "127.0.0.1:0".into(),
            admin_listen: String::new(),
            ..Settings::default()
        };
        let node = NodeBuilder::new(settings)
            .inline()
            .service("room", {
                let end = Arc::clone(&end);
                move || {
                    Ok::<_, Error>(Room {
                        guests: RefCell::default(),
                        end: Arc::clone(&end),
                        waiting: RefCell::default(),
                    })
                }
            })
            .start()
            .await
            .unwrap();
        let room = node.client::<Meeting>();
        let (a, b) = tokio::join!(async { room.meet("ann".into()).await.unwrap() }, async {
            room.meet("bob".into()).await.unwrap()
        });
        assert_eq!((a.as_str(), b.as_str()), ("bob", "ann"));
        assert_eq!(room.guests().await.unwrap(), ["the host", "ann", "bob"]);
        node.close().await;
        end.notified().await;
    })
    .unwrap();
}
