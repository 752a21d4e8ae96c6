//! What is computed: pipelines of operators over event time, with state that survives.
//!
//! Reading order: [`Flow`] and [`Stream`] (what a user writes), [`Graph`] and [`Plan`] (what it
//! becomes), then the parts of a task: gates, stages, the task's actor; [`Source`] and [`Sink`]
//! (how the outside is reached), [`Restore`] (what a checkpoint holds), `job` (who runs it).
//!
//! Not here: sockets and frames (`afflux-mesh`), mailboxes (`afflux-actor`), files
//! (`afflux-connectors`), settings and clocks of the process (`afflux`).

mod aggregate;
mod asking;
mod batch;
mod block;
mod collected;
mod context;
mod errors;
mod flow;
mod gate;
mod generate;
mod graph;
mod guarantee;
mod harness;
mod idempotent;
pub mod job;
mod join;
mod key;
mod keyed;
mod keyed_stream;
mod merge;
mod meter;
mod opened;
mod operator;
mod partitioning;
mod pattern;
mod poison;
mod process;
mod rank;
mod reach;
mod sink;
mod snapshot;
mod source;
mod spare;
mod stage;
mod state;
mod stream;
mod table;
mod task;
mod time;
mod timers;
mod two_phase;
mod watermark;
mod window;
mod windowed;

pub use afflux_mesh::Backoff;
pub use aggregate::builtin::{Choosing, Counting, Folding, Reducing, Summing, Value};
pub use aggregate::rows::{Evict, Rows};
pub use aggregate::{Aggregate, Fold, MergeAggregate, Merging, fold};
pub use asking::{ASYNC_IN_FLIGHT_DEFAULT, ASYNC_IN_FLIGHT_MAX, ASYNC_TIMEOUT_DEFAULT, AsyncCx, AsyncMap};
pub use batch::{BATCH_ROWS_MAX, Batch, Element, Mark};
pub use collected::Collected;
pub use context::{JobSettings, Placement};
#[doc(hidden)]
pub use errors::ErrorAction;
pub use errors::{
    DeadLetter, DeadReason, ERROR_TEXT_BYTES_MAX, ErrorPolicy, Errors, FailJob, RECORD_TEXT_BYTES_MAX,
    Replay, SkipRecord, ToDeadLetters, replay,
};
pub use flow::{Epochs, Flow, Plan, ROUND_INTERVAL};
pub use generate::{Generate, generate, vec_source};
pub use graph::{ChainInfo, Edge, Exchange, Graph, Operator, OperatorKind};
pub use guarantee::{Delivery, Guarantee, Recall, SinkGuarantee};
pub use harness::Harness;
pub use idempotent::{Idempotent, Upserts, idempotent};
pub use join::{
    AsOfJoin, BroadcastOperator, Broadcasted, Frames, IntervalJoin, Join, JoinWindow, Offset, UnboundedJoin,
    WindowJoin,
};
pub use key::{KEY_GROUPS, Key, KeyBytes, KeyGroup};
pub use keyed::{ByRef, ByValue, KeyOf};
pub use keyed_stream::KeyedStream;
pub use merge::{Either, EitherKey};
pub use meter::{
    AskReading, Doing, EdgeReading, KeyShare, OperatorReading, SPLITS_SHOWN_MAX, SnapshotReading,
    SplitReading, TaskMeter, TaskReading,
};
pub use operator::{KeyedOperator, OperatorCx, Output, SideOutputs, SideTag};
pub use partitioning::{PARTITIONS_MAX, Partitioning, WEIGHTS_SUM_MAX};
pub use pattern::{AfterMatch, Matched, Matching, PARTIAL_MATCHES_MAX, PATTERN_STAGES_MAX, Pattern, Times};
pub use poison::{Aside, Kill, Ledger, OnPoison, POSITION_TEXT_BYTES_MAX, PoisonSettings, Streak, Suspect};
pub use process::{Lasting, OperatorSpec, Process, Processing};
pub use rank::{Change, Deduplicate, Distinct, DistinctSet, Ranking, Top, TopN, distinct, top_n};
pub use reach::Reaching;
pub use sink::{LAST_EPOCH, Sink, SinkWriter};
pub use snapshot::{
    Block, BlockWriter, Content, Field, Form, Increment, LAYOUT, LAYOUT_CHANGES, LaterRows, NESTING_MAX,
    Part, PartKind, ROUND, Restore, Role, SHAPES_MAX, Schema, Shape, TaskSnapshot, is_round,
};
pub use source::{IoContext, OnError, ReadState, Source, Split, SplitReader};
pub use stage::fused::{Filter, Map, Step, Whole};
pub use stage::tell::{TELL_IN_FLIGHT_MAX, TELL_ROWS_MAX};
pub use state::{
    AggregatingState, Aggregator, DiskCounters, DiskReading, Life, ListState, MapState, Reducer,
    ReducingState, STATE_CACHE_BYTES_DEFAULT, STATE_RESERVE_BYTES_DEFAULT, State, StateBackend, StateField,
    StateRoot, ValueState,
};
pub use stream::{Record, SourceStream, Stream};
pub use task::{TaskEvent, TaskMail, TaskReport};
pub use time::{Event, Timestamp, hours, millis_of, minutes, secs};
pub use two_phase::{
    Committer, PREPARED_TRANSACTIONS_MAX, Transaction, TwoPhase, TwoPhaseSink, TwoPhaseWriter,
    UNCOMMITTED_TRANSACTIONS_MAX, two_phase,
};
pub use watermark::{
    Ahead, BoundedOutOfOrder, DropAhead, Guard, IDLE_AFTER_DEFAULT, Monotonous, NoGuard, SideAhead,
    SplitWatermark, Watermarks,
};
pub use window::{
    AtEnd, CountWindow, DropLate, EventTime, Every, Firing, Global, Late, LatePolicy, LateStreams, Marked,
    Marks, NeverLate, NoPolicy, Plain, ProcessingTime, Session, SideLate, Sliding, SlidingSize, Timing,
    Trigger, Triggered, Triggers, Tumbling, Undeclared, Window,
};
#[doc(hidden)]
pub use window::{LateRows, Rules, WindowDescription};
#[doc(hidden)]
pub use windowed::Aggregation;
pub use windowed::{Evicting, WindowFor, WindowKind, Windowed};

/// The result of everything a pipeline does.
pub type Result<T> = std::result::Result<T, afflux_wire::Status>;
