//! What is computed: flows of records, their time, keys and windows.

pub use afflux_stream::{
    Aggregate, Ahead, BoundedOutOfOrder, Event, Flow, Fold, Generate, Global, Key, KeyBytes, KeyedStream,
    Late, Monotonous, Record, Sink, SinkWriter, Source, SourceStream, SplitWatermark, Stream, Timestamp,
    Tumbling, Watermarks, Window, Windowed, fold, generate, hours, millis_of, minutes, secs, vec_source,
};
pub use afflux_stream::{
    Change, Deduplicate, Distinct, DistinctSet, Join, JoinLate, Ranking, Top, TopN, UnboundedJoin, distinct, top_n, AggregatingState, Aggregator, Either, EitherKey, Harness, KeyedOperator, Lasting, Life, ListState, MapState, OperatorCx, OperatorSpec, Output, Process, Processing, Reducer, ReducingState, Result, SideOutputs, SideTag, State, StateField, ValueState,
};
pub use afflux_stream::{Every, Firing, MergeAggregate, Session, Sliding, Timing, Trigger};
