//! The derives of Afflux: what a user writes becomes what the runtime needs.
//!
//! Use them through the `afflux` crate, which re-exports them: the code they write names
//! `::afflux::…`. Each macro is one file; [`derive@Service`] is the one to read first. `args` reads
//! attributes, so that every macro complains in the same words.

mod actor;
mod args;
mod errors;
mod event;
mod key;
mod main_fn;
mod methods;
mod naming;
mod operator;
mod rpc_error;
mod service;

use proc_macro::TokenStream;
use syn::parse_macro_input;

/// A contract: each variant of the enum is a method, its fields are the method's parameters.
///
/// On the enum: `#[service(name = "shop.orders", version = "1.2", error = OrderError)]`; `version`
/// is "1.0" and `error` is `NoError` when absent. On a variant, all optional:
///
/// | `#[rpc(…)]` | means | default |
/// |---|---|---|
/// | `returns = T` | the type of the answer | `()` |
/// | `deadline = "2s"` | the deadline of a call that sets none | 10 s |
/// | `idempotent` | a second execution does no harm | not |
/// | `readonly` | changes nothing: idempotent, may be hedged and sent to any replica | not |
/// | `streams = T` | items of this type come back instead of an answer | none |
/// | `accepts = T` | the caller sends items of this type | none |
/// | `oneway` | no answer at all | an answer |
/// | `oneway, ack` | the caller waits until the mailbox has admitted it, or gets its refusal | nobody waits |
/// | `priority = "high"` | its lane in the mailbox: `"high"`, `"normal"`, `"low"` | `"normal"` |
/// | `detached` | the calls of its handler go on when its caller gives up | they are cancelled |
/// | `route = "customer"` | calls with equal values of this parameter go to one endpoint | balanced |
/// | `hedge = "p95"` | when a second attempt starts beside the first: `"p95"` or a time such as `"20ms"`; needs `idempotent` | never |
/// | `allow = "support, node/*"` | who may call it, once callers differ; `"authenticated"`, `"anyone"` | what `auth.allow` says |
///
/// For `enum Orders` with a method `Place` it writes: `OrdersPlace` (the parameters),
/// `OrdersClient` (`client.place(order).await`), the trait `OrdersCalls` (the same methods on an
/// `ActorRef<Orders>`), the trait `OrdersHandler` (implement it with
/// `async fn place(&mut self, cx: &mut Cx, order: Order) -> Result<Receipt, Fault<OrderError>>`),
/// `OrdersCall` (a call in a mailbox, with `dispatch`), and `impl Service for Orders`.
///
/// Types of parameters and results need `Serialize`, `Deserialize` and `JsonSchema`. `#[serde(…)]`
/// and `#[schemars(…)]` on a parameter are kept.
#[proc_macro_derive(Service, attributes(service, rpc, serde, schemars))]
pub fn derive_service(input: TokenStream) -> TokenStream {
    finish(service::expand(parse_macro_input!(input)))
}

/// An actor that serves contracts.
///
/// `#[actor(serves(Orders, Admin), mailbox = 1024, overflow = "reject", restart(max = 5, within = "30s"))]`:
/// the type implements `OrdersHandler` and `AdminHandler`; the macro writes the mail type
/// (`OrderDeskMail`), `impl Actor` and `impl Serves`.
///
/// | option | means | default |
/// |---|---|---|
/// | `serves(A, B)` | the contracts | at least one is needed |
/// | `mailbox = 1024` | messages that may wait | the runtime's |
/// | `overflow = "reject"` | what a full mailbox does: `"reject"` or `"wait"` (until the caller's deadline) | `"reject"` |
/// | `concurrent = 64` | handlers that may overlap; it implements `OrdersShared`, whose methods take `&self` | one at a time |
/// | `lifecycle` | it implements `Lifecycle`: code at its beginning and end | none |
/// | `replies(…)` | answers kept for calls with an idempotency key: at most `max` of `bytes` together, each `within` a time; `max = 0` keeps none | 4,096, 16 MiB, 5 min |
/// | `restart(…)` | `policy = "permanent"`, `"transient"` or `"temporary"`; at most `max` restarts `within` a time; first `backoff` | the runtime's |
/// | `instances = 4` | so many behind one name; a call goes to the emptier of two | 1 |
/// | `key = "customer"` | one for each value of this parameter, which every method has | one |
/// | `idle = "5m"` | how long a keyed one without calls is kept | 5 min |
/// | `active_max = 10000` | keyed ones alive on one node | 10,000 |
#[proc_macro_derive(Actor, attributes(actor))]
pub fn derive_actor(input: TokenStream) -> TokenStream {
    finish(actor::expand(parse_macro_input!(input)))
}

/// A service's typed error: each variant says its code, and when a retry may help.
///
/// `#[rpc(code = ResourceExhausted, retry_after_ms = 50)]` on a variant; on the type itself, the
/// same for all variants that say nothing. Also writes `From<Self> for Fault<Self>`, so that `?`
/// works in a handler. The text of the error is its `Debug`.
#[proc_macro_derive(RpcError, attributes(rpc))]
pub fn derive_rpc_error(input: TokenStream) -> TokenStream {
    finish(rpc_error::expand(parse_macro_input!(input)))
}

/// A record that knows when it happened: exactly one field has `#[event(time)]` and is a `Timestamp`.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    finish(event::expand(parse_macro_input!(input)))
}

/// An operator of one's own on a keyed stream: implement `Process` for it.
///
/// `#[operator(input = Reading, output = Alert, key = String)]` on the struct; each `#[state]` field
/// is a `ValueState`, `ListState`, `MapState`, `ReducingState` or `AggregatingState`, and holds the
/// state of the current key while a method runs. Other fields are settings: cloned for each task,
/// the same for all keys, no part of checkpoints.
///
/// | option | means | default |
/// |---|---|---|
/// | `input = T` | the records that come in | needed |
/// | `output = T` | the rows that go out | needed |
/// | `key = K` | what records are grouped by; `()` for all together | needed |
/// | `#[state(ttl = "1h")]` | what was not written for so long is forgotten, by event time where the stream has it, else by the clock | kept for ever |
#[proc_macro_derive(Operator, attributes(operator, state))]
pub fn derive_operator(input: TokenStream) -> TokenStream {
    finish(operator::expand(parse_macro_input!(input)))
}

/// A value that records can be grouped by: its fields are keys and are encoded in their order.
///
/// An enum writes the variant's index (`u32`) first, so new variants go to the end.
#[proc_macro_derive(Key, attributes(key))]
pub fn derive_key(input: TokenStream) -> TokenStream {
    finish(key::expand(parse_macro_input!(input)))
}

/// Makes `async fn main() -> afflux::Result<()>` the entry of the process.
///
/// An error is printed as one readable line, and the process ends with its exit code.
#[proc_macro_attribute]
pub fn main(options: TokenStream, item: TokenStream) -> TokenStream {
    finish(main_fn::expand(options.into(), item.into()))
}

fn finish(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(|error| error.to_compile_error()).into()
}
