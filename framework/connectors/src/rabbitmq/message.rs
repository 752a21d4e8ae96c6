//! A message as a closure of the user sees it.

use lapin::message::Delivery;
use lapin::types::AMQPValue;

/// A message that was read.
#[derive(Debug)]
pub struct Message(pub(super) Delivery);

impl Message {
    /// Its body.
    pub fn body(&self) -> &[u8] {
        &self.0.data
    }

    /// The routing key it was published with.
    pub fn routing_key(&self) -> &str {
        self.0.routing_key.as_str()
    }

    /// The exchange it was published to; empty for the default one.
    pub fn exchange(&self) -> &str {
        self.0.exchange.as_str()
    }

    /// Whether it may have been given out before: a repetition is among these.
    pub fn redelivered(&self) -> bool {
        self.0.redelivered
    }

    /// The id that its publisher gave it. That of `RabbitSink` is the same for every repetition.
    pub fn id(&self) -> Option<&str> {
        self.0.properties.message_id().as_ref().map(|id| id.as_str())
    }

    /// The type of its body, such as `application/json`.
    pub fn content_type(&self) -> Option<&str> {
        self.0.properties.content_type().as_ref().map(|text| text.as_str())
    }

    /// A header as text; `None` where there is none, and for lists, tables and void.
    pub fn header(&self, name: &str) -> Option<String> {
        let headers = self.0.properties.headers().as_ref()?;
        Some(match headers.inner().get(name)? {
            AMQPValue::LongString(text) => text.to_string(),
            AMQPValue::ShortString(text) => text.to_string(),
            AMQPValue::Boolean(value) => value.to_string(),
            AMQPValue::ShortShortInt(value) => value.to_string(),
            AMQPValue::ShortShortUInt(value) => value.to_string(),
            AMQPValue::ShortInt(value) => value.to_string(),
            AMQPValue::ShortUInt(value) => value.to_string(),
            AMQPValue::LongInt(value) => value.to_string(),
            AMQPValue::LongUInt(value) => value.to_string(),
            AMQPValue::LongLongInt(value) => value.to_string(),
            AMQPValue::Timestamp(value) => value.to_string(),
            AMQPValue::Float(value) => value.to_string(),
            AMQPValue::Double(value) => value.to_string(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::BasicProperties;
    use lapin::types::FieldTable;

    #[test]
    fn headers_are_text_whatever_their_type() {
        let mut delivery = Delivery::mock(7, "shop".into(), "orders.new".into(), true, b"body".to_vec());
        let mut headers = FieldTable::default();
        headers.insert("text".into(), AMQPValue::LongString("grün".into()));
        headers.insert("number".into(), AMQPValue::LongLongInt(-3));
        headers.insert("list".into(), AMQPValue::FieldArray(Vec::new().into()));
        delivery.properties = BasicProperties::default().with_headers(headers).with_message_id("m-1".into());
        let message = Message(delivery);
        assert_eq!(message.header("text").as_deref(), Some("grün"));
        assert_eq!(message.header("number").as_deref(), Some("-3"));
        assert_eq!((message.header("list"), message.header("none")), (None, None));
        assert_eq!((message.id(), message.content_type()), (Some("m-1"), None));
        assert_eq!((message.exchange(), message.routing_key()), ("shop", "orders.new"));
        assert!(message.redelivered());
        assert_eq!(message.body(), b"body");
    }
}
