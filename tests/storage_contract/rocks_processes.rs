//! RocksDB stores in processes of their own: killed in the middle of commits, idle, holding the lock.
//!
//! The test binary runs itself again with one test, [`child`], which does what an environment variable says.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use quorate::storage::rocks::{RocksOptions, RocksStorage};
use quorate::storage::{Durability, Storage, StorageError};

use crate::rocks_files::{numbered, prefix, small};

const ROLE: &str = "STORAGE_CONTRACT_ROLE";
const DIR: &str = "STORAGE_CONTRACT_DIR";

fn spawn(role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rocks_processes::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The lines a child says, marked so that those of the test harness don't count.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let said = BufReader::new(child.stdout.take().unwrap()).lines();
    said.map_while(Result::ok).filter_map(|line| line.strip_prefix("child: ").map(str::to_owned))
}

fn say(what: &str) {
    // One write per line: a killed process leaves whole ones.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\nchild: {what}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

#[test]
#[ignore = "what the other tests of this file run in a process of its own"]
fn child() {
    let (Ok(role), Some(dir)) = (std::env::var(ROLE), std::env::var_os(DIR).map(PathBuf::from)) else { return };
    match role.as_str() {
        "commit" => {
            let storage = RocksStorage::open(&dir, &small()).unwrap();
            for n in prefix(&storage).. {
                // Both ways of committing survive the death of a process.
                let durability = if n % 4 == 3 { Durability::Os } else { Durability::Flush };
                storage.commit(numbered(n, vec![b'v'; 3000]), durability).unwrap();
                say(&n.to_string());
            }
        }
        "idle" => {
            let storage = RocksStorage::open(&dir, &RocksOptions::default()).unwrap();
            storage.commit(numbered(0, Vec::new()), Durability::Flush).unwrap();
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            say(status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim());
        }
        "hold" => {
            let _storage = RocksStorage::open(&dir, &small()).unwrap();
            say("open");
            // Until the parent kills this process or ends itself.
            let _ = std::io::stdin().read_line(&mut String::new());
        }
        other => panic!("no such role: {other}"),
    }
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for after in [1, 40, 350, 7, 120] {
        let mut child = spawn("commit", dir.path());
        let mut said = lines(&mut child);
        let mut last: Option<u32> = said.by_ref().take(after).last().map(|line| line.parse().unwrap());
        child.kill().unwrap();
        // What it said before it died counts as well.
        last = said.last().map(|line| line.parse().unwrap()).or(last);
        child.wait().unwrap();
        let last = last.expect("the child acknowledged something");
        assert!(last >= acknowledged, "batch {acknowledged} was acknowledged in an earlier life");
        acknowledged = last + 1;
        let found = prefix(&RocksStorage::open(dir.path(), &small()).unwrap());
        assert!(found >= acknowledged, "{acknowledged} acknowledged, {found} there");
        assert!(found <= acknowledged + 1, "one batch was under way: {acknowledged} acknowledged, {found} there");
    }
    assert!(acknowledged >= 518);
}

#[test]
fn another_process_holds_the_lock_until_it_dies() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = spawn("hold", dir.path());
    assert_eq!(lines(&mut child).next().as_deref(), Some("open"));
    let answer = RocksStorage::open(dir.path(), &small()).map(|_| ());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(answer, Err(StorageError::Locked(_))), "{answer:?}");
    RocksStorage::open(dir.path(), &small()).unwrap();
}

#[test]
fn an_idle_store_fits_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = spawn("idle", dir.path());
    let said = lines(&mut child).last().unwrap();
    child.wait().unwrap();
    println!("resident: {said}");
    let kibibytes: u64 = said.trim_end_matches(" kB").parse().unwrap();
    assert!(kibibytes <= 48 << 10, "the store alone takes {said} of the node's 64 MiB");
}
