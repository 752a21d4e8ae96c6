//! gRPC's own first example, `helloworld.Greeter`, as an actor: `afflux-greeter node --set
//! grpc.listen=127.0.0.1:50051` serves gRPC clients there, and every other client on the node port.

use afflux::{App, prelude::*};

/// Greets.
#[derive(Service)]
#[service(name = "helloworld.Greeter", version = "1.0", error = GreeterError)]
enum Greeter {
    /// Greets once.
    #[rpc(returns = HelloReply, readonly)]
    SayHello { name: String },
    /// Greets again and again.
    #[rpc(streams = HelloReply)]
    SayHelloStreamReply { name: String },
    /// Greets each as it is named.
    #[rpc(accepts = String, streams = HelloReply)]
    SayHelloBidiStream,
    /// Greets all at once.
    #[rpc(accepts = String, returns = HelloReply)]
    GreetAll { greeting: String },
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
struct HelloReply {
    message: String,
}

#[derive(RpcError, Serialize, Deserialize, JsonSchema, Debug)]
enum GreeterError {
    /// Nobody was named.
    #[rpc(code = InvalidArgument)]
    Nameless,
}

#[derive(Actor)]
#[actor(serves(Greeter))]
struct Host;

fn hello(name: &str) -> Result<HelloReply, GreeterError> {
    if name.is_empty() {
        return Err(GreeterError::Nameless);
    }
    Ok(HelloReply { message: format!("Hello {name}") })
}

impl GreeterHandler for Host {
    async fn say_hello(&mut self, _: &mut Cx, name: String) -> Result<HelloReply, Fault<GreeterError>> {
        Ok(hello(&name)?)
    }

    async fn say_hello_stream_reply(
        &mut self,
        cx: &mut Cx,
        name: String,
        mut out: Emit<HelloReply>,
    ) -> Result<(), Fault<GreeterError>> {
        let reply = hello(&name)?;
        // The actor is free while the client takes its greetings.
        cx.spawn(async move {
            for _ in 0..10 {
                if out.send(reply.clone()).await.is_err() {
                    return;
                }
            }
            out.finish();
        })?;
        Ok(())
    }

    async fn say_hello_bidi_stream(
        &mut self,
        cx: &mut Cx,
        mut names: Incoming<String>,
        mut out: Emit<HelloReply>,
    ) -> Result<(), Fault<GreeterError>> {
        cx.spawn(async move {
            while let Some(Ok(name)) = names.next().await {
                let Ok(reply) = hello(&name) else {
                    return out.fail(Status::invalid("nobody was named"));
                };
                if out.send(reply).await.is_err() {
                    return;
                }
            }
            out.finish();
        })?;
        Ok(())
    }

    async fn greet_all(
        &mut self,
        _: &mut Cx,
        greeting: String,
        mut names: Incoming<String>,
    ) -> Result<HelloReply, Fault<GreeterError>> {
        let mut all = Vec::new();
        while let Some(name) = names.next().await {
            all.push(name?);
        }
        Ok(HelloReply { message: format!("{greeting} {}", all.join(", ")) })
    }
}

#[afflux::main]
async fn main() -> Result {
    App::new("afflux-greeter")
        .service("greeter", || Ok::<_, Error>(Host))
        .proto("greeter.proto", include_str!("../greeter.proto"))
        .run()
        .await
}
