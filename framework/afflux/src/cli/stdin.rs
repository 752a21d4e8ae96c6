//! The end of stdin, waited for without a thread.
//!
//! A read that blocks cannot be taken back, and a runtime waits for it before its process may end: a node that was told
//! to stop would stay for as long as its launcher does.

use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;

/// Resolves when stdin ends; what comes before is dropped.
pub(super) async fn ended() {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        // Who ends a terminal ends the process too, by its signals.
        return std::future::pending().await;
    }
    let Ok(handle) = stdin.as_fd().try_clone_to_owned() else { return };
    let Ok(again) = handle.try_clone() else { return };
    if let Ok(pipe) = pipe::Receiver::from_file(std::fs::File::from(handle)) {
        return drain(pipe).await;
    }
    // Some launchers give a pair of sockets where others give a pipe.
    let socket = std::os::unix::net::UnixStream::from(again);
    let is_socket = socket.local_addr().is_ok() && socket.set_nonblocking(true).is_ok();
    if is_socket && let Ok(socket) = tokio::net::UnixStream::from_std(socket) {
        return drain(socket).await;
    }
    // A file, which lets nobody wait.
    let mut file = stdin.lock();
    while !matches!(file.read(&mut [0; 4_096]), Ok(0) | Err(_)) {}
}

async fn drain(mut from: impl AsyncRead + Unpin) {
    while !matches!(from.read(&mut [0; 4_096]).await, Ok(0) | Err(_)) {}
}
