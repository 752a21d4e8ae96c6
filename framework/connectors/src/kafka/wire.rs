//! The two questions to a transaction's coordinator for which librdkafka has no call: what is known of
//! the transaction of a process that is gone, and that it is to be ended.
//!
//! FindCoordinator 1, EndTxn 1 and DescribeTransactions 0 of the
//! [Kafka protocol](https://kafka.apache.org/protocol), which brokers have from 3.0 to 4.x, over a socket of
//! its own: in the clear or inside TLS, with or without SASL PLAIN (SaslHandshake 1, SaslAuthenticate 0). EndTxn stays at
//! version 1 on purpose: from 5 on it raises the producer's epoch (KIP-890), by which a transaction is known here.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use afflux_stream::Result;
use afflux_wire::{Code, Status};

use super::cluster::Kafka;
use super::line::{Line, Lines};

/// Longest wait for a connection or an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer is not longer: a few hundred bytes for each topic of a transaction.
const ANSWER_BYTES_MAX: usize = 4 << 20;
const CLIENT: &str = "afflux";

mod api {
    pub(super) const FIND_COORDINATOR: i16 = 10;
    pub(super) const SASL_HANDSHAKE: i16 = 17;
    pub(super) const END_TXN: i16 = 26;
    pub(super) const SASL_AUTHENTICATE: i16 = 36;
    pub(super) const DESCRIBE_TRANSACTIONS: i16 = 65;
}

mod code {
    pub(super) const NONE: i16 = 0;
    pub(super) const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    pub(super) const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    pub(super) const NOT_COORDINATOR: i16 = 16;
    pub(super) const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub(super) const INVALID_TXN_STATE: i16 = 48;
    pub(super) const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
    pub(super) const CONCURRENT_TRANSACTIONS: i16 = 51;
    pub(super) const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
    pub(super) const PRODUCER_FENCED: i16 = 90;
    pub(super) const TRANSACTIONAL_ID_NOT_FOUND: i16 = 105;
}

/// What the coordinator knows of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    /// `Empty`, `Ongoing`, `PrepareCommit`, `PrepareAbort`, `CompleteCommit`, `CompleteAbort`, `Dead`.
    pub(super) state: String,
    pub(super) producer: i64,
    pub(super) epoch: i16,
    /// When the transaction under way, or the last one, began.
    pub(super) start_ms: i64,
}

/// How a transaction was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    /// It is not under way, or somebody else has its id now.
    Refused,
}

/// Asks coordinators, one connection at a time.
pub(super) struct Wire {
    brokers: Vec<String>,
    shown: String,
    sasl: Option<(String, String)>,
    lines: Lines,
    /// The broker that was asked last.
    open: Option<(String, Line)>,
    next: i32,
}

/// What went wrong, and whether another try helps.
fn passing(text: String) -> Status {
    Status::unavailable(text)
}

impl Wire {
    /// # Errors
    /// When the cluster is reached in another way than this can speak.
    pub(super) fn new(kafka: &Kafka) -> Result<Self> {
        let protocol = kafka.property("security.protocol").unwrap_or("plaintext").to_lowercase();
        let mechanism = ["sasl.mechanism", "sasl.mechanisms"].iter().find_map(|name| kafka.property(name));
        let mechanism = mechanism.unwrap_or("GSSAPI");
        let sasl = match protocol.as_str() {
            "plaintext" | "ssl" => None,
            "sasl_plaintext" | "sasl_ssl" if mechanism.eq_ignore_ascii_case("PLAIN") => {
                let of = |name| kafka.property(name).unwrap_or_default().to_owned();
                Some((of("sasl.username"), of("sasl.password")))
            }
            _ => {
                return Err(Status::precondition(format!(
                    "Kafka at {}: `.exactly_once()` ends transactions of a process that is gone over a connection of \
                     its own, which knows `security.protocol` `plaintext` and `ssl`, and `sasl_plaintext` and `sasl_ssl` \
                     with `sasl.mechanism` `PLAIN`, not `{protocol}` with `{mechanism}`; write at least once, or give the \
                     sink a listener that it can use",
                    kafka.shown()
                )));
            }
        };
        let lines = if protocol.ends_with("ssl") { Lines::tls(kafka)? } else { Lines::plain() };
        let brokers =
            kafka.shown().split(',').map(|b| b.trim().to_owned()).filter(|b| !b.is_empty()).collect();
        Ok(Self { brokers, shown: kafka.shown().to_owned(), sasl, lines, open: None, next: 0 })
    }

    fn connect(&mut self, address: &str) -> Result<()> {
        if self.open.as_ref().is_some_and(|(open, _)| open == address) {
            return Ok(());
        }
        self.open = None;
        let wrong = |e: std::io::Error| passing(format!("Kafka at {address} takes no connection: {e}"));
        let mut last = None;
        for socket in address.to_socket_addrs().map_err(wrong)? {
            match TcpStream::connect_timeout(&socket, TIMEOUT) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(TIMEOUT)).map_err(wrong)?;
                    stream.set_write_timeout(Some(TIMEOUT)).map_err(wrong)?;
                    stream.set_nodelay(true).map_err(wrong)?;
                    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                    let line = self.lines.over(stream, host).map_err(wrong)?;
                    self.open = Some((address.to_owned(), line));
                    return self.authenticate();
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| passing(format!("Kafka at {address} has no address")), wrong))
    }

    fn authenticate(&mut self) -> Result<()> {
        let Some((user, password)) = self.sasl.clone() else { return Ok(()) };
        let refused = |code: i16| {
            Status::new(
                Code::Unauthenticated,
                format!(
                    "Kafka does not let user `{user}` in (error {code}): check `sasl.username` and `sasl.password`"
                ),
            )
        };
        let mut request = Request::new(api::SASL_HANDSHAKE, 1, self.number());
        request.string("PLAIN");
        let mut answer = self.ask(request, false)?;
        match answer.i16()? {
            code::NONE => {}
            code => return Err(refused(code)),
        }
        let mut request = Request::new(api::SASL_AUTHENTICATE, 0, self.number());
        let token = format!("\0{user}\0{password}");
        request.i32(token.len() as i32);
        request.bytes.extend(token.as_bytes());
        match self.ask(request, false)?.i16()? {
            code::NONE => Ok(()),
            code => Err(refused(code)),
        }
    }

    const fn number(&mut self) -> i32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Sends a request to the broker that is connected and reads its answer; any failure closes the connection.
    fn ask(&mut self, request: Request, flexible: bool) -> Result<Answer> {
        let Some((address, stream)) = &mut self.open else {
            return Err(passing(format!("Kafka at {} is not connected", self.shown)));
        };
        let asked = exchange(stream, &request, flexible);
        let asked = asked.map_err(|e| passing(format!("Kafka at {address} does not answer: {e}")));
        if asked.is_err() {
            self.open = None;
        }
        asked
    }

    /// Connects to the coordinator of a transactional id.
    fn coordinator(&mut self, id: &str) -> Result<()> {
        let mut last = passing(format!("Kafka at {}: no broker is named", self.shown));
        for broker in self.brokers.clone() {
            match self.coordinator_by(&broker, id) {
                Ok(()) => return Ok(()),
                Err(error) if error.code == Code::Unavailable => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn coordinator_by(&mut self, broker: &str, id: &str) -> Result<()> {
        self.connect(broker)?;
        let mut request = Request::new(api::FIND_COORDINATOR, 1, self.number());
        request.string(id);
        request.bytes.push(1); // of a transaction
        let mut answer = self.ask(request, false)?;
        let (_throttle, error, _message) = (answer.i32()?, answer.i16()?, answer.string()?);
        let (_node, host, port) = (answer.i32()?, answer.string()?, answer.i32()?);
        match error {
            code::NONE => self.connect(&format!("{host}:{port}")),
            code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => Err(forbidden(id)),
            error => {
                Err(passing(format!("Kafka at {broker} has no coordinator for `{id}` now (error {error})")))
            }
        }
    }

    /// What is known of a transactional id; `None` where it is not known.
    pub(super) fn describe(&mut self, id: &str) -> Result<Option<Described>> {
        self.coordinator(id)?;
        let mut request = Request::flexible(api::DESCRIBE_TRANSACTIONS, 0, self.number());
        request.bytes.push(2); // one id
        request.compact(id);
        request.bytes.push(0);
        let mut answer = self.ask(request, true)?;
        let (_throttle, _count) = (answer.i32()?, answer.varint()?);
        let error = answer.i16()?;
        let (_id, state, _timeout) = (answer.compact()?, answer.compact()?, answer.i32()?);
        let (start_ms, producer, epoch) = (answer.i64()?, answer.i64()?, answer.i16()?);
        match error {
            code::NONE => Ok(Some(Described { state, producer, epoch, start_ms })),
            code::TRANSACTIONAL_ID_NOT_FOUND => Ok(None),
            code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => Err(forbidden(id)),
            error => Err(self.not_now(id, error)),
        }
    }

    /// Commits or aborts a transaction.
    pub(super) fn end(&mut self, id: &str, producer: i64, epoch: i16, commit: bool) -> Result<Ended> {
        self.coordinator(id)?;
        let mut request = Request::new(api::END_TXN, 1, self.number());
        request.string(id);
        request.bytes.extend(producer.to_be_bytes());
        request.bytes.extend(epoch.to_be_bytes());
        request.bytes.push(u8::from(commit));
        let mut answer = self.ask(request, false)?;
        let (_throttle, error) = (answer.i32()?, answer.i16()?);
        match error {
            code::NONE => Ok(Ended::Done),
            code::INVALID_PRODUCER_EPOCH
            | code::INVALID_TXN_STATE
            | code::INVALID_PRODUCER_ID_MAPPING
            | code::PRODUCER_FENCED
            | code::TRANSACTIONAL_ID_NOT_FOUND => Ok(Ended::Refused),
            code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED => Err(forbidden(id)),
            error => Err(self.not_now(id, error)),
        }
    }

    fn not_now(&mut self, id: &str, error: i16) -> Status {
        if matches!(error, code::NOT_COORDINATOR | code::COORDINATOR_NOT_AVAILABLE) {
            self.open = None;
        }
        let why = match error {
            code::CONCURRENT_TRANSACTIONS => "its last one is being ended",
            code::COORDINATOR_LOAD_IN_PROGRESS => "its coordinator is being loaded",
            _ => "its coordinator does not answer in order",
        };
        passing(format!(
            "Kafka at {} does not tell of transaction `{id}` now: {why} (error {error})",
            self.shown
        ))
    }
}

fn forbidden(id: &str) -> Status {
    Status::new(
        Code::PermissionDenied,
        format!(
            "Kafka does not let the user end transaction `{id}`: it needs WRITE and DESCRIBE on transactional ids \
             with the sink's prefix"
        ),
    )
}

fn exchange(stream: &mut Line, request: &Request, flexible: bool) -> std::io::Result<Answer> {
    let mut frame = (request.bytes.len() as u32).to_be_bytes().to_vec();
    frame.extend(&request.bytes);
    stream.write_all(&frame)?;
    stream.flush()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    let wrong = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    if length > ANSWER_BYTES_MAX {
        return Err(wrong(format!("an answer of {length} bytes; {ANSWER_BYTES_MAX} are the most")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    let mut answer = Answer { bytes, at: 0 };
    let number = answer.i32().map_err(|e| wrong(e.message))?;
    if number != request.number {
        return Err(wrong(format!("an answer to request {number}, not {}", request.number)));
    }
    if flexible {
        answer.take(1).map_err(|e| wrong(e.message))?; // no tagged fields are expected in a header
    }
    Ok(answer)
}

/// A request as it is written.
struct Request {
    number: i32,
    bytes: Vec<u8>,
}

impl Request {
    fn new(api: i16, version: i16, number: i32) -> Self {
        let mut request = Self { number, bytes: Vec::new() };
        request.bytes.extend(api.to_be_bytes());
        request.bytes.extend(version.to_be_bytes());
        request.i32(number);
        request.string(CLIENT);
        request
    }

    /// With a header that may have tagged fields, and has none.
    fn flexible(api: i16, version: i16, number: i32) -> Self {
        let mut request = Self::new(api, version, number);
        request.bytes.push(0);
        request
    }

    fn i32(&mut self, value: i32) {
        self.bytes.extend(value.to_be_bytes());
    }

    fn string(&mut self, text: &str) {
        self.bytes.extend((text.len() as i16).to_be_bytes());
        self.bytes.extend(text.as_bytes());
    }

    /// A length one greater as a varint, and the text.
    fn compact(&mut self, text: &str) {
        let mut length = text.len() + 1;
        while length >= 0x80 {
            self.bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        self.bytes.push(length as u8);
        self.bytes.extend(text.as_bytes());
    }
}

/// An answer being read.
struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let end = self.at.saturating_add(count);
        let part = self.bytes.get(self.at..end);
        self.at = end;
        part.ok_or_else(|| passing("Kafka gives an answer that is cut off".to_owned()))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn i16(&mut self) -> Result<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn varint(&mut self) -> Result<usize> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(passing("Kafka gives an answer with a number that is too long".to_owned()))
    }

    /// A text, or nothing for none.
    fn string(&mut self) -> Result<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn compact(&mut self) -> Result<String> {
        let length = self.varint()?.saturating_sub(1);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    /// A broker that gives these answers, one after another, and returns what it was asked.
    fn broker(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<Vec<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let told = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            for answer in answers {
                let mut length = [0; 4];
                stream.read_exact(&mut length).unwrap();
                let mut request = vec![0; u32::from_be_bytes(length) as usize];
                stream.read_exact(&mut request).unwrap();
                let number = request[4..8].to_vec();
                asked.push(request);
                stream.write_all(&((4 + answer.len()) as u32).to_be_bytes()).unwrap();
                stream.write_all(&[number, answer].concat()).unwrap();
            }
            asked
        });
        (address, told)
    }

    #[test]
    fn a_property_of_a_connection_that_this_cannot_make_is_refused_with_a_way_out() {
        let error = Wire::new(&Kafka::at("b:9092").set("security.protocol", "SASL_SSL")).err().unwrap();
        for part in ["b:9092", "sasl_ssl", "at least once"] {
            assert!(error.message.contains(part), "{part} is missing in {error}");
        }
        assert!(Wire::new(&Kafka::at("b:9092")).is_ok());
    }

    #[test]
    fn an_answer_is_read_and_a_refusal_is_no_failure() {
        let mut described = vec![0]; // no tagged fields
        described.extend([0; 4]);
        described.push(2);
        described.extend([0; 2]);
        described.extend(b"\x05id-0\x08Ongoing");
        described.extend(60_000_i32.to_be_bytes());
        described.extend(1_700_000_000_000_i64.to_be_bytes());
        described.extend(4001_i64.to_be_bytes());
        described.extend(7_i16.to_be_bytes());
        described.extend([1, 0, 0]);
        let mut described = Answer { bytes: described, at: 1 };
        assert_eq!(
            (described.i32().unwrap(), described.varint().unwrap(), described.i16().unwrap()),
            (0, 2, 0)
        );
        assert_eq!(
            (described.compact().unwrap(), described.compact().unwrap()),
            ("id-0".into(), "Ongoing".into())
        );
        assert_eq!(described.i32().unwrap(), 60_000);
        assert_eq!(described.i64().unwrap(), 1_700_000_000_000);
        assert_eq!((described.i64().unwrap(), described.i16().unwrap()), (4001, 7));
        let (address, told) = broker(vec![[&[0; 4][..], &90_i16.to_be_bytes()].concat()]);
        let mut wire = Wire::new(&Kafka::at(address.as_str())).unwrap();
        wire.connect(&address).unwrap();
        let mut request = Request::new(api::END_TXN, 1, wire.number());
        request.string("id-0");
        let mut answer = wire.ask(request, false).unwrap();
        assert_eq!((answer.i32().unwrap(), answer.i16().unwrap()), (0, code::PRODUCER_FENCED));
        let asked = told.join().unwrap();
        assert_eq!(asked[0], b"\0\x1a\0\x01\0\0\0\x01\0\x06afflux\0\x04id-0");
    }

    #[test]
    fn a_broker_that_is_not_there_may_come_back() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Wire::new(&Kafka::at(closed.to_string())).unwrap().describe("id").unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert!(error.message.contains(&closed.to_string()), "{error}");
    }

    proptest! {
        #[test]
        fn bytes_of_chance_are_an_answer_that_is_cut_off_and_panic_nobody(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut answer = Answer { bytes, at: 0 };
            while answer.string().is_ok() && answer.compact().is_ok() && answer.i64().is_ok() {}
        }

        #[test]
        fn a_compact_text_comes_back(text in ".{0,200}") {
            let mut request = Request { number: 0, bytes: Vec::new() };
            request.compact(&text);
            prop_assert_eq!(Answer { bytes: request.bytes, at: 0 }.compact().unwrap(), text);
        }
    }
}
