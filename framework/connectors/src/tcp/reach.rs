//! Whether a peer takes connections, for `check --connect`.

use std::time::Duration;

use afflux_stream::Reaching;
use afflux_wire::Status;
use tokio::net::TcpStream;

/// Longest wait for a peer to take the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects once, and says nothing.
pub(super) fn reaching(address: &str) -> Reaching {
    let address = address.to_owned();
    Box::pin(async move {
        let why = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => return Ok(format!("{address} takes connections")),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        };
        Err(Status::unavailable(format!(
            "no connection to {address}: {why}; start what listens there, or mend the address"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_listens_is_reached_and_another_is_named_with_what_to_do() {
        let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = peer.local_addr().unwrap().to_string();
        assert_eq!(reaching(&address).await.unwrap(), format!("{address} takes connections"));
        drop(peer);
        let error = reaching(&address).await.unwrap_err().message;
        assert!(error.contains(&address) && error.contains("start what listens there"), "{error}");
    }
}
