//! Where records enter and leave a task. Values above, bytes below: only gates know both.

pub(crate) mod align;
pub(crate) mod hot;
pub(crate) mod input;
pub(crate) mod local;
pub(crate) mod output;
pub(crate) mod partition;
pub(crate) mod source;
pub(crate) mod split;
