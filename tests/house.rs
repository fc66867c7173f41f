//! Holds what is no code but rots like code: the data set, links, examples, settings, records, licences.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn names_in(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(dir)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

// -- Data ------------------------------------------------------------------------------------------------------------

#[test]
fn the_data_set_is_what_its_readme_says() {
    let text = read("data/cities.tsv");
    let mut lines = text.lines();
    let columns: Vec<_> = lines.next().unwrap().split('\t').collect();
    assert_eq!(columns, ["key", "name", "country", "admin1", "latitude", "longitude", "population", "timezone"]);
    let mut last = "";
    let mut count = 0;
    for line in lines {
        let fields: Vec<_> = line.split('\t').collect();
        assert_eq!(fields.len(), columns.len(), "{line}");
        assert!(last < fields[0], "not sorted, or twice: {} after {last}", fields[0]);
        assert!(fields[0].starts_with(&format!("{}/", fields[2])) && fields[0].len() <= 1024, "{line}");
        assert!(!fields[1].is_empty(), "{line}");
        assert!(fields[4].parse::<f64>().unwrap().abs() <= 90.0, "{line}");
        assert!(fields[5].parse::<f64>().unwrap().abs() <= 180.0, "{line}");
        fields[6].parse::<u64>().unwrap();
        (last, count) = (fields[0], count + 1);
    }
    assert_eq!(count, 34_006);
    let readme = read("data/README.md");
    assert!(readme.contains("34,006"));
    let hash = blake3::hash(text.as_bytes()).to_string();
    assert!(readme.contains(&hash), "these are not the bytes that extract.py made: BLAKE3 {hash}");
    assert!(read("data/LICENSE").starts_with("Attribution 4.0 International"));
}

// -- Documents -------------------------------------------------------------------------------------------------------

/// Every Markdown file of ours.
fn documents() -> Vec<String> {
    let mut found = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned(), "data/README.md".to_owned()];
    for dir in ["docs", "docs/decisions", "docs/reference"] {
        found
            .extend(names_in(dir).into_iter().filter(|name| name.ends_with(".md")).map(|name| format!("{dir}/{name}")));
    }
    found
}

/// The targets of `[text](target)`, code blocks left out.
fn links(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, part) in markdown.split("```").enumerate() {
        if at % 2 == 0 {
            let targets = part.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            found.extend(targets.map(|(target, _)| target.to_owned()));
        }
    }
    found
}

#[test]
fn links_lead_somewhere() {
    for document in documents() {
        let dir = root().join(&document).parent().unwrap().to_owned();
        for link in links(&read(&document)).iter().filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let file = link.split('#').next().unwrap();
            assert!(dir.join(file).exists(), "{document}: {link}");
        }
    }
}

#[test]
fn links_are_found_outside_code_alone() {
    assert_eq!(links("a [b](c.md) ```\n[d](e.md)\n``` [f](g.md#h)."), ["c.md", "g.md#h"]);
}

#[test]
fn every_decision_is_listed_under_its_number() {
    let index = read("docs/decisions/README.md");
    let records: Vec<_> = names_in("docs/decisions").into_iter().filter(|name| name != "README.md").collect();
    for (at, record) in records.iter().enumerate() {
        let number = format!("{:04}", at + 1);
        assert!(record.starts_with(&format!("{number}-")), "{record} should be number {number}");
        assert!(index.contains(&format!("[{number}]({record})")), "{record} is not in the index");
        let text = read(&format!("docs/decisions/{record}"));
        assert!(text.starts_with(&format!("# {number}: ")), "{record}");
        for part in ["**Context.**", "**Choice.**", "**Cost.**", "**Reversed by.**"] {
            assert!(text.contains(part), "{record} has no {part}");
        }
    }
}

#[test]
fn the_readmes_examples_are_shell_and_say_what_to_expect() {
    let readme = read("README.md");
    let blocks: Vec<_> = readme.split("```sh run\n").skip(1).map(|rest| rest.split_once("\n```").unwrap().0).collect();
    assert!(blocks.len() >= 5, "{}", blocks.len());
    assert_eq!(blocks.len(), readme.matches("```sh").count(), "an example that no test runs");
    for block in blocks {
        assert!(block.contains("\n#=> "), "nothing is expected of:\n{block}");
        let checked = Command::new("bash").args(["-n", "-c", block]).output().unwrap();
        assert!(checked.status.success(), "{block}\n{}", String::from_utf8_lossy(&checked.stderr));
    }
}

// -- Settings --------------------------------------------------------------------------------------------------------

/// `section.key` of every key in a configuration file, those shown as `#key = ...` included.
fn keys(toml: &str) -> BTreeSet<String> {
    let (mut section, mut found) = (String::new(), BTreeSet::new());
    for line in toml.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((key, _)) = line.trim_start_matches('#').split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '.'))
        {
            found.insert(format!("{section}.{key}"));
        }
    }
    found
}

#[test]
fn every_setting_is_explained() {
    let file = read("config/quorate.toml");
    let lines: Vec<_> = file.lines().collect();
    let mut explained = false;
    for line in lines {
        let key = !keys(&format!("[s]\n{line}")).is_empty();
        assert!(!key || explained, "no comment above: {line}");
        // Keys that stand together share a comment.
        explained = key || line.starts_with("# ");
    }
    assert!(keys(&file).len() > 30, "{:?}", keys(&file));
}

#[test]
fn node_configurations_use_documented_settings() {
    let documented = keys(&read("config/quorate.toml"));
    let mut names = BTreeSet::new();
    for name in names_in("config").into_iter().filter(|name| name.starts_with("node") && name.ends_with(".toml")) {
        let text = read(&format!("config/{name}"));
        for key in keys(&text) {
            assert!(documented.contains(&key), "{name}: {key} is not in quorate.toml");
        }
        assert!(names.insert(
            text.lines().find(|line| line.starts_with("name = ") && !line.contains("compose")).unwrap().to_owned()
        ));
        assert!(read("config/compose.yaml").contains(&format!("./{name}:/etc/quorate/quorate.toml:ro")), "{name}");
    }
    assert_eq!(names.len(), 3);
}

/// A metric that nothing sets shows a nought for ever, and whoever looks at it takes it for the truth.
#[test]
fn every_metric_is_set_somewhere() {
    let source = read("src/metrics.rs");
    let fields: Vec<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("        ")?.split_once(": "))
        .filter(|(_, rest)| ["Counter = ", "Gauge = ", "Histogram = "].iter().any(|kind| rest.starts_with(kind)))
        .map(|(field, _)| field)
        .collect();
    assert!(fields.len() > 60, "{fields:?}");
    let mut code = String::new();
    let mut rooms = vec![root().join("src")];
    while let Some(room) = rooms.pop() {
        for entry in fs::read_dir(room).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                rooms.push(path);
            } else if !path.ends_with("metrics.rs") {
                code.extend(fs::read_to_string(path).unwrap().split_whitespace());
            }
        }
    }
    let set = |field: &str| {
        // Set, or handed to what sets it.
        let how = ["inc(", "inc_by(", "dec(", "set(", "observe("].map(|how| format!(".{field}.{how}"));
        how.iter().any(|set| code.contains(set))
            || [',', ')'].iter().any(|end| code.contains(&format!("metrics.{field}{end}")))
            || [',', ')'].iter().any(|end| code.contains(&format!("replica.{field}{end}")))
    };
    let dead: Vec<_> = fields.iter().filter(|field| !set(field)).collect();
    assert!(dead.is_empty(), "{dead:?}");
}

#[cfg(feature = "cli")]
#[test]
fn configuration_files_are_toml() {
    for name in names_in("config").into_iter().filter(|name| name.ends_with(".toml")) {
        let parsed: Result<toml::Table, _> = toml::from_str(&read(&format!("config/{name}")));
        assert!(parsed.is_ok(), "{name}: {}", parsed.unwrap_err());
    }
}

#[test]
fn the_image_is_built_from_what_is_here() {
    let (dockerfile, sent) = (read("Dockerfile"), read(".dockerignore"));
    for line in dockerfile.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
        let words: Vec<_> = line.split_whitespace().skip(1).collect();
        for source in &words[..words.len() - 1] {
            assert!(root().join(source).exists(), "{line}");
            assert!(sent.lines().any(|line| line == format!("!{source}")), ".dockerignore keeps {source} out");
        }
    }
    for part in ["USER quorate", "STOPSIGNAL SIGTERM", "HEALTHCHECK", "/readyz", "VOLUME"] {
        assert!(dockerfile.contains(part), "{part}");
    }
}

#[test]
fn scripts_stop_at_errors_and_explain_themselves() {
    for name in names_in("scripts").into_iter().filter(|name| name != "lib.sh") {
        let path = format!("scripts/{name}");
        let text = read(&path);
        assert!(text.starts_with("#!/usr/bin/env bash\n# "), "{path}");
        assert!(text.contains("\nset -euo pipefail\n"), "{path}");
        let help = Command::new("bash").arg(root().join(&path)).arg("--help").output().unwrap();
        assert!(help.status.success(), "{path} --help");
        assert!(String::from_utf8_lossy(&help.stdout).contains(&format!("usage: {path}")), "{path} --help");
        assert!(read("docs/hacking.md").contains(&path), "{path} is not in docs/hacking.md");
    }
}

// -- Dependencies ----------------------------------------------------------------------------------------------------

/// The crates that `Cargo.toml` names.
fn dependencies() -> BTreeSet<String> {
    let (mut inside, mut found) = (false, BTreeSet::new());
    for line in read("Cargo.toml").lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once('=').filter(|_| inside) {
            found.insert(name.trim().split('.').next().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn every_dependency_has_its_reason() {
    let record = read("docs/decisions/0002-dependencies.md");
    let rows = record.lines().filter_map(|line| line.strip_prefix("| `"));
    let reasoned: BTreeSet<_> = rows.map(|row| row.split('`').next().unwrap().to_owned()).collect();
    let named = dependencies();
    assert!(named.contains("tokio") && named.contains("proptest"), "{named:?}");
    assert_eq!(
        named.difference(&reasoned).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "without a reason in the record"
    );
    assert_eq!(reasoned.difference(&named).collect::<Vec<_>>(), Vec::<&String>::new(), "in the record, but not used");
}

/// Crates of which two versions in one build would not understand each other, or would build a heavy thing twice.
const ONE_VERSION: &[&str] =
    &["tokio", "bytes", "http", "hyper", "prost", "rustls", "librocksdb-sys", "prometheus-client"];

#[test]
fn the_lock_file_holds_registry_crates_and_no_harmful_twins() {
    let lock = read("Cargo.lock");
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"'))
        };
        let name = field("name").unwrap();
        *versions.entry(name).or_default() += 1;
        // Sources are a registry or, for our own package, nothing: no git, no path.
        assert!(field("source").map_or(name == "quorate", |source| source.starts_with("registry+")), "{name}");
        assert!(name == "quorate" || field("checksum").is_some_and(|sum| sum.len() == 64), "{name}");
    }
    for name in ONE_VERSION {
        assert!(versions.get(name).copied().unwrap_or(0) <= 1, "{name} is there in several versions");
    }
    // One TLS stack, and no system library that decides at run time which one it is.
    assert!(!versions.contains_key("openssl-sys") && !versions.contains_key("native-tls"));
}

/// Licences that allow what we do. A crate must offer one of these, or all of those it joins with AND.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unlicense",
    "CC0-1.0",
    "Unicode-3.0",
    "CDLA-Permissive-2.0",
    "BSL-1.0",
];

/// Whether an SPDX expression leaves us a way that needs only [`LICENCES`].
fn acceptable(expression: &str) -> bool {
    fn joined(text: &str) -> bool {
        // AND binds tighter than OR; parentheses have been taken out by then.
        text.split(" OR ").any(|way| way.split(" AND ").all(|one| LICENCES.contains(&one.trim())))
    }
    let mut text = expression.replace('/', " OR ");
    while let Some(close) = text.find(')') {
        let Some(open) = text[..close].rfind('(') else { return false };
        let verdict = if joined(&text[open + 1..close]) { "MIT" } else { "no" };
        text.replace_range(open..=close, verdict);
    }
    joined(&text)
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    for good in
        ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-2.0) AND ISC", "Apache-2.0 WITH LLVM-exception OR X"]
    {
        assert!(acceptable(good), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-2.0", "(GPL-2.0 OR X) AND MIT", "", "MPL-2.0"] {
        assert!(!acceptable(bad), "{bad}");
    }
}

#[test]
fn every_crate_we_ship_has_a_licence_that_allows_it() {
    let asked = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "{}", packages.len());
    let wrong: Vec<_> = packages
        .iter()
        .filter(|package| !acceptable(package["license"].as_str().unwrap_or("")))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
