//! Holds what is shipped beside the code to the code: alerts and dashboard, packages and manifests, the book.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod book;
mod observability;
mod packages;
mod reference;
mod yaml;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `dir` whose name ends so, as a path from the root, in order.
fn files(dir: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(dir)).unwrap_or_else(|error| panic!("{dir}: {error}")) {
        let entry = entry.unwrap();
        let path = format!("{dir}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path, ending));
        } else if path.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// `section.key` of every key in the documented configuration, those shown as `#key = ...` included.
fn settings(toml: &str) -> BTreeSet<String> {
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

/// The variable of the environment that sets a key.
fn variable(key: &str) -> String {
    format!("QUORATE_{}", key.replace('.', "__").to_uppercase())
}

/// The port at the end of an address.
fn port(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// The ports for clients, administrators and nodes that the documented configuration has.
fn ports() -> [u16; 3] {
    let config: toml::Table = toml::from_str(&read("config/quorate.toml")).unwrap();
    ["client_listen", "admin_listen", "peer_listen"].map(|key| port(config["node"][key].as_str().unwrap()))
}

/// A time such as "30s", in seconds.
fn seconds(text: &str) -> u64 {
    quorate::cli::config::duration(text).unwrap_or_else(|error| panic!("{text}: {error}")).as_secs()
}

/// Runs a tool that not every machine has; none where it is not there, and says so.
fn tool(name: &str, args: &[&str], dir: &Path) -> Option<Output> {
    match Command::new(name).args(args).current_dir(dir).stdin(Stdio::null()).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("{name} is not installed: what it would check was not checked");
            None
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
