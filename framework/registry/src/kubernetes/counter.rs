//! Counters as Leases that nobody holds: an annotation, changed by writes that meet no other.

use super::NAME;
use super::objects::{Kind, VALUE, annotate, annotation};
use super::shared::Shared;
use crate::error::RegistryError;
use crate::registry::{check_name, counter_of};
use k8s_openapi::api::coordination::v1::Lease;

fn value_of(name: &str, lease: Option<&Lease>) -> Result<i64, RegistryError> {
    let Some(text) = lease.and_then(|lease| annotation(lease, VALUE)) else { return Ok(0) };
    counter_of(NAME, &format!("the Lease of the counter {name:?}"), text.as_bytes())
}

pub(super) async fn get(shared: &Shared, name: &str) -> Result<i64, RegistryError> {
    check_name(name)?;
    value_of(name, shared.get(Kind::Counter, name).await?.as_ref())
}

pub(super) async fn change(
    shared: &Shared,
    name: &str,
    change: impl Fn(i64) -> Result<Option<i64>, RegistryError>,
) -> Result<Option<i64>, RegistryError> {
    check_name(name)?;
    loop {
        let present = shared.get(Kind::Counter, name).await?;
        let Some(new) = change(value_of(name, present.as_ref())?)? else { return Ok(None) };
        let mut lease = present.unwrap_or_else(|| shared.fresh(Kind::Counter, name));
        annotate(&mut lease, VALUE, new.to_string());
        if shared.write(lease).await?.is_some() {
            return Ok(Some(new));
        }
    }
}
