//! What a caller is told when a mailbox did not take its call.

use super::placement::RETRY_AFTER_FULL_MS;
use super::service::{Accept, Mail, Refused};
use crate::id::NodeId;
use crate::status::{Code, Executed, Stage, Status};

/// The error of a mailbox of `service` that did not take a message, with what waits in it.
#[must_use]
pub fn refusal<M: Mail>(
    service: &str,
    method: &str,
    refused: &Refused<M>,
    mailbox: &dyn Accept<M>,
    node: Option<&NodeId>,
) -> Status {
    let mut status = match refused {
        Refused::Full(_) => Status::new(
            Code::ResourceExhausted,
            format!(
                "the mailbox of {service} is full ({} messages): call less often, raise `mailbox`, or run \
                 more instances",
                mailbox.capacity()
            ),
        )
        .retry_after_ms(RETRY_AFTER_FULL_MS),
        Refused::Closed(_) => Status::unavailable(format!("the actor of {service} has stopped")),
        Refused::Cycle(message, key) => match &message.meta().chain {
            Some(chain) => chain.cycle(&format!("{service}/{method}"), &key.node),
            None => Status::precondition(format!("{service}/{method}: call cycle at {key}")),
        },
    }
    .executed(Executed::No)
    .stage(Stage::Admission);
    if let Some(node) = node {
        status = status.node(node);
    }
    status.details_mut().queue_depth = u32::try_from(mailbox.depth()).ok();
    status
}
