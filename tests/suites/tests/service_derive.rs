//! A contract written with the derives, served by an actor, called from beside and through bytes.
#![deny(warnings, clippy::pedantic, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use afflux::actor::{ActorHandle, ActorMetrics, ActorPath, Place, Spec, system};
use afflux::contract::{
    CallMeta, Caller, Handle, MethodKind, MethodSpec, Outgoing, Remote, ReplyTo, ResponseSink, ResponseSlot,
    Started, Target,
};
use afflux::prelude::*;
use afflux_suites::shop::{Order, OrderError, Orders, OrdersHandler, Receipt};

/// A second contract of the same actor, without typed errors.
#[derive(Service)]
#[service(name = "shop.admin")]
enum Admin {
    #[rpc(returns = u64)]
    Touches,
}

#[derive(Actor)]
#[actor(
    serves(Orders, Admin),
    mailbox = 2,
    overflow = "reject",
    restart(max = 5, within = "30s", backoff = "10ms")
)]
struct OrderDesk {
    book: BTreeMap<u64, Order>,
    touches: Arc<AtomicU64>,
}

impl OrdersHandler for OrderDesk {
    async fn place(&mut self, cx: &mut Cx, order: Order, rush: bool) -> Result<Receipt, Fault<OrderError>> {
        assert!(order.id != 666, "no such luck");
        if order.sku == "sold-out" {
            return Err(OrderError::Busy.into());
        }
        // A call of another service: its failure is this one's, by `?`.
        if order.sku == "forwarded" {
            cx.client::<Admin>().touches().await?;
        }
        let receipt = Receipt { id: order.id, total_cents: if rush { 200 } else { 100 } };
        self.book.insert(order.id, order);
        Ok(receipt)
    }

    async fn get(&mut self, _cx: &mut Cx, id: u64) -> Result<Order, Fault<OrderError>> {
        self.book.get(&id).cloned().ok_or_else(|| OrderError::NoSuch { id }.into())
    }

    async fn touch(&mut self, _cx: &mut Cx, id: u64) -> Result<(), Fault<OrderError>> {
        self.touches.fetch_add(id, Ordering::SeqCst);
        Ok(())
    }

    async fn r#loop(&mut self, cx: &mut Cx) -> Result<(), Fault<OrderError>> {
        assert!(cx.remaining().is_some_and(|left| left > Duration::from_secs(8)));
        Ok(())
    }
}

impl AdminHandler for OrderDesk {
    async fn touches(&mut self, _cx: &mut Cx) -> Result<u64, Fault> {
        Ok(self.touches.load(Ordering::SeqCst))
    }
}

/// A mesh of one actor: calls go to its mailbox, or through bytes first.
struct OneDesk {
    services: Vec<afflux::actor::ServiceEntry>,
    link: Option<Arc<Link>>,
}

/// A link that goes back to the same process.
#[derive(Default)]
struct Link {
    slots: Mutex<BTreeMap<u64, Arc<dyn ResponseSlot>>>,
    next: AtomicU64,
}

impl ResponseSink for Link {
    fn respond(&self, id: u64, result: Result<&[u8], &Status>) {
        let slot = self.slots.lock().expect("no panic under this lock").remove(&id).expect("answered once");
        slot.complete(result.map_err(Clone::clone));
    }
    fn is_cancelled(&self, _id: u64) -> bool {
        false
    }
}

impl Remote for Link {
    fn cancel(&self, _id: u64, _reason: &str) {}
}

impl Caller for OneDesk {
    fn start(
        &self,
        target: &Target,
        method: &'static MethodSpec,
        meta: CallMeta,
        call: &mut dyn Outgoing,
    ) -> Result<Started, Status> {
        let entry = self.services.iter().find(|s| s.name == &*target.service).expect("the desk serves it");
        let Some(link) = &self.link else {
            call.deliver(&*entry.endpoint, meta)?;
            return Ok(Started::Local);
        };
        let mut params = Vec::new();
        call.encode(&mut params)?;
        let number = entry.methods.iter().position(|m| std::ptr::eq(m, method)).expect("its own method");
        let id = link.next.fetch_add(1, Ordering::SeqCst);
        let reply = (method.kind == MethodKind::Unary).then(|| {
            link.slots.lock().expect("no panic under this lock").insert(id, call.slot());
            ReplyTo::new(Arc::clone(link) as Arc<dyn ResponseSink>, id)
        });
        entry.dispatch.dispatch(number, &params, meta, reply);
        Ok(Started::Remote(Arc::clone(link) as Arc<dyn Remote>, id))
    }

    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }

    fn sleep_until(&self, _at: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A desk, and clients that reach it in both ways.
struct Shop {
    desk: ActorHandle<OrderDeskMail>,
    callers: [Arc<dyn Caller>; 2],
}

impl Shop {
    fn open() -> Self {
        let touches = Arc::new(AtomicU64::new(0));
        let spec = Spec::new(ActorPath::new("desk"), ActorMetrics::unregistered());
        let desk = Place::current()
            .expect("inside a system")
            .spawn(spec, move || Ok(OrderDesk { book: BTreeMap::new(), touches: Arc::clone(&touches) }));
        let caller = |link| -> Arc<dyn Caller> {
            Arc::new(OneDesk { services: OrderDesk::services(desk.address()), link })
        };
        let callers = [caller(None), caller(Some(Arc::default()))];
        Self { desk, callers }
    }

    /// The same client beside and through bytes.
    fn clients<S: Service>(&self) -> [S::Client; 2] {
        self.callers.clone().map(|caller| Handle::<S>::new(Some(caller), Target::service(S::NAME)).into())
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Shop) -> F) {
    system(|| test(Shop::open())).expect("a runtime can be made");
}

#[test]
fn a_unary_call_is_answered_beside_and_through_bytes() {
    run(|shop| async move {
        for orders in shop.clients::<Orders>() {
            let receipt = orders
                .place(Order::of(7, "tea"), true)
                .deadline(Duration::from_secs(1))
                .await
                .expect("placed");
            assert_eq!(receipt, Receipt { id: 7, total_cents: 200 });
            assert_eq!(orders.get(7).await.expect("there"), Order::of(7, "tea"));
            orders.r#loop().await.expect("nothing to say");
        }
    });
}

#[test]
fn a_typed_error_arrives_as_itself_beside_and_through_bytes() {
    run(|shop| async move {
        for orders in shop.clients::<Orders>() {
            let error = orders.get(99).await.expect_err("not placed");
            assert_eq!(error.typed(), Some(&OrderError::NoSuch { id: 99 }));
            assert_eq!(error.code(), Code::NotFound);
            let error = orders.place(Order::of(1, "sold-out"), false).await.expect_err("busy");
            assert_eq!(error.typed(), Some(&OrderError::Busy));
            let details = error.status().details.as_ref().expect("details");
            assert_eq!((details.kind.as_deref(), details.retry_after_ms), (Some("Busy"), Some(50)));
        }
    });
}

#[test]
fn a_one_way_call_reaches_the_same_actor_through_its_own_contract() {
    run(|shop| async move {
        for (orders, admin) in shop.clients::<Orders>().iter().zip(shop.clients::<Admin>()) {
            let before = admin.touches().await.expect("counted");
            orders.touch(5).await.expect("admitted");
            assert_eq!(admin.touches().await.expect("counted"), before + 5);
        }
    });
}

#[test]
fn a_handler_that_panics_answers_and_the_desk_is_open_again() {
    run(|shop| async move {
        for orders in shop.clients::<Orders>() {
            orders.place(Order::of(1, "tea"), false).await.expect("placed");
            let error = orders.place(Order::of(666, "tea"), false).await.expect_err("panicked");
            assert_eq!(error.code(), Code::Internal);
            assert!(error.status().message.contains("no such luck"), "{error}");
            let error = orders.get(1).await.expect_err("the fresh desk has an empty book");
            assert_eq!(error.typed(), Some(&OrderError::NoSuch { id: 1 }));
        }
    });
}

#[test]
fn a_failed_call_inside_a_handler_is_the_handlers_failure() {
    run(|shop| async move {
        for orders in shop.clients::<Orders>() {
            // The desk was spawned without a mesh.
            let error = orders.place(Order::of(1, "forwarded"), false).await.expect_err("no mesh");
            assert_eq!(error.code(), Code::FailedPrecondition);
            assert!(!error.status().may_retry_elsewhere());
        }
    });
}

#[test]
fn the_mailbox_of_the_derive_is_a_bound() {
    run(|shop| async move {
        let [orders, _] = shop.clients::<Orders>();
        let mut calls: Vec<_> = (0..3).map(|id| Box::pin(orders.get(id).into_future())).collect();
        assert_eq!(shop.desk.address().capacity(), 2);
        let refused = poll_fn(|cx| {
            let answered = calls.iter_mut().map(|call| call.as_mut().poll(cx));
            Poll::Ready(
                answered
                    .filter_map(|p| if let Poll::Ready(Err(e)) = p { Some(e.code()) } else { None })
                    .collect(),
            )
        })
        .await;
        let refused: Vec<Code> = refused;
        assert_eq!(refused, [Code::ResourceExhausted]);
    });
}

#[test]
fn a_contract_describes_itself() {
    assert_eq!((Orders::NAME, Orders::VERSION, Orders::DOC), ("shop.orders", "1.2", "Takes orders."));
    assert_eq!(Admin::VERSION, "1.0");
    let [place, get, touch, r#loop] = Orders::METHODS else { panic!("four methods") };
    assert_eq!((place.name, place.doc, place.fields), ("Place", "Places an order.", &["order", "rush"][..]));
    assert_eq!(
        (place.kind, place.deadline, place.idempotent),
        (MethodKind::Unary, Duration::from_secs(2), false)
    );
    assert_eq!((get.deadline, get.idempotent), (Duration::from_secs(10), true));
    assert_eq!((touch.kind, r#loop.name), (MethodKind::OneWay, "Loop"));
    let params = (place.params)();
    assert_eq!(
        params.pointer("/properties/order/description").and_then(|d| d.as_str()),
        Some("What to place.")
    );
    assert_eq!(params.pointer("/required").map(ToString::to_string).as_deref(), Some(r#"["order"]"#));
    let returns = (place.returns)();
    assert_eq!(returns.pointer("/properties/total_cents/format").and_then(|d| d.as_str()), Some("uint64"));
}

#[test]
fn the_options_of_the_derive_reach_the_runtime() {
    let options = <OrderDesk as Actor>::options();
    assert_eq!((options.mailbox_messages_max, options.restart.max), (2, 5));
    assert_eq!(options.restart.within, Duration::from_secs(30));
    assert_eq!(options.restart.backoff, Duration::from_millis(10));
    assert_eq!(<OrderDesk as Actor>::KIND, "OrderDesk");
}
