//! `quorate` processes for tests: found ports, awaited lines, ended processes.
#![allow(dead_code, reason = "each test file uses a part")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// The binary under test, with no settings of this shell's.
pub(crate) fn quorate<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(args).stdin(Stdio::null()).env("NO_COLOR", "1");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Blocks of ports that this process has given out.
static GIVEN: AtomicU16 = AtomicU16::new(0);

/// The first port of a block that `nodes` nodes of `quorate dev` can have, a new one each time. Below the range that the
/// system hands out by itself.
pub(crate) fn free_base(nodes: u16) -> u16 {
    let first = u16::try_from(std::process::id() % 400).unwrap();
    let blocks = (0..300).map(|_| 11_000 + (first + GIVEN.fetch_add(1, Ordering::Relaxed)) % 400 * 50);
    let mut free = blocks.filter(|base| {
        let ports = (0..nodes).flat_map(|node| (0..3).map(move |service| base + 10 * node + service));
        let held: Result<Vec<_>, _> = ports.map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        held.is_ok()
    });
    free.next().expect("some block of ports is free")
}

/// A process that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts it and waits for a line on stdout that contains `sign`.
    pub(crate) fn start(mut command: Command, sign: &str) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Self(child);
        let mut seen = Vec::new();
        loop {
            match lines.next() {
                Some(Ok(line)) if line.contains(sign) => break,
                Some(Ok(line)) => seen.push(line),
                _ => panic!("it ended ({:?}) without saying {sign:?}:\n{}", process.0.wait(), seen.join("\n")),
            }
        }
        // Somebody has to read the rest, or it would wait for that.
        std::thread::spawn(move || lines.for_each(drop));
        process
    }

    /// A fresh cluster of three by `quorate dev`, and its first port.
    pub(crate) fn dev() -> (Self, u16) {
        let base = free_base(3);
        (Self::start(quorate(["dev", "--base-port", &base.to_string()]), "quorate where"), base)
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // Told, not killed, so that it takes its temporary data along.
            self.signal("TERM");
        }
        let _gone = self.0.wait();
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
