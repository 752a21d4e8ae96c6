use std::collections::BTreeMap;
use afflux::prelude::*;
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
pub struct HourlyDelay {
    origin: String,
}
#[derive(RpcError, Serialize, Deserialize, JsonSchema, Debug)]
pub enum BoardError {
    /// There is none.
    #[rpc(code = NotFound)]
    NoSuchOrigin { origin: String, known: Vec<String> },
}
#[derive(Service)]
#[service(name = "flights.board", version = "1.0", error = BoardError)]
pub enum Board {
    /// The latest closed hour of an airport: a row a carrier.
    #[rpc(returns = Vec<HourlyDelay>, idempotent)]
    Latest { origin: String },
}
//> here
