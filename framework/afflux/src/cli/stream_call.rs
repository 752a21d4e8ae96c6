//! `call` of a streaming method: items a line each, from stdin and to stdout.

use std::time::Duration;

use afflux_mesh::RawStream;
use afflux_wire::{Code, Status, codec};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::output::print_line;
use crate::client::Client;
use crate::contract::Target;
use crate::error::{Error, Result};
use crate::node_service::MethodInfo;
use crate::signals::Signals;

/// Time for the last bytes to leave.
const CLOSING: Duration = Duration::from_millis(20);

/// Calls a method whose items go one way or both. Ends at the last item, at Ctrl-C, or with the call's error.
pub(super) async fn call(
    client: &Client,
    target: &Target,
    method: &MethodInfo,
    params: &serde_json::Value,
    deadline: Duration,
) -> Result<()> {
    let mut signals = Signals::catch()?;
    let (sends, streams) = (method.accepts.is_some(), method.streams.is_some());
    let stream = client.open_raw(target, &method.name, codec::to_named(params)?, deadline).await?;
    let talk = async {
        let feed = async { if sends { feed(&stream).await } else { Ok(()) } };
        let items = async {
            while let Some(item) = stream.next().await {
                print_line(&json(&item?)?)?;
            }
            if !streams {
                print_line(&json(&stream.result().await?)?)?;
            }
            Ok(())
        };
        let (mut feed, mut items) = (std::pin::pin!(feed), std::pin::pin!(items));
        tokio::select! {
            biased;
            done = &mut items => done,
            fed = &mut feed => {
                fed?;
                items.await
            }
        }
    };
    let result = tokio::select! {
        biased;
        _ = signals.next() => {
            // What is dropped here cancels the call.
            Err(Error::from(Status::new(Code::Cancelled, "interrupted: the call was cancelled")))
        }
        done = talk => done,
    };
    drop(stream);
    if sends {
        // A read of a terminal cannot be taken back, and the runtime would wait for it.
        client.close();
        tokio::time::sleep(CLOSING).await;
        let code = match &result {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("error: {error}");
                error.exit_code()
            }
        };
        std::process::exit(i32::from(code));
    }
    result
}

/// Sends each line of stdin as an item.
async fn feed(stream: &RawStream) -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut number = 0;
    while let Some(line) = lines.next_line().await? {
        number += 1;
        if line.trim().is_empty() {
            continue;
        }
        let item: serde_json::Value = serde_json::from_str(&line).map_err(|error| {
            Error::usage(format!("line {number} of stdin is not JSON: {error}"))
                .hint("each line is one item, such as {\"sku\":\"tea\"}")
        })?;
        stream.send(&codec::to_named(&item)?).await?;
    }
    stream.finish();
    Ok(())
}

fn json(bytes: &[u8]) -> Result<String> {
    let value: serde_json::Value =
        if bytes.is_empty() { serde_json::Value::Null } else { codec::from_slice(bytes)? };
    Ok(serde_json::to_string(&value)?)
}
