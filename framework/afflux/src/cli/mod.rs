//! The command line: one file a group of commands.

mod args;
#[cfg(test)]
mod book;
mod call;
mod certs;
mod check;
mod completions;
mod drain;
mod graph;
mod jobs;
mod logs;
mod node;
mod nodes;
mod output;
mod proto;
mod rescale;
mod run;
mod schema;
mod services;
mod skew;
mod state;
mod stdin;
mod stream_call;
mod table;
mod top;
mod types;
mod upgrade;
mod why;

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;

use args::{Cli, ClusterArgs, Command, Parsed};
pub(crate) use args::{DevArgs, Global};
pub(crate) use output::print_line;

use crate::app::App;
use crate::client::{Client, Endpoint};
use crate::dev::{DIRECTORY, DevFile};
use crate::error::{Error, Result};
use crate::security::Security;
use crate::telemetry;

/// Reads a command line and does what it says.
pub(crate) async fn run(app: App, args: Vec<OsString>) -> Result<()> {
    let cli = match args::parse(app.name(), args)? {
        Parsed::Print(text) => return output::print(&text),
        Parsed::Run(cli) => cli,
    };
    let global = cli.global;
    match cli.command {
        // Nodes and the launcher log as the settings say.
        Command::Node(args) => node::node(&app, &global, &args).await,
        Command::Dev(args) => crate::dev::launch(&app, &global, &args).await,
        command => {
            quiet(&global)?;
            match command {
                Command::Run(args) => run::run(&app, &global, &args).await,
                Command::Jobs(cluster) => jobs::jobs(&global, &cluster).await,
                Command::Job(args) => jobs::job(&global, &args).await,
                Command::Checkpoint(args) => jobs::checkpoint(&global, &args).await,
                Command::Rescale(args) => rescale::rescale(&global, &args).await,
                Command::Upgrade(args) => upgrade::upgrade(&global, &args).await,
                Command::Cancel(args) => jobs::cancel(&global, &args).await,
                Command::Drain(args) => drain::drain(&global, &args).await,
                Command::Nodes(cluster) => nodes::nodes(&global, &cluster).await,
                Command::Top(args) => top::top(&global, &args).await,
                Command::Why(args) => why::why(&global, &args).await,
                Command::Graph(args) => graph::graph(&app, &global, &args).await,
                Command::Services(args) => services::services(&global, &args).await,
                Command::Describe(args) => services::describe(&global, &args).await,
                Command::Call(args) => call::call(&global, &args).await,
                Command::Certs(args) => certs::certs(&app, &global, &args),
                Command::Schema { command } => schema::schema(&app, &global, &command),
                Command::State(args) => state::state(&global, &args).await,
                Command::Logs(args) => logs::logs(&global, &args).await,
                Command::Check(args) => check::check(&app, &global, &args).await,
                Command::Completions(args) => completions::completions(&app, &args),
                Command::Node(_) | Command::Dev(_) => Ok(()),
            }
        }
    }
}

/// Logs warnings only, unless more was asked for: these commands print an answer.
pub(crate) fn quiet(global: &Global) -> Result<()> {
    let mut settings = global.layers()?.settings();
    if global.log_level.is_none() && settings.log_level == "info" {
        // A link that ends with the command is no news to whoever typed it.
        settings.log_level = "warn,afflux_mesh=error".to_owned();
    }
    telemetry::init(&settings, None)
}

/// The names of all commands.
pub(crate) fn command_names() -> Vec<String> {
    Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// Whether there is a cluster to talk to without being told where.
fn has_cluster(global: &Global) -> Result<bool> {
    let settings = global.layers()?.settings();
    Ok(!settings.node_join.is_empty() || matches!(DevFile::read(Path::new(DIRECTORY)), Ok(Some(_))))
}

/// A client of the cluster: `--address`, else `node.join`, else the one that `dev` runs here.
async fn connect(global: &Global, cluster: &ClusterArgs) -> Result<Client> {
    let endpoint = endpoint(global, cluster, Path::new(DIRECTORY))?;
    let mut connecting = std::pin::pin!(Client::connect(&endpoint));
    tokio::select! {
        biased;
        connected = &mut connecting => return connected,
        http = speaks_http(&endpoint.address) => if http {
            let address = &endpoint.address;
            return Err(Error::usage(format!("{address} is an admin port (HTTP), and commands use the node port"))
                .hint(format!("`curl http://{address}/api/v1/nodes` shows the addresses of the node ports")));
        },
    }
    connecting.await
}

/// Whether HTTP is what is spoken at an address that does not answer as a node. A node port answers 426.
async fn speaks_http(address: &str) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    // A node answers within this; only who does not is asked again.
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);
    tokio::time::sleep(PATIENCE).await;
    let asking = async {
        let mut socket = tokio::net::TcpStream::connect(address).await?;
        socket.write_all(b"GET /livez HTTP/1.0\r\n\r\n").await?;
        let mut head = [0; 12];
        socket.read_exact(&mut head).await?;
        std::io::Result::Ok(head)
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(head)) => head.starts_with(b"HTTP/1.") && !head.ends_with(b"426"),
        _ => false,
    }
}

/// The contracts of the framework itself.
#[cfg(test)]
pub(crate) fn own_services() -> Vec<crate::node_service::ServiceInfo> {
    use crate::contract::Service;
    struct Nobody;
    impl<M: Send> crate::contract::Accept<M> for Nobody {
        fn accept(&self, message: M) -> std::result::Result<(), crate::contract::Refused<M>> {
            Err(crate::contract::Refused::Closed(message))
        }
        fn depth(&self) -> usize {
            0
        }
        fn capacity(&self) -> usize {
            0
        }
    }
    fn info<S: Service>() -> crate::node_service::ServiceInfo {
        let entry = afflux_actor::ServiceEntry::of::<S>(std::sync::Arc::new(Nobody));
        crate::node_service::ServiceInfo::of(&entry)
    }
    vec![
        info::<crate::node_service::NodeService>(),
        info::<crate::jobs::Jobs>(),
        info::<crate::registry_service::RegistryService>(),
    ]
}

fn endpoint(global: &Global, cluster: &ClusterArgs, directory: &Path) -> Result<Endpoint> {
    let settings = global.layers()?.settings();
    let named = cluster
        .address
        .clone()
        .or_else(|| (!settings.node_join.is_empty()).then(|| settings.node_join.clone()));
    let dev = match &named {
        // The token of the cluster here serves when its own launcher or node is named.
        Some(address) => DevFile::read(directory).ok().flatten().filter(|file| {
            file.launcher == *address || file.nodes.iter().any(|node| node.address == *address)
        }),
        None => DevFile::read(directory)?,
    };
    match (named, dev) {
        (address, Some(file)) => Ok(Endpoint {
            address: address.unwrap_or(file.launcher),
            cluster: file.cluster,
            token: file.token,
            tls: None,
        }),
        (Some(address), None) => {
            let security = Security::of(&settings)?;
            let token = security.token.unwrap_or_default();
            Ok(Endpoint { address, cluster: settings.cluster, token, tls: security.tls })
        }
        (None, None) => Err(Error::usage("no cluster is known: nothing runs in this directory")
            .hint("start one with `dev --hold`, or name a node with `--address HOST:PORT`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> DevFile {
        DevFile {
            pid: std::process::id(),
            launcher: "127.0.0.1:7001".into(),
            cluster: "dev".into(),
            token: "secret".into(),
            ..DevFile::default()
        }
    }

    #[test]
    fn the_cluster_of_this_directory_is_found_with_its_token() {
        let dir = tempfile::tempdir().unwrap();
        let error = endpoint(&Global::default(), &ClusterArgs::default(), dir.path()).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("dev --hold"), "{error}");
        file().write(dir.path()).unwrap();
        let found = endpoint(&Global::default(), &ClusterArgs::default(), dir.path()).unwrap();
        assert_eq!((found.address.as_str(), found.token.as_str()), ("127.0.0.1:7001", "secret"));
    }

    #[test]
    fn the_token_of_this_directory_is_not_given_to_a_stranger() {
        let dir = tempfile::tempdir().unwrap();
        file().write(dir.path()).unwrap();
        let at = |address: &str| ClusterArgs { address: Some(address.into()) };
        let stranger = endpoint(&Global::default(), &at("10.0.0.9:7000"), dir.path()).unwrap();
        assert_eq!((stranger.address.as_str(), stranger.token.as_str()), ("10.0.0.9:7000", ""));
        let ours = endpoint(&Global::default(), &at("127.0.0.1:7001"), dir.path()).unwrap();
        assert_eq!(ours.token, "secret");
    }
}
