//! The numbers of fields: kept in a committed `.proto` file, because they are what clients rely on.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::prost_types::descriptor_proto::ReservedRange;
use prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};

use crate::error::{Error, Result};

/// Field numbers that protobuf keeps for itself.
const KEPT_BY_PROTOBUF: std::ops::RangeInclusive<i32> = 19_000..=19_999;

/// What is known of the numbers of one package.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    messages: BTreeMap<String, Known>,
    enums: BTreeMap<String, BTreeMap<String, i32>>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    fields: BTreeMap<String, i32>,
    reserved: BTreeSet<i32>,
    reserved_names: BTreeSet<String>,
}

impl Numbers {
    /// The numbers in the text of a `.proto` file.
    ///
    /// # Errors
    /// What is wrong with it, with its line.
    pub(crate) fn parse(name: &str, text: &str) -> Result<(String, Self)> {
        let file: FileDescriptorProto = protox_parse::parse(name, text).map_err(|error| {
            Error::usage(format!("{name} is no .proto file: {error}")).hint("see grpc.proto")
        })?;
        let mut numbers = Self::default();
        for message in &file.message_type {
            numbers.messages.insert(message.name().to_owned(), Known::of(message));
        }
        for known in &file.enum_type {
            let values = known.value.iter().map(|value| (value.name().to_owned(), value.number())).collect();
            numbers.enums.insert(known.name().to_owned(), values);
        }
        let service = file.service.first().map(|service| service.name()).unwrap_or_default();
        let full = match file.package() {
            "" => service.to_owned(),
            package => format!("{package}.{service}"),
        };
        Ok((full, numbers))
    }

    /// The number of a field: the one it has, else the next that was never used.
    pub(super) fn of_field(&self, message: &str, field: &str, taken: &[i32]) -> i32 {
        let known = self.messages.get(message);
        if let Some(number) = known.and_then(|known| known.fields.get(field)) {
            return *number;
        }
        let used = known.into_iter().flat_map(|known| known.fields.values().chain(&known.reserved));
        let next = used.chain(taken).max().map_or(1, |max| max + 1);
        if KEPT_BY_PROTOBUF.contains(&next) { KEPT_BY_PROTOBUF.end() + 1 } else { next }
    }

    pub(super) fn of_value(&self, name: &str, value: &str, taken: &[i32]) -> i32 {
        let known = self.enums.get(name);
        if let Some(number) = known.and_then(|known| known.get(value)) {
            return *number;
        }
        known.into_iter().flat_map(BTreeMap::values).chain(taken).max().map_or(1, |max| max + 1)
    }

    /// Numbers and names of fields that a message had once and that no other may get.
    pub(super) fn reserved(
        &self,
        message: &str,
        fields: &[FieldDescriptorProto],
    ) -> (Vec<ReservedRange>, Vec<String>) {
        let Some(known) = self.messages.get(message) else { return Default::default() };
        let (mut numbers, mut names) = (known.reserved.clone(), known.reserved_names.clone());
        for (name, number) in &known.fields {
            if !fields.iter().any(|field| field.name() == name) {
                numbers.insert(*number);
                names.insert(name.clone());
            }
        }
        // A name that is used again is no longer reserved; its old number is.
        names.retain(|name| !fields.iter().any(|field| field.name() == name));
        let ranges =
            numbers.into_iter().map(|number| ReservedRange { start: Some(number), end: Some(number + 1) });
        (ranges.collect(), names.into_iter().collect())
    }
}

impl Known {
    fn of(message: &DescriptorProto) -> Self {
        Self {
            fields: message.field.iter().map(|field| (field.name().to_owned(), field.number())).collect(),
            reserved: message
                .reserved_range
                .iter()
                .flat_map(|range| range.start()..range.end().min(range.start() + 1_000))
                .collect(),
            reserved_names: message.reserved_name.iter().cloned().collect(),
        }
    }
}
