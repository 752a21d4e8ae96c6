//! `call`: one method with JSON parameters.

use std::io::Read;
use std::time::Duration;

use afflux_wire::{Code, NodeId, codec};

use super::args::{CallArgs, Global};
use super::output::print_line;
use crate::contract::Target;
use crate::error::{Error, Result, suggest};

/// The deadline of a call that is given none.
const DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of parameters read from stdin.
const PARAMS_BYTES_MAX: u64 = 16 << 20;

pub(crate) async fn call(global: &Global, args: &CallArgs) -> Result<()> {
    let (service, method) = parse_method(&args.method)?;
    let params = parse_params(&read(&args.params)?)?;
    let client = super::connect(global, &args.cluster).await?;
    let target = match &args.node {
        Some(node) => Target::on(service, NodeId::new(node.as_str())),
        None => Target::service(service),
    };
    // A service that nobody offers is told at once, not waited for until the deadline.
    let view = client.view().await?;
    if view.offering(service).next().is_none()
        && !view.instances.iter().any(|instance| instance.offers(service))
    {
        let offered: std::collections::BTreeSet<&str> =
            view.instances.iter().flat_map(|i| i.services.iter().map(|s| s.name.as_str())).collect();
        return Err(
            Error::usage(format!("no node offers a service `{service}`")).hint(suggest(service, offered))
        );
    }
    let deadline = args.deadline_ms.map_or(DEADLINE, Duration::from_millis);
    let result = client.call_raw(&target, method, codec::to_named(&params)?, deadline).await;
    let bytes = match result {
        Ok(bytes) => bytes,
        Err(status) => {
            let wrong_use = matches!(status.code, Code::InvalidArgument | Code::Unimplemented);
            let error = if wrong_use { Error::usage(status.to_string()) } else { Error::from(status) };
            return Err(match wrong_use {
                true => error.hint(format!("`describe {service}` shows its methods and their parameters")),
                false => error,
            });
        }
    };
    let answer: serde_json::Value =
        if bytes.is_empty() { serde_json::Value::Null } else { codec::from_slice(&bytes)? };
    let text =
        if global.json { serde_json::to_string(&answer)? } else { serde_json::to_string_pretty(&answer)? };
    print_line(&text)
}

fn parse_method(text: &str) -> Result<(&str, &str)> {
    match text.split_once('/') {
        Some((service, method)) if !service.is_empty() && !method.is_empty() && !method.contains('/') => {
            Ok((service, method))
        }
        _ => Err(Error::usage(format!("`{text}` is no method"))
            .hint("write SERVICE/METHOD, such as shop.orders/Get")),
    }
}

fn read(params: &str) -> Result<String> {
    if params != "-" {
        return Ok(params.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().lock().take(PARAMS_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn parse_params(text: &str) -> Result<serde_json::Value> {
    let hint = "parameters are a JSON object in single quotes, such as '{\"id\":7}'";
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(object @ serde_json::Value::Object(_)) => Ok(object),
        Ok(other) => {
            Err(Error::usage(format!("the parameters are {other}, expected a JSON object")).hint(hint))
        }
        Err(error) => Err(Error::usage(format!("the parameters are not JSON: {error}")).hint(hint)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_a_service_and_a_name() {
        assert_eq!(parse_method("shop.orders/Get").unwrap(), ("shop.orders", "Get"));
        for wrong in ["shop.orders", "/Get", "a/", "a/b/c", ""] {
            assert_eq!(parse_method(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn parameters_are_an_object_or_wrong_use() {
        assert!(parse_params("{}").is_ok());
        for (wrong, part) in [("7", "the parameters are 7"), ("{id:7}", "not JSON"), ("", "not JSON")] {
            let error = parse_params(wrong).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(part), "{error}");
        }
    }
}
