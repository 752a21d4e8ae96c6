//! `schema export` and `schema diff`: contracts as files, and whether a change of them breaks anybody.

use afflux_wire::schema::{Direction, MethodDescriptor, Mismatch, differences};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::args::{Global, SchemaCommand, SchemaDiffArgs, SchemaExportArgs};
use super::output::{print, print_json, print_line};
use crate::app::App;
use crate::error::{Error, Result};
use crate::node_service::{MethodInfo, OWN_PREFIX, ServiceInfo};

/// What stands in front of an export, so that another file is not taken for one.
const FORMAT: &str = "afflux.schema/1";

/// The contracts of a program.
#[derive(Debug, Serialize, Deserialize)]
struct Export {
    format: String,
    services: Vec<Exported>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Exported {
    #[serde(flatten)]
    service: ServiceInfo,
    /// A method's name to its fingerprint.
    #[serde(default)]
    fingerprints: std::collections::BTreeMap<String, String>,
}

pub(crate) fn schema(app: &App, global: &Global, command: &SchemaCommand) -> Result<()> {
    match command {
        SchemaCommand::Export(args) => export(app, args),
        SchemaCommand::Diff(args) => diff(global, args),
        SchemaCommand::Proto(args) => super::proto::proto(app, args),
    }
}

fn export(app: &App, args: &SchemaExportArgs) -> Result<()> {
    let export = exported(app.contracts());
    let text = serde_json::to_string_pretty(&sorted(serde_json::to_value(&export)?))? + "\n";
    match &args.out {
        None => print(&text),
        Some(file) => {
            std::fs::write(file, &text)
                .map_err(|error| Error::failed(format!("{}: cannot be written: {error}", file.display())))?;
            let names: Vec<&str> = export.services.iter().map(|s| s.service.name.as_str()).collect();
            print_line(&format!("{}: {}", file.display(), names.join(", ")))
        }
    }
}

fn exported(mut services: Vec<ServiceInfo>) -> Export {
    services.retain(|service| !service.name.starts_with(OWN_PREFIX));
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services.dedup_by(|a, b| a.name == b.name);
    let services = services
        .into_iter()
        .map(|service| {
            let fingerprints = service
                .methods
                .iter()
                .map(|method| (method.name.clone(), descriptor(method).fingerprint().to_string()))
                .collect();
            Exported { service, fingerprints }
        })
        .collect();
    Export { format: FORMAT.to_owned(), services }
}

/// The same with the keys of each object in order, so that a file changes where the contract does.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: std::collections::BTreeMap<String, Value> =
                map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(ordered.into_iter().collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn descriptor(method: &MethodInfo) -> MethodDescriptor {
    MethodDescriptor {
        name: method.name.clone(),
        kind: method.kind.clone(),
        params: method.params.clone(),
        returns: method.returns.clone(),
        error: method.error.clone(),
        accepts: method.accepts.clone(),
        streams: method.streams.clone(),
    }
}

/// A place where two files do not fit together.
#[derive(Debug, PartialEq, Serialize)]
struct Finding {
    service: String,
    method: String,
    /// Which file the client is of: `old` or `new`; the server is of the other.
    client: &'static str,
    #[serde(flatten)]
    mismatch: Mismatch,
    text: String,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    /// Clients of the old file cannot call servers of the new one.
    breaking: Vec<Finding>,
    /// Clients of the new file cannot call servers of the old one: servers have to be replaced first.
    servers_first: Vec<Finding>,
    /// What there is more of.
    added: Vec<String>,
}

fn diff(global: &Global, args: &SchemaDiffArgs) -> Result<()> {
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let report = compare(&old, &new);
    let compatible = report.breaking.is_empty() && (!args.full || report.servers_first.is_empty());
    if global.json {
        print_json(&serde_json::json!({
            "compatible": compatible,
            "breaking": report.breaking,
            "servers_first": report.servers_first,
            "added": report.added,
        }))?;
    } else {
        let mut text = String::new();
        for finding in &report.breaking {
            text.push_str(&format!("BREAKS {}\n", finding.text));
        }
        for finding in &report.servers_first {
            text.push_str(&format!("{} {}\n", if args.full { "BREAKS" } else { "later " }, finding.text));
        }
        for added in &report.added {
            text.push_str(&format!("added  {added}\n"));
        }
        if text.is_empty() {
            text.push_str("nothing that matters has changed\n");
        }
        if !args.full && !report.servers_first.is_empty() {
            text.push_str("\n`later`: replace all servers before the first client uses it\n");
        }
        print(&text)?;
    }
    match compatible {
        true => Ok(()),
        false => {
            let count = report.breaking.len() + if args.full { report.servers_first.len() } else { 0 };
            let what = if count == 1 { "place is" } else { "places are" };
            Err(Error::failed(format!("{count} {what} incompatible")).hint(
                "keep the old field beside the new one, give it a default, or make a new method: see docs/book/evolution.md",
            ))
        }
    }
}

fn read(path: &std::path::Path) -> Result<Export> {
    let wrong = |what: String| {
        Error::usage(format!("{}: {what}", path.display()))
            .hint("write such a file with `schema export --out FILE`")
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let export: Export =
        serde_json::from_str(&text).map_err(|error| wrong(format!("is no exported schema: {error}")))?;
    if export.format != FORMAT {
        return Err(wrong(format!("has the format {}, this program reads {FORMAT}", export.format)));
    }
    Ok(export)
}

fn compare(old: &Export, new: &Export) -> Report {
    let mut report = Report::default();
    let find = |export: &'_ Export, name: &str| {
        export.services.iter().position(|service| service.service.name == name)
    };
    for Exported { service: before, .. } in &old.services {
        let Some(after) = find(new, &before.name).map(|at| &new.services[at].service) else {
            for method in &before.methods {
                report.breaking.push(missing(&before.name, &method.name));
            }
            continue;
        };
        for method in &before.methods {
            let Some(changed) = after.methods.iter().find(|other| other.name == method.name) else {
                report.breaking.push(missing(&before.name, &method.name));
                continue;
            };
            let (was, is) = (descriptor(method), descriptor(changed));
            let found = |client: &'static str, mismatch: Mismatch| {
                let (c, s) = if client == "old" { ("in OLD", "in NEW") } else { ("in NEW", "in OLD") };
                let way = match mismatch.direction {
                    Direction::Request => "request",
                    Direction::Response => "response",
                };
                let text = format!(
                    "{}/{}, {way} of a client of {} to a server of {}: {}",
                    before.name,
                    method.name,
                    &c[3..],
                    &s[3..],
                    mismatch.text(s, c)
                );
                Finding { service: before.name.clone(), method: method.name.clone(), client, mismatch, text }
            };
            report.breaking.extend(differences(&was, &is).into_iter().map(|m| found("old", m)));
            report.servers_first.extend(differences(&is, &was).into_iter().map(|m| found("new", m)));
        }
        let known = |name: &str| before.methods.iter().any(|method| method.name == name);
        report.added.extend(
            after.methods.iter().filter(|m| !known(&m.name)).map(|m| format!("{}/{}", before.name, m.name)),
        );
    }
    report.added.extend(
        new.services
            .iter()
            .filter(|service| find(old, &service.service.name).is_none())
            .map(|service| service.service.name.clone()),
    );
    report
}

fn missing(service: &str, method: &str) -> Finding {
    Finding {
        service: service.to_owned(),
        method: method.to_owned(),
        client: "old",
        mismatch: Mismatch {
            part: afflux_wire::schema::Part::Method,
            direction: Direction::Request,
            path: String::new(),
            client: "called".to_owned(),
            server: "gone".to_owned(),
        },
        text: format!("{service}/{method} is gone in NEW, and clients of OLD call it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn export(qty: &str, required: &[&str], methods: &[&str]) -> Export {
        let methods = methods
            .iter()
            .map(|name| MethodInfo {
                name: (*name).to_owned(),
                kind: "unary".to_owned(),
                params: json!({ "type": "object", "required": required, "properties": {
                    "qty": { "type": "integer", "format": qty }, "sku": { "type": "string" } } }),
                returns: json!({ "type": "null" }),
                ..MethodInfo::default()
            })
            .collect();
        let service =
            ServiceInfo { name: "shop.orders".into(), version: "1".into(), doc: String::new(), methods };
        exported(vec![service])
    }

    #[test]
    fn a_wider_request_breaks_nobody_but_needs_the_servers_first() {
        let report = compare(&export("uint32", &[], &["Place"]), &export("int64", &[], &["Place", "Get"]));
        assert!(report.breaking.is_empty(), "{report:?}");
        assert_eq!(
            report.servers_first[0].text,
            "shop.orders/Place, request of a client of NEW to a server of OLD: field qty is u32 in OLD but i64 in NEW"
        );
        assert_eq!(report.added, ["shop.orders/Get"]);
    }

    #[test]
    fn a_new_required_field_and_a_method_that_is_gone_break_old_clients() {
        let report =
            compare(&export("uint32", &[], &["Get", "Place"]), &export("uint32", &["sku"], &["Place"]));
        let texts: Vec<&str> = report.breaking.iter().map(|finding| finding.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "shop.orders/Get is gone in NEW, and clients of OLD call it",
                "shop.orders/Place, request of a client of OLD to a server of NEW: field sku is required in NEW but optional in OLD"
            ]
        );
    }

    #[test]
    fn an_export_is_read_back_and_equal_to_itself() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("schema.json");
        let value = serde_json::to_value(export("uint32", &[], &["Place"])).unwrap();
        std::fs::write(&file, sorted(value).to_string()).unwrap();
        let report = compare(&read(&file).unwrap(), &export("uint32", &[], &["Place"]));
        assert!(report.breaking.is_empty() && report.servers_first.is_empty() && report.added.is_empty());
        std::fs::write(&file, "{}").unwrap();
        assert_eq!(read(&file).unwrap_err().exit_code(), 2);
    }
}
