//! q1: the price in euro.

use super::prelude::*;

/// A bid and its price in thousandths of a euro cent.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct InEuro {
    /// The bid.
    pub bid: SharedBid,
    /// 0.908 times its price: whole thousandths, since money is no floating-point number.
    pub thousandths: u64,
}

/// Converts each bid's price at 0.908 euro for a dollar.
pub fn q1(flow: &Flow, log: &Log, out: impl Sink<InEuro>) {
    flow.source("bids", log.bids())
        .watermarks(in_order())
        .map(|bid| InEuro { thousandths: bid.price * 908, bid })
        .sink("answer", out);
}

impl Answer for InEuro {
    const COLUMNS: &'static [Column] = &[Column::Thousandths];
    fn cells(&self) -> impl AsRef<[i64]> {
        [self.thousandths as i64]
    }
}
