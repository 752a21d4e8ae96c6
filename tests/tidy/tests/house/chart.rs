//! The chart's alerts and dashboard ask for metrics that there are.

use std::collections::BTreeSet;

use afflux_tidy::{Findings, House};

/// Names that look like metrics in a text: ours, and those of the process.
fn metrics(line: &str) -> BTreeSet<&str> {
    let ends = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let words = line.split(ends).filter(|word| !word.is_empty());
    words.filter(|word| word.starts_with("afflux_") || word.starts_with("process_")).collect()
}

#[test]
fn alerts_and_dashboards_ask_for_metrics_that_are_listed() {
    let house = House::open();
    let listed = house.text("docs/metrics.md").expect("metrics are listed");
    let rows: Vec<&str> = listed.lines().filter(|line| line.starts_with("| `")).collect();
    let is_listed = |name: &str| rows.iter().any(|row| row.starts_with(&format!("| `{name}` ")));
    let is_histogram =
        |name: &str| rows.iter().any(|row| row.starts_with(&format!("| `{name}` | histogram ")));
    let mut findings = Findings::new(
        "a query in the chart names a metric of docs/metrics.md",
        "correct the query: nothing would be shown, and the alert would never fire",
    );
    for path in [
        "helm/afflux/files/rules.yaml",
        "helm/afflux/files/dashboard.json",
        "helm/afflux/templates/autoscaling.yaml",
    ] {
        let text = house.text(path).unwrap_or_else(|| panic!("there is no {path}"));
        let mut seen = 0;
        for (line, number) in text.lines().zip(1..) {
            for name in metrics(line) {
                seen += 1;
                let of_histogram = ["_bucket", "_sum", "_count"]
                    .iter()
                    .any(|end| name.strip_suffix(end).is_some_and(&is_histogram));
                if !is_listed(name) && !of_histogram {
                    findings.add(path, number, format!("there is no metric `{name}`"));
                }
            }
        }
        assert!(seen > 0, "no metric was seen in {path}");
    }
    findings.finish();
}

#[test]
fn the_chart_is_of_the_version_of_the_workspace() {
    let house = House::open();
    let cargo = house.text("Cargo.toml").expect("there is a workspace");
    let version = cargo.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    let chart = house.text("helm/afflux/Chart.yaml").expect("there is a chart");
    let of = |key: &str| chart.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    assert_eq!((of("version:"), of("appVersion:")), (version, version), "helm/afflux/Chart.yaml");
}
