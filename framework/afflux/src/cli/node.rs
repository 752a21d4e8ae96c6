//! `node`: one node until it is stopped.

use super::args::{Global, NodeArgs};
use crate::app::App;
use crate::error::{Error, Result};
use crate::node::default_id;
use crate::signals::Signals;
use crate::telemetry;

pub(crate) async fn node(app: &App, global: &Global, args: &NodeArgs) -> Result<()> {
    let mut layers = global.layers()?;
    args.apply(&mut layers)?;
    let mut settings = layers.settings();
    let metrics = prometheus::Registry::new();
    if settings.node_id.is_empty() {
        // Decided here, so that spans and records name the same node.
        settings.node_id = default_id();
    }
    let exports = telemetry::init_node(&settings, &metrics, app.name(), &settings.node_id)?;
    let mut signals = Signals::catch()?;
    let parent = parent_ends(args.until_stdin_ends);
    tokio::pin!(parent);
    let starting = app.node(settings).origins(&layers).metrics(metrics).start();
    let node = tokio::select! {
        biased;
        signal = signals.next() => return Err(Error::failed(format!("stopped by {signal} while starting"))),
        () = &mut parent => return Err(Error::failed("the launcher ended while this node was starting")),
        node = starting => node?,
    };
    let scheme = if node.settings().admin_tls == "on" { "https" } else { "http" };
    let admin = node.admin_address().map(|address| format!("{scheme}://{address}")).unwrap_or_default();
    match node.health_address() {
        Some(health) => tracing::info!(
            node = %node.id(), address = node.address(), admin, health = %format!("http://{health}"), "node started"
        ),
        None => tracing::info!(node = %node.id(), address = node.address(), admin, "node started"),
    }
    let superseded = node.superseded();
    let why = tokio::select! {
        biased;
        signal = signals.next() => signal,
        () = &mut parent => "the end of the launcher",
        () = node.closed() => "a request to drain",
        () = superseded => {
            node.close().await;
            exports.close().await;
            return Err(Error::failed(format!("a later life of node {} has registered: this one has to end", node.id()))
                .hint("give each node a name of its own with `node.id`"));
        }
    };
    tracing::info!(why, "shutting down");
    let closing = async {
        match why {
            // A process that is replaced. At a terminal nobody wants to wait, nor does a launcher that ends.
            Signals::TERMINATE => tokio::select! {
                biased;
                () = &mut parent => node.close().await,
                () = node.leave() => {}
            },
            _ => node.close().await,
        }
        exports.close().await;
    };
    tokio::select! {
        biased;
        () = closing => tracing::info!("stopped"),
        signal = signals.next() => tracing::warn!(signal, "stopped at once, on the second signal"),
    }
    Ok(())
}

/// Resolves when stdin ends, if that is watched.
async fn parent_ends(watched: bool) {
    if !watched {
        return futures_util::future::pending().await;
    }
    super::stdin::ended().await;
}
