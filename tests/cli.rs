//! The commands against a cluster by `quorate dev`: what they print, where, and with which exit code.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod cluster;

use std::io::Write;
use std::process::{Output, Stdio};
use std::sync::LazyLock;

use cluster::{Process, quorate, stderr, stdout};
use serde_json::Value;

/// One cluster for all tests of this file; each uses buckets of its own. It ends with the test process: `dev` is told
/// to by the watcher below, since statics are not dropped.
static DEV: LazyLock<u16> = LazyLock::new(|| {
    let (dev, base) = Process::dev();
    watch(dev);
    base
});

/// Ends the cluster when this process is gone: a shell that waits for the end of its stdin, which this process holds.
fn watch(dev: Process) {
    let script = format!("cat >/dev/null; kill -TERM {}", dev.0.id());
    let shell = std::process::Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
    // Held until the process ends, and with it the shell's stdin.
    std::mem::forget((dev, shell));
}

fn run(args: &[&str]) -> Output {
    quorate(args).env("QUORATE_ENDPOINTS", format!("http://127.0.0.1:{}", *DEV)).output().unwrap()
}

/// Runs a command that must end with this code. On a machine that has much else to do a node may be taken for down for a
/// moment: what was refused for that, and did nothing, is run again.
fn ends(code: i32, args: &[&str]) -> Output {
    let mut output = run(args);
    for _ in 0..20 {
        let refused = stderr(&output).contains("quorum_unavailable") && stderr(&output).contains("(nothing was done)");
        if code == 4 || !refused {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(250));
        output = run(args);
    }
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{}\n{}", stdout(&output), stderr(&output));
    output
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", stdout(output)))
}

#[test]
fn a_value_comes_back_as_it_went_in() {
    let put = ends(0, &["put", "plain", "a/b c", "one\ttwo"]);
    assert_eq!(stdout(&put), "", "data on stdout alone, and a put has none");
    let get = ends(0, &["get", "plain", "a/b c"]);
    assert_eq!(stdout(&get), "one\ttwo");
    assert_eq!(stderr(&get), "");
    ends(0, &["put", "plain", "a/b c", "three"]);
    assert_eq!(stdout(&ends(0, &["get", "plain", "a/b c"])), "three", "a put supersedes what it read");
}

#[test]
fn bytes_from_stdin_are_kept_as_they_are() {
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut put = quorate(["put", "binary", "k", "-", "--content-type", "application/x-test", "--endpoint"]);
    let mut child = put.arg(format!("http://127.0.0.1:{}", *DEV)).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(ends(0, &["get", "binary", "k"]).stdout, bytes);
    let envelope = json(&ends(0, &["get", "binary", "k", "-o", "json"]));
    assert_eq!(envelope["siblings"][0]["content_type"], "application/x-test");
}

#[test]
fn what_is_not_there_is_3() {
    let missing = ends(3, &["get", "none", "k"]);
    assert_eq!(stdout(&missing), "");
    assert!(stderr(&missing).contains("quorate where none k"), "{}", stderr(&missing));
    ends(3, &["delete", "none", "k"]);
    ends(0, &["put", "none", "gone", "x"]);
    ends(0, &["delete", "none", "gone"]);
    ends(3, &["get", "none", "gone", "-r", "all"]);
}

#[test]
fn keys_are_listed_in_order_and_a_limit_is_kept() {
    for key in ["b/2", "a/1", "b/1"] {
        ends(0, &["put", "listed", key, "tea", "-w", "all"]);
    }
    assert_eq!(stdout(&ends(0, &["keys", "listed"])), "a/1\nb/1\nb/2\n");
    assert_eq!(stdout(&ends(0, &["keys", "listed", "--prefix", "b/", "--limit", "1", "--values"])), "b/1\ttea\n");
    let lines = stdout(&ends(0, &["keys", "listed", "--values", "-o", "json"]));
    let keys: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((keys.len(), &keys[2]["key"], &keys[2]["values"][0]["value"]), (3, &"b/2".into(), &"tea".into()));
    assert!(stdout(&ends(0, &["keys", "listed", "-o", "table", "-r", "quorum"])).contains("SIBLINGS"));
    assert_eq!(stdout(&ends(0, &["keys", "nothing-there"])), "");
    ends(2, &["keys", "listed", "--limit", "0"]);
    ends(2, &["keys", "no/bucket"]);
}

#[test]
fn siblings_are_5_and_are_settled_with_the_context() {
    ends(0, &["put", "siblings", "k", "tea", "-w", "all"]);
    let blind = ends(0, &["put", "siblings", "k", "coffee", "--blind", "-w", "all"]);
    assert!(stderr(&blind).contains("has 2 siblings now"), "{}", stderr(&blind));
    let get = ends(5, &["get", "siblings", "k"]);
    assert_eq!(stdout(&get), "", "no value is printed where there is not one");
    assert!(stderr(&get).contains("tea") && stderr(&get).contains("coffee"), "{}", stderr(&get));
    let put = ends(5, &["put", "siblings", "k", "both"]);
    let said = stderr(&put);
    assert!(said.contains("nothing was written"), "{said}");
    ends(5, &["delete", "siblings", "k"]);
    let latest = ends(0, &["get", "siblings", "k", "--latest"]);
    assert_eq!(stdout(&latest), "coffee");
    let envelope = json(&ends(5, &["get", "siblings", "k", "-o", "json"]));
    assert_eq!(envelope["siblings"].as_array().unwrap().len(), 2);
    // The command that the error names does it.
    let command = said.lines().find(|line| line.contains("--context")).unwrap().trim();
    let words: Vec<&str> = command.split(' ').skip(1).map(|word| if word == "VALUE" { "both" } else { word }).collect();
    ends(0, &words);
    assert_eq!(stdout(&ends(0, &["get", "siblings", "k"])), "both");
}

#[test]
fn the_latest_may_be_a_delete() {
    ends(0, &["put", "latest", "k", "one", "-w", "all"]);
    let envelope = json(&ends(0, &["get", "latest", "k", "-o", "json"]));
    let context = envelope["context"].as_str().unwrap();
    ends(0, &["put", "latest", "k", "two", "--context", context, "-w", "all"]);
    ends(0, &["delete", "latest", "k", "--context", context, "-w", "all"]);
    let latest = ends(3, &["get", "latest", "k", "--latest"]);
    assert_eq!(stdout(&latest), "");
    assert!(stderr(&latest).contains("the latest is a delete"), "{}", stderr(&latest));
    ends(5, &["get", "latest", "k"]);
}

#[test]
fn a_context_supersedes_what_it_covers_and_no_more() {
    ends(0, &["put", "context", "k", "one", "-w", "all"]);
    let envelope = json(&ends(0, &["get", "context", "k", "-o", "json"]));
    let context = envelope["context"].as_str().unwrap();
    ends(0, &["put", "context", "k", "two", "-w", "all"]);
    ends(0, &["put", "context", "k", "late", "--context", context, "-w", "all"]);
    ends(5, &["get", "context", "k"]);
    let other = ends(2, &["put", "context", "other", "x", "--context", context]);
    assert!(stderr(&other).contains("bad_context"), "{}", stderr(&other));
    ends(2, &["put", "context", "k", "x", "--context", context, "--blind"]);
}

#[test]
fn usage_is_2() {
    for args in [
        &["put", "b", "k"][..],
        &["get", "b"],
        &["nonsense"],
        &["get", "b", "k", "-r", "most"],
        &["get", "b", "k", "--timeout", "1"],
        &["get", "b", "k", "-o", "yaml"],
        &["get", "b/c", "k"],
        &["get", "b", "k", "--endpoint", "ftp://x"],
        &["put", "b", "k", "v", "-w", "9"],
        &["dev", "--nodes", "0"],
        &["dev", "--nodes", "16", "--base-port", "65000", "--nonsense"],
    ] {
        let output = ends(2, args);
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn where_no_node_is_the_error_says_how_to_start_one() {
    let port = cluster::free_base(1).to_string();
    let nobody = quorate(["get", "b", "k", "--endpoint", &format!("http://127.0.0.1:{port}")]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1), "{}", stderr(&nobody));
    assert!(stderr(&nobody).contains("quorate dev"), "{}", stderr(&nobody));
}

#[test]
fn what_a_node_refuses_names_the_next_command() {
    let any = ends(2, &["get", "next", "k", "-r", "any"]);
    assert!(stderr(&any).contains("level of writes"), "{}", stderr(&any));
    let far = ends(2, &["get", "next", "k", "-r", "9"]);
    assert!(stderr(&far).contains("quorate help COMMAND"), "{}", stderr(&far));
    // The admin listener is no client listener: nothing is wrong with what was said.
    let admin = format!("http://127.0.0.1:{}", *DEV + 1);
    let astray = quorate(["get", "next", "k", "--endpoint", &admin]).output().unwrap();
    assert_eq!(astray.status.code(), Some(1), "{}", stderr(&astray));
    let said = stderr(&astray);
    assert!(
        said.contains("unexpected: 404 no_such_route") && said.contains("--endpoint names a node's client"),
        "{said}"
    );
}

#[test]
fn where_shows_what_each_replica_holds() {
    ends(0, &["put", "where", "k", "x", "-w", "all"]);
    let shown = stdout(&ends(0, &["where", "where", "k"]));
    let rows: Vec<&str> = shown.lines().skip(2).collect();
    assert!(shown.starts_with("where/k  partition "), "{shown}");
    assert_eq!(rows.len(), 3, "{shown}");
    let version = |row: &str| row.split_whitespace().find(|word| word.contains('@')).unwrap_or_default().to_owned();
    assert!(rows.iter().all(|row| !version(row).is_empty() && version(row) == version(rows[0])), "{shown}");
    let document = json(&ends(0, &["where", "where", "k", "-o", "json"]));
    assert_eq!(document["owners"]["owners"].as_array().unwrap().len(), 3);
    assert_eq!(document["explain"]["replicas"].as_array().unwrap().len(), 3);
}

#[test]
fn status_is_one_screen() {
    let shown = stdout(&ends(0, &["status"]));
    assert!(shown.starts_with("ok  as n1 sees it  layout "), "{shown}");
    assert!(shown.ends_with("Nothing needs attention.\n"), "{shown}");
    for name in ["n1", "n2", "n3"] {
        let up = |line: &str| line.starts_with(name) && line.split_whitespace().nth(1) == Some("up");
        assert!(shown.lines().any(up), "{shown}");
    }
    let document = json(&ends(0, &["status", "-o", "json"]));
    assert_eq!(document["health"], "ok");
    let wide = stdout(&ends(0, &["status", "-o", "wide"]));
    assert!(wide.contains("INCARNATION"), "{wide}");
}

#[test]
fn members_are_a_table() {
    let shown = stdout(&ends(0, &["members"]));
    assert!(shown.starts_with("MEMBER  STATE"), "{shown}");
    let rows: Vec<Vec<&str>> = shown.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.iter().map(|row| (row[0], row[1])).collect::<Vec<_>>(), [("n1", "up"), ("n2", "up"), ("n3", "up")]);
    assert_eq!(rows[0][2], "-", "no node suspects itself: {shown}");
    let document = json(&ends(0, &["members", "-o", "json"]));
    let members = document["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|member| member["incarnation"].is_string()), "{document}");
    assert!(stdout(&ends(0, &["members", "-o", "wide"])).contains("INCARNATION"));
}

#[test]
fn explanations_are_notes() {
    let put = ends(0, &["put", "explain", "k", "x", "-w", "all", "--explain"]);
    let said = stderr(&put);
    assert!(said.contains("decided after") && said.contains("flushed") && said.contains("n3"), "{said}");
    let get = ends(0, &["get", "explain", "k", "-r", "2", "--explain"]);
    assert_eq!(stdout(&get), "x");
    assert!(stderr(&get).contains("counted"), "{}", stderr(&get));
    assert!(!stderr(&get).contains('\x1b'), "no colours where there is no terminal");
}

#[test]
fn help_is_on_stdout_and_has_examples() {
    for command in ["server", "dev", "demo", "put", "get", "delete", "status", "members", "ring", "layout", "where"] {
        let help = stdout(&ends(0, &[command, "--help"]));
        assert!(help.contains("Examples:") && help.contains(&format!("quorate {command}")), "{help}");
    }
}

#[test]
fn a_layout_is_planned_committed_and_shown() {
    let shown = json(&ends(0, &["layout", "show", "-o", "json"]));
    let member = shown["trackers"][0]["member"].as_str().unwrap().to_owned();
    let label = format!("{member}=elsewhere");
    let plan = json(&ends(0, &["layout", "plan", "--zone", &label, "-o", "json"]));
    let version = plan["version"].as_u64().unwrap();
    assert_eq!((plan["kind"].as_str(), plan["risks"].as_array().map(Vec::len)), (Some("change"), Some(0)));
    let text = stdout(&ends(0, &["layout", "plan", "--zone", &label]));
    assert!(text.ends_with(&format!("  {}\n", plan["command"].as_str().unwrap())), "the same plan: {text}");
    let id = plan["id"].as_str().unwrap();
    let words = plan["command"].as_str().unwrap().split(' ').skip(1).chain(["--wait"]);
    let committed = ends(0, &words.collect::<Vec<_>>());
    assert_eq!(stdout(&committed), "", "what is watched is a note");
    assert!(stderr(&committed).ends_with(&format!("layout {version} is in force\n")), "{}", stderr(&committed));
    let after = json(&ends(0, &["layout", "show", "-o", "json"]));
    assert_eq!((after["head"]["version"].as_u64(), &after["head"]["hash"]), (Some(version), &plan["hash"]));
    let history = stdout(&ends(0, &["layout", "history"]));
    assert!(history.lines().nth(1).unwrap().contains(&format!("{member} zone ")), "{history}");
    let ring = stdout(&ends(0, &["ring"]));
    assert!(ring.starts_with(&format!("layout {version}  ")) && ring.contains("33.3%"), "{ring}");
    assert_eq!(stdout(&ends(0, &["ring", "-o", "wide"])).lines().count(), 3 + 1024);

    let again = ends(0, &["layout", "commit", id, "--version", &version.to_string()]);
    assert_eq!(stdout(&again).trim(), format!("layout-{version}-{id}"), "what is in force already is no conflict");
    let typo = ends(2, &["layout", "plan", "--leave", &format!("{member}x")]);
    assert!(stderr(&typo).contains(&format!("did you mean {member}?")), "{}", stderr(&typo));
    assert!(stderr(&ends(2, &["layout", "plan"])).contains("a plan changes something"));
    ends(3, &["layout", "commit", "0123456789abcdef", "--version", "9"]);
    let unasked = ends(2, &["layout", "skip", &member]);
    assert!(stderr(&unasked).contains("the same with --yes"), "{}", stderr(&unasked));
    let lives = ends(1, &["layout", "skip", &member, "--yes"]);
    assert!(stderr(&lives).contains("is up"), "{}", stderr(&lives));
}

#[test]
fn workers_of_all_members_are_shown_and_steered() {
    let said = json(&ends(0, &["workers", "-o", "json"]));
    let nodes = said.as_array().unwrap();
    assert!(nodes.iter().all(|node| node["workers"].as_array().unwrap().len() >= 7), "{said}");
    let name = nodes[0]["asked"].as_str().unwrap();
    ends(0, &["workers", "pause", "leftovers", "--node", name]);
    let shown = stdout(&ends(0, &["workers", "--node", name]));
    assert!(shown.lines().any(|line| line.contains("leftovers") && line.contains("paused")), "{shown}");
    let run = stderr(&ends(0, &["workers", "run", "leftovers", "--node", name]));
    assert!(run.contains("quorate workers resume leftovers"), "{run}");
    ends(0, &["workers", "resume", "leftovers", "--node", name]);
    assert!(!stdout(&ends(0, &["workers"])).contains("paused"));
    assert!(stderr(&ends(3, &["workers", "pause", "nobody"])).contains("anti-entropy"));
    assert!(stderr(&ends(3, &["workers", "--node", "nobody"])).contains("is no member"));
}

#[test]
fn members_are_told_to_compare_and_what_they_found_is_summed_up() {
    let dry = stdout(&ends(0, &["repair", "--dry-run"]));
    assert!(dry.contains("nothing was changed (dry run)") && dry.lines().count() >= 4, "{dry}");
    let said = json(&ends(0, &["repair", "--bucket", "repairs", "-o", "json"]));
    assert!(said.as_array().unwrap().iter().all(|one| one["state"] == "done" && one["repair"]["keys"] == 0), "{said}");
    ends(0, &["repair", "--partition", "3"]);
    assert!(stderr(&ends(2, &["repair", "--partition", "99999"])).contains("got 99999"));
    assert!(stderr(&ends(2, &["repair", "--bucket", "a/b"])).contains("bucket"));
    ends(2, &["repair", "--accept-data-loss"]);
    let unasked = stderr(&ends(2, &["repair", "--partition", "3", "--accept-data-loss"]));
    assert!(unasked.contains("read as never written") && unasked.contains("--yes"), "{unasked}");
    ends(0, &["repair", "--partition", "3", "--accept-data-loss", "--yes"]);
}

#[test]
fn tombstones_of_all_members_are_shown() {
    assert!(stdout(&ends(0, &["tombstones"])).starts_with("ON "));
    let said = json(&ends(0, &["tombstones", "-o", "json"]));
    let nodes = said.as_array().unwrap();
    assert!(nodes.len() == 3 && nodes.iter().all(|one| one["held_up_by"].as_array().unwrap().is_empty()), "{said}");
}

#[test]
fn hints_of_all_members_are_shown_and_waited_for() {
    assert!(stdout(&ends(0, &["hints"])).starts_with("No hints wait.\n"));
    let said = json(&ends(0, &["hints", "-o", "json"]));
    let nodes: Vec<&str> = said.as_array().unwrap().iter().map(|one| one["node"].as_str().unwrap()).collect();
    assert!(nodes.len() == 3 && said.as_array().unwrap().iter().all(|one| one["keys"] == 0), "{said}");
    let waited = ends(0, &["hints", "wait", "--timeout", "20s", "-o", "json"]);
    assert!(json(&waited).as_array().unwrap().iter().all(|one| one["done"] == true), "{}", stdout(&waited));
    ends(2, &["hints", "wait", "--timeout", "soon"]);
}
