//! A status as HTTP says it.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use afflux_wire::status::Details;
use afflux_wire::{Code, Executed, Status, codec};
use serde_json::{Value, json};

/// The client went away before the answer: nginx's number for it, which google.rpc uses for CANCELLED.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The HTTP status of a code, as google/rpc/code.proto maps them.
pub(crate) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Cancelled => {
            StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// `{code, message, details}`: a typed error is JSON in `details.data`.
pub(crate) fn as_json(status: &Status) -> Value {
    let mut body = json!({ "code": status.code.as_str(), "message": status.message });
    if let Some(details) = &status.details {
        let Details { kind, data, retry_after_ms, executed, stage, node, queue_depth, .. } = &**details;
        let executed = match executed {
            Executed::No => "no",
            Executed::Maybe => "maybe",
            Executed::Yes => "yes",
        };
        let mut told = json!({ "executed": executed });
        let data = data.as_deref().and_then(|data| codec::from_slice::<Value>(data).ok());
        let parts = [
            ("type", kind.as_ref().map(|kind| json!(kind))),
            ("data", data),
            ("retry_after_ms", retry_after_ms.map(|ms| json!(ms))),
            ("stage", stage.map(|stage| json!(stage.to_string()))),
            ("node", node.as_ref().map(|node| json!(node.as_str()))),
            ("queue_depth", queue_depth.map(|depth| json!(depth))),
        ];
        for (name, value) in parts {
            if let Some(value) = value {
                told[name] = value;
            }
        }
        body["details"] = told;
    }
    body
}

/// The answer that tells a status.
pub(crate) fn failure(status: &Status) -> HttpResponse {
    let mut answer = HttpResponse::build(http_status(status.code));
    if let Some(ms) = status.details.as_ref().and_then(|details| details.retry_after_ms) {
        // Whole seconds, rounded up; the exact time stands in the body.
        answer.insert_header((RETRY_AFTER, ms.div_ceil(1_000).to_string()));
    }
    if status.code == Code::Unauthenticated {
        answer.insert_header((actix_web::http::header::WWW_AUTHENTICATE, "Bearer"));
    }
    answer.json(as_json(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_error_is_json_with_its_hint() {
        let mut status =
            Status::new(Code::ResourceExhausted, "busy").retry_after_ms(50).executed(Executed::No);
        status.details_mut().kind = Some("Busy".to_owned());
        status.details_mut().data = Some(codec::to_named("Busy").unwrap());
        assert_eq!(
            as_json(&status),
            json!({ "code": "RESOURCE_EXHAUSTED", "message": "busy", "details":
                { "executed": "no", "type": "Busy", "data": "Busy", "retry_after_ms": 50 } })
        );
        let answer = failure(&status);
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(answer.headers().get(RETRY_AFTER).unwrap(), "1");
        assert_eq!(http_status(Code::Cancelled).as_u16(), CLIENT_CLOSED_REQUEST);
    }
}
