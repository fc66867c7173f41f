//! The pages that a machine writes: settings, metrics, commands, and the list of decisions in the table of contents. Each
//! is made from what is true and compared with the page in `docs`. To write them anew:
//!
//!     QUORATE_WRITE_REFERENCE=1 cargo test --release --test shipped reference

use std::collections::BTreeMap;
use std::process::Command;

use quorate::kv::ErrorCode;
use quorate::metrics::Metrics;

use crate::{read, root, settings, variable};

const AGAIN: &str = "QUORATE_WRITE_REFERENCE=1 cargo test --release --test shipped reference";

/// Compares a page with what it should be, or writes it.
pub(crate) fn hold(page: &str, text: &str) {
    let path = format!("docs/{page}");
    if std::env::var_os("QUORATE_WRITE_REFERENCE").is_some() {
        std::fs::write(root().join(&path), text).unwrap();
    }
    let there = read(&path);
    let differ = there.lines().zip(text.lines()).find(|(there, wanted)| there != wanted);
    assert!(there == text, "{path} is not what it describes: {differ:?}; write it anew:\n  {AGAIN}");
}

fn note(what: &str) -> String {
    format!("<!-- Written by a test from {what}. To write it anew: {AGAIN} -->\n\n")
}

// -- Settings --------------------------------------------------------------------------------------------------------

/// One documented setting: what is said of it, its key, its default as the file spells it; none where it has none.
struct Setting {
    said: String,
    key: String,
    default: Option<String>,
}

fn documented() -> Vec<(String, String, Vec<Setting>)> {
    let (mut sections, mut said) = (Vec::<(String, String, Vec<Setting>)>::new(), Vec::new());
    let mut shared = String::new();
    for line in read("config/quorate.toml").lines() {
        if let Some(name) = line.strip_prefix('[') {
            sections.push((name.trim_end_matches(']').to_owned(), said.join(" "), Vec::new()));
            said.clear();
        } else if let Some(text) = line.strip_prefix("# ") {
            said.push(text.trim_end_matches('-').trim().trim_start_matches("-- ").to_owned());
        } else if !settings(&format!("[s]\n{line}")).is_empty() {
            let (key, value) = line.trim_start_matches('#').split_once(" = ").unwrap();
            if !said.is_empty() {
                shared = said.join(" ");
                said.clear();
            }
            let default = (!line.starts_with('#')).then(|| value.to_owned());
            let (section, _, settings) = sections.last_mut().unwrap();
            settings.push(Setting { said: shared.clone(), key: format!("{section}.{key}"), default });
        } else if line == "#" || (line.is_empty() && sections.is_empty()) {
            said.clear();
        }
    }
    sections
}

#[test]
fn the_reference_of_settings_is_the_documented_file() {
    let mut text = note("config/quorate.toml");
    text += "# Configuration\n\n\
        Order, later wins: defaults, the file of `--config`, the environment, flags (`--set KEY=VALUE` for any of these). An\n\
        unknown key is an error that names the nearest known one, and every value is checked before anything starts.\n\n\
        Units are part of a value: times `\"250ms\"`, `\"2s\"`, `\"10m\"`, `\"3h\"`; sizes `\"4KiB\"`, `\"1MiB\"`, `\"1GiB\"` (powers\n\
        of 1,024); addresses `\"host:port\"`. Lists in the environment are separated by commas.\n\n\
        `[SIGHUP]` marks what a running node takes from its file when it gets SIGHUP. All else needs a restart.\n";
    let mut count = 0;
    for (section, about, settings) in documented() {
        text += &format!("\n## [{section}]\n");
        if !about.is_empty() {
            text += &format!("\n{about}\n");
        }
        for Setting { said, key, default } in settings {
            let default = default.map_or("none".to_owned(), |default| format!("`{default}`"));
            text += &format!("\n### {key}\n\n{said}\n\nDefault: {default} · `{}`\n", variable(&key));
            count += 1;
        }
    }
    text += "\n## The secret itself\n\n\
        `QUORATE_CLUSTER__SECRET` gives the cluster's secret without a file; it is refused in a file, where anybody who may\n\
        read the configuration would see it.\n";
    assert_eq!(count, settings(&read("config/quorate.toml")).len());
    hold("reference/config.md", &text);
}

// -- Metrics ---------------------------------------------------------------------------------------------------------

#[test]
fn the_reference_of_metrics_is_what_a_node_counts() {
    let mut text = note("src/metrics.rs");
    text += "# Metrics\n\n\
        `GET /metrics` on the admin listener, in the OpenMetrics text format. A key is never a label, and every label has few\n\
        values. Counters begin at nought with the process.\n\n\
        A histogram has `_bucket` (label `le`), `_count` and `_sum`. Levels are `one`, `two`, `three`, `quorum`, `all`,\n\
        `local_one`, `local_quorum`, `each_quorum`, `any`, and `count` for a number; outcomes `ok`, `not_found`,\n\
        `not_applied`, `unknown`.\n\n\
        | series | kind | labels | what it is |\n|---|---|---|---|\n";
    let exported = Metrics::new().text();
    let mut help: BTreeMap<&str, &str> = BTreeMap::new();
    let mut rows = Vec::new();
    for line in exported.lines() {
        if let Some((name, what)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            help.insert(name, what);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            rows.push((name, kind));
        }
    }
    rows.sort_unstable();
    for (name, kind) in &rows {
        let ending = match *kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels = exported.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            let inside =
                rest.trim_start_matches(|c: char| c != '{' && c != ' ').strip_prefix('{')?.split('}').next()?;
            // Another metric's name may begin with this one's.
            let own = ["_total", "_info", "_bucket", "_count", "_sum", ""]
                .iter()
                .any(|end| rest.strip_prefix(end).is_some_and(|rest| rest.starts_with('{')));
            let names = inside.split("\",").filter_map(|pair| pair.split('=').next());
            own.then(|| {
                names.filter(|name| *name != "le").map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            })
        });
        // The library adds a full stop of its own.
        let what = help[name].trim_end_matches('.');
        text += &format!("| `{name}{ending}` | {kind} | {} | {what} |\n", labels.unwrap_or_default());
    }
    assert!(rows.len() > 100, "{}", rows.len());
    hold("reference/metrics.md", &text);
}

// -- Commands --------------------------------------------------------------------------------------------------------

/// What `quorate WORDS --help` says.
pub(crate) fn help(words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    // Help shows what variables are set to.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QUORATE_")) {
        command.env_remove(name);
    }
    let output = command.args(words).arg("--help").env("COLUMNS", "100").env("NO_COLOR", "1").output().unwrap();
    assert!(output.status.success(), "quorate {} --help: {}", words.join(" "), crate::told(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

/// The commands below one, as its help lists them.
pub(crate) fn below(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What a line goes on with is indented further.
    let names = list.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect()
}

#[test]
fn the_reference_of_commands_is_what_help_says() {
    let mut text = note("what `--help` says");
    text += "# Command line\n\n\
        One binary. Data go to stdout, notes to stderr; `NO_COLOR` is honoured. Exit codes: 0 fine, 1 failed, 2 usage, 3 not\n\
        found, 4 quorum not met, 5 siblings, 6 outcome unknown.\n";
    let top = help(&[]);
    text += &format!("\n## quorate\n\n```text\n{top}```\n");
    let commands = below(&top);
    assert!(commands.len() >= 15, "{commands:?}");
    for command in &commands {
        let said = help(&[command]);
        text += &format!("\n## quorate {command}\n\n```text\n{said}```\n");
        for inner in below(&said) {
            text += &format!("\n### quorate {command} {inner}\n\n```text\n{}```\n", help(&[command, &inner]));
        }
    }
    hold("reference/cli.md", &text);
}

// -- HTTP ------------------------------------------------------------------------------------------------------------

#[test]
fn the_reference_of_http_has_every_code_header_and_parameter() {
    let page = read("docs/reference/http.md");
    for code in ErrorCode::ALL {
        // What only a client says of itself is no answer.
        let own = [ErrorCode::Unreachable, ErrorCode::Unexpected].contains(&code);
        assert!(own || page.contains(&format!("| `{}` |", code.as_str())), "{} is not explained", code.as_str());
    }
    let quoted = |source: &str, from: &str, to: &str| -> Vec<String> {
        let part = source.split_once(from).unwrap_or_else(|| panic!("no {from}")).1.split_once(to).unwrap().0;
        part.split('"').skip(1).step_by(2).map(str::to_owned).collect()
    };
    for parameter in quoted(&read("src/http/params.rs"), "const KNOWN", "];") {
        assert!(page.contains(&format!("`{parameter}=")), "the parameter {parameter} is not explained");
    }
    for path in quoted(&read("src/http/admin.rs"), "const NOT_YET", "];") {
        assert!(page.contains(&format!("`{path}`")), "{path} answers 501, which is not said");
    }
    // Whatever the page promises to be served is served: its paths are in the source.
    let source: String = ["admin", "hints", "layouts", "repairs", "workers", "mod", "buckets", "kv", "owners"]
        .map(|file| read(&format!("src/http/{file}.rs")))
        .concat();
    let paths = page.split('`').skip(1).step_by(2).filter_map(|code| {
        let path = code.split_once(' ').map_or(code, |(_, path)| path);
        path.starts_with('/').then(|| path.split(['{', '?', ' ']).next().unwrap().trim_end_matches('/').to_owned())
    });
    let mut checked = 0;
    for path in paths {
        let last = path.trim_start_matches("/admin/").trim_start_matches('/').to_owned();
        assert!(source.contains(&last), "nothing serves {path}");
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}
