//! q21: the channel's number of each bid.

use super::prelude::*;

/// A bid whose channel has a number.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WithChannel {
    /// The bid.
    pub bid: SharedBid,
    /// The number.
    pub channel_id: String,
}

/// Numbers the channels: four by their name, the others by the parameter `channel_id` of the URL. Bids
/// without a number are left out.
pub fn q21(flow: &Flow, log: &Log, out: impl Sink<WithChannel>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .flat_map(|bid: SharedBid| {
            let channel_id = channel_id(&bid)?.to_owned();
            Some(WithChannel { bid, channel_id })
        })
        .sink("answer", out);
}

/// Channels with a number of their own.
const NUMBERED: [(&str, &str); 4] = [("apple", "0"), ("google", "1"), ("facebook", "2"), ("baidu", "3")];

fn channel_id(bid: &Bid) -> Option<&str> {
    match NUMBERED.iter().find(|(name, _)| bid.channel.eq_ignore_ascii_case(name)) {
        Some((_, number)) => Some(number),
        None => parameter(&bid.url, "channel_id="),
    }
}

/// What stands behind `name` up to the next `&`, where `name` begins the text or follows a `&`.
fn parameter<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let value = url.split('&').find_map(|part| part.strip_prefix(name))?;
    Some(value).filter(|value| !value.is_empty())
}

impl Answer for WithChannel {
    const COLUMNS: &'static [Column] = &[Column::Sum];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.channel_id.chars().count() as i64]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_stands_at_the_beginning_or_behind_an_ampersand() {
        assert_eq!(parameter("https://a/b?x=1&channel_id=77&y", "channel_id="), Some("77"));
        assert_eq!(parameter("channel_id=5", "channel_id="), Some("5"));
        assert_eq!(parameter("https://a/b?channel_id=5", "channel_id="), None);
        assert_eq!(parameter("https://a/b?x&channel_id=&y", "channel_id="), None);
    }
}
