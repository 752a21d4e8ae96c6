//! Schemas as a contract: what two builds of a service must agree on, and whether they do.
//!
//! A type's JSON Schema becomes a [`Type`] without titles, descriptions, examples and names of definitions. Two of them
//! are the same when their [`Fingerprint`]s are; when they differ, [`differences`] says whether what one side writes can
//! still be read by the other, and where not.
//!
//! Everything here is pure and bounded: a schema may come from a peer.
//!
//! ```
//! use afflux_wire::schema::{Type, unreadable};
//!
//! let old = Type::of(&serde_json::json!({ "type": "integer", "format": "uint32", "minimum": 0 }));
//! let new = Type::of(&serde_json::json!({ "type": "integer", "format": "uint64", "minimum": 0 }));
//! assert!(unreadable(&old, &new).is_empty(), "a u32 is a u64");
//! assert_eq!(unreadable(&new, &old)[0].writer, "u64");
//! ```

mod check;
mod compare;
mod descriptor;
mod fingerprint;
mod parse;
mod shape;

pub use check::PROBLEMS_MAX;
pub use compare::{DIFFERENCES_MAX, Difference, unreadable};
pub use descriptor::{
    DescribeRequest, Direction, MethodDescriptor, Mismatch, Part, ServiceDescriptor, differences,
    incompatibility,
};
pub use fingerprint::Fingerprint;
pub use shape::{SHAPES_MAX, Type};
