//! What an error of the broker means: whether to try again, and what helps.

use afflux_wire::{Code, Status};
use lapin::{Error, ErrorKind};

/// Why a connection, or what was to be done on it, came to an end.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// It may be over soon: a broker that restarts, a network that is away.
    Passing(Status),
    /// It stays until somebody changes something.
    Final(Status),
}

/// Reply codes of AMQP 0-9-1 that say more than their text.
mod reply {
    pub(super) const CONTENT_TOO_LARGE: u16 = 311;
    pub(super) const ACCESS_REFUSED: u16 = 403;
    pub(super) const NOT_FOUND: u16 = 404;
    pub(super) const RESOURCE_LOCKED: u16 = 405;
    pub(super) const PRECONDITION_FAILED: u16 = 406;
    pub(super) const NOT_ALLOWED: u16 = 530;
}

/// `at` is the URL without its password, `doing` what was being done, such as "declare queue `orders`".
pub(super) fn explain(error: &Error, at: &str, doing: &str) -> Trouble {
    let says = match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    };
    let code = match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_id(),
        _ => 0,
    };
    let last = |code, cure: &str| {
        Trouble::Final(Status::new(code, format!("RabbitMQ at {at} does not {doing}: {says}; {cure}")))
    };
    match code {
        reply::ACCESS_REFUSED => {
            last(Code::PermissionDenied, "check user and password of the URL and the permissions of the user")
        }
        // A durable queue whose node is down says so and comes back with it.
        reply::NOT_FOUND if !says.contains("down or inaccessible") => {
            last(Code::NotFound, "declare it first, or read with `Queue::durable`, which declares it")
        }
        reply::PRECONDITION_FAILED if doing.starts_with("declare") => last(
            Code::FailedPrecondition,
            "it is there with other options: declare it with the same ones, take it as it is with \
             `Queue::existing`, or delete it (`rabbitmqctl delete_queue`)",
        ),
        reply::PRECONDITION_FAILED => last(Code::FailedPrecondition, "see the log of the broker"),
        reply::CONTENT_TOO_LARGE => {
            last(Code::InvalidArgument, "write smaller records, or raise `max_message_size` of the broker")
        }
        reply::NOT_ALLOWED => {
            last(Code::PermissionDenied, "check the virtual host of the URL (`rabbitmqctl list_vhosts`)")
        }
        reply::RESOURCE_LOCKED => Trouble::Passing(Status::unavailable(format!(
            "RabbitMQ at {at} does not {doing}: {says}; another connection has it for itself"
        ))),
        _ => Trouble::Passing(Status::unavailable(format!("RabbitMQ at {at} does not {doing}: {says}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

    fn protocol(kind: AMQPErrorKind, text: &str) -> Error {
        ErrorKind::ProtocolError(AMQPError::new(kind, text.into())).into()
    }

    #[test]
    fn other_options_of_a_queue_are_said_with_the_cure() {
        let error = protocol(
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED),
            "inequivalent arg 'durable' for queue 'q': received 'true' but current is 'false'",
        );
        let Trouble::Final(status) = explain(&error, "amqp://a@h:1", "declare queue `q` (durable)") else {
            panic!("trying again changes nothing")
        };
        assert_eq!(status.code, Code::FailedPrecondition);
        for part in ["amqp://a@h:1", "queue `q` (durable)", "current is 'false'", "Queue::existing", "delete"]
        {
            assert!(status.message.contains(part), "{part} is missing in {status}");
        }
    }

    #[test]
    fn what_passes_is_tried_again_and_what_stays_is_not() {
        let passes = |error| matches!(explain(&error, "u", "connect"), Trouble::Passing(_));
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(passes(io.into()));
        assert!(passes(ErrorKind::MissingHeartbeatError.into()));
        assert!(passes(protocol(AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED), "shutdown")));
        assert!(passes(protocol(AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR), "vhost '/' is down")));
        assert!(passes(protocol(
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND),
            "home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible"
        )));
        assert!(!passes(protocol(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND), "no queue 'q' in vhost '/'")));
        assert!(!passes(protocol(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED), "login refused")));
        assert!(!passes(protocol(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED), "vhost x not found")));
    }
}
