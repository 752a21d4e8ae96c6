//! A pipeline under construction.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use afflux_wire::Status;

use crate::Result;
use crate::context::{EdgeId, JobSettings, TaskContext};
use crate::graph::{ChainInfo, Edge, Exchange, Graph, Operator, OperatorKind};
use crate::guarantee::{Declared, Delivery, Guarantee, Recall, SinkGuarantee, guarantee};
use crate::poison::OnPoison;
use crate::reach::Reach;
use crate::snapshot::{Schema, readable};
use crate::source::{IoContext, Source, Split};
use crate::stage::Next;
use crate::stage::fused::{Fused, Whole};
use crate::stage::sieve::Letter;
use crate::stream::{SourceStream, Stream};
use crate::task::{Chain, Work};

/// Makes the chain up to a point, given what comes behind it.
pub(crate) type Open<T> = Arc<dyn Fn(&TaskContext, Next<T>) -> Result<Box<dyn Work>> + Send + Sync>;
/// Makes a whole chain.
pub(crate) type Factory = Arc<dyn Fn(&TaskContext) -> Result<Box<dyn Work>> + Send + Sync>;
/// Makes the stage that takes what a source diverts.
pub(crate) type Aside<T> = Arc<dyn Fn(&TaskContext) -> Result<Next<T>> + Send + Sync>;
/// The edges that end in the dead letters, once all chains are known.
type LetterEdges = Arc<OnceLock<Vec<EdgeId>>>;
type SplitsFn = Arc<dyn Fn(&IoContext) -> Result<Vec<Split>> + Send + Sync>;

#[derive(Default)]
struct Draft {
    graph: Graph,
    factories: Vec<Option<Factory>>,
    sources: Vec<SourceSpec>,
    names: BTreeSet<String>,
    errors: Vec<Status>,
    warnings: Vec<String>,
    states: Vec<StateSpec>,
    /// Outputs and what becomes of a record that reaches them again.
    outputs: Vec<(String, Delivery)>,
    /// Steps that may talk to somebody outside.
    outside: Vec<(String, Reach)>,
    /// What every sink must give.
    required: Option<Guarantee>,
    /// Tasks asked for behind the next exchange, by the chain that will end in it.
    wanted: BTreeMap<u32, u32>,
    /// The chain of the dead letters, and the edges that lead there once the pipeline is finished.
    letters: Option<(u32, LetterEdges)>,
}

/// A state of a plan: what its rows are read as.
#[derive(Clone, Debug)]
pub(crate) struct StateSpec {
    pub(crate) operator: String,
    pub(crate) state: &'static str,
    /// Whether all that a schema has seen can be read, or why not.
    pub(crate) readable: fn(&Schema) -> std::result::Result<(), String>,
}

/// A source of a plan: who enumerates its splits.
#[derive(Clone)]
pub(crate) struct SourceSpec {
    pub(crate) operator: String,
    pub(crate) chain: u32,
    pub(crate) splits: SplitsFn,
    pub(crate) acknowledges: bool,
    pub(crate) recall: Recall,
    /// Whether its splits wait for the slowest of them.
    pub(crate) aligned: bool,
}

/// A pipeline under construction: sources are added here, the rest on the streams they give.
///
/// ```
/// use afflux_stream::{Flow, JobSettings, vec_source};
/// let flow = Flow::new("evens", JobSettings::default());
/// flow.source("numbers", vec_source((0..10_u64).collect()))
///     .untimed()
///     .filter(|x| x % 2 == 0)
///     .count("evens");
/// let plan = flow.finish().unwrap();
/// assert_eq!(plan.graph().chains.len(), 1);
/// ```
#[derive(Clone)]
pub struct Flow {
    draft: Rc<RefCell<Draft>>,
    settings: Arc<JobSettings>,
}

/// A finished pipeline: its graph and what makes its tasks.
#[derive(Clone)]
pub struct Plan {
    graph: Arc<Graph>,
    settings: Arc<JobSettings>,
    factories: Arc<Vec<Factory>>,
    sources: Vec<SourceSpec>,
    warnings: Arc<Vec<String>>,
    states: Arc<Vec<StateSpec>>,
    guarantees: Arc<Vec<SinkGuarantee>>,
    outside: Arc<Vec<(String, Reach)>>,
    /// The edges to the dead letters, by the chain they begin in.
    letters: Arc<BTreeMap<u32, EdgeId>>,
}

/// Between two rounds of confirmations: how long a message stays unacknowledged that has been dealt with.
pub const ROUND_INTERVAL: Duration = Duration::from_millis(100);

/// The epochs that a job starts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epochs {
    /// Checkpoints, so long after each other.
    Checkpoints(Duration),
    /// Rounds of confirmations.
    Rounds(Duration),
}

impl Flow {
    /// An empty pipeline of this name.
    pub fn new(pipeline: &str, settings: JobSettings) -> Self {
        let mut draft = Draft::default();
        draft.graph.pipeline = pipeline.to_owned();
        Self { draft: Rc::new(RefCell::new(draft)), settings: Arc::new(settings) }
    }

    /// The settings of the job it is built for.
    pub fn settings(&self) -> &JobSettings {
        &self.settings
    }

    /// Whether both build the same pipeline.
    pub(crate) fn is(&self, other: &Flow) -> bool {
        Rc::ptr_eq(&self.draft, &other.draft)
    }

    /// Adds a source. The name identifies its positions in checkpoints.
    pub fn source<S: Source>(&self, name: &str, source: S) -> SourceStream<S> {
        let chain = self.new_chain(self.settings.parallelism.max(1));
        self.add_operator(name, OperatorKind::Source, source.kind(), chain);
        SourceStream {
            flow: self.clone(),
            name: name.to_owned(),
            chain,
            source: Arc::new(source),
            show: None,
        }
    }

    pub(crate) fn add_source(&self, source: SourceSpec) {
        self.draft.borrow_mut().sources.push(source);
    }

    pub(crate) fn new_chain(&self, parallelism: u32) -> u32 {
        let mut draft = self.draft.borrow_mut();
        let index = draft.graph.chains.len() as u32;
        draft.graph.chains.push(ChainInfo { index, parallelism, operators: Vec::new() });
        draft.factories.push(None);
        index
    }

    pub(crate) fn parallelism_of(&self, chain: u32) -> u32 {
        self.draft.borrow().graph.chains.get(chain as usize).map_or(1, |c| c.parallelism)
    }

    /// Sets the tasks of a chain that nothing has been linked to yet.
    pub(crate) fn set_parallelism(&self, chain: u32, tasks: u32) {
        if let Some(chain) = self.draft.borrow_mut().graph.chains.get_mut(chain as usize) {
            chain.parallelism = tasks;
        }
    }

    /// Asks for this many tasks behind the exchange that will end the chain.
    pub(crate) fn want(&self, chain: u32, tasks: u32) {
        self.draft.borrow_mut().wanted.insert(chain, tasks);
    }

    /// Tasks behind an exchange that ends this chain now.
    pub(crate) fn width_behind(&self, chain: u32) -> u32 {
        let wanted = self.draft.borrow_mut().wanted.remove(&chain);
        wanted.unwrap_or(self.settings.parallelism).max(1)
    }

    /// The pipeline's name.
    pub(crate) fn pipeline(&self) -> String {
        self.draft.borrow().graph.pipeline.clone()
    }

    /// Whether a chain has no operator yet.
    pub(crate) fn is_empty(&self, chain: u32) -> bool {
        self.draft.borrow().graph.chains.get(chain as usize).is_none_or(|c| c.operators.is_empty())
    }

    /// The last operator of a chain, for messages.
    pub(crate) fn last_of(&self, chain: u32) -> String {
        let draft = self.draft.borrow();
        let last = draft.graph.chains.get(chain as usize).and_then(|c| c.operators.last());
        last.map_or_else(|| "the beginning of its chain".to_owned(), |name| format!("`{name}`"))
    }

    /// The sources whose records reach a chain, for messages.
    pub(crate) fn sources_of(&self, chain: u32) -> String {
        let draft = self.draft.borrow();
        let seen = draft.graph.upstream(chain);
        let sources = draft.sources.iter().filter(|s| seen.contains(&s.chain));
        sources.map(|s| format!("`{}`", s.operator)).collect::<Vec<_>>().join(", ")
    }

    /// Adds an operator under its name; a name that is taken is an error of [`Flow::finish`].
    pub(crate) fn add_operator(&self, name: &str, kind: OperatorKind, detail: &str, chain: u32) {
        let mut draft = self.draft.borrow_mut();
        if !draft.names.insert(name.to_owned()) {
            let pipeline = draft.graph.pipeline.clone();
            draft.errors.push(Status::invalid(format!(
                "pipeline {pipeline}: two steps are named `{name}`; a name is the identity of a \
                 step's state, so each needs one of its own"
            )));
        }
        draft.graph.operators.push(Operator {
            name: name.to_owned(),
            kind,
            detail: detail.to_owned(),
            chain,
            target: None,
        });
        if let Some(chain) = draft.graph.chains.get_mut(chain as usize) {
            chain.operators.push(name.to_owned());
        }
    }

    /// Adds a sink under its name, with what it writes to.
    pub(crate) fn add_sink(
        &self,
        name: &str,
        detail: &str,
        chain: u32,
        target: Option<String>,
        delivery: Delivery,
    ) {
        self.add_operator(name, OperatorKind::Sink, detail, chain);
        self.add_output(name, delivery);
        if let Some(operator) = self.draft.borrow_mut().graph.operators.last_mut() {
            operator.target = target;
        }
    }

    /// Notes that records leave the pipeline at this step.
    pub(crate) fn add_output(&self, name: &str, delivery: Delivery) {
        self.draft.borrow_mut().outputs.push((name.to_owned(), delivery));
    }

    /// Notes who can be asked whether what a step talks to answers.
    pub(crate) fn add_outside(&self, name: &str, reach: Reach) {
        self.draft.borrow_mut().outside.push((name.to_owned(), reach));
    }

    /// Asks for this guarantee of every sink: [`Flow::finish`] refuses a pipeline that does not give it,
    /// and names the sink and the cure. The setting `pipeline.guarantee` asks for the same.
    ///
    /// ```
    /// use afflux_stream::{Flow, Guarantee, JobSettings, generate};
    /// let flow = Flow::new("evens", JobSettings::default());
    /// flow.require(Guarantee::ExactlyOnce);
    /// let evens = flow.source("numbers", generate(10, |i| i)).untimed().filter(|x| x % 2 == 0).collect("evens");
    /// assert!(flow.finish().is_ok());
    /// # drop(evens);
    /// ```
    pub fn require(&self, guarantee: Guarantee) {
        self.draft.borrow_mut().required = Some(guarantee);
    }

    /// A name for a step that keeps no state: its kind, the chain and a number.
    pub(crate) fn auto_name(&self, kind: &str) -> String {
        format!("{kind}-{}", self.draft.borrow().graph.operators.len())
    }

    pub(crate) fn new_edge(&self, from_chain: u32, to_chain: u32, exchange: Exchange) -> EdgeId {
        let mut draft = self.draft.borrow_mut();
        let index = draft.graph.edges.len() as u32;
        draft.graph.edges.push(Edge { index, from_chain, to_chain, exchange });
        EdgeId { edge: index, from_chain, to_chain }
    }

    pub(crate) fn close(&self, chain: u32, factory: Factory) {
        if let Some(place) = self.draft.borrow_mut().factories.get_mut(chain as usize) {
            *place = Some(factory);
        }
    }

    pub(crate) fn refuse(&self, status: Status) {
        self.draft.borrow_mut().errors.push(status);
    }

    /// Notes what is legal and will hurt, such as state that grows for ever: the step, what grows
    /// and how to bound it. Shown by `graph` and `check`; see [`Plan::warnings`].
    pub(crate) fn warn(&self, operator: &str, warning: &str) {
        self.draft.borrow_mut().warnings.push(format!("`{operator}`: {warning}"));
    }

    /// Notes that an operator keeps rows of `R` under this name, so that a checkpoint is compared with
    /// it before a start.
    pub(crate) fn keeps<R: serde::de::DeserializeOwned>(&self, operator: &str, state: &'static str) {
        let spec = StateSpec { operator: operator.to_owned(), state, readable: readable::<R> };
        self.draft.borrow_mut().states.push(spec);
    }

    /// The records that the job goes on without, of every operator of the pipeline: where the setting
    /// `pipeline.on_poison` is `set_aside`, what has killed its operator `pipeline.poison_failures` times in
    /// a row comes here and is never worked on again. The record is the one that came into the task of that
    /// operator, as JSON: behind the last exchange in front of it, or as the source gave it
    /// ([`shown`](crate::SourceStream::shown)). One task takes them all; they have no event time.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("p", JobSettings::default());
    /// flow.source("numbers", generate(9, |i| i)).shown().untimed().map(|i| 100 / (i + 1)).count("n");
    /// flow.dead_letters("dead-letters").count("dead"); // or a sink of JSON lines, to be fed again by `replay`
    /// flow.finish().unwrap();
    /// ```
    pub fn dead_letters(&self, name: &str) -> Stream<Letter> {
        let chain = self.new_chain(1);
        self.add_operator(name, OperatorKind::Transform, "records set aside", chain);
        let edges = LetterEdges::default();
        if self.draft.borrow_mut().letters.replace((chain, Arc::clone(&edges))).is_some() {
            self.refuse(Status::invalid(format!(
                "pipeline {}: `dead_letters` was asked for twice, the second time as `{name}`: a pipeline has one \
                 such stream; use `tee` for two consumers",
                self.pipeline()
            )));
        }
        let operator = name.to_owned();
        let open: Open<Letter> = Arc::new(move |cx, first| {
            let input = cx.input::<Letter>(edges.get().map_or(&[][..], Vec::as_slice))?;
            // So that it is counted like any other.
            let first = Box::new(Fused::new(Arc::new(Whole::default()), cx.meter.operator(&operator), first));
            Ok(Box::new(Chain::new(Box::new(input), first, cx)))
        });
        Stream::new(self.clone(), chain, false, open)
    }

    /// The finished pipeline.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for two steps of one name, a stream that ends nowhere, or no source.
    pub fn finish(self) -> Result<Plan> {
        let mut draft = self.draft.take();
        let letters = letter_edges(&mut draft);
        if let Some(status) = draft.errors.into_iter().next() {
            return Err(status);
        }
        let pipeline = &draft.graph.pipeline;
        if self.settings.poison.policy == OnPoison::SetAside && draft.letters.is_none() {
            return Err(Status::precondition(format!(
                "pipeline {pipeline}: pipeline.on_poison is `set_aside`, and there is no stream that takes what is \
                 set aside: add `flow.dead_letters(\"dead-letters\")` with a sink, or set it to `fail`"
            )));
        }
        if draft.graph.chains.is_empty() {
            return Err(Status::invalid(format!("pipeline {pipeline} has no source")));
        }
        if let Some((chain, tasks)) = draft.wanted.iter().next() {
            let chain = draft.graph.chains.get(*chain as usize);
            return Err(Status::invalid(format!(
                "pipeline {pipeline}: `.parallelism({tasks})` behind `{}` is not followed by an exchange, so \
                 nothing would change: put `.rebalance()`, `.partition(…)`, `.broadcast()` or `.key_by(…)` \
                 behind it",
                chain.and_then(|c| c.operators.last()).map_or("?", String::as_str)
            )));
        }
        let factories = draft
            .factories
            .into_iter()
            .zip(&draft.graph.chains)
            .map(|(factory, chain)| {
                factory.ok_or_else(|| {
                    Status::invalid(format!(
                        "pipeline {pipeline}: the stream behind `{}` ends nowhere; end it with \
                         `.sink(…)` or `.count(…)`",
                        chain.operators.last().map_or("?", String::as_str)
                    ))
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let guarantees = guarantees(&draft.graph, &draft.sources, &draft.outputs, &self.settings);
        let required = [draft.required, self.settings.guarantee];
        for asked in required.into_iter().flatten() {
            let is_sink = |name: &str| {
                draft.graph.operators.iter().any(|o| o.name == name && o.kind == OperatorKind::Sink)
            };
            let short = guarantees.iter().find(|found| !found.guarantee.gives(asked) && is_sink(&found.sink));
            if let Some(short) = short {
                return Err(Status::precondition(format!(
                    "pipeline {pipeline}: {asked} is asked for, and `{}` gives {}: {}. {}",
                    short.sink,
                    short.guarantee,
                    short.why,
                    capitalised(&short.cure),
                )));
            }
        }
        Ok(Plan {
            graph: Arc::new(draft.graph),
            settings: self.settings,
            factories: Arc::new(factories),
            sources: draft.sources,
            warnings: Arc::new(draft.warnings),
            states: Arc::new(draft.states),
            guarantees: Arc::new(guarantees),
            outside: Arc::new(draft.outside),
            letters: Arc::new(letters),
        })
    }
}

impl Plan {
    /// What operators keep, where the types of it are known.
    pub(crate) fn states(&self) -> &[StateSpec] {
        &self.states
    }

    /// Runs a builder and finishes its pipeline.
    ///
    /// # Errors
    /// What the builder or [`Flow::finish`] refuses.
    pub fn build(
        pipeline: &str,
        settings: JobSettings,
        builder: &dyn Fn(&Flow) -> Result<()>,
    ) -> Result<Self> {
        let flow = Flow::new(pipeline, settings);
        builder(&flow)?;
        flow.finish()
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The settings it was built for.
    pub fn settings(&self) -> &Arc<JobSettings> {
        &self.settings
    }

    /// What is legal and will hurt, such as state without a bound: each names the step, says how it
    /// grows and what bounds it.
    ///
    /// ```
    /// use afflux_stream::{Flow, JobSettings, generate};
    /// let flow = Flow::new("maxima", JobSettings::default());
    /// flow.source("numbers", generate(9, |i| i)).untimed().key_by(|i| *i).reduce("max", u64::max).count("out");
    /// let plan = flow.finish().unwrap();
    /// assert!(plan.warnings()[0].starts_with("`max`: "));
    /// ```
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What each output promises after a failure, and why: shown by `graph` and `check`.
    ///
    /// ```
    /// use afflux_stream::{Flow, Guarantee, JobSettings, generate};
    /// let flow = Flow::new("evens", JobSettings { checkpoint_interval_ms: 1_000, ..JobSettings::default() });
    /// let evens = flow.source("numbers", generate(10, |i| i)).untimed().filter(|x| x % 2 == 0).collect("evens");
    /// let plan = flow.finish().unwrap();
    /// assert_eq!(plan.guarantees()[0].guarantee, Guarantee::ExactlyOnce);
    /// # drop(evens);
    /// ```
    pub fn guarantees(&self) -> &[SinkGuarantee] {
        &self.guarantees
    }

    /// What is to be started by itself, and how often: checkpoints where `checkpoint_interval_ms` says
    /// so, rounds of confirmations where only a source needs them.
    pub fn epochs(&self) -> Option<Epochs> {
        match self.settings.checkpoint_interval_ms {
            0 if self.sources.iter().any(|s| s.acknowledges) => Some(Epochs::Rounds(ROUND_INTERVAL)),
            0 => None,
            ms => Some(Epochs::Checkpoints(Duration::from_millis(ms))),
        }
    }

    /// The sources whose splits wait for the slowest of them, wherever that is read, and their chains.
    pub fn aligned(&self) -> Vec<(&str, u32)> {
        self.sources.iter().filter(|s| s.aligned).map(|s| (s.operator.as_str(), s.chain)).collect()
    }

    /// Parallel tasks of each chain.
    pub fn widths(&self) -> Vec<u32> {
        self.graph.chains.iter().map(|c| c.parallelism).collect()
    }

    /// The edge from a chain to the dead letters.
    pub(crate) fn letters(&self, chain: u32) -> Option<EdgeId> {
        self.letters.get(&chain).copied()
    }

    pub(crate) fn outside(&self) -> &[(String, Reach)] {
        &self.outside
    }

    pub(crate) fn sources(&self) -> &[SourceSpec] {
        &self.sources
    }

    pub(crate) fn factory(&self, chain: u32) -> Option<&Factory> {
        self.factories.get(chain as usize)
    }

    /// The splits of every source, dealt out: `[chain][subtask]`.
    ///
    /// # Errors
    /// When an input is not there.
    pub fn splits(&self) -> Result<Vec<Vec<Vec<Split>>>> {
        let mut dealt: Vec<Vec<Vec<Split>>> =
            self.widths().iter().map(|w| vec![Vec::new(); *w as usize]).collect();
        for source in &self.sources {
            let io = IoContext {
                parallelism: self.widths().get(source.chain as usize).copied().unwrap_or(1),
                attempt: 0,
                on_error: self.settings.on_error,
                ..IoContext::new(&self.graph.pipeline, &source.operator)
            };
            let splits = (source.splits)(&io).map_err(|mut status| {
                status.message = format!("source {}: {}", source.operator, status.message);
                status
            })?;
            let Some(tasks) = dealt.get_mut(source.chain as usize) else { continue };
            let count = tasks.len().max(1);
            for (index, split) in splits.into_iter().enumerate() {
                if let Some(task) = tasks.get_mut(index % count) {
                    task.push(split);
                }
            }
        }
        Ok(dealt)
    }
}

/// Links every chain to the dead letters but those that work on them.
fn letter_edges(draft: &mut Draft) -> BTreeMap<u32, EdgeId> {
    let Some((letters, edges)) = &draft.letters else { return BTreeMap::new() };
    let behind = draft.graph.downstream(*letters);
    let mut found = BTreeMap::new();
    for from_chain in (0..draft.graph.chains.len() as u32).filter(|chain| !behind.contains(chain)) {
        let index = draft.graph.edges.len() as u32;
        let (to_chain, exchange) = (*letters, Exchange::Gather);
        draft.graph.edges.push(Edge { index, from_chain, to_chain, exchange });
        found.insert(from_chain, EdgeId { edge: index, from_chain, to_chain });
    }
    // Set once: a draft is finished once.
    let _ = edges.set(found.values().copied().collect());
    found
}

/// What each output promises.
fn guarantees(
    graph: &Graph,
    sources: &[SourceSpec],
    outputs: &[(String, Delivery)],
    settings: &JobSettings,
) -> Vec<SinkGuarantee> {
    let step = |name: &str| graph.operators.iter().find(|o| o.name == name);
    let kind = |name: &str| step(name).map_or_else(String::new, |o| o.detail.clone());
    let found = outputs.iter().map(|(name, delivery)| {
        let reaching = step(name).map(|o| graph.upstream(o.chain)).unwrap_or_default();
        let sources: Vec<Declared<Recall>> = sources
            .iter()
            .filter(|source| reaching.contains(&source.chain))
            .map(|s| Declared { name: s.operator.clone(), kind: kind(&s.operator), can: s.recall })
            .collect();
        let sink = Declared { name: name.clone(), kind: kind(name), can: *delivery };
        guarantee(&sources, &sink, settings.checkpoint_interval_ms > 0)
    });
    found.collect()
}

/// The text as the beginning of a sentence.
fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
