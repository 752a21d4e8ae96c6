//! What a task saves at a barrier and finds again at a restore.
//!
//! A snapshot is a list of parts, each named by operator and state. Keyed parts hold rows tagged
//! with their key group, so that any parallelism can take its share; the others are opaque to all
//! but their owner.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;
use afflux_wire::{Code, Status};

/// What one operator of one task saved under one name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The operator's name: the state's identity.
    pub operator: String,
    /// The state's name in the operator.
    pub state: String,
    /// The subtask that saved it.
    pub subtask: u32,
    /// Version of the part's layout.
    pub version: u32,
    /// Rows in `bytes`, for people.
    pub rows: u64,
    /// The rows, as MessagePack.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// The bit that tells a round of confirmations from a checkpoint. Both are epochs: barriers flow, sinks
/// confirm what came before them, and sources hear of the completion. A round saves nothing.
pub const ROUND: u64 = 1 << 63;

/// Whether an epoch is a round of confirmations.
pub fn is_round(epoch: u64) -> bool {
    epoch & ROUND != 0
}

/// What one task saved at one barrier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskSnapshot {
    /// The epoch of the barrier.
    pub epoch: u64,
    /// What its operators saved.
    pub parts: Vec<Part>,
}

impl TaskSnapshot {
    /// Adds a value that only its owner understands.
    ///
    /// # Errors
    /// When the value cannot be encoded.
    pub fn put<V: Serialize + ?Sized>(
        &mut self,
        operator: &str,
        state: &str,
        subtask: u32,
        rows: u64,
        value: &V,
    ) -> Result<()> {
        let bytes = rmp_serde::to_vec(value)
            .map_err(|e| Status::internal(format!("state {operator}/{state} cannot be encoded: {e}")))?;
        self.block(operator, state, subtask, rows, bytes);
        Ok(())
    }

    /// Adds rows that are encoded already. A state may have several such blocks.
    pub(crate) fn block(&mut self, operator: &str, state: &str, subtask: u32, rows: u64, bytes: Vec<u8>) {
        self.parts.push(Part {
            operator: operator.to_owned(),
            state: state.to_owned(),
            subtask,
            version: 1,
            rows,
            bytes,
        });
    }
}

/// All that the tasks of a job saved at one epoch: what a new attempt starts from.
#[derive(Clone, Debug, Default)]
pub struct Restore {
    parts: Vec<Part>,
}

impl Restore {
    /// The parts of all tasks.
    pub fn new(snapshots: impl IntoIterator<Item = TaskSnapshot>) -> Self {
        Self { parts: snapshots.into_iter().flat_map(|s| s.parts).collect() }
    }

    /// What every task saved for one state of one operator, decoded, with the subtask.
    ///
    /// # Errors
    /// `DATA_LOSS` when the state has another type now.
    pub fn get<V: DeserializeOwned>(&self, operator: &str, state: &str) -> Result<Vec<(u32, V)>> {
        self.parts
            .iter()
            .filter(|p| p.operator == operator && p.state == state)
            .map(|p| {
                rmp_serde::from_slice(&p.bytes).map(|v| (p.subtask, v)).map_err(|e| {
                    Status::new(
                        Code::DataLoss,
                        format!("state {operator}/{state} of the checkpoint has another type now: {e}"),
                    )
                })
            })
            .collect()
    }
}
