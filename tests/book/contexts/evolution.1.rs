use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
//> here
