use afflux::prelude::*;

#[derive(RpcError, Serialize, Deserialize, JsonSchema, Debug)]
enum OrderError {
    #[rpc(code = NotFoud)]
    NoSuch { id: u64 },
    #[rpc(code = ResourceExhausted, retry_after_ms = "50")]
    Busy,
    Aborted,
}

fn main() {}
