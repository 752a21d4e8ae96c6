//! `call`: one method with JSON parameters.

use std::io::Read;
use std::time::Duration;

use afflux_wire::contract::CallMeta;
use afflux_wire::schema::Type;
use afflux_wire::{Code, NodeId, codec};

use super::args::{CallArgs, Global};
use super::output::print_line;
use crate::catalogue::Catalogue;
use crate::client::Client;
use crate::contract::Target;
use crate::error::{Error, Result};

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
    // What is wrong is told before anything is sent: a service that nobody offers, a method that it does not have,
    // a field that is missing or no field at all.
    let hint = format!("`describe {service}` shows its methods and their parameters");
    let info = match Catalogue::new(client.clone()).method(service, method).await {
        Ok(info) => info,
        Err(status) if matches!(status.code, Code::NotFound | Code::Unimplemented) => {
            let (what, near) = status.message.split_once(": ").unwrap_or((&status.message, &hint));
            return Err(Error::usage(what.to_owned()).hint(near.to_owned()));
        }
        Err(status) => return Err(status.into()),
    };
    let problems = Type::of(&info.params).problems(&params);
    if !problems.is_empty() {
        return Err(Error::usage(format!("{service}/{method}: {}", problems.join("\n  "))).hint(hint));
    }
    let deadline = Duration::from_millis(args.deadline_ms.unwrap_or(info.deadline_ms));
    if info.accepts.is_some() || info.streams.is_some() {
        if args.params == "-" && info.accepts.is_some() {
            return Err(Error::usage(format!("stdin has the items of {service}/{method}"))
                .hint("write the parameters behind the method: '{\"batch\":\"monday\"}'"));
        }
        return super::stream_call::call(&client, &target, &info, &params, deadline).await;
    }
    let meta = CallMeta {
        deadline: Some(afflux_actor::clock::now() + deadline),
        idempotency_key: args.idempotency_key.as_ref().map(|key| key.as_bytes().into()),
        ..CallMeta::default()
    };
    let params = codec::to_named(&params)?;
    if info.kind == "oneway" && !info.ack {
        return send(&client, &target, method, params, meta).await;
    }
    let result = client.mesh().call_raw_with(&target, method, params, meta).await;
    let bytes = match result {
        Ok(bytes) => bytes,
        Err(status) => {
            let wrong_use = matches!(status.code, Code::InvalidArgument | Code::Unimplemented);
            let error = if wrong_use { Error::usage(status.to_string()) } else { Error::from(status) };
            return Err(match wrong_use {
                true => error.hint(hint),
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

/// A one-way call to one node. The node is asked for something behind it, so that it has left when the command ends.
async fn send(client: &Client, target: &Target, method: &str, params: Vec<u8>, meta: CallMeta) -> Result<()> {
    let view = client.view().await?;
    let node = match &target.node {
        Some(node) => node.clone(),
        None => match view.offering(&target.service).next() {
            Some(instance) => instance.node.clone(),
            None => return Err(Error::failed(format!("no node offers {}", target.service))),
        },
    };
    let there = Target::on(&target.service, node.clone());
    client.mesh().notify_raw(&there, method, params, meta).await?;
    client.node(&node).info().await.map_err(|error| Error::from(error.into_status()))?;
    print_line(&format!("sent to {node}"))
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
    let mut text = String::new();
    match params.strip_prefix('@') {
        Some(path) => {
            let file = std::fs::File::open(path)
                .map_err(|error| Error::usage(format!("{path}: cannot be read: {error}")))?;
            file.take(PARAMS_BYTES_MAX).read_to_string(&mut text)?;
        }
        None if params == "-" => {
            std::io::stdin().lock().take(PARAMS_BYTES_MAX).read_to_string(&mut text)?;
        }
        None => text.push_str(params),
    }
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
