use afflux::prelude::*;

#[derive(Key, Clone, PartialEq, Serialize, Deserialize)]
struct Place {
    latitude: f64,
    longitude: f64,
}

fn main() {}
