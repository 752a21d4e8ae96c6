//! The command line: what can be typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::error::{Error, Result};
use crate::settings::Layers;

/// A node, a whole cluster on this machine, and the commands that talk to one.
#[derive(Debug, Parser)]
#[command(
    disable_help_subcommand = true,
    max_term_width = 100,
    override_usage = "{name} [OPTIONS] [COMMAND]",
    after_help = "Without a command it is `dev`: the default pipeline on three nodes of this machine.\n\n\
                  Examples:\n  \
                  {name}                                  run the default pipeline to its end\n  \
                  {name} dev --hold --replay 20000x       watch it run, and keep the nodes\n  \
                  {name} nodes --json                     who is there\n  \
                  {name} node --join 10.0.0.5:7000        one more node\n  \
                  {name} check                            every setting and where it comes from\n\n\
                  Settings: afflux.toml < AFFLUX_* in the environment < flags.\n\
                  Exit codes: 0 done, 1 failed, 2 wrong use."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Global {
    /// Settings file; `afflux.toml` in this directory when absent.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Sets any setting; `check` lists them.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Prints JSON for programs.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log level: error, warn, info, debug, trace.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Log format: human or json.
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
}

impl Global {
    /// The layers of settings up to these flags.
    pub(crate) fn layers(&self) -> Result<Layers> {
        let mut layers = Layers::of_process(self.config.as_deref())?;
        for assignment in &self.set {
            layers.set(assignment)?;
        }
        if let Some(level) = &self.log_level {
            layers.flag("--log-level", "log.level", level)?;
        }
        if let Some(format) = &self.log_format {
            layers.flag("--log-format", "log.format", format)?;
        }
        Ok(layers)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a pipeline on several node processes of this machine (the default).
    #[command(
        after_help = "Examples:\n  {name} dev\n  {name} dev --nodes 2 --replay 20000x\n  {name} dev --hold      (then `nodes`, `call` and the rest from another terminal)"
    )]
    Dev(DevArgs),
    /// Run one node until it is stopped.
    #[command(
        after_help = "Examples:\n  {name} node --listen 0.0.0.0:7000                    begin a cluster\n  {name} node --listen 0.0.0.0:7000 --join 10.0.0.5:7000   join it"
    )]
    Node(NodeArgs),
    /// Start a pipeline on a running cluster and follow it.
    #[command(
        after_help = "Examples:\n  {name} run hourly-delays --parallelism 6\n  {name} run hourly-delays --set source.on_error=skip --detach"
    )]
    Run(RunArgs),
    /// List jobs.
    Jobs(ClusterArgs),
    /// Show one job.
    Job(JobArgs),
    /// Start a checkpoint of a running job.
    Checkpoint(JobArgs),
    /// Go on with another number of parallel tasks, from a checkpoint that is taken for it.
    #[command(
        after_help = "Examples:\n  {name} rescale hourly-delays-1 --parallelism 6\n  {name} rescale hourly-delays-1 --auto --dry-run --json    what it would do\n  {name} rescale hourly-delays-1 --auto --max 12            do it, until the job ends or Ctrl-C"
    )]
    Rescale(RescaleArgs),
    /// Take a job over to another build of the program, and back if that does not run it.
    #[command(
        after_help = "Checkpoint, stop, --roll, start from the checkpoint, and wait for the first checkpoint of the new build;\nif any of it fails, --back, and the old build goes on from the same checkpoint.\n\nExample:\n  {name} upgrade revenue-1 --address shop:7000 \\\n    --roll 'helm upgrade shop helm/afflux --reuse-values --set image.tag=1.5.0 --wait' \\\n    --back 'helm rollback shop --wait'"
    )]
    Upgrade(UpgradeArgs),
    /// Stop a job.
    Cancel(JobArgs),
    /// List nodes.
    #[command(after_help = "Examples:\n  {name} nodes\n  {name} nodes --json --address 10.0.0.5:7000")]
    Nodes(ClusterArgs),
    /// Have a node leave without losing anything: its tasks go on elsewhere, its calls are answered, it ends.
    #[command(after_help = "Examples:\n  {name} drain node-2\n  {name} drain node-2 --detach --json")]
    Drain(DrainArgs),
    /// Show live what every node does: calls a second, errors, latencies, mailboxes, links.
    #[command(
        after_help = "Examples:\n  {name} top\n  {name} top --once --json\n  {name} top --all        with the services of the framework itself"
    )]
    Top(TopArgs),
    /// Show what keeps an operator: the split that holds its watermark, where pressure begins, hot keys.
    #[command(
        after_help = "Examples:\n  {name} why hourly-delay\n  {name} why hourly-delay --job hourly-delays-1 --json"
    )]
    Why(WhyArgs),
    /// Show what a pipeline is made of; of a running one, also where each task lives.
    #[command(
        after_help = "Examples:\n  {name} graph hourly-delays\n  {name} graph --format dot | dot -Tsvg > graph.svg"
    )]
    Graph(GraphArgs),
    /// List services.
    Services(ServicesArgs),
    /// Show the methods of a service.
    #[command(after_help = "Example:\n  {name} describe shop.orders")]
    Describe(DescribeArgs),
    /// Call a method of a service.
    #[command(
        after_help = "Examples:\n  {name} call shop.orders/Get '{\"id\":7}'\n  {name} call shop.orders/Place @order.json --deadline-ms 500\n  {name} call shop.orders/Watch '{\"since\":0}' --json   a stream, a line an item; Ctrl-C ends it\n  {name} call shop.orders/Import '{\"batch\":\"mon\"}' < lines.ndjson   items from stdin, one a line"
    )]
    Call(CallArgs),
    /// Make certificates and tokens: an authority, nodes, callers.
    #[command(
        after_help = "Examples:\n  {name} certs init --host 10.0.0.5             a CA, a node, a client\n  {name} certs node node-2 --host 10.0.0.6      one more node\n  {name} certs client support/alice             a caller\n  {name} certs token support/alice              a caller without a certificate"
    )]
    Certs(CertsArgs),
    /// Contracts as files: what they are, and whether a change of them breaks anybody.
    #[command(
        after_help = "Examples:\n  {name} schema export --out schema.json\n  {name} schema diff main/schema.json schema.json --full    new clients, old servers too\n  {name} schema proto shop.orders --write proto/orders.proto"
    )]
    Schema {
        #[command(subcommand)]
        command: SchemaCommand,
    },
    /// Look into checkpoints: what is kept, what is in it, whether it can be read.
    #[command(
        after_help = "Examples:\n  {name} state ls --url file:///var/lib/checkpoints\n  {name} state show hourly-delays-1/7\n  {name} state verify hourly-delays-1 --json\n  {name} state savepoint hourly-delays-1"
    )]
    State(StateArgs),
    /// Show the last lines of the nodes' logs, in the order of their time.
    #[command(
        after_help = "Examples:\n  {name} logs\n  {name} logs --follow --level warn\n  {name} logs node-2 --lines 1000 --json"
    )]
    Logs(LogsArgs),
    /// Validate settings and pipelines; print every setting and where it comes from.
    #[command(
        after_help = "Examples:\n  {name} check\n  {name} check --connect --json      also ask storage, brokers and nodes"
    )]
    Check(CheckArgs),
    /// Print a script with which a shell completes commands, options and pipelines.
    #[command(
        after_help = "Examples:\n  source <({name} completions bash)\n  {name} completions zsh > \"${fpath[1]}/_{name}\"\n  {name} completions fish > ~/.config/fish/completions/{name}.fish"
    )]
    Completions(CompletionsArgs),
}

/// Options of `check`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CheckArgs {
    /// Also writes, reads, lists and deletes in the checkpoint storage, asks the brokers that pipelines talk to and the nodes of the
    /// cluster, and compares clocks.
    #[arg(long)]
    pub(crate) connect: bool,
}

/// Options of `drain`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DrainArgs {
    /// The node, as `nodes` shows it.
    pub(crate) node: String,
    /// Returns as soon as it has begun.
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// Options of `upgrade`.
#[derive(Args, Clone, Debug)]
pub(crate) struct UpgradeArgs {
    /// The job's id.
    pub(crate) job: String,
    /// A command of the shell that replaces the nodes by those of the new build; exit status 0 when it has.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) roll: String,
    /// The same for the way back to the old build.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) back: Option<String>,
    /// Seconds that each step may take, the commands aside.
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS", value_parser = interval)]
    pub(crate) within: f64,
    /// Paces the input by its event time, as the job was started.
    #[arg(long, value_name = "FACTORx", value_parser = replay)]
    pub(crate) replay: Option<f64>,
    /// Starts even when the new build has no operator for some of the state, which is then lost.
    #[arg(long)]
    pub(crate) allow_orphaned_state: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

impl UpgradeArgs {
    /// The longest time of a step.
    pub(crate) fn within(&self) -> std::time::Duration {
        std::time::Duration::from_secs_f64(self.within)
    }
}

/// Options of `completions`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Options of `logs`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogsArgs {
    /// Nodes by name; all when absent.
    pub(crate) nodes: Vec<String>,
    /// Goes on with what the nodes write from now on, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Least level: error, warn, info, debug or trace, of what the nodes log at all.
    #[arg(long, default_value = "trace", value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub(crate) level: String,
    /// Latest lines of each node.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) lines: u32,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CertsArgs {
    /// What to make.
    #[command(subcommand)]
    pub(crate) what: CertsCommand,
    /// Directory of the authority.
    #[arg(long, global = true, default_value = "certs", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Name or address by which clients that know no identities find the node; may be given several times.
    #[arg(long = "host", global = true, value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// Days that a certificate is valid.
    #[arg(long, global = true, default_value_t = crate::certs::DAYS_DEFAULT, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) days: u32,
    /// Replaces files that are there.
    #[arg(long, global = true)]
    pub(crate) force: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Makes an authority, the certificate of a first node, and that of a client for the command line.
    Init {
        /// Name of the first node.
        #[arg(long, default_value = "node-1", value_name = "NAME")]
        node: String,
    },
    /// Makes the certificate of one more node.
    Node {
        /// Its name, as `node.id` has it.
        name: String,
    },
    /// Makes the certificate of a caller.
    Client {
        /// Role and name, such as support/alice.
        name: String,
    },
    /// Makes a token, and the line of it for the file of `auth.tokens`.
    Token {
        /// Role and name, such as support/alice.
        name: String,
    },
}

/// How a command finds its cluster.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ClusterArgs {
    /// A node of the cluster; the cluster that `dev` runs in this directory when absent.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Prints one table, of one interval, and ends.
    #[arg(long)]
    pub(crate) once: bool,
    /// Seconds between two looks, over which rates and latencies are.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = interval)]
    pub(crate) interval: f64,
    /// The services of the framework itself too.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct WhyArgs {
    /// The operator's name, as `graph` shows it.
    pub(crate) operator: String,
    /// The job; the newest that has the operator when absent.
    #[arg(long, value_name = "ID")]
    pub(crate) job: Option<String>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Seconds between two looks, over which shares of time are.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = interval)]
    pub(crate) interval: f64,
}

/// Reads a number of seconds that a person can wait for.
fn interval(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds between 0.1 and 3600, such as 2".to_owned()),
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DevArgs {
    /// The pipeline; the first that the program declares when absent.
    pub(crate) pipeline: Option<String>,
    /// Node processes.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// Tasks of each operator; one per slot when absent.
    #[arg(long, value_name = "N")]
    pub(crate) parallelism: Option<u32>,
    /// Paces the input by its event time: `1x` as it happened, `20000x` that much faster.
    #[arg(long, value_name = "FACTORx", value_parser = replay)]
    pub(crate) replay: Option<f64>,
    /// Starts from a checkpoint: the latest of a job, or one of its epochs.
    #[arg(long, value_name = "JOB[/EPOCH]")]
    pub(crate) restore: Option<String>,
    /// Starts even when the pipeline has no operator for some of the checkpoint's state, which is then lost.
    #[arg(long, requires = "restore")]
    pub(crate) allow_orphaned_state: bool,
    /// Keeps the nodes up after the input has ended, until Ctrl-C.
    #[arg(long)]
    pub(crate) hold: bool,
    /// Starts nodes again that die; jobs that take checkpoints by themselves make it so anyway.
    #[arg(long)]
    pub(crate) respawn: bool,
    /// Shows the log of every node here instead of in .afflux/logs.
    #[arg(long)]
    pub(crate) logs: bool,
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct NodeArgs {
    /// A node to join; without it this node begins a cluster.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) join: Option<String>,
    /// Name of this node.
    #[arg(long, value_name = "NAME")]
    pub(crate) id: Option<String>,
    /// Node port.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Admin HTTP port.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin_listen: Option<String>,
    /// Threads for pipeline tasks.
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<u32>,
    /// Stops when stdin ends: the launcher holds its other end, so no node outlives it.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

impl NodeArgs {
    /// Adds these flags to the settings.
    pub(crate) fn apply(&self, layers: &mut Layers) -> Result<()> {
        let flags = [
            ("--join", "node.join", &self.join),
            ("--id", "node.id", &self.id),
            ("--listen", "node.listen", &self.listen),
            ("--admin-listen", "admin.listen", &self.admin_listen),
            ("--slots", "node.slots", &self.slots.map(|n| n.to_string())),
        ];
        for (flag, name, value) in flags {
            if let Some(value) = value {
                layers.flag(flag, name, value)?;
            }
        }
        Ok(())
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// The pipeline.
    pub(crate) pipeline: String,
    /// Tasks of each operator; one per slot when absent.
    #[arg(long, value_name = "N")]
    pub(crate) parallelism: Option<u32>,
    /// Paces the input by its event time.
    #[arg(long, value_name = "FACTORx", value_parser = replay)]
    pub(crate) replay: Option<f64>,
    /// Starts from a checkpoint: the latest of a job, or one of its epochs.
    #[arg(long, value_name = "JOB[/EPOCH]")]
    pub(crate) restore: Option<String>,
    /// Starts even when the pipeline has no operator for some of the checkpoint's state, which is then lost.
    #[arg(long, requires = "restore")]
    pub(crate) allow_orphaned_state: bool,
    /// Returns as soon as it has started.
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StateArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: StateCommand,
    /// Where the checkpoints are; else `checkpoint.url` or `checkpoint.dir` of the settings.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
}

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum StateCommand {
    /// List jobs, or the checkpoints and savepoints of one.
    Ls {
        /// The job.
        job: Option<String>,
    },
    /// Show the operators of a checkpoint, their states, and what a row of each is.
    Show {
        /// `JOB` (its newest) or `JOB/EPOCH`.
        #[arg(value_name = "JOB[/EPOCH]")]
        checkpoint: String,
    },
    /// Read checkpoints whole, and name what is missing or damaged.
    Verify {
        /// `JOB` (all of it) or `JOB/EPOCH`.
        #[arg(value_name = "JOB[/EPOCH]")]
        checkpoint: String,
    },
    /// Copy a checkpoint, so that it is kept until somebody deletes it.
    Savepoint {
        /// `JOB` (its newest) or `JOB/EPOCH`.
        #[arg(value_name = "JOB[/EPOCH]")]
        checkpoint: String,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct JobArgs {
    /// The job's id.
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// Options of `rescale`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RescaleArgs {
    /// The job's id.
    pub(crate) job: String,
    /// Tasks of each operator that has no number of its own.
    #[arg(long, value_name = "N", required_unless_present = "auto", conflicts_with = "auto")]
    pub(crate) parallelism: Option<u32>,
    /// Follows the load: looks at what the tasks count, and rescales when another number of them is right.
    #[arg(long)]
    pub(crate) auto: bool,
    /// With --auto: says what it would do, and does nothing.
    #[arg(long, requires = "auto")]
    pub(crate) dry_run: bool,
    /// With --auto: least tasks.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) min: u32,
    /// With --auto: most tasks; the slots of the nodes when absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) max: Option<u32>,
    /// With --auto: seconds between two looks.
    #[arg(long, default_value_t = 15.0, value_name = "SECONDS", value_parser = interval)]
    pub(crate) interval: f64,
    /// With --auto: seconds that a source may be behind.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS", value_parser = interval)]
    pub(crate) lag: f64,
    /// With --auto: seconds within which a source that is behind more is to have caught up.
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS", value_parser = interval)]
    pub(crate) catch_up: f64,
    /// With --auto: seconds without a change behind each change.
    #[arg(long, default_value_t = 120.0, value_name = "SECONDS", value_parser = interval)]
    pub(crate) cooldown: f64,
    /// With --auto: looks in a row that have to agree before tasks are taken away.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) agreed: u32,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// How a graph is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// For people.
    #[default]
    Text,
    /// For Graphviz.
    Dot,
    /// For programs.
    Json,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct GraphArgs {
    /// The pipeline; the first that the program declares when absent.
    pub(crate) pipeline: Option<String>,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: GraphFormat,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServicesArgs {
    /// Also those that the framework itself serves.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DescribeArgs {
    /// The service, such as shop.orders.
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// Contracts as files.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SchemaCommand {
    /// Writes the contracts of this program's services as JSON, doc comments included. Nothing has to run.
    Export(SchemaExportArgs),
    /// Compares two exports; exit code 1 when clients of OLD cannot call servers of NEW.
    Diff(SchemaDiffArgs),
    /// Prints a service as a `.proto` file; with --write keeps a committed one, so that numbers never change.
    Proto(SchemaProtoArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SchemaProtoArgs {
    /// The service, such as shop.orders.
    pub(crate) service: String,
    /// Reads the numbers of this file and writes it anew: new names get new numbers, removed ones are reserved.
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SchemaExportArgs {
    /// Writes there; to the standard output without it.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SchemaDiffArgs {
    /// What runs now, as exported.
    pub(crate) old: PathBuf,
    /// What is to run.
    pub(crate) new: PathBuf,
    /// Clients of NEW must be able to call servers of OLD too, so that either may be replaced first.
    #[arg(long)]
    pub(crate) full: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CallArgs {
    /// Service and method, such as shop.orders/Get.
    pub(crate) method: String,
    /// The parameters, a JSON object; `-` reads it from stdin, `@FILE` from a file.
    #[arg(default_value = "{}")]
    pub(crate) params: String,
    /// Gives up after this many milliseconds; the method's own deadline when absent. Of a stream it
    /// bounds the opening alone.
    #[arg(long, value_name = "MS")]
    pub(crate) deadline_ms: Option<u64>,
    /// The same key means the same effect, however often it is sent.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Calls the service on this node.
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// `20000x` or `20000`.
fn replay(text: &str) -> std::result::Result<f64, String> {
    match text.trim_end_matches(['x', 'X']).parse::<f64>() {
        Ok(factor) if factor > 0.0 && factor.is_finite() => Ok(factor),
        _ => Err(format!("`{text}` is no speed: write 1x, 100x, 20000x")),
    }
}

/// What came of reading the command line.
pub(crate) enum Parsed {
    /// A command to run.
    Run(Box<Cli>),
    /// Help or version was asked for: print this and end with 0.
    Print(String),
}

/// Reads a command line whose first element is the program.
///
/// # Errors
/// Wrong use, with clap's own words.
pub(crate) fn parse(name: &'static str, args: Vec<OsString>) -> Result<Parsed> {
    let command = command(name);
    let args = with_default_command(&command, args);
    let parsed = command.try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli))),
        Err(error) if !error.use_stderr() => Ok(Parsed::Print(error.render().ansi().to_string())),
        Err(error) => {
            let text = error.render().to_string();
            Err(Error::usage(text.trim_start_matches("error: ").trim_end().to_owned()))
        }
    }
}

/// All that can be typed, under the program's own name.
pub(crate) fn command(name: &'static str) -> clap::Command {
    named(Cli::command(), name).name(name).bin_name(name).version(env!("CARGO_PKG_VERSION"))
}

/// Puts the program's name into the examples.
fn named(mut command: clap::Command, name: &str) -> clap::Command {
    if let Some(text) = command.get_after_help().map(|t| t.to_string().replace("{name}", name)) {
        command = command.after_help(text);
    }
    if command.get_name() == Cli::command().get_name() {
        command = command.override_usage(format!("{name} [OPTIONS] [COMMAND]"));
    }
    command.mut_subcommands(|sub| match sub.get_after_help().map(|t| t.to_string().replace("{name}", name)) {
        Some(text) => sub.after_help(text),
        None => sub,
    })
}

/// Inserts `dev` where no command is named: `flights`, `flights --hold`, `flights hourly-delays`.
fn with_default_command(command: &clap::Command, mut args: Vec<OsString>) -> Vec<OsString> {
    let mut at = 1;
    while let Some(arg) = args.get(at).and_then(|a| a.to_str()) {
        if matches!(arg, "-h" | "--help" | "-V" | "--version") {
            return args;
        }
        // Global options may stand before the command.
        let (flag, inline) = match arg.split_once('=') {
            Some((flag, _)) => (flag, true),
            None => (arg, false),
        };
        let global = flag.strip_prefix("--").and_then(|long| {
            command.get_arguments().find(|a| a.is_global_set() && a.get_long() == Some(long))
        });
        match global {
            Some(option) if option.get_action().takes_values() && !inline => at += 2,
            Some(_) => at += 1,
            None if command.get_subcommands().any(|sub| sub.get_name() == arg) => return args,
            None => break,
        }
    }
    args.insert(at.min(args.len()), "dev".into());
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Parsed> {
        parse("flights", line.split_whitespace().map(OsString::from).collect())
    }

    fn command(line: &str) -> Cli {
        match read(line) {
            Ok(Parsed::Run(cli)) => *cli,
            Ok(Parsed::Print(text)) => panic!("{line} printed {text}"),
            Err(error) => panic!("{line}: {error}"),
        }
    }

    fn dev(line: &str) -> DevArgs {
        match command(line).command {
            Command::Dev(args) => args,
            other => panic!("{line} is {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_dev() {
        assert_eq!(dev("flights").nodes, 3);
        assert!(dev("flights --hold").hold);
        assert_eq!(dev("flights hourly-delays").pipeline.as_deref(), Some("hourly-delays"));
        assert_eq!(dev("flights --json --set a=b --nodes 2").nodes, 2);
        assert_eq!(dev("flights dev --replay 20000x").replay, Some(20_000.0));
        assert!(command("flights --json").global.json);
    }

    #[test]
    fn global_options_may_stand_before_and_behind_the_command() {
        for line in ["flights --json nodes", "flights nodes --json", "flights --log-level=debug --json nodes"]
        {
            let cli = command(line);
            assert!(cli.global.json && matches!(cli.command, Command::Nodes(_)), "{line}");
        }
    }

    #[test]
    fn wrong_use_is_exit_code_two_with_the_reason() {
        for (line, part) in [
            ("flights dev --replay fast", "`fast` is no speed"),
            ("flights dev --nodes 0", "0 is not in 1..=64"),
            ("flights nodes --jsn", "--json"),
            ("flights call", "<METHOD>"),
        ] {
            let error = read(line).err().unwrap_or_else(|| panic!("{line} was accepted"));
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn help_has_examples_with_the_programs_own_name() {
        for line in [
            "flights --help",
            "flights -h",
            "flights dev --help",
            "flights call --help",
            "flights graph --help",
        ] {
            let Ok(Parsed::Print(text)) = read(line) else { panic!("{line} printed nothing") };
            assert!(
                text.contains("Example") && text.contains("flights ") && !text.contains("{name}"),
                "{line}: {text}"
            );
        }
    }

    #[test]
    fn flags_of_a_node_become_settings_with_their_origin() {
        let Command::Node(args) = command("flights node --join 10.0.0.5:7000 --slots 2").command else {
            panic!()
        };
        let mut layers = Layers::default();
        args.apply(&mut layers).unwrap();
        assert_eq!(layers.settings().node_join, "10.0.0.5:7000");
        let (value, origin) = layers.get(crate::settings::find("node.slots").unwrap());
        assert_eq!((value.to_string(), origin.to_string()), ("2".into(), "--slots".into()));
    }
}
