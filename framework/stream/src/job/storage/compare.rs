//! What a pipeline finds of itself in a checkpoint, before it starts from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use afflux_wire::Status;

use super::file::{FOOT_BYTES, Index};
use super::{CheckpointFile, Manifest, Storage, damaged, failed, lost};
use crate::Result;
use crate::flow::Plan;
use crate::graph::OperatorKind;
use crate::key::KEY_GROUPS;
use crate::snapshot::{PartKind, Role, Schema};

/// What becomes of the state in a checkpoint when a pipeline starts from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// The job that it is of.
    pub job: String,
    /// Its epoch.
    pub epoch: u64,
    /// `operator/state` that the pipeline goes on with, and their rows.
    pub kept: Vec<(String, u64)>,
    /// Operators of the pipeline that begin without anything.
    pub new: Vec<String>,
    /// `operator/state` that no operator of the pipeline takes, and their rows.
    pub orphaned: Vec<(String, u64)>,
}

impl fmt::Display for StateChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |states: &[(String, u64)]| match states {
            [] => "nothing".to_owned(),
            some => {
                let some = some.iter().map(|(name, rows)| format!("{name} ({rows} rows)"));
                some.collect::<Vec<_>>().join(", ")
            }
        };
        let new = if self.new.is_empty() { "nothing".to_owned() } else { self.new.join(", ") };
        let (kept, orphaned) = (listed(&self.kept), listed(&self.orphaned));
        write!(f, "from {}/{}: kept {kept}; new {new}; orphaned {orphaned}", self.job, self.epoch)
    }
}

/// One state of all tasks, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateLook {
    /// The operator.
    pub operator: String,
    /// The state's name in the operator.
    pub state: String,
    /// How many values it has.
    pub kind: PartKind,
    /// Tasks that saved it.
    pub tasks: u32,
    /// Its rows.
    pub rows: u64,
    /// Bytes of the rows.
    pub bytes: u64,
    /// What a row is, such as `[int, Order]`.
    pub row: String,
    /// The structs and enums in it: `Order { id: int, note: str? }`.
    pub shapes: BTreeSet<String>,
}

impl Storage {
    /// Compares a checkpoint with the pipeline that is to start from it.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when it cannot: another number of key groups; a state whose type has
    /// changed in a way that loses something, with operator, state, field and both types; a state with
    /// rows that no operator takes, unless `allow_orphaned`.
    pub async fn compare(
        &self,
        job: &str,
        epoch: u64,
        plan: &Plan,
        allow_orphaned: bool,
    ) -> Result<StateChange> {
        let manifest = self.manifest(job, epoch).await?;
        if manifest.key_groups != 0 && manifest.key_groups != KEY_GROUPS {
            return Err(Status::precondition(format!(
                "checkpoint {job}/{epoch} has {} key groups and this build {KEY_GROUPS}: keys would be looked \
                 for in the wrong tasks; start from it with a build of {} key groups, or without it",
                manifest.key_groups, manifest.key_groups
            )));
        }
        let change = change_of(&manifest, plan);
        if !change.orphaned.is_empty() && !allow_orphaned {
            let lost: Vec<&str> = change.orphaned.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Status::precondition(format!(
                "no operator of pipeline {} takes the state {} of checkpoint {job}/{epoch}; give the operator \
                 its old name again, or drop the state with `--allow-orphaned-state`",
                plan.graph().pipeline,
                lost.join(", ")
            )));
        }
        for file in &manifest.files {
            if file.states.iter().all(|state| state.kind != PartKind::Rows || state.rows == 0) {
                continue;
            }
            let index = self.index(job, file).await?;
            for part in &index.parts {
                let spec =
                    plan.states().iter().find(|s| s.operator == part.operator && s.state == part.state);
                let Some(spec) = spec else { continue };
                let mut seen = BTreeSet::new();
                for block in
                    part.blocks.iter().filter(|b| b.rows > 0 && b.role != Role::Gone && seen.insert(b.schema))
                {
                    let schema = index.schemas.get(block.schema as usize);
                    let schema = schema.map_or(&EMPTY, |schema| &**schema);
                    (spec.readable)(schema).map_err(|why| {
                        Status::precondition(format!(
                            "state `{}` of operator `{}` in checkpoint {job}/{epoch} is not what pipeline {} \
                             keeps now: {why}",
                            part.state,
                            part.operator,
                            plan.graph().pipeline
                        ))
                    })?;
                }
            }
        }
        Ok(change)
    }

    /// The states of a checkpoint or a savepoint, for people.
    ///
    /// # Errors
    /// As [`Storage::manifest`]; `DATA_LOSS` when a file's index cannot be read.
    pub async fn look(&self, job: &str, epoch: u64) -> Result<(Manifest, Vec<StateLook>)> {
        let manifest = self.manifest(job, epoch).await?;
        let mut looks: BTreeMap<(String, String), StateLook> = BTreeMap::new();
        for file in &manifest.files {
            let index = self.index(job, file).await?;
            for part in &index.parts {
                let name = (part.operator.clone(), part.state.clone());
                let look = looks.entry(name).or_insert_with(|| StateLook {
                    operator: part.operator.clone(),
                    state: part.state.clone(),
                    kind: part.kind,
                    ..StateLook::default()
                });
                look.tasks += 1;
                look.rows += part.left.unwrap_or_else(|| part.blocks.iter().map(|block| block.rows).sum());
                for block in &part.blocks {
                    look.bytes += block.bytes;
                    if let Some(schema) = index.schemas.get(block.schema as usize) {
                        if look.row.is_empty() {
                            look.row.clone_from(&schema.row);
                        }
                        look.shapes.extend(schema.shapes.iter().map(ToString::to_string));
                    }
                }
            }
        }
        Ok((manifest, looks.into_values().collect()))
    }

    /// What stands at the end of a file, without the rest of it.
    async fn index(&self, job: &str, file: &CheckpointFile) -> Result<Index> {
        let path = Path::from(format!("{job}/{}", file.name));
        let read = async |range| {
            let read = self.store.get_range(&path, range).await;
            read.map_err(|e| match e {
                object_store::Error::Generic { .. } => damaged(&self.place, &path, &e.to_string()),
                e => lost(failed(&self.place, &path, &e)),
            })
        };
        let body = file.bytes.saturating_sub(FOOT_BYTES as u64);
        let foot = read(body..file.bytes).await?;
        let wrong = |why: String| damaged(&self.place, &path, &why);
        let (length, crc32) = Index::foot(&foot).map_err(wrong)?;
        let from = body.checked_sub(length as u64);
        let from = from.ok_or_else(|| wrong("its index is longer than the file".to_owned()))?;
        Index::read(&read(from..body).await?, crc32).map_err(wrong)
    }
}

static EMPTY: Schema = Schema { row: String::new(), shapes: Vec::new(), samples: Vec::new() };

fn change_of(manifest: &Manifest, plan: &Plan) -> StateChange {
    let mut saved: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for state in manifest.files.iter().flat_map(|file| &file.states) {
        *saved.entry((&state.operator, &state.state)).or_default() += state.rows;
    }
    for part in manifest.finished.iter().flat_map(|snapshot| &snapshot.parts) {
        *saved.entry((&part.operator, &part.state)).or_default() += part.rows();
    }
    let operators = &plan.graph().operators;
    let (mut kept, mut orphaned) = (Vec::new(), Vec::new());
    for ((operator, state), rows) in &saved {
        let named = (format!("{operator}/{state}"), *rows);
        if operators.iter().any(|o| o.name == *operator) {
            kept.push(named);
        } else if *rows > 0 {
            orphaned.push(named);
        }
    }
    let new = operators
        .iter()
        .filter(|o| matches!(o.kind, OperatorKind::Source | OperatorKind::Keyed))
        .filter(|o| !saved.keys().any(|(operator, _)| *operator == o.name))
        .map(|o| o.name.clone())
        .collect();
    StateChange { job: manifest.job.clone(), epoch: manifest.epoch, kept, new, orphaned }
}
