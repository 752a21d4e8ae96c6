//! A program: its pipelines and services, and the command line around them.

use std::ffi::OsString;
use std::sync::Arc;

use afflux_actor::Serves;
use afflux_stream::Flow;

use crate::cli;
use crate::contract::Service;
use crate::dashboard::Tile;
use crate::engine::Pipelines;
use crate::error::{Error, Result, suggest};
use crate::keyed::{DeclaredKeyed, KeyValue};
use crate::node::{Declared, Hook, Node, NodeBuilder, Spread, hook_of};
use crate::node_service::ServiceInfo;
use crate::settings::Settings;

/// What a binary is: pipelines, services, and every command around them.
///
/// ```no_run
/// use afflux::{App, stream::{Flow, vec_source}};
///
/// fn evens(flow: &Flow) -> afflux::Result {
///     flow.source("numbers", vec_source((0..10_u64).collect())).untimed().filter(|x| x % 2 == 0).count("evens");
///     Ok(())
/// }
///
/// #[afflux::main]
/// async fn main() -> afflux::Result<()> {
///     App::new("numbers").pipeline("evens", evens).run().await
/// }
/// ```
pub struct App {
    name: &'static str,
    pipelines: Arc<Pipelines>,
    services: Vec<Declared>,
    hooks: Vec<Hook>,
    keyed: Vec<DeclaredKeyed>,
    protos: Vec<(String, String)>,
    verdicts: Vec<(String, Verdict)>,
    tiles: Vec<Tile>,
}

/// What says whether a pipeline has written what it should.
type Verdict = Arc<dyn Fn() -> Result<String> + Send + Sync>;

impl App {
    /// A program of this name, as it is typed.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            pipelines: Arc::default(),
            services: Vec::new(),
            keyed: Vec::new(),
            hooks: Vec::new(),
            protos: Vec::new(),
            verdicts: Vec::new(),
            tiles: Vec::new(),
        }
    }

    /// Adds a pipeline. The first is the default. The builder runs on every node and must build the
    /// same each time.
    #[must_use]
    pub fn pipeline(
        mut self,
        name: &str,
        builder: impl Fn(&Flow) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let builder = Arc::new(move |flow: &Flow| builder(flow).map_err(Error::into_status));
        Arc::make_mut(&mut self.pipelines).add(name, builder);
        self
    }

    /// Adds an actor that runs on every node; its calls are balanced over them.
    ///
    /// `factory` makes its state, and a fresh one after a crash.
    #[must_use]
    pub fn service<A, E, F>(mut self, name: &str, factory: F) -> Self
    where
        A: Serves,
        E: Into<Error>,
        F: Fn() -> std::result::Result<A, E> + Clone + Send + Sync + 'static,
    {
        const { assert!(A::KEYED.is_none(), "a keyed actor is declared with `keyed`") };
        self.services.push(Declared::new(name, Spread::EveryNode, factory));
        self
    }

    /// Adds an actor with a key: `#[actor(key = "customer")]`. There is one for each value of the key, on
    /// the node that owns it, made by its first call and stopped when it is idle.
    ///
    /// `factory` makes the state of one key's actor.
    #[must_use]
    pub fn keyed<A, E, F>(mut self, name: &str, factory: F) -> Self
    where
        A: Serves,
        E: Into<Error>,
        F: Fn(&KeyValue) -> std::result::Result<A, E> + Send + Sync + 'static,
    {
        const { assert!(A::KEYED.is_some(), "this actor has no key: add `key = \"…\"` to `#[actor(…)]`") };
        if let Some(keyed) = A::KEYED {
            self.keyed.push(DeclaredKeyed::new(name, keyed, factory));
        }
        self
    }

    /// Adds an actor of which the cluster has one, on a node that holds its lock. When that node is
    /// lost, another starts it afresh.
    #[must_use]
    pub fn singleton<A, E, F>(mut self, name: &str, factory: F) -> Self
    where
        A: Serves,
        E: Into<Error>,
        F: Fn() -> std::result::Result<A, E> + Clone + Send + Sync + 'static,
    {
        const { assert!(A::KEYED.is_none(), "a keyed actor is declared with `keyed`") };
        self.services.push(Declared::new(name, Spread::Once, factory));
        self
    }

    /// Runs this on every node as soon as it has started, beside its services: what waits for a lock,
    /// takes part in an election, or calls without being asked. When it fails the error is logged, and
    /// the node goes on.
    #[must_use]
    pub fn on_start<F>(mut self, hook: impl Fn(Node) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.hooks.push(hook_of(hook));
        self
    }

    /// The committed `.proto` file of a service, which keeps the numbers of its fields for gRPC clients:
    /// `App::proto("orders.proto", include_str!("../orders.proto"))`. `schema proto SERVICE --write FILE` writes it.
    #[must_use]
    pub fn proto(mut self, name: &str, text: &str) -> Self {
        self.protos.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Shows what a method of a service answers on the overview of the dashboard, as a small table that is asked
    /// for each second while somebody looks on: a row for each value of a list, a column for each field. The
    /// method is unary and `readonly` and takes no parameters; anything else is an error when a node starts, and of
    /// `check`. Whoever may see the dashboard sees it.
    ///
    /// ```
    /// use afflux::App;
    /// use afflux::macros::Service;
    ///
    /// /// Orders.
    /// #[derive(Service)]
    /// #[service(name = "shop.orders", version = "1.0")]
    /// enum Orders {
    ///     /// How many are open.
    ///     #[rpc(returns = u64, readonly)]
    ///     Open,
    /// }
    ///
    /// let app = App::new("shop").tile::<Orders>("Open orders", "Open");
    /// ```
    #[must_use]
    pub fn tile<S: Service>(mut self, title: &str, method: &str) -> Self {
        self.tiles.push(Tile::of::<S>(title, method));
        self
    }

    /// Has `dev` verify what a pipeline has written: when it has finished, this says so in a line that
    /// is printed behind the summary, or fails the command. For programs whose input tells what has to
    /// come out, such as a generated one. It runs where the registry of `dev` is: a second is no matter, but
    /// after some the nodes would miss it.
    ///
    /// ```no_run
    /// use afflux::{App, Error};
    ///
    /// fn verify() -> afflux::Result<String> {
    ///     let rows = std::fs::read_to_string("out/bars.csv")?.lines().count();
    ///     if rows == 61 { Ok("all bars are there".into()) } else { Err(Error::failed(format!("{rows} rows, expected 61"))) }
    /// }
    /// App::new("market").verify("market", verify);
    /// ```
    #[must_use]
    pub fn verify(
        mut self,
        pipeline: &str,
        check: impl Fn() -> Result<String> + Send + Sync + 'static,
    ) -> Self {
        self.verdicts.push((pipeline.to_owned(), Arc::new(check)));
        self
    }

    /// Reads the command line of the process and does what it says.
    ///
    /// # Errors
    /// What the command could not do; [`Error::exit_code`] is the exit code of the process.
    pub async fn run(self) -> Result<()> {
        self.run_with(std::env::args_os().collect()).await
    }

    /// The same with another command line; its first element is the program.
    ///
    /// # Errors
    /// As [`App::run`].
    pub async fn run_with(self, args: Vec<OsString>) -> Result<()> {
        cli::run(self, args).await
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether a finished pipeline has written what it should, each a line; none where nobody can say.
    ///
    /// # Errors
    /// The first that has not.
    pub(crate) fn verdicts(&self, pipeline: &str) -> Result<Vec<String>> {
        self.verdicts.iter().filter(|(name, _)| name == pipeline).map(|(_, verdict)| verdict()).collect()
    }

    pub(crate) fn pipelines(&self) -> &Arc<Pipelines> {
        &self.pipelines
    }

    /// What the overview of the dashboard shows of its services.
    pub(crate) fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    pub(crate) fn service_names(&self) -> Vec<&str> {
        let services = self.services.iter().map(|service| service.name.as_str());
        services.chain(self.keyed.iter().map(|keyed| keyed.name.as_str())).collect()
    }

    /// The contracts of its services, without starting anything.
    pub(crate) fn contracts(&self) -> Vec<ServiceInfo> {
        self.services.iter().flat_map(Declared::contracts).map(|entry| ServiceInfo::of(&entry)).collect()
    }

    /// The pipeline of this name, or the default.
    ///
    /// # Errors
    /// A name that this program does not have, with the nearest; no pipeline at all.
    pub(crate) fn pipeline_named(&self, name: Option<&str>) -> Result<String> {
        let names = self.pipelines.names();
        match name {
            Some(name) if names.contains(&name) => Ok(name.to_owned()),
            Some(name) => {
                let commands = cli::command_names();
                let known: Vec<&str> =
                    names.iter().copied().chain(commands.iter().map(String::as_str)).collect();
                let hint = match crate::error::nearest(name, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => suggest(name, names.iter().copied()),
                };
                Err(Error::usage(format!("{} has no pipeline and no command `{name}`", self.name)).hint(hint))
            }
            None => names.first().map(|name| (*name).to_owned()).ok_or_else(|| {
                Error::usage(format!("{} has no pipeline", self.name))
                    .hint("add one with `App::pipeline(name, builder)`, or run `node`")
            }),
        }
    }

    /// A node of this program.
    pub fn node(&self, settings: Settings) -> NodeBuilder {
        let builder = NodeBuilder::new(settings).pipelines(Arc::clone(&self.pipelines));
        let builder = self.services.iter().cloned().fold(builder, NodeBuilder::declare);
        let builder = self.keyed.iter().cloned().fold(builder, NodeBuilder::declare_keyed);
        let builder = self.hooks.iter().cloned().fold(builder, NodeBuilder::hook);
        let builder = self.protos.iter().fold(builder, |builder, (name, text)| builder.proto(name, text));
        builder.tiles(self.tiles.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> App {
        App::new("flights").pipeline("hourly-delays", |_| Ok(())).pipeline("daily", |_| Ok(()))
    }

    #[test]
    fn the_first_pipeline_is_the_default() {
        assert_eq!(app().pipeline_named(None).unwrap(), "hourly-delays");
        assert_eq!(app().pipeline_named(Some("daily")).unwrap(), "daily");
    }

    #[test]
    fn an_unknown_pipeline_or_command_is_wrong_use_and_named_with_the_nearest() {
        for (wrong, near) in
            [("hourly-delay", "`hourly-delays`?"), ("noes", "`nodes`?"), ("qqq", "hourly-delays, daily")]
        {
            let error = app().pipeline_named(Some(wrong)).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(near), "{error}");
        }
    }

    #[test]
    fn what_a_pipeline_has_written_is_verified_by_its_own_checks_only() {
        let app = app()
            .verify("hourly-delays", || Ok("all hours are there".to_owned()))
            .verify("daily", || Err(Error::failed("out/daily.csv: line 3 is missing")));
        assert_eq!(app.verdicts("hourly-delays").unwrap(), ["all hours are there"]);
        let error = app.verdicts("daily").unwrap_err();
        assert_eq!((error.exit_code(), error.message()), (1, "out/daily.csv: line 3 is missing"));
        assert!(app.verdicts("monthly").unwrap().is_empty());
    }

    #[test]
    fn a_program_without_pipelines_says_so() {
        let error = App::new("desk").pipeline_named(None).unwrap_err().to_string();
        assert!(error.starts_with("desk has no pipeline"), "{error}");
    }
}
