//! Who may depend on whom.

use std::collections::BTreeMap;

use afflux_tidy::{Findings, House, Kind, Manifest};

/// Our crates, and which of ours each may depend on. A crate may depend on itself for its tests, with a feature.
const EDGES: [(&str, &[&str]); 8] = [
    ("afflux-wire", &[]),
    ("afflux-macros", &[]),
    ("afflux-actor", &["afflux-wire"]),
    ("afflux-registry", &["afflux-wire"]),
    ("afflux-mesh", &["afflux-wire", "afflux-actor", "afflux-registry"]),
    ("afflux-stream", &["afflux-wire", "afflux-actor", "afflux-registry", "afflux-mesh", "afflux-macros"]),
    ("afflux-connectors", &["afflux-wire", "afflux-actor", "afflux-stream"]),
    (
        "afflux",
        &[
            "afflux-wire",
            "afflux-actor",
            "afflux-registry",
            "afflux-mesh",
            "afflux-stream",
            "afflux-connectors",
            "afflux-macros",
        ],
    ),
];

/// What a service or an example may depend on, outside of its tests.
const FOR_USERS: [&str; 4] = ["afflux", "afflux-connectors", "afflux-rehearsal", "afflux-stream"];

/// Foreign crates that only these of ours may depend on, tests included.
const FOREIGN: [(&[&str], &[&str]); 5] = [
    (&["actix", "actix-rt"], &["afflux-actor"]),
    (&["actix-web"], &["afflux", "afflux-connectors"]),
    (
        &["clap", "indicatif", "toml", "tracing-subscriber"],
        &["afflux", "afflux-chaos", "afflux-simulation", "afflux-tidy"],
    ),
    (&["csv", "flate2", "ruzstd"], &["afflux-connectors", "afflux-flights"]),
    (&["syn", "quote", "proc-macro2"], &["afflux-macros"]),
];

/// Foreign crates that one of ours must never see.
const NEVER: [(&str, &[&str]); 1] =
    [("afflux-wire", &["tokio", "mio", "socket2", "futures-executor", "tracing", "prometheus"])];

fn ours(name: &str) -> bool {
    name == "afflux" || name.starts_with("afflux-")
}

fn members(house: &House) -> Vec<Manifest> {
    house.manifests().into_iter().filter(Manifest::is_member).collect()
}

#[test]
fn crates_depend_on_each_other_as_the_design_says() {
    let house = House::open();
    let edges: BTreeMap<&str, &[&str]> = EDGES.into();
    let mut findings = Findings::new(
        "the edges between our crates are those of EDGES in tests/tidy/tests/house/crates.rs",
        "move the code to the crate that may see both sides, or hand it in as a value or a trait",
    );
    let mut seen = 0;
    for manifest in members(&house) {
        let framework = manifest.directory().starts_with("framework/");
        let test = manifest.directory().starts_with("tests/");
        if framework && !edges.contains_key(manifest.name.as_str()) {
            findings.add(&manifest.path, 1, format!("{} has no row in EDGES", manifest.name));
        }
        for dependency in manifest.dependencies.iter().filter(|d| ours(&d.name)) {
            seen += 1;
            let name = dependency.name.as_str();
            let itself = name == manifest.name && dependency.kind == Kind::Dev;
            let allowed = match edges.get(manifest.name.as_str()) {
                Some(allowed) => allowed.contains(&name) || itself,
                // A test may look at everything; the tests of a service at the framework and the sandbox.
                None if test => true,
                None if dependency.kind == Kind::Dev => edges.contains_key(name) || name == "afflux-sandbox",
                None => FOR_USERS.contains(&name),
            };
            if !allowed {
                findings.add(
                    &manifest.path,
                    dependency.line,
                    format!("{} must not see {name}", manifest.name),
                );
            }
        }
    }
    assert!(seen >= 20, "only {seen} edges were seen: the rule looks at the wrong files");
    findings.finish();
}

#[test]
fn foreign_crates_stay_behind_their_walls() {
    let house = House::open();
    let mut findings = Findings::new(
        "a foreign crate with a wall around it is depended on by that wall only",
        "use what the wall offers (FOREIGN and NEVER in tests/tidy/tests/house/crates.rs say which crate it is)",
    );
    for manifest in members(&house) {
        for dependency in &manifest.dependencies {
            let name = dependency.name.as_str();
            for (foreign, walls) in FOREIGN {
                if foreign.contains(&name) && !walls.contains(&manifest.name.as_str()) {
                    findings.add(
                        &manifest.path,
                        dependency.line,
                        format!("{name} belongs to {}", walls.join(", ")),
                    );
                }
            }
            if NEVER.iter().any(|(ours, never)| *ours == manifest.name && never.contains(&name)) {
                findings.add(
                    &manifest.path,
                    dependency.line,
                    format!("{} must not see {name}", manifest.name),
                );
            }
        }
    }
    findings.finish();
}

#[test]
fn a_contract_crate_needs_no_runtime() {
    let house = House::open();
    let mut findings = Findings::new(
        "`afflux` without its default features is contracts and macros: no runtime, no sockets",
        "make the dependency optional and add it to the feature `node`",
    );
    let text = house.text("framework/afflux/Cargo.toml").unwrap();
    let table: toml::Table = text.parse().unwrap();
    for (name, value) in table["dependencies"].as_table().unwrap() {
        let optional = value.get("optional").and_then(toml::Value::as_bool) == Some(true);
        if !optional && !["afflux-wire", "afflux-macros", "serde", "schemars"].contains(&name.as_str()) {
            findings.add(
                "framework/afflux/Cargo.toml",
                1,
                format!("{name} is there without the feature `node`"),
            );
        }
    }
    findings.finish();
}

#[test]
fn every_crate_inherits_lints_versions_and_dependencies_from_the_workspace() {
    let house = House::open();
    let mut findings = Findings::new(
        "what crates share is written once, in the root's Cargo.toml",
        "write `[lints] workspace = true`, `edition.workspace = true`, `name.workspace = true`",
    );
    let members = members(&house);
    assert!(members.len() >= 14, "only {} crates were seen", members.len());
    for manifest in members {
        if !manifest.inherits_lints() {
            findings.add(&manifest.path, 1, "the lints are not the workspace's");
        }
        for field in ["version", "edition", "rust-version", "license"] {
            if !manifest.inherits(field) {
                findings.add(&manifest.path, 1, format!("`{field}` is not the workspace's"));
            }
        }
        for dependency in &manifest.dependencies {
            let itself = dependency.name == manifest.name && dependency.kind == Kind::Dev;
            if !dependency.from_workspace && !itself {
                let name = &dependency.name;
                findings.add(
                    &manifest.path,
                    dependency.line,
                    format!("the version of {name} is not the workspace's"),
                );
            }
        }
    }
    findings.finish();
}
