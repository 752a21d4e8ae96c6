//! A peer that says whatever it likes, byte by byte.

use afflux_wire::handshake::{Hello, Preface, Role};
use afflux_wire::{Frame, Limits, next_frame, put_hello, put_ping};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Net, Node, Stream};

pub struct Raw {
    pub stream: Box<dyn Stream>,
    buf: BytesMut,
}

impl Raw {
    pub async fn open(net: &Net, node: &Node) -> Self {
        Self { stream: net.raw(&node.mesh.local_address()).await, buf: BytesMut::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // A peer that was closed meanwhile is what some tests want.
        let _ = self.stream.write_all(bytes).await;
    }

    pub async fn frame(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = next_frame(&mut self.buf, &Limits::default()).unwrap() {
                return Some(frame);
            }
            match self.stream.read_buf(&mut self.buf).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    pub async fn greet(&mut self, hello: &Hello) {
        let mut out = Preface::CURRENT.to_bytes().to_vec();
        put_hello(&mut out, hello).unwrap();
        self.send(&out).await;
        assert!(matches!(Frame::decode(&self.frame().await.unwrap()), Ok(Frame::Welcome(_))));
    }

    pub async fn link(net: &Net, node: &Node, name: &str) -> (Self, Self) {
        let hello = Hello { node: name.into(), cluster: "test".into(), link_id: 1, ..Hello::default() };
        let mut control = Self::open(net, node).await;
        control.greet(&hello).await;
        let mut data = Self::open(net, node).await;
        data.greet(&Hello { role: Role::Data, ..hello }).await;
        (control, data)
    }

    /// The text of the REJECT that comes next.
    pub async fn rejected(&mut self) -> afflux_wire::Status {
        let frame = self.frame().await.expect("a REJECT before the end");
        match Frame::decode(&frame) {
            Ok(Frame::Reject(status)) => status,
            other => panic!("{other:?} instead of REJECT"),
        }
    }

    /// The reason of the GOAWAY that comes next but for other frames.
    pub async fn goaway(&mut self) -> String {
        loop {
            let frame = self.frame().await.expect("a GOAWAY before the end");
            if let Ok(Frame::Goaway { reason, .. }) = Frame::decode(&frame) {
                return reason.to_owned();
            }
        }
    }

    /// Whether the link still answers.
    pub async fn is_alive(&mut self) -> bool {
        let mut out = Vec::new();
        put_ping(&mut out, 4711);
        self.send(&out).await;
        while let Some(frame) = self.frame().await {
            if matches!(Frame::decode(&frame), Ok(Frame::Pong(4711))) {
                return true;
            }
        }
        false
    }
}
