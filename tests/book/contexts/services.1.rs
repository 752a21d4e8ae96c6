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
//> here
