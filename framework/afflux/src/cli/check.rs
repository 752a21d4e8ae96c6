//! `check`: are settings and pipelines sound, and where does each setting come from.

use std::collections::BTreeSet;
use std::time::Duration;

use afflux_stream::JobSettings;
use afflux_wire::NodeId;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::args::{CheckArgs, ClusterArgs, Global};
use super::output::{print, print_json};
use super::skew::{judge, measure};
use super::table::table;
use crate::app::App;
use crate::client::Client;
use crate::dashboard::Tile;
use crate::engine::Standing;
use crate::error::{Error, Result};
use crate::node_service::NodeInfo;
use crate::security::{Security, check_exposure, is_open, warning};
use crate::settings::Settings;

pub(crate) async fn check(app: &App, global: &Global, args: &CheckArgs) -> Result<()> {
    let layers = global.layers()?;
    let settings = layers.settings();
    let mut problems = Vec::new();
    let mut pipelines = Vec::new();
    let mut warnings = warnings(&settings);
    let (mut guarantees, mut outside) = (Vec::new(), Vec::new());
    // As few tasks as possible: `check` opens nothing.
    let defaults = JobSettings { parallelism: 1, ..crate::node::job_defaults(&settings) };
    for name in app.pipelines().names() {
        let built = app.pipelines().plan(name, defaults.clone()).and_then(|plan| {
            if args.connect {
                outside.extend(
                    plan.reaches().into_iter().map(|(step, asked)| (format!("{name}, {step}"), asked)),
                );
            }
            plan.splits()?;
            guarantees.extend(plan.guarantees().iter().map(|found| (name.to_owned(), found.clone())));
            warnings.extend(plan.warnings().iter().map(|warning| format!("pipeline {name}: {warning}")));
            Ok(plan.graph().operators.len())
        });
        match built {
            Ok(operators) => pipelines.push((name.to_owned(), format!("ok, {operators} operators"))),
            Err(status) => {
                problems.push(format!("pipeline {name}: {}", status.message));
                pipelines.push((name.to_owned(), status.message));
            }
        }
    }
    if let Err(error) = check_exposure(&settings).and_then(|()| Security::of(&settings).map(|_| ())) {
        problems.push(error.to_string());
    }
    if let Err(error) = Tile::check(app.tiles()) {
        problems.push(error.to_string());
    }
    if let Err(error) = Standing::of(&settings, app.pipelines()) {
        problems.push(error.to_string());
    }
    if !app.pipelines().names().is_empty() && !has_storage(&settings) {
        warnings.push(
            "checkpoint.url and checkpoint.dir are empty: state is lost with its node, and a pipeline that loses \
             one begins anew; exactly once is refused where it is asked for"
                .to_owned(),
        );
    }
    let mut reached = Vec::new();
    if args.connect {
        let mut answers = vec![("checkpoint storage".to_owned(), storage(&settings).await)];
        // Each waits for what it talks to; together they take as long as the slowest.
        let asked =
            outside.into_iter().map(|(step, asked)| async { (step, asked.await.map_err(Error::from)) });
        answers.extend(join_all(asked).await);
        match cluster(global, &settings).await {
            Ok(None) => answers.push(("cluster".to_owned(), Ok("none is set (`node.join`)".to_owned()))),
            Err(error) => answers.push(("cluster".to_owned(), Err(error))),
            Ok(Some((client, nodes))) => {
                answers.push(("cluster".to_owned(), answering(&nodes)));
                let there: Vec<NodeId> = nodes
                    .iter()
                    .filter(|node| node.state != "unreachable")
                    .map(|node| NodeId::new(node.id.as_str()))
                    .collect();
                let lease = Duration::from_millis(settings.registry_ttl_ms);
                let clocks = judge(&measure(&client, &there, now_ms).await, lease);
                warnings.extend(clocks.warnings);
                let told = match clocks.problems.is_empty() {
                    true => Ok(clocks.said),
                    false => Err(Error::failed(clocks.problems.join("; "))),
                };
                answers.push(("clocks".to_owned(), told));
            }
        }
        for (what, answer) in answers {
            let said = match answer {
                Ok(said) => said,
                Err(error) => {
                    problems.push(format!("{what}: {error}"));
                    "FAILED".to_owned()
                }
            };
            reached.push((what, said));
        }
    }
    if global.json {
        print_json(&serde_json::json!({
            "reached": reached.iter().map(|(what, said)| serde_json::json!({ "what": what, "state": said })).collect::<Vec<_>>(),
            "settings": layers.json(),
            "pipelines": pipelines.iter().map(|(name, state)| serde_json::json!({ "name": name, "state": state })).collect::<Vec<_>>(),
            "services": app.service_names(),
            "guarantees": guarantees.iter().map(|(name, found)| serde_json::json!({ "pipeline": name, "guarantee": found })).collect::<Vec<_>>(),
            "warnings": warnings,
            "ok": problems.is_empty(),
        }))?;
    } else {
        let rows: Vec<Vec<String>> = layers
            .rows()
            .into_iter()
            .map(|(setting, shown, origin)| {
                let value = if shown.is_empty() { "(none)".to_owned() } else { shown };
                let value = if setting.unit.is_empty() { value } else { format!("{value} {}", setting.unit) };
                let doc = setting.doc.trim().lines().next().unwrap_or_default().trim().to_owned();
                vec![setting.name.to_owned(), value, origin.to_string(), doc]
            })
            .collect();
        print(&table(&["SETTING", "VALUE", "FROM", "WHAT IT IS FOR"], &rows))?;
        let rows: Vec<Vec<String>> = pipelines.into_iter().map(|(name, state)| vec![name, state]).collect();
        print(&format!("\n{}", table(&["PIPELINE", "STATE"], &rows)))?;
        let services: Vec<Vec<String>> =
            app.service_names().into_iter().map(|name| vec![name.to_owned()]).collect();
        print(&format!("\n{}", table(&["SERVICE"], &services)))?;
        let rows: Vec<Vec<String>> = guarantees
            .into_iter()
            .map(|(name, found)| vec![name, found.sink.clone(), found.guarantee.to_string(), found.why])
            .collect();
        print(&format!("\n{}", table(&["PIPELINE", "SINK", "AFTER A FAILURE", "WHY"], &rows)))?;
        if !reached.is_empty() {
            let rows: Vec<Vec<String>> = reached.into_iter().map(|(what, said)| vec![what, said]).collect();
            print(&format!("\n{}", table(&["CONNECTED TO", "STATE"], &rows)))?;
        }
        for warning in &warnings {
            print(&format!("\nwarning: {warning}\n"))?;
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::failed(problems.join("\n"))),
    }
}

fn has_storage(settings: &Settings) -> bool {
    !(settings.checkpoint_url.is_empty() && settings.checkpoint_dir.is_empty())
}

/// Writes, reads and deletes below the place of checkpoints, and sees that nothing can be created twice there.
async fn storage(settings: &Settings) -> Result<String> {
    let Some(storage) = crate::node::checkpoint_storage(settings)? else {
        return Ok("none is set".to_owned());
    };
    let begun = Instant::now();
    let nonce = format!("{}-{}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
    storage.reach("check", &nonce).await?;
    storage.probe().await?;
    let jobs = storage.jobs().await?.len();
    let took = begun.elapsed().as_millis();
    Ok(format!("ok, {}: written, read, listed ({jobs} jobs) and deleted in {took} ms", storage.place()))
}

/// The nodes of the cluster that the settings, or `dev` in this directory, name.
async fn cluster(global: &Global, settings: &Settings) -> Result<Option<(Client, Vec<NodeInfo>)>> {
    if settings.node_join.is_empty() && !super::has_cluster(global)? {
        return Ok(None);
    }
    let client = super::connect(global, &ClusterArgs::default()).await?;
    let nodes = client.nodes().await?;
    Ok(Some((client, nodes)))
}

/// Whether all of them answer.
fn answering(nodes: &[NodeInfo]) -> Result<String> {
    let builds: BTreeSet<&str> = nodes.iter().map(|node| node.build.as_str()).collect();
    let silent: Vec<&str> =
        nodes.iter().filter(|n| n.state == "unreachable").map(|n| n.id.as_str()).collect();
    if !silent.is_empty() {
        return Err(Error::failed(format!("{} do not answer", silent.join(", "))));
    }
    Ok(format!("ok, {} nodes of {} builds", nodes.len(), builds.len()))
}

/// This machine's calendar, in milliseconds since 1970.
fn now_ms() -> f64 {
    jiff::Timestamp::now().as_nanosecond() as f64 / 1e6
}

/// What is allowed and yet seldom meant.
fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings: Vec<String> = warning(settings).into_iter().collect();
    if is_open(&settings.node_listen) && settings.token.is_empty() && settings.tls_mode != "mutual" {
        warnings.push(format!(
            "node.listen = {} is open beyond this machine and `token` is empty: anybody may join (AFFLUX_TOKEN)",
            settings.node_listen
        ));
    }
    if is_open(&settings.admin_listen) {
        warnings.push(format!(
            "admin.listen = {} is open beyond this machine and asks for no password",
            settings.admin_listen
        ));
    }
    if settings.registry == "embedded" {
        warnings.push(
            "registry = embedded: the node that began the cluster holds registry and locks; its loss stops jobs until it returns"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_port_without_a_token_is_warned_about() {
        let open = Settings { node_listen: "0.0.0.0:7000".into(), ..Settings::default() };
        assert!(warnings(&open).iter().any(|w| w.contains("AFFLUX_TOKEN")));
        let safe = Settings { token: "x".into(), ..open };
        assert!(!warnings(&safe).iter().any(|w| w.contains("AFFLUX_TOKEN")));
        assert!(!warnings(&Settings::default()).iter().any(|w| w.contains("open beyond")));
    }
}
