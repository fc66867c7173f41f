//! `quorate bucket` against a cluster by `quorate dev`: what it prints, where, and with which exit code.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod cluster;

use std::process::Output;

use cluster::{Process, quorate, stderr, stdout};
use serde_json::{Value, json};

struct Dev {
    _process: Process,
    base: u16,
}

impl Dev {
    fn start() -> Self {
        let (process, base) = Process::dev();
        Self { _process: process, base }
    }

    /// Runs a command that must end with this code, asking the i-th node.
    fn ends(&self, code: i32, node: u16, args: &[&str]) -> Output {
        let endpoint = format!("http://127.0.0.1:{}", self.base + 10 * node);
        let output = quorate(args).env("QUORATE_ENDPOINTS", endpoint).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{}\n{}", stdout(&output), stderr(&output));
        output
    }

    fn json(&self, node: u16, args: &[&str]) -> Value {
        let output = self.ends(0, node, args);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", stdout(&output)))
    }
}

#[test]
fn a_bucket_is_set_shown_emptied_and_deleted() {
    let dev = Dev::start();
    assert!(stdout(&dev.ends(0, 0, &["bucket", "list"])).starts_with("No bucket is configured"));
    let fresh = dev.ends(0, 1, &["bucket", "show", "orders"]);
    assert!(stderr(&fresh).contains("orders is not configured: it has the cluster's defaults"), "{}", stderr(&fresh));
    assert!(stdout(&fresh).contains("w             quorum  (the cluster's default)\n"), "{}", stdout(&fresh));

    let set = dev.ends(0, 0, &["bucket", "set", "orders", "w=all", "max_value=64KiB"]);
    assert!(stderr(&set).contains("orders is created, by layout 2"), "{}", stderr(&set));
    assert!(stdout(&set).contains("w             all\n") && stdout(&set).contains("max_value     65536\n"));
    let set = dev.ends(0, 1, &["bucket", "set", "orders", "w=default", "blind_writes=reject", "n=2"]);
    assert!(stderr(&set).contains("orders is changed, by layout 3"), "{}", stderr(&set));
    let now = dev.json(0, &["bucket", "show", "orders", "-o", "json"]);
    assert_eq!((&now["n"], &now["w"], &now["max_value"]), (&json!(2), &json!("quorum"), &json!(65536)));
    let list = stdout(&dev.ends(0, 2, &["bucket", "list", "-o", "wide"]));
    assert!(list.starts_with("BUCKET  N  MODE"), "{list}");
    assert_eq!(list.lines().nth(1).and_then(|row| row.split_whitespace().nth(1)), Some("2"), "{list}");

    // `put` reads first, so that it has a context to send.
    dev.ends(0, 0, &["put", "orders", "k", "old"]);
    dev.ends(1, 0, &["put", "orders", "k", "old", "--blind"]);
    let asked = dev.ends(2, 2, &["bucket", "purge", "orders"]);
    assert!(stderr(&asked).contains("next: the same with --yes"), "{}", stderr(&asked));
    assert_eq!(stdout(&dev.ends(0, 0, &["get", "orders", "k"])), "old", "nothing was done");
    dev.ends(0, 2, &["bucket", "purge", "orders", "--yes"]);
    dev.ends(3, 1, &["get", "orders", "k"]);
    dev.ends(0, 1, &["put", "orders", "k", "new"]);
    dev.ends(0, 0, &["bucket", "delete", "orders", "--yes"]);
    dev.ends(3, 2, &["get", "orders", "k"]);
    let gone = dev.ends(3, 1, &["bucket", "delete", "orders", "--yes"]);
    assert!(stderr(&gone).contains("quorate bucket list"), "{}", stderr(&gone));
}

#[test]
fn values_live_as_long_as_their_bucket_or_their_request_says() {
    let dev = Dev::start();
    let shown = stdout(&dev.ends(0, 2, &["bucket", "set", "notes", "ttl=10m"]));
    assert!(shown.contains("ttl           10m\n"), "{shown}");
    for (key, ttl) in [("a", None), ("b", Some("2h")), ("c", Some("never"))] {
        let args: Vec<&str> =
            ["put", "notes", key, "v"].into_iter().chain(ttl.iter().flat_map(|ttl| ["--ttl", ttl])).collect();
        dev.ends(0, 1, &args);
        let read = dev.json(0, &["get", "notes", key, "-o", "json"]);
        assert_eq!(read["siblings"][0]["expires_at"].is_null(), key == "c", "{read}");
    }
    assert!(stderr(&dev.ends(2, 0, &["put", "notes", "a", "v", "--ttl", "soon"])).contains("1ms to 3650d"));
}

#[test]
fn what_makes_no_sense_is_2_and_says_what_would() {
    let dev = Dev::start();
    let says = |args: &[&str], code: i32, why: &str| {
        let said = stderr(&dev.ends(code, 0, args));
        assert!(said.contains(why), "{args:?}: {said:?} does not say {why:?}");
    };
    says(&["bucket", "set", "b", "n=9"], 2, "n is 1 to 5");
    says(&["bucket", "set", "b", "m=9"], 2, "is no setting of a bucket; there are n,");
    says(&["bucket", "set", "b", "w=4"], 2, "w is 1 to n (3)");
    says(&["bucket", "set", "b/c", "n=2"], 2, "a bucket's name is");
    says(&["bucket", "set", "b"], 2, "NAME=VALUE");
    says(&["bucket", "set", "b", "ttl=60"], 2, "such as 500ms, 60s");
    assert!(stdout(&dev.ends(0, 0, &["bucket", "list"])).starts_with("No bucket"), "nothing was done");
    for command in ["list", "show", "set", "purge", "delete"] {
        let help = stdout(&dev.ends(0, 0, &["bucket", command, "--help"]));
        assert!(help.contains("Examples:") && help.contains(&format!("quorate bucket {command}")), "{help}");
    }
}
