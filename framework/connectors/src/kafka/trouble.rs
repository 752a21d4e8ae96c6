//! What an error of Kafka means: whether it passes by itself, and what helps.

use afflux_wire::{Code, Status};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Why something did not work.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// It may be over soon: the library tries again by itself.
    Passing(String),
    /// It stays until somebody changes something.
    Final(Status),
}

impl Trouble {
    pub(super) fn into_status(self) -> Status {
        match self {
            Self::Passing(text) => Status::unavailable(text),
            Self::Final(status) => status,
        }
    }
}

/// `at` is the brokers' addresses, `doing` what was being done, such as "let topic `orders` be read".
pub(super) fn explain(error: &KafkaError, at: &str, doing: &str) -> Trouble {
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
    let says = match error {
        KafkaError::ClientConfig(_, why, name, _) => {
            return Trouble::Final(Status::invalid(format!(
                "Kafka at {at}: property `{name}` cannot be set: {why}; the properties are those of librdkafka \
                 (CONFIGURATION.md)"
            )));
        }
        KafkaError::Transaction(error) => error.string(),
        _ => code.to_string(),
    };
    let last = |status, cure: &str| {
        let text = format!("Kafka at {at} does not {doing}: {says}");
        Trouble::Final(Status::new(status, format!("{text}; {cure}")))
    };
    match code {
        RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownPartition
        | RDKafkaErrorCode::UnknownTopicOrPartition => last(
            Code::NotFound,
            "create it first (`kafka-topics.sh --create --topic … --partitions …`), or check its name",
        ),
        RDKafkaErrorCode::TopicAuthorizationFailed => last(
            Code::PermissionDenied,
            "the user needs READ and DESCRIBE on a topic that is read, WRITE and DESCRIBE on one that is written",
        ),
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            last(Code::PermissionDenied, "the user needs READ on the group: name another with `.group(…)`")
        }
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed => last(
            Code::PermissionDenied,
            "the user needs WRITE and DESCRIBE on transactional ids with the prefix that the sink has",
        ),
        RDKafkaErrorCode::ClusterAuthorizationFailed => {
            last(Code::PermissionDenied, "the user needs IDEMPOTENT_WRITE on the cluster")
        }
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => last(
            Code::Unauthenticated,
            "check `security.protocol`, `sasl.mechanism`, `sasl.username` and `sasl.password`",
        ),
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => last(
            Code::InvalidArgument,
            "write smaller records, or raise `message.max.bytes` here (`.set(…)`) and `max.message.bytes` of the topic",
        ),
        RDKafkaErrorCode::Fenced
        | RDKafkaErrorCode::ProducerFenced
        | RDKafkaErrorCode::InvalidProducerEpoch => last(
            Code::Aborted,
            "a newer attempt of the job has taken over, or the transaction was open for longer than \
                 `transaction.timeout.ms`",
        ),
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => last(
            Code::DataLoss,
            "the records at this position were deleted (retention), or the topic was made anew: go on at what is \
             there with `.when_gone(Gone::Earliest)` or `Gone::Latest`, or restore from another checkpoint",
        ),
        _ => Trouble::Passing(format!("Kafka at {at} does not {doing}: {says}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(code: RDKafkaErrorCode) -> Trouble {
        explain(&KafkaError::MessageConsumption(code), "b:9092", "let topic `orders` be read")
    }

    #[test]
    fn what_stays_is_said_with_the_cure_and_what_passes_is_tried_again() {
        for (code, status, cure) in [
            (RDKafkaErrorCode::UnknownTopicOrPartition, Code::NotFound, "kafka-topics.sh"),
            (RDKafkaErrorCode::TopicAuthorizationFailed, Code::PermissionDenied, "READ"),
            (RDKafkaErrorCode::AutoOffsetReset, Code::DataLoss, "Gone::Earliest"),
            (RDKafkaErrorCode::SaslAuthenticationFailed, Code::Unauthenticated, "sasl.password"),
            (RDKafkaErrorCode::MessageSizeTooLarge, Code::InvalidArgument, "max.message.bytes"),
        ] {
            let Trouble::Final(explained) = explained(code) else { panic!("{code} does not pass") };
            assert_eq!(explained.code, status, "{explained}");
            for part in ["b:9092", "topic `orders`", cure] {
                assert!(explained.message.contains(part), "{part} is missing in {explained}");
            }
        }
        for code in [RDKafkaErrorCode::BrokerTransportFailure, RDKafkaErrorCode::AllBrokersDown] {
            assert!(matches!(explained(code), Trouble::Passing(_)), "{code} passes");
        }
    }

    #[test]
    fn a_wrong_property_is_named_without_its_value() {
        let error = rdkafka::ClientConfig::new()
            .set("sasl.pasword", "s3cret")
            .create::<rdkafka::producer::BaseProducer>()
            .err()
            .unwrap();
        let Trouble::Final(status) = explain(&error, "b:9092", "take a connection") else { panic!() };
        assert!(status.message.contains("sasl.pasword"), "{status}");
        assert!(!status.message.contains("s3cret"), "{status}");
    }
}
