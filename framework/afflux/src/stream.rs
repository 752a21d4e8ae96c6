//! What is computed: flows of records, their time, keys and windows.

pub use afflux_stream::{
    AfterMatch, Matched, Matching, PARTIAL_MATCHES_MAX, PATTERN_STAGES_MAX, Pattern, Times,
};
pub use afflux_stream::{
    Aggregate, Ahead, BoundedOutOfOrder, Event, Flow, Fold, Generate, Global, Key, KeyBytes, KeyedStream,
    Late, Monotonous, Record, Sink, SinkWriter, Source, SourceStream, SplitWatermark, Stream, Timestamp,
    Tumbling, Watermarks, Window, Windowed, fold, generate, hours, millis_of, minutes, secs, vec_source,
};
pub use afflux_stream::{
    AggregatingState, Aggregator, Change, Deduplicate, Distinct, DistinctSet, Either, EitherKey, Harness,
    Join, KeyedOperator, Lasting, Life, ListState, MapState, OperatorCx, OperatorSpec, Output, Process,
    Processing, Ranking, Reducer, ReducingState, Result, SideOutputs, SideTag, State, StateField, Top, TopN,
    UnboundedJoin, ValueState, distinct, top_n,
};
pub use afflux_stream::{
    AsOfJoin, BroadcastOperator, Broadcasted, IntervalJoin, JoinWindow, Offset, WindowJoin,
};
pub use afflux_stream::{
    AsyncCx, AsyncMap, Backoff, DeadLetter, DeadReason, ErrorPolicy, Errors, Partitioning, Replay, replay,
};
pub use afflux_stream::{
    AtEnd, CountWindow, Every, Evict, Firing, MergeAggregate, ProcessingTime, Session, Sliding, Timing,
    Trigger,
};
