//! What is computed: flows of records, their time, keys and windows.

pub use afflux_stream::{
    Aggregate, BoundedOutOfOrder, Event, Flow, Fold, Generate, Global, Key, KeyBytes, KeyedStream, Late,
    Record, Sink, SinkWriter, Source, SourceStream, Stream, Timestamp, Tumbling, Window, Windowed, fold,
    generate, hours, millis_of, minutes, secs, vec_source,
};
