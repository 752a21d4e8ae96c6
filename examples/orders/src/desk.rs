//! The desk: an actor that takes orders, and tells those who watch.

use std::collections::BTreeMap;

use afflux::prelude::*;

/// What is ordered.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
pub(crate) struct Line {
    /// The article.
    pub sku: String,
    /// How many; none is refused.
    pub quantity: u32,
}

/// An order was taken.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
pub(crate) struct Event {
    /// Counts the events.
    pub number: u64,
    /// The order.
    pub order: u64,
    /// What was ordered.
    pub line: Line,
}

/// What became of a batch.
#[derive(Serialize, Deserialize, JsonSchema, Debug)]
pub(crate) struct Summary {
    /// Lines that became orders.
    pub taken: u64,
    /// Lines that did not.
    pub refused: u64,
}

/// Why an order fails.
#[derive(RpcError, Serialize, Deserialize, JsonSchema, Debug)]
pub(crate) enum OrderError {
    /// There is nothing to deliver.
    #[rpc(code = InvalidArgument)]
    Nothing,
}

/// Takes orders.
#[derive(Service)]
#[service(name = "shop.orders", version = "1.0", error = OrderError)]
pub(crate) enum Orders {
    /// Places an order; returns its number.
    #[rpc(returns = u64)]
    Place {
        /// What is ordered.
        line: Line,
    },
    /// Somebody has looked at an order.
    #[rpc(oneway)]
    Touch {
        /// Its number.
        order: u64,
    },
    /// What has happened since an event, and whatever happens from now on.
    #[rpc(streams = Event)]
    Watch {
        /// The number of the last event that is known.
        since: u64,
    },
    /// Places a batch of orders.
    #[rpc(accepts = Line, returns = Summary)]
    Import {
        /// Its name.
        batch: String,
    },
    /// Answers how many of an article are ordered, as often as it is asked.
    #[rpc(accepts = String, streams = u32)]
    Chat,
}

/// See [`Orders`].
#[derive(Actor, Default)]
#[actor(serves(Orders))]
pub(crate) struct OrderDesk {
    events: Vec<Event>,
    ordered: BTreeMap<String, u32>,
    touched: u64,
    watchers: Vec<Emit<Event>>,
}

impl OrderDesk {
    fn take(&mut self, line: Line) -> Result<u64, OrderError> {
        if line.quantity == 0 {
            return Err(OrderError::Nothing);
        }
        *self.ordered.entry(line.sku.clone()).or_default() += line.quantity;
        let number = self.events.len() as u64 + 1;
        let event = Event { number, order: 100 + number, line };
        // One who does not keep up is left behind; it can ask again from its last event.
        self.watchers.retain_mut(|watcher| watcher.try_send(event.clone()).is_ok());
        let order = event.order;
        self.events.push(event);
        Ok(order)
    }
}

impl OrdersHandler for OrderDesk {
    async fn place(&mut self, _: &mut Cx, line: Line) -> Result<u64, Fault<OrderError>> {
        Ok(self.take(line)?)
    }

    async fn touch(&mut self, _: &mut Cx, _order: u64) -> Result<(), Fault<OrderError>> {
        self.touched += 1;
        Ok(())
    }

    async fn watch(&mut self, _: &mut Cx, since: u64, mut out: Emit<Event>) -> Result<(), Fault<OrderError>> {
        for event in self.events.iter().filter(|event| event.number > since) {
            out.send(event.clone()).await?;
        }
        // Kept, not waited for: the desk is free for its next call.
        self.watchers.push(out);
        Ok(())
    }

    async fn import(
        &mut self,
        _: &mut Cx,
        _batch: String,
        mut lines: Incoming<Line>,
    ) -> Result<Summary, Fault<OrderError>> {
        let mut summary = Summary { taken: 0, refused: 0 };
        while let Some(line) = lines.next().await {
            match self.take(line?) {
                Ok(_) => summary.taken += 1,
                Err(OrderError::Nothing) => summary.refused += 1,
            }
        }
        Ok(summary)
    }

    async fn chat(
        &mut self,
        cx: &mut Cx,
        mut questions: Incoming<String>,
        mut answers: Emit<u32>,
    ) -> Result<(), Fault<OrderError>> {
        let ordered = self.ordered.clone();
        // Runs beside the desk, on its thread, and ends with it at the latest.
        cx.spawn(async move {
            while let Some(Ok(sku)) = questions.next().await {
                let quantity = ordered.get(&sku).copied().unwrap_or_default();
                if answers.send(quantity).await.is_err() {
                    return;
                }
            }
        })?;
        Ok(())
    }
}
