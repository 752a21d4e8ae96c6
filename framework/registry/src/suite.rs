//! What every registry must do, as functions that run over any of them.
//!
//! An implementor provides a [`Fixture`] and runs each behaviour, most easily through
//! `every_behaviour!`, which hands their names to a macro that makes one test of each.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "these are tests")]

use std::sync::Arc;
use std::time::Duration;

use afflux_wire::{Incarnation, NodeId};
use futures_core::future::BoxFuture;
use futures_util::FutureExt;

use crate::error::RegistryError;
use crate::instance::{Instance, InstanceState};
use crate::registration::{Registration, RegistrationState};
use crate::registry::Registry;
use crate::view::{View, Watcher};

/// A registry under test, with power over its world. It starts empty.
pub trait Fixture: Sync {
    /// A client of the registry.
    fn registry(&self) -> Arc<dyn Registry>;
    /// Cuts its clients off.
    fn cut(&self);
    /// Lets them reach it again.
    fn heal(&self);
    /// Makes it lose all records and locks.
    fn forget(&self) -> BoxFuture<'_, ()>;
    /// Lets time pass, on the registry's clock and on that of its clients.
    fn pass(&self, span: Duration) -> BoxFuture<'_, ()>;
    /// The time to live to test with: several times what an operation takes.
    fn ttl(&self) -> Duration {
        Duration::from_secs(3)
    }
}

/// Hands the name of every behaviour to a macro.
#[macro_export]
macro_rules! every_behaviour {
    ($per_behaviour:ident) => {
        $per_behaviour! {
            a_registered_node_is_in_the_view_and_a_deregistered_one_is_not,
            a_record_lives_as_long_as_its_lease,
            a_lost_lease_is_told_and_a_new_registration_works,
            a_new_incarnation_replaces_the_old_and_takes_its_lease,
            an_old_incarnation_is_refused_while_a_new_one_lives,
            registering_again_changes_the_record,
            unreachable_is_not_empty,
            a_lease_that_ran_out_during_an_outage_is_gone_after_it,
            a_watcher_gets_the_latest_view_and_no_backlog,
            a_watcher_sees_a_record_expire,
            versions_of_views_grow,
            a_lock_has_one_holder,
            fencing_tokens_grow_with_every_holder,
            a_lock_lives_as_long_as_it_is_renewed,
            the_holder_gets_the_same_token_again,
            a_waiter_gets_the_lock_when_its_holder_gives_it_back,
            a_waiter_gets_the_lock_when_its_holder_dies,
            one_waiter_at_a_time_gets_the_lock,
            a_counter_begins_at_zero_and_keeps_what_is_added,
            a_counter_is_set_only_from_the_value_that_was_expected,
            additions_that_meet_all_count,
            a_registration_keeps_its_record_alive,
            a_registration_comes_back_after_its_record_was_lost,
            a_registration_comes_back_after_an_outage_longer_than_its_lease,
            a_registration_ends_when_a_later_life_of_its_node_appears,
            a_registration_publishes_changes_and_leaves_when_it_is_closed,
        }
    };
}
#[doc(inline)]
pub use every_behaviour;

fn instance(name: &str, incarnation: u64) -> Instance {
    Instance::new(name, Incarnation(incarnation), format!("{name}.test:7400")).offering("s.t", "1")
}

fn names(view: &View) -> Vec<String> {
    view.instances.iter().map(|i| format!("{}/{}", i.node, i.incarnation.0)).collect()
}

async fn seen(registry: &dyn Registry) -> Vec<String> {
    names(&registry.view().await.unwrap())
}

/// The first view that fits, or a panic after ten times the time to live.
async fn until(fixture: &dyn Fixture, watcher: &mut Watcher, fits: impl Fn(&View) -> bool) -> Arc<View> {
    let search = async {
        loop {
            let view = watcher.next().await.unwrap();
            if fits(&view) {
                return view;
            }
        }
    };
    tokio::time::timeout(fixture.ttl() * 10, search).await.expect("no such view came")
}

/// Runs a test beside the driver of a registration.
async fn beside<R>(driver: impl Future<Output = ()>, test: impl Future<Output = R>) -> R {
    let (driver, test) = (std::pin::pin!(driver.fuse()), std::pin::pin!(test));
    match futures_util::future::select(test, driver).await {
        futures_util::future::Either::Left((result, _)) => result,
        // The driver has ended; the test goes on alone.
        futures_util::future::Either::Right(((), test)) => test.await,
    }
}

async fn until_state(registration: &Registration, fits: impl Fn(&RegistrationState) -> bool) {
    let wait = registration.wait_for(fits);
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("no such state came");
}

/// See its name.
pub async fn a_registered_node_is_in_the_view_and_a_deregistered_one_is_not(f: &dyn Fixture) {
    let registry = f.registry();
    assert_eq!(seen(&*registry).await, [""; 0]);
    let b = registry.register(instance("b", 1), f.ttl()).await.unwrap();
    registry.register(instance("a", 1), f.ttl()).await.unwrap();
    let view = registry.view().await.unwrap();
    assert!(view.reachable);
    assert_eq!(names(&view), ["a/1", "b/1"]);
    assert_eq!(view.instances[1], instance("b", 1));
    registry.deregister(b).await.unwrap();
    assert_eq!(seen(&*registry).await, ["a/1"]);
    registry.deregister(b).await.unwrap();
}

/// See its name.
pub async fn a_record_lives_as_long_as_its_lease(f: &dyn Fixture) {
    let registry = f.registry();
    let kept = registry.register(instance("kept", 1), f.ttl()).await.unwrap();
    registry.register(instance("left", 1), f.ttl()).await.unwrap();
    f.pass(f.ttl() * 2 / 3).await;
    registry.keep_alive(kept).await.unwrap();
    assert_eq!(seen(&*registry).await, ["kept/1", "left/1"]);
    f.pass(f.ttl() * 2 / 3).await;
    assert_eq!(seen(&*registry).await, ["kept/1"]);
    f.pass(f.ttl()).await;
    assert_eq!(seen(&*registry).await, [""; 0]);
}

/// See its name.
pub async fn a_lost_lease_is_told_and_a_new_registration_works(f: &dyn Fixture) {
    let registry = f.registry();
    let lost = registry.register(instance("a", 1), f.ttl()).await.unwrap();
    f.pass(f.ttl() * 2).await;
    assert!(matches!(registry.keep_alive(lost).await, Err(RegistryError::LeaseLost { .. })));
    let fresh = registry.register(instance("a", 1), f.ttl()).await.unwrap();
    assert_ne!(lost, fresh);
    registry.keep_alive(fresh).await.unwrap();
    registry.deregister(lost).await.unwrap();
    assert_eq!(seen(&*registry).await, ["a/1"], "an old lease removes no new record");
}

/// See its name.
pub async fn a_new_incarnation_replaces_the_old_and_takes_its_lease(f: &dyn Fixture) {
    let registry = f.registry();
    let old = registry.register(instance("a", 1), f.ttl()).await.unwrap();
    registry.register(instance("a", 2), f.ttl()).await.unwrap();
    assert_eq!(seen(&*registry).await, ["a/2"]);
    assert!(matches!(registry.keep_alive(old).await, Err(RegistryError::LeaseLost { .. })));
    registry.deregister(old).await.unwrap();
    assert_eq!(seen(&*registry).await, ["a/2"]);
}

/// See its name.
pub async fn an_old_incarnation_is_refused_while_a_new_one_lives(f: &dyn Fixture) {
    let registry = f.registry();
    registry.register(instance("a", 2), f.ttl()).await.unwrap();
    let refused = registry.register(instance("a", 1), f.ttl()).await;
    assert_eq!(
        refused,
        Err(RegistryError::Superseded {
            node: NodeId::new("a"),
            ours: Incarnation(1),
            newer: Incarnation(2),
        })
    );
    assert_eq!(seen(&*registry).await, ["a/2"]);
}

/// See its name.
pub async fn registering_again_changes_the_record(f: &dyn Fixture) {
    let registry = f.registry();
    registry.register(instance("a", 1), f.ttl()).await.unwrap();
    let mut draining = instance("a", 1);
    draining.state = InstanceState::Draining;
    registry.register(draining.clone(), f.ttl()).await.unwrap();
    assert_eq!(registry.view().await.unwrap().instances, [draining]);
}

/// See its name.
pub async fn unreachable_is_not_empty(f: &dyn Fixture) {
    let registry = f.registry();
    let mut watcher = registry.watch();
    registry.register(instance("a", 1), f.ttl()).await.unwrap();
    until(f, &mut watcher, |view| !view.instances.is_empty()).await;
    f.cut();
    assert!(matches!(registry.view().await, Err(RegistryError::Unreachable { .. })));
    let during = until(f, &mut watcher, |view| !view.reachable).await;
    assert_eq!(names(&during), ["a/1"], "the last good view stays");
    f.heal();
    let after = until(f, &mut watcher, |view| view.reachable).await;
    assert_eq!(names(&after), ["a/1"]);
}

/// See its name.
pub async fn a_lease_that_ran_out_during_an_outage_is_gone_after_it(f: &dyn Fixture) {
    let registry = f.registry();
    let lease = registry.register(instance("a", 1), f.ttl()).await.unwrap();
    f.cut();
    f.pass(f.ttl() * 2).await;
    f.heal();
    assert!(matches!(registry.keep_alive(lease).await, Err(RegistryError::LeaseLost { .. })));
    assert_eq!(seen(&*registry).await, [""; 0]);
}

/// See its name.
pub async fn a_watcher_gets_the_latest_view_and_no_backlog(f: &dyn Fixture) {
    let registry = f.registry();
    let mut slow = registry.watch();
    for n in 0..50 {
        registry.register(instance(&format!("n{n:02}"), 1), f.ttl() * 20).await.unwrap();
    }
    // A remote registry may deliver the last change in a second view, never fifty.
    let mut views = 0;
    until(f, &mut slow, |view| {
        assert!(view.version > 0);
        view.instances.len() == 50
    })
    .await;
    while slow.next().now_or_never().is_some() {
        views += 1;
    }
    assert_eq!(views, 0);
}

/// See its name.
pub async fn a_watcher_sees_a_record_expire(f: &dyn Fixture) {
    let registry = f.registry();
    let mut watcher = registry.watch();
    registry.register(instance("a", 1), f.ttl()).await.unwrap();
    until(f, &mut watcher, |view| view.instances.len() == 1).await;
    let after = until(f, &mut watcher, |view| view.instances.is_empty()).await;
    assert!(after.reachable);
}

/// See its name.
pub async fn versions_of_views_grow(f: &dyn Fixture) {
    let registry = f.registry();
    let mut watcher = registry.watch();
    let mut last = watcher.next().await.unwrap().version;
    for n in 1..5 {
        registry.register(instance("a", n), f.ttl()).await.unwrap();
        let view = until(f, &mut watcher, |view| names(view) == [format!("a/{n}")]).await;
        assert!(view.version > last, "{} after {last}", view.version);
        last = view.version;
    }
}

/// See its name.
pub async fn a_lock_has_one_holder(f: &dyn Fixture) {
    let registry = f.registry();
    assert_eq!(registry.holder("leader").await.unwrap(), None);
    let fence = registry.acquire("leader", "a/1", f.ttl()).await.unwrap().unwrap();
    assert_eq!(registry.acquire("leader", "b/1", f.ttl()).await.unwrap(), None);
    assert_eq!(registry.holder("leader").await.unwrap(), Some(("a/1".to_owned(), fence)));
    assert!(registry.acquire("other", "b/1", f.ttl()).await.unwrap().is_some());
    registry.release("leader", fence).await.unwrap();
    assert_eq!(registry.holder("leader").await.unwrap(), None);
}

/// See its name.
pub async fn fencing_tokens_grow_with_every_holder(f: &dyn Fixture) {
    let registry = f.registry();
    let released = registry.acquire("leader", "a/1", f.ttl()).await.unwrap().unwrap();
    registry.release("leader", released).await.unwrap();
    let expired = registry.acquire("leader", "b/1", f.ttl()).await.unwrap().unwrap();
    f.pass(f.ttl() * 2).await;
    let forgotten = registry.acquire("leader", "a/1", f.ttl()).await.unwrap().unwrap();
    f.forget().await;
    let last = registry.acquire("leader", "a/1", f.ttl()).await.unwrap().unwrap();
    assert!(released < expired && expired < forgotten && forgotten < last);
    // Nothing that an earlier holder does touches the present one.
    registry.release("leader", expired).await.unwrap();
    assert!(matches!(registry.renew("leader", forgotten).await, Err(RegistryError::NotHeld { .. })));
    assert_eq!(registry.holder("leader").await.unwrap(), Some(("a/1".to_owned(), last)));
}

/// See its name.
pub async fn a_lock_lives_as_long_as_it_is_renewed(f: &dyn Fixture) {
    let registry = f.registry();
    let fence = registry.acquire("leader", "a/1", f.ttl()).await.unwrap().unwrap();
    for _ in 0..3 {
        f.pass(f.ttl() * 2 / 3).await;
        registry.renew("leader", fence).await.unwrap();
    }
    assert_eq!(registry.acquire("leader", "b/1", f.ttl()).await.unwrap(), None);
    f.pass(f.ttl() * 2).await;
    assert!(matches!(registry.renew("leader", fence).await, Err(RegistryError::NotHeld { .. })));
    assert_eq!(registry.holder("leader").await.unwrap(), None);
}

/// See its name.
pub async fn the_holder_gets_the_same_token_again(f: &dyn Fixture) {
    let registry = f.registry();
    let fence = registry.acquire("leader", "a/1", f.ttl()).await.unwrap();
    f.pass(f.ttl() * 2 / 3).await;
    assert_eq!(registry.acquire("leader", "a/1", f.ttl()).await.unwrap(), fence);
    f.pass(f.ttl() * 2 / 3).await;
    assert_eq!(registry.acquire("leader", "b/1", f.ttl()).await.unwrap(), None, "it was extended");
    // Another life of the same node is another holder.
    assert_eq!(registry.acquire("leader", "a/2", f.ttl()).await.unwrap(), None);
}

/// See its name.
pub async fn a_waiter_gets_the_lock_when_its_holder_gives_it_back(f: &dyn Fixture) {
    let registry = f.registry();
    let first = registry.acquire("queue", "a/1", f.ttl()).await.unwrap().unwrap();
    let mut waiting = registry.lock("queue", "b/1", f.ttl());
    let early = tokio::time::timeout(f.ttl() / 3, &mut waiting).await;
    assert!(early.is_err(), "the lock is held");
    registry.release("queue", first).await.unwrap();
    let second = tokio::time::timeout(f.ttl(), waiting).await.expect("the lock is free").unwrap();
    assert!(second > first);
    assert_eq!(registry.holder("queue").await.unwrap(), Some(("b/1".to_owned(), second)));
    registry.renew("queue", second).await.unwrap();
    registry.release("queue", second).await.unwrap();
    assert_eq!(registry.holder("queue").await.unwrap(), None);
}

/// See its name.
pub async fn a_waiter_gets_the_lock_when_its_holder_dies(f: &dyn Fixture) {
    let registry = f.registry();
    let first = registry.acquire("queue", "a/1", f.ttl()).await.unwrap().unwrap();
    let waited = tokio::time::timeout(f.ttl() * 5, registry.lock("queue", "b/1", f.ttl())).await;
    let second = waited.expect("the lock of the dead ran out").unwrap();
    assert!(second > first);
    assert!(matches!(registry.renew("queue", first).await, Err(RegistryError::NotHeld { .. })));
}

/// See its name.
pub async fn one_waiter_at_a_time_gets_the_lock(f: &dyn Fixture) {
    let registry = f.registry();
    let inside = std::sync::atomic::AtomicU32::new(0);
    let order = std::sync::Mutex::new(Vec::new());
    let visit = |n: usize| {
        let (registry, inside, order) = (f.registry(), &inside, &order);
        async move {
            let holder = format!("n{n}/1");
            let fence = registry.lock("queue", &holder, f.ttl()).await.unwrap();
            assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
            order.lock().unwrap().push(fence);
            registry.renew("queue", fence).await.unwrap();
            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            registry.release("queue", fence).await.unwrap();
        }
    };
    futures_util::future::join_all((0..5).map(visit)).await;
    let order = order.into_inner().unwrap();
    assert!(order.len() == 5 && order.is_sorted(), "tokens grow with every holder: {order:?}");
    assert_eq!(registry.holder("queue").await.unwrap(), None);
}

/// See its name.
pub async fn a_counter_begins_at_zero_and_keeps_what_is_added(f: &dyn Fixture) {
    let registry = f.registry();
    assert_eq!(registry.counter("orders").await.unwrap(), 0);
    assert_eq!(registry.counter_add("orders", 5).await.unwrap(), 5);
    assert_eq!(registry.counter_add("orders", -7).await.unwrap(), -2);
    assert_eq!(registry.counter("orders").await.unwrap(), -2);
    assert_eq!(registry.counter("others").await.unwrap(), 0);
    assert!(registry.counter_compare_and_set("orders", -2, i64::MAX).await.unwrap());
    let overflow = registry.counter_add("orders", 1).await;
    assert!(matches!(overflow, Err(RegistryError::Overflow { value: i64::MAX, n: 1, .. })), "{overflow:?}");
    f.pass(f.ttl() * 2).await;
    assert_eq!(registry.counter("orders").await.unwrap(), i64::MAX, "a counter has no lease");
}

/// See its name.
pub async fn a_counter_is_set_only_from_the_value_that_was_expected(f: &dyn Fixture) {
    let registry = f.registry();
    assert!(!registry.counter_compare_and_set("orders", 1, 2).await.unwrap());
    assert!(registry.counter_compare_and_set("orders", 0, 2).await.unwrap());
    assert!(!registry.counter_compare_and_set("orders", 0, 3).await.unwrap());
    assert_eq!(registry.counter("orders").await.unwrap(), 2);
    assert!(registry.counter_compare_and_set("orders", 2, 0).await.unwrap());
    assert_eq!(registry.counter_add("orders", 1).await.unwrap(), 1);
    let long = "x".repeat(1_000);
    assert!(matches!(registry.counter_add(&long, 1).await, Err(RegistryError::Name { .. })));
    assert!(matches!(registry.acquire("", "a/1", f.ttl()).await, Err(RegistryError::Name { .. })));
}

/// See its name.
pub async fn additions_that_meet_all_count(f: &dyn Fixture) {
    let registry = f.registry();
    let add = |_| registry.counter_add("orders", 1);
    let mut seen: Vec<i64> =
        futures_util::future::try_join_all((0..20).map(add)).await.expect("each is counted");
    seen.sort_unstable();
    assert_eq!(seen, (1..=20).collect::<Vec<i64>>(), "each saw a value of its own");
}

/// See its name.
pub async fn a_registration_keeps_its_record_alive(f: &dyn Fixture) {
    let registry = f.registry();
    let (registration, driver) = Registration::new(f.registry(), instance("a", 1), f.ttl());
    beside(driver, async {
        until_state(&registration, RegistrationState::is_registered).await;
        for _ in 0..5 {
            f.pass(f.ttl()).await;
            assert_eq!(seen(&*registry).await, ["a/1"]);
        }
        registration.close().await;
    })
    .await;
}

/// See its name.
pub async fn a_registration_comes_back_after_its_record_was_lost(f: &dyn Fixture) {
    let registry = f.registry();
    let (registration, driver) = Registration::new(f.registry(), instance("a", 1), f.ttl());
    beside(driver, async {
        until_state(&registration, RegistrationState::is_registered).await;
        f.forget().await;
        assert_eq!(seen(&*registry).await, [""; 0]);
        f.pass(f.ttl() / 2).await;
        assert_eq!(seen(&*registry).await, ["a/1"]);
        registration.close().await;
    })
    .await;
}

/// See its name.
pub async fn a_registration_comes_back_after_an_outage_longer_than_its_lease(f: &dyn Fixture) {
    let registry = f.registry();
    let (registration, driver) = Registration::new(f.registry(), instance("a", 1), f.ttl());
    beside(driver, async {
        until_state(&registration, RegistrationState::is_registered).await;
        f.cut();
        f.pass(f.ttl() / 2).await;
        assert!(registration.state().is_registered(), "the lease has not run out yet");
        f.pass(f.ttl() * 2).await;
        match registration.state() {
            RegistrationState::NotRegistered { error, .. } => {
                assert!(error.contains("cannot be reached"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        f.heal();
        until_state(&registration, RegistrationState::is_registered).await;
        assert_eq!(seen(&*registry).await, ["a/1"]);
        registration.close().await;
    })
    .await;
}

/// See its name.
pub async fn a_registration_ends_when_a_later_life_of_its_node_appears(f: &dyn Fixture) {
    let registry = f.registry();
    let (registration, driver) = Registration::new(f.registry(), instance("a", 1), f.ttl());
    beside(driver, async {
        until_state(&registration, RegistrationState::is_registered).await;
        registry.register(instance("a", 2), f.ttl()).await.unwrap();
        until_state(&registration, |s| matches!(s, RegistrationState::Superseded { .. })).await;
        assert_eq!(seen(&*registry).await, ["a/2"]);
    })
    .await;
}

/// See its name.
pub async fn a_registration_publishes_changes_and_leaves_when_it_is_closed(f: &dyn Fixture) {
    let registry = f.registry();
    let mut watcher = registry.watch();
    let (registration, driver) = Registration::new(f.registry(), instance("a", 1), f.ttl());
    beside(driver, async {
        let node = NodeId::new("a");
        until(f, &mut watcher, |view| view.instance(&node).is_some()).await;
        registration.update(|instance| instance.state = InstanceState::Draining);
        until(f, &mut watcher, |view| {
            view.instance(&node).is_some_and(|i| i.state == InstanceState::Draining)
        })
        .await;
        registration.close().await;
        assert_eq!(seen(&*registry).await, [""; 0]);
    })
    .await;
}
