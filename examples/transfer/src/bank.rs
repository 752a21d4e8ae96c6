//! A bank: accounts, and bookings that are made once however often they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use afflux::prelude::*;

use crate::journal::Journal;

/// The accounts of one bank, in cents.
#[derive(Service)]
#[service(name = "bank.accounts", version = "1.0", error = BankError)]
pub(crate) enum Accounts {
    /// Books an amount, which may be negative. One transfer books once.
    #[rpc(returns = i64, idempotent)]
    Book { transfer: String, account: String, cents: i64 },
    /// Takes a transfer's booking back, and lets none follow.
    #[rpc(idempotent)]
    Undo { transfer: String },
    /// What an account holds.
    #[rpc(returns = i64, readonly)]
    Balance { account: String },
}

#[derive(RpcError, Serialize, Deserialize, JsonSchema, Debug)]
pub(crate) enum BankError {
    #[rpc(code = NotFound)]
    NoSuchAccount { account: String },
    #[rpc(code = FailedPrecondition)]
    TooLittle { account: String, cents: i64 },
    #[rpc(code = Aborted)]
    Undone { transfer: String },
}

#[derive(Serialize, Deserialize)]
enum Entry {
    Booked { transfer: String, account: String, cents: i64 },
    Undone { transfer: String },
}

#[derive(Actor)]
#[actor(serves(Accounts))]
pub(crate) struct Bank {
    accounts: BTreeMap<String, i64>,
    booked: BTreeMap<String, (String, i64)>,
    undone: BTreeSet<String>,
    journal: Journal,
}

impl Bank {
    /// A bank with these accounts to begin with, and all that its journal says of them.
    pub(crate) fn open(journal: &Path, accounts: &[(&str, i64)]) -> Result<Self> {
        let (journal, entries) = Journal::open(journal)?;
        let accounts = accounts.iter().map(|&(name, cents)| (name.to_owned(), cents)).collect();
        let mut bank = Self { accounts, booked: BTreeMap::new(), undone: BTreeSet::new(), journal };
        entries.into_iter().for_each(|entry| bank.apply(entry));
        Ok(bank)
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Booked { transfer, account, cents } => {
                *self.accounts.entry(account.clone()).or_default() += cents;
                self.booked.insert(transfer, (account, cents));
            }
            Entry::Undone { transfer } => {
                if let Some((account, cents)) = self.booked.remove(&transfer) {
                    *self.accounts.entry(account).or_default() -= cents;
                }
                self.undone.insert(transfer);
            }
        }
    }

    fn note(&mut self, entry: Entry) -> Result<(), Status> {
        self.journal.append(&entry)?;
        self.apply(entry);
        Ok(())
    }

    fn held(&self, account: &str) -> Result<i64, BankError> {
        self.accounts
            .get(account)
            .copied()
            .ok_or_else(|| BankError::NoSuchAccount { account: account.into() })
    }
}

impl AccountsHandler for Bank {
    async fn book(
        &mut self,
        _: &mut Cx,
        transfer: String,
        account: String,
        cents: i64,
    ) -> Result<i64, Fault<BankError>> {
        if self.undone.contains(&transfer) {
            return Err(BankError::Undone { transfer }.into());
        }
        let held = self.held(&account)?;
        if self.booked.contains_key(&transfer) {
            return Ok(held);
        }
        if held + cents < 0 {
            return Err(BankError::TooLittle { account, cents: held }.into());
        }
        self.note(Entry::Booked { transfer, account, cents })?;
        Ok(held + cents)
    }

    async fn undo(&mut self, _: &mut Cx, transfer: String) -> Result<(), Fault<BankError>> {
        if !self.undone.contains(&transfer) {
            self.note(Entry::Undone { transfer })?;
        }
        Ok(())
    }

    async fn balance(&mut self, _: &mut Cx, account: String) -> Result<i64, Fault<BankError>> {
        Ok(self.held(&account)?)
    }
}
