//! A client that speaks the public MessagePack-RPC.

use afflux_wire::Scanner;
use afflux_wire::codec::{from_slice, to_named};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Net, Node, Stream};

pub struct Client {
    pub stream: Box<dyn Stream>,
    pub buf: Vec<u8>,
}

impl Client {
    pub async fn to(net: &Net, node: &Node) -> Self {
        Self { stream: net.raw(&node.mesh.local_address()).await, buf: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn say(&mut self, message: Value) {
        self.send(&to_named(&message).unwrap()).await;
    }

    /// The next message; nothing when the node has closed.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(bytes) = Scanner::new(1 << 30, 64).advance(&self.buf).unwrap() {
                let message = self.buf.drain(..bytes).collect::<Vec<u8>>();
                return Some(from_slice(&message).unwrap());
            }
            match self.stream.read_buf(&mut self.buf).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Calls and waits; the result or the error.
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.say(json!([0, 7, method, params])).await;
        let answer = self.next().await.expect("an answer");
        assert_eq!((&answer[0], &answer[1]), (&json!(1), &json!(7)), "{answer}");
        match &answer[2] {
            Value::Null => Ok(answer[3].clone()),
            error => Err(error.clone()),
        }
    }

    /// What an error says: its code and its text.
    pub async fn fails(&mut self, method: &str, params: Value) -> (u64, String) {
        let error = self.call(method, params).await.unwrap_err();
        (error[0].as_u64().unwrap(), error[1].as_str().unwrap().to_owned())
    }
}
