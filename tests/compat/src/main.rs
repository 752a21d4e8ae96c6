//! One method for every kind of value, served to clients that know nothing of Rust. `run.sh` calls all of them.
//!
//! With `COMPAT_DOOR` set the node offers nothing itself: clients reach the service of another node through it.

use std::collections::BTreeMap;

use afflux::{App, prelude::*};

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
struct Line {
    name: String,
    quantity: u32,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
struct Order {
    id: u64,
    lines: Vec<Line>,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema, Debug)]
struct Receipt {
    order: Order,
    pieces: u32,
}

#[derive(Serialize, Deserialize, JsonSchema, Debug)]
struct Numbers {
    small: i8,
    large: u64,
    ratio: f64,
}

#[derive(Serialize, Deserialize, JsonSchema, Debug)]
struct Blob {
    #[serde(with = "serde_bytes")]
    #[schemars(with = "Vec<u8>")]
    bytes: Vec<u8>,
}

#[derive(RpcError, Serialize, Deserialize, JsonSchema, Debug)]
enum KindsError {
    #[rpc(code = NotFound)]
    NoSuch { id: u64 },
}

/// Takes and gives every kind of value.
#[derive(Service)]
#[service(name = "demo.kinds", version = "1.0", error = KindsError)]
enum Kinds {
    /// Text, turned round.
    #[rpc(returns = String, idempotent)]
    Reverse { text: String },
    /// Integers of all widths, and a float.
    #[rpc(returns = Numbers, idempotent)]
    Numbers { small: i8, large: u64, ratio: f64 },
    /// The opposite.
    #[rpc(returns = bool, idempotent)]
    Not { value: bool },
    /// A value or none; none when it is left out.
    #[rpc(returns = Option<String>, idempotent)]
    Maybe {
        #[serde(default)]
        note: Option<String>,
    },
    /// A list.
    #[rpc(returns = Vec<i64>, idempotent)]
    Sorted { numbers: Vec<i64> },
    /// A map, each value doubled.
    #[rpc(returns = BTreeMap<String, i64>, idempotent)]
    Doubled { counts: BTreeMap<String, i64> },
    /// Bytes, which need not be text.
    #[rpc(returns = Blob, idempotent)]
    Inverted {
        #[serde(with = "serde_bytes")]
        #[schemars(with = "Vec<u8>")]
        bytes: Vec<u8>,
    },
    /// Structures in structures.
    #[rpc(returns = Receipt)]
    PlaceOrder { order: Order },
    /// An error of the service's own.
    #[rpc(returns = Order, idempotent)]
    Find { id: u64 },
    /// The numbers below one.
    #[rpc(streams = u64)]
    Count { to: u64 },
    /// The sum of what comes.
    #[rpc(accepts = i64, returns = i64)]
    Sum,
    /// Nobody waits for it.
    #[rpc(oneway)]
    Touch { by: u64 },
    /// What `Touch` has added up to.
    #[rpc(returns = u64, idempotent)]
    Touched,
}

#[derive(Actor, Default)]
#[actor(serves(Kinds), mailbox = 4096)]
struct Desk {
    touched: u64,
}

impl KindsHandler for Desk {
    async fn reverse(&mut self, _: &mut Cx, text: String) -> Result<String, Fault<KindsError>> {
        Ok(text.chars().rev().collect())
    }
    async fn numbers(
        &mut self,
        _: &mut Cx,
        small: i8,
        large: u64,
        ratio: f64,
    ) -> Result<Numbers, Fault<KindsError>> {
        Ok(Numbers { small, large, ratio: ratio * 2.0 })
    }
    async fn not(&mut self, _: &mut Cx, value: bool) -> Result<bool, Fault<KindsError>> {
        Ok(!value)
    }
    async fn maybe(&mut self, _: &mut Cx, note: Option<String>) -> Result<Option<String>, Fault<KindsError>> {
        Ok(note)
    }
    async fn sorted(&mut self, _: &mut Cx, mut numbers: Vec<i64>) -> Result<Vec<i64>, Fault<KindsError>> {
        numbers.sort_unstable();
        Ok(numbers)
    }
    async fn doubled(
        &mut self,
        _: &mut Cx,
        mut counts: BTreeMap<String, i64>,
    ) -> Result<BTreeMap<String, i64>, Fault<KindsError>> {
        counts.values_mut().for_each(|count| *count *= 2);
        Ok(counts)
    }
    async fn inverted(&mut self, _: &mut Cx, bytes: Vec<u8>) -> Result<Blob, Fault<KindsError>> {
        Ok(Blob { bytes: bytes.into_iter().map(|byte| !byte).collect() })
    }
    async fn place_order(&mut self, _: &mut Cx, order: Order) -> Result<Receipt, Fault<KindsError>> {
        let pieces = order.lines.iter().map(|line| line.quantity).sum();
        Ok(Receipt { order, pieces })
    }
    async fn find(&mut self, _: &mut Cx, id: u64) -> Result<Order, Fault<KindsError>> {
        Err(KindsError::NoSuch { id }.into())
    }
    async fn count(&mut self, _: &mut Cx, to: u64, mut out: Emit<u64>) -> Result<(), Fault<KindsError>> {
        for n in 0..to {
            if out.send(n).await.is_err() {
                break;
            }
        }
        Ok(())
    }
    async fn sum(&mut self, _: &mut Cx, mut numbers: Incoming<i64>) -> Result<i64, Fault<KindsError>> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?;
        }
        Ok(sum)
    }
    async fn touch(&mut self, _: &mut Cx, by: u64) -> Result<(), Fault<KindsError>> {
        self.touched += by;
        Ok(())
    }
    async fn touched(&mut self, _: &mut Cx) -> Result<u64, Fault<KindsError>> {
        Ok(self.touched)
    }
}

#[afflux::main]
async fn main() -> Result {
    let app = App::new("compat");
    match std::env::var_os("COMPAT_DOOR") {
        Some(_) => app.run().await,
        None => app.service("kinds", || Ok::<_, Error>(Desk::default())).run().await,
    }
}
