//! The saga: each step is written down before the next, and each can be repeated.
//!
//! ```text
//! Begun ── withdraw ──▶ Withdrawn ── deposit ──▶ Done
//!   └─ refused ─▶ Refused ◀─ undo the withdrawal ─┘
//! ```
//!
//! No two banks ever agree on one moment: between the steps the money is in neither. What holds is that
//! every transfer ends as Done or Refused, whatever crashes, and that nothing is booked twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use afflux::prelude::*;

use crate::bank::{AccountsClient, BankError};
use crate::journal::Journal;

/// Moves money between banks.
#[derive(Service)]
#[service(name = "bank.transfers", version = "1.0")]
pub(crate) enum Transfers {
    /// Moves an amount. The same id is the same transfer: asking again gives the same outcome.
    #[rpc(returns = Outcome, idempotent, deadline = "5s")]
    Transfer { id: String, order: Order },
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
pub(crate) struct Order {
    pub(crate) from: (String, String),
    pub(crate) to: (String, String),
    pub(crate) cents: i64,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug)]
pub(crate) enum Outcome {
    Done,
    Refused { why: String },
}

#[derive(Serialize, Deserialize, Clone)]
enum Step {
    Begun(Order),
    Withdrawn,
    Ended(Outcome),
}

#[derive(Serialize, Deserialize)]
struct Entry {
    id: String,
    step: Step,
}

#[derive(Actor)]
#[actor(serves(Transfers), lifecycle)]
pub(crate) struct Desk {
    orders: BTreeMap<String, (Order, Step)>,
    journal: Journal,
    banks: BTreeMap<String, AccountsClient>,
    crash_once: Arc<AtomicBool>,
}

impl Desk {
    pub(crate) fn open(
        journal: &Path,
        banks: BTreeMap<String, AccountsClient>,
        crash_once: Arc<AtomicBool>,
    ) -> Result<Self> {
        let (journal, entries) = Journal::open(journal)?;
        let mut desk = Self { orders: BTreeMap::new(), journal, banks, crash_once };
        entries.into_iter().for_each(|entry| desk.apply(entry));
        Ok(desk)
    }

    fn apply(&mut self, Entry { id, step }: Entry) {
        match (&step, self.orders.get_mut(&id)) {
            (_, Some((_, last))) => *last = step,
            (Step::Begun(order), None) => drop(self.orders.insert(id, (order.clone(), step))),
            _ => {}
        }
    }

    fn note(&mut self, id: &str, step: Step) -> Result<(), Status> {
        let entry = Entry { id: id.to_owned(), step };
        self.journal.append(&entry)?;
        self.apply(entry);
        Ok(())
    }

    fn bank(&self, name: &str) -> Result<AccountsClient, Status> {
        self.banks.get(name).cloned().ok_or_else(|| Status::not_found(format!("there is no bank {name}")))
    }

    /// Goes on from the last step that was written down, to the end.
    async fn proceed(&mut self, id: &str) -> Result<Outcome, Fault> {
        loop {
            let Some((order, step)) = self.orders.get(id).cloned() else {
                return Err(Status::not_found(format!("there is no transfer {id}")).into());
            };
            let (from, to) = (self.bank(&order.from.0)?, self.bank(&order.to.0)?);
            let next = match step {
                Step::Ended(outcome) => return Ok(outcome),
                Step::Begun(_) => {
                    match from.book(id.to_owned(), order.from.1, -order.cents).await {
                        Ok(_) => Step::Withdrawn,
                        Err(CallError::Typed(refusal, _)) => Step::Ended(refused(&refusal)),
                        // Nobody knows whether it was booked: the step is repeated, now or after a restart.
                        Err(error) => return Err(error.into()),
                    }
                }
                Step::Withdrawn => {
                    assert!(!self.crash_once.swap(false, Ordering::SeqCst), "the machine loses its power");
                    match to.book(id.to_owned(), order.to.1, order.cents).await {
                        Ok(_) => Step::Ended(Outcome::Done),
                        Err(CallError::Typed(refusal, _)) => {
                            from.undo(id.to_owned()).await?;
                            Step::Ended(refused(&refusal))
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            self.note(id, next)?;
        }
    }
}

fn refused(why: &BankError) -> Outcome {
    let why = match why {
        BankError::NoSuchAccount { account } => format!("there is no account {account}"),
        BankError::TooLittle { account, cents } => format!("{account} has only {cents} cents"),
        BankError::Undone { transfer } => format!("{transfer} was taken back"),
    };
    Outcome::Refused { why }
}

impl Lifecycle for Desk {
    async fn started(&mut self, _: &mut Cx) -> Result<(), Status> {
        let open: Vec<String> = self
            .orders
            .iter()
            .filter(|(_, (_, step))| !matches!(step, Step::Ended(_)))
            .map(|(id, _)| id.clone())
            .collect();
        for id in open {
            println!("{id}: goes on where it stopped");
            self.proceed(&id).await.map_err(Fault::into_status)?;
        }
        Ok(())
    }
}

impl TransfersHandler for Desk {
    async fn transfer(&mut self, _: &mut Cx, id: String, order: Order) -> Result<Outcome, Fault> {
        if !self.orders.contains_key(&id) {
            self.note(&id, Step::Begun(order))?;
        }
        self.proceed(&id).await
    }
}
