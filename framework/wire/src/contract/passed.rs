//! What others put beside a trace, passed on as it came.

use std::sync::Arc;

/// Characters of a `tracestate` that is passed on: what [W3C Trace Context](https://www.w3.org/TR/trace-context/) asks for.
pub const TRACESTATE_BYTES_MAX: usize = 512;
/// Bytes of a `baggage` that is passed on: what [W3C Baggage](https://www.w3.org/TR/baggage/) asks for.
pub const BAGGAGE_BYTES_MAX: usize = 8_192;

/// `tracestate` and `baggage` of a call that came from outside: opaque here, and handed to every call that is made
/// for it. Longer ones than the bounds, and ones that are no header, are left out, as both specifications allow.
///
/// ```
/// use afflux_wire::contract::Passed;
///
/// let passed = Passed::new(Some("vendor=7"), Some("user=42")).unwrap();
/// assert_eq!((passed.tracestate(), passed.baggage()), (Some("vendor=7"), Some("user=42")));
/// assert!(Passed::new(Some(&"x".repeat(600)), None).is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    tracestate: Option<Box<str>>,
    baggage: Option<Box<str>>,
}

impl Passed {
    /// What of these can be passed on; nothing if none.
    #[must_use]
    pub fn new(tracestate: Option<&str>, baggage: Option<&str>) -> Option<Arc<Self>> {
        let bounded = |text: Option<&str>, bytes_max: usize| {
            let text = text.map(str::trim).filter(|text| !text.is_empty() && text.len() <= bytes_max)?;
            text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')).then(|| Box::from(text))
        };
        let tracestate = bounded(tracestate, TRACESTATE_BYTES_MAX);
        let baggage = bounded(baggage, BAGGAGE_BYTES_MAX);
        (tracestate.is_some() || baggage.is_some()).then(|| Arc::new(Self { tracestate, baggage }))
    }

    /// What tracing systems say to themselves.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// Names and values of the application, `name=value` with commas between.
    #[must_use]
    pub fn baggage(&self) -> Option<&str> {
        self.baggage.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_or_no_header_is_left_out_and_the_other_stays() {
        let long = "x".repeat(BAGGAGE_BYTES_MAX + 1);
        let passed = Passed::new(Some("a=1"), Some(&long)).unwrap();
        assert_eq!((passed.tracestate(), passed.baggage()), (Some("a=1"), None));
        let passed = Passed::new(Some("a=1\r\nb: 2"), Some(" k=v ")).unwrap();
        assert_eq!((passed.tracestate(), passed.baggage()), (None, Some("k=v")));
        assert!(Passed::new(Some(""), None).is_none());
        assert!(Passed::new(None, Some(&long[1..])).is_some());
    }
}
