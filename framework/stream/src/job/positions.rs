//! Whether the sources of an attempt take up every split that a checkpoint has not read to its end.

use afflux_wire::Status;

use super::deployment::Deployment;
use crate::Result;
use crate::flow::Plan;
use crate::gate::source::{POSITIONS, SavedPosition};
use crate::guarantee::Recall;
use crate::snapshot::Restore;

/// Names in an error.
const NAMED_MAX: usize = 4;

/// Refuses a checkpoint with positions in splits that no task is to read: their rest would be lost, and
/// where the input was cut into splits in another way, its beginning would be read again. What was read to
/// its end may be gone, and who sends again what was not acknowledged keeps no positions.
pub(super) fn check(plan: &Plan, deployment: &Deployment, restore: &Restore) -> Result<()> {
    if deployment.allow_orphaned_state {
        return Ok(());
    }
    for source in plan.sources().iter().filter(|s| s.recall == Recall::Replayable) {
        let dealt = deployment.splits.get(source.chain as usize).map_or(&[][..], Vec::as_slice);
        let mut lost: Vec<String> = restore
            .get::<Vec<SavedPosition>>(&source.operator, POSITIONS)?
            .into_iter()
            .flat_map(|(_, positions)| positions)
            .filter(|(id, _, _, ended)| !ended && !dealt.iter().flatten().any(|split| split.id == *id))
            .map(|(id, ..)| format!("`{id}`"))
            .collect();
        lost.sort_unstable();
        lost.dedup();
        if lost.is_empty() {
            continue;
        }
        let (count, named) =
            (lost.len(), lost.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", "));
        let more = if count > NAMED_MAX { format!(" and {} more", count - NAMED_MAX) } else { String::new() };
        return Err(Status::precondition(format!(
            "the checkpoint is in the middle of {count} splits of source {} that are not there any more: \
             {named}{more}; bring the input back, start with the parallelism that it was cut for, or leave \
             what was not read with `--allow-orphaned-state`",
            source.operator
        )));
    }
    Ok(())
}
