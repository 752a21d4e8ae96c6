//! Records and keys written with the derives.
#![deny(warnings, clippy::pedantic)]

use afflux::prelude::*;

/// The crate under another name, as `crate = "…"` says it.
mod renamed {
    pub(crate) use afflux::stream;
}

#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Flight {
    #[event(time)]
    scheduled: Timestamp,
    origin: String,
}

#[derive(Event)]
#[event(crate = "crate::renamed")]
enum Reading<T> {
    Warm(#[event(time)] Timestamp, T),
    Cold {
        #[event(time)]
        at: Timestamp,
    },
}

#[derive(Key, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
struct Route {
    from: String,
    to: String,
    leg: u16,
}

#[derive(Key, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[key(crate = "crate::renamed")]
enum Party<K> {
    Nobody,
    One(K),
    Two { first: K, second: K },
}

#[test]
fn the_marked_field_is_the_time_of_the_record() {
    let at = Timestamp::from_millis(7);
    assert_eq!(Flight { scheduled: at, origin: "JFK".to_owned() }.event_time(), at);
    assert_eq!(Reading::Warm(at, 1.5).event_time(), at);
    assert_eq!(Reading::<f64>::Cold { at }.event_time(), at);
}

#[test]
fn a_struct_is_the_key_that_its_fields_are_as_a_tuple() {
    let route = Route { from: "JFK".to_owned(), to: "LAX".to_owned(), leg: 2 };
    assert_eq!(route.key_hash(), (route.from.clone(), route.to.clone(), route.leg).key_hash());
    assert_ne!(route.key_hash(), Route { leg: 3, ..route.clone() }.key_hash());
}

#[test]
fn an_enum_is_the_key_that_its_index_and_fields_are_as_a_tuple() {
    assert_eq!(Party::<u64>::Nobody.key_hash(), (0_u32,).key_hash());
    assert_eq!(Party::One(5_u64).key_hash(), (1_u32, 5_u64).key_hash());
    assert_eq!(Party::Two { first: 5_u64, second: 6 }.key_hash(), (2_u32, 5_u64, 6_u64).key_hash());
}
