//! The outside world: files now; object stores, Kafka, RabbitMQ and HTTP later, each behind a feature.
