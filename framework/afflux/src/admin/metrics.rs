//! What calls over HTTP come to.

use std::time::Duration;

use actix_web::http::StatusCode;
use afflux_actor::Detail;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use crate::error::Result;

/// 1 ms to 67 s in steps of four.
const SPAN_BUCKETS_SECONDS: [f64; 9] =
    [1.024e-3, 4.096e-3, 16.384e-3, 65.536e-3, 0.262_144, 1.048_576, 4.194_304, 16.777_216, 67.108_864];

/// The label of a service or method that nobody offers: a name that a caller made up is none.
pub(super) const UNKNOWN: &str = "unknown";

/// Counts calls at `/rpc`.
#[derive(Clone)]
pub(crate) struct HttpCalls {
    requests: IntCounterVec,
    seconds: HistogramVec,
    detail: Detail,
}

impl HttpCalls {
    /// Registers them.
    ///
    /// # Errors
    /// A name that is taken already.
    pub(crate) fn new(metrics: &Registry, detail: Detail) -> Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new("afflux_http_requests_total", "Calls over HTTP, by the status of their answer."),
            &["service", "method", "status"],
        )?;
        let histogram =
            |name: &str, help: &str| HistogramOpts::new(name, help).buckets(SPAN_BUCKETS_SECONDS.to_vec());
        let seconds = HistogramVec::new(
            histogram(
                "afflux_http_request_duration_seconds",
                "From a call's arrival over HTTP to its answer, of a stream to its beginning.",
            ),
            &["service"],
        )?;
        metrics.register(Box::new(requests.clone()))?;
        metrics.register(Box::new(seconds.clone()))?;
        Ok(Self { requests, seconds, detail })
    }

    /// A call was answered.
    pub(super) fn answered(&self, service: &str, method: &str, status: StatusCode, took: Duration) {
        let method = self.detail.of_methods().unwrap_or(method);
        self.requests.with_label_values(&[service, method, status.as_str()]).inc();
        self.seconds.with_label_values(&[service]).observe(took.as_secs_f64());
    }
}
