//! RabbitMQ's own first example, the queue `hello`: one pipeline sends, another receives.
use afflux::connectors::{Queue, Rabbit};
use afflux::stream::vec_source;
use afflux::{App, prelude::*};

/// `AMQP_URL`, or the broker of this machine.
fn broker() -> Rabbit {
    Rabbit::at(std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672".to_owned()))
}

/// Ends when the broker has confirmed every message.
fn send(flow: &Flow) -> Result {
    let greetings = ["Hello World!", "Hello again!"].map(str::to_owned).to_vec();
    flow.source("greetings", vec_source(greetings))
        .untimed()
        .inspect(|text| println!(" [x] Sent '{text}'"))
        .sink("hello", broker().write(Queue::durable("hello")).text());
    Ok(())
}

/// Runs until it is stopped. A message leaves the queue when it has been dealt with.
fn receive(flow: &Flow) -> Result {
    flow.source("hello", broker().read("hello").text())
        .untimed()
        .inspect(|text| println!(" [x] Received '{text}'"))
        .count("received");
    Ok(())
}

#[afflux::main]
async fn main() -> Result {
    App::new("hello").pipeline("send", send).pipeline("receive", receive).run().await
}
