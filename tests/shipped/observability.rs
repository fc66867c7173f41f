//! Alerts and dashboard ask for what a node counts, and every alert is explained.

use std::collections::BTreeSet;

use quorate::metrics::Metrics;
use serde_json::Value;

use crate::{files, read, root, told, tool, yaml};

const RULES: &str = "config/prometheus/quorate.rules.yml";
const DASHBOARD: &str = "config/grafana/dashboards/quorate.json";
const COOKBOOK: &str = "docs/failure-cookbook.md";

/// The series that a node has, by the names that Prometheus gives them.
fn series() -> BTreeSet<String> {
    let text = Metrics::new().text();
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    kinds
        .flat_map(|(name, kind)| {
            let endings: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_count", "_sum"],
                "info" => &["_info"],
                "gauge" => &[""],
                _ => panic!("{name} is a {kind}"),
            };
            endings.iter().map(move |ending| format!("{name}{ending}"))
        })
        .collect()
}

/// The words of ours in an expression.
fn named(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("quorate_")).map(str::to_owned).collect()
}

/// `label="value"` and `label=~"one|other"` of an expression, but for what a dashboard fills in.
fn matched(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in expression.split('{').skip(1) {
        let inside = part.split('}').next().unwrap();
        for matcher in inside.split(',').filter(|matcher| !matcher.contains('$') && !matcher.starts_with("job=")) {
            let (label, values) = matcher.split_once('=').unwrap();
            let values = values.trim_start_matches('~').trim_matches('"');
            found.extend(values.split('|').map(|value| format!("{label}=\"{value}\"")));
        }
    }
    found
}

fn hold(expression: &str, place: &str) {
    let (series, text) = (series(), Metrics::new().text());
    for name in named(expression) {
        assert!(series.contains(&name), "{place}: no node counts {name}: {expression}");
    }
    for matcher in matched(expression) {
        assert!(text.contains(&matcher), "{place}: no series has {matcher}: {expression}");
    }
}

/// Every rule: its alert and the rule.
fn rules() -> Vec<(String, Value)> {
    let document = yaml::document(&read(RULES));
    let groups = document["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(|rule| (rule["alert"].as_str().unwrap().to_owned(), rule.clone())).collect()
}

#[test]
fn alerts_ask_for_what_is_counted_and_say_who_is_woken() {
    let rules = rules();
    assert!(rules.len() >= 20, "{}", rules.len());
    for (alert, rule) in &rules {
        let expression = rule["expr"].as_str().unwrap();
        assert!(!named(expression).is_empty() || expression.contains("up{job="), "{alert}: {expression}");
        hold(expression, alert);
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{alert}: {severity}");
        let summary = rule["annotations"]["summary"].as_str().unwrap();
        assert!(summary.ends_with('.'), "{alert}: {summary}");
    }
    let names: BTreeSet<_> = rules.iter().map(|(alert, _)| alert).collect();
    assert_eq!(names.len(), rules.len(), "two alerts of one name");
}

#[test]
fn every_alert_is_in_the_cookbook_and_nothing_else_is() {
    let cookbook = read(COOKBOOK);
    let entries: Vec<&str> = cookbook.split("\n### ").skip(1).collect();
    let explained: BTreeSet<&str> = entries.iter().map(|entry| entry.lines().next().unwrap()).collect();
    let rules = rules();
    let alerts: BTreeSet<&str> = rules.iter().map(|(alert, _)| alert.as_str()).collect();
    assert_eq!(alerts.difference(&explained).collect::<Vec<_>>(), Vec::<&&str>::new(), "alerts without an entry");
    assert_eq!(explained.difference(&alerts).collect::<Vec<_>>(), Vec::<&&str>::new(), "entries without an alert");
    for entry in entries {
        let name = entry.lines().next().unwrap();
        let next = ["**Next.**", "**Causes, next.**"].iter().any(|part| entry.contains(part));
        assert!(entry.contains("**Means.**") && entry.contains("**Causes") && next, "{name}");
        // The next step is a command, here or in the entry that is referred to.
        assert!(entry.contains("\n\n    ") || entry.contains("](#quorate"), "{name} names no command");
    }
    // What is said of single events names alerts as well.
    let words = cookbook.split(|c: char| !c.is_ascii_alphanumeric());
    for word in words.filter(|word| word.starts_with("Quorate") && word.len() > "Quorate".len()) {
        assert!(alerts.contains(word), "there is no alert {word}");
    }
}

#[test]
fn the_situations_that_rules_are_tested_by_name_alerts_that_exist() {
    let tests = yaml::document(&read("config/prometheus/quorate.test.yml"));
    let alerts: BTreeSet<String> = rules().into_iter().map(|(alert, _)| alert).collect();
    let mut expected = BTreeSet::new();
    for test in tests["tests"].as_array().unwrap() {
        for series in test["input_series"].as_array().unwrap() {
            hold(series["series"].as_str().unwrap().split('{').next().unwrap(), "quorate.test.yml");
        }
        for asked in test["promql_expr_test"].as_array().unwrap() {
            for sample in asked["exp_samples"].as_array().unwrap() {
                let labels = sample["labels"].as_str().unwrap();
                expected.insert(labels.split('"').nth(1).unwrap().to_owned());
            }
        }
    }
    assert!(expected.is_subset(&alerts), "{expected:?}");
    assert!(expected.len() >= 10, "{expected:?}");
}

#[test]
fn prometheus_takes_the_rules_and_they_fire_when_they_should() {
    let dir = root().join("config/prometheus");
    let runs: [&[&str]; 3] = [
        &["check", "config", "--syntax-only", "prometheus.yml"],
        &["check", "rules", "quorate.rules.yml"],
        &["test", "rules", "quorate.test.yml"],
    ];
    for args in runs {
        let Some(output) = tool("promtool", args, &dir) else { return };
        assert!(output.status.success(), "promtool {args:?}\n{}", told(&output));
    }
}

/// The panels of the dashboard, those in rows that are folded up included.
fn panels(dashboard: &Value) -> Vec<Value> {
    let top = dashboard["panels"].as_array().unwrap();
    top.iter().flat_map(|panel| panel["panels"].as_array().cloned().unwrap_or_default()).chain(top.clone()).collect()
}

#[test]
fn the_dashboard_shows_what_is_counted() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = panels(&dashboard);
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    let mut shown = BTreeSet::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap();
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title} is not explained");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{title} is too wide");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            hold(expression, title);
            shown.append(&mut named(expression));
        }
    }
    for notes in dashboard["annotations"]["list"].as_array().unwrap() {
        hold(notes["expr"].as_str().unwrap(), "annotations");
    }
    assert!(shown.len() >= 50, "{shown:?}");
    // What an alert asks for can be looked at.
    for (alert, rule) in rules() {
        let hidden: Vec<_> = named(rule["expr"].as_str().unwrap()).difference(&shown).cloned().collect();
        assert!(hidden.is_empty(), "{alert} asks for {hidden:?}, which no panel shows");
    }
}

#[test]
fn grafana_finds_its_source_and_its_dashboard() {
    for file in files("config/grafana", ".yaml") {
        let document = yaml::document(&read(&file));
        assert_eq!(document["apiVersion"], 1, "{file}");
    }
    let source = yaml::document(&read("config/grafana/provisioning/datasources/prometheus.yaml"));
    assert_eq!(source["datasources"][0]["url"], "http://prometheus:9090");
    let provider = yaml::document(&read("config/grafana/provisioning/dashboards/quorate.yaml"));
    let inside = provider["providers"][0]["options"]["path"].as_str().unwrap();
    let compose = yaml::document(&read("config/compose.yaml"));
    let volumes = compose["services"]["grafana"]["volumes"].as_array().unwrap();
    assert!(volumes.contains(&Value::from(format!("./grafana/dashboards:{inside}:ro"))), "{volumes:?}");
    let home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].as_str();
    assert_eq!(home, Some(format!("{inside}/quorate.json").as_str()));
}

#[test]
fn expressions_are_taken_apart_as_meant() {
    let expression = "sum(rate(quorate_a_total{outcome=\"x|y\",instance=~\"$instance\"}[5m])) > quorate_b";
    assert_eq!(named(expression), ["quorate_a_total".to_owned(), "quorate_b".to_owned()].into());
    assert_eq!(matched(expression), ["outcome=\"x\"", "outcome=\"y\""]);
}
