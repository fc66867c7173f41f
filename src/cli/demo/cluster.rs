//! Three nodes as child processes on free ports of loopback.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::super::dev::Scratch;
use super::super::output::{Exit, Failure};
use crate::env::Env;

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

/// One node, running or not.
struct Member {
    name: &'static str,
    /// Client, admin, peer.
    ports: [u16; 3],
    process: Option<Child>,
}

/// The cluster. Kills its nodes and removes their data when it goes.
pub(super) struct Cluster {
    members: Vec<Member>,
    // After `members`, so that their processes are gone when it is removed.
    scratch: Option<Scratch>,
    env: Env,
}

impl Cluster {
    /// A cluster to be: ports and a directory, nothing running.
    pub(super) fn plan(env: Env) -> Result<Self, Failure> {
        let failure = |error: std::io::Error| Failure::new(Exit::Failed, format!("no free ports: {error}"), "");
        // All are held until all are known, so that no port comes twice.
        let (mut members, mut held) = (Vec::new(), Vec::new());
        for name in NAMES {
            let (ports, listeners) = three_in_a_row().map_err(failure)?;
            members.push(Member { name, ports, process: None });
            held.extend(listeners);
        }
        Ok(Self { members, scratch: Some(Scratch::new("quorate-demo")?), env })
    }

    fn directory(&self, node: usize) -> PathBuf {
        let place = self.scratch.as_ref().map(Scratch::path).unwrap_or(std::path::Path::new("."));
        place.join(self.members[node].name)
    }

    /// What `quorate server` is told to be this node.
    fn arguments(&self, node: usize) -> Vec<String> {
        let [client, admin, peer] = self.members[node].ports.map(|port| format!("127.0.0.1:{port}"));
        let directory = self.directory(node).display().to_string();
        let zone = char::from(b'a' + u8::try_from(node).unwrap_or_default()).to_string();
        let mut arguments: Vec<String> =
            ["server", "--name", self.members[node].name, "--zone", &zone, "--data-dir"].map(str::to_owned).to_vec();
        arguments.push(directory);
        for (flag, value) in [("--client-listen", client), ("--admin-listen", admin), ("--peer-listen", peer)] {
            arguments.extend([flag.to_owned(), value]);
        }
        // On a disk that may be nearly full a share of it would be much.
        arguments.extend(["--set", "node.disk_reserve=64MiB"].map(str::to_owned));
        for member in &self.members {
            arguments.extend(["--seed".to_owned(), format!("127.0.0.1:{}", member.ports[2])]);
        }
        arguments
    }

    /// Starts a node as a process of its own.
    pub(super) fn start(&mut self, node: usize) -> Result<(), Failure> {
        let name = self.members[node].name;
        let fail =
            |what: &str, error: std::io::Error| Failure::new(Exit::Failed, format!("{name}: {what}: {error}"), "");
        let directory = self.directory(node);
        std::fs::create_dir_all(&directory).map_err(|error| fail("cannot make its directory", error))?;
        let log = File::options().create(true).append(true).open(directory.join("log"));
        let log = log.map_err(|error| fail("cannot make its log", error))?;
        let program = std::env::current_exe().map_err(|error| fail("cannot find this program", error))?;
        let mut command = Command::new(program);
        command.args(self.arguments(node)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // What the shell says about other clusters is not for these.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(variable);
            }
        }
        // A process group of its own: Ctrl-C goes to the demo, which then ends its nodes.
        let process = command.process_group(0).spawn().map_err(|error| fail("cannot be started", error))?;
        self.members[node].process = Some(process);
        Ok(())
    }

    /// Ends a node as a crash would: SIGKILL, no last word.
    pub(super) fn kill(&mut self, node: usize) -> Option<u32> {
        let mut process = self.members[node].process.take()?;
        let id = process.id();
        // It can only fail for a process that is gone already.
        let _gone = process.kill();
        let _gone = process.wait();
        Some(id)
    }

    pub(super) fn name(&self, node: usize) -> &'static str {
        self.members[node].name
    }

    pub(super) fn process_id(&self, node: usize) -> Option<u32> {
        self.members[node].process.as_ref().map(Child::id)
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn client_url(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.members[node].ports[0])
    }

    pub(super) fn admin_url(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.members[node].ports[1])
    }

    /// Waits until a node says it is ready.
    pub(super) async fn wait_ready(&mut self, node: usize, http: &reqwest::Client) -> Result<Duration, Failure> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let began = self.env.clock.now();
        let url = format!("{}/readyz", self.admin_url(node));
        loop {
            if http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(self.env.clock.now().since(began));
            }
            let name = self.members[node].name;
            if let Some(Ok(Some(status))) = self.members[node].process.as_mut().map(Child::try_wait) {
                return Err(Failure::new(Exit::Failed, format!("{name} ended by itself: {status}"), ""));
            }
            if self.env.clock.now().since(began) > PATIENCE {
                return Err(Failure::new(Exit::Failed, format!("{name} was not ready within {PATIENCE:?}"), ""));
            }
            self.env.clock.sleep(Duration::from_millis(10)).await;
        }
    }

    /// The end of each node's log, for an error.
    pub(super) fn last_words(&self) -> String {
        let mut text = String::new();
        for node in 0..self.len() {
            let log = std::fs::read_to_string(self.directory(node).join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("\n  {} said last:", self.name(node));
            for line in &lines[lines.len().saturating_sub(3)..] {
                text += &format!("\n    {line}");
            }
        }
        text
    }

    /// Leaves everything up, and says how to reach and how to end it.
    pub(super) fn keep(mut self) -> String {
        let mut text = "The cluster stays up:\n".to_owned();
        let mut ids = Vec::new();
        for node in 0..self.len() {
            let line = format!("{}  (admin {})", self.client_url(node), self.admin_url(node));
            // A `Child` that is dropped goes on running.
            if let Some(process) = self.members[node].process.take() {
                ids.push(process.id().to_string());
            }
            text += &format!("  {:6} {line}\n", self.name(node));
        }
        let urls: Vec<String> = (0..self.len()).map(|node| self.client_url(node)).collect();
        let place = self.scratch.take().map(Scratch::keep).unwrap_or_default();
        text += &format!(
            "\nTalk to it:\n  export QUORATE_ENDPOINTS={}\n  quorate status\n\nEnd it:\n  kill -9 {}; rm -r {}\n",
            urls.join(","),
            ids.join(" "),
            place.display()
        );
        text
    }
}

/// Three free ports in a row, since the other commands expect the admin port one above the clients'.
fn three_in_a_row() -> std::io::Result<([u16; 3], Vec<TcpListener>)> {
    const TRIES: u32 = 100;
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let first = TcpListener::bind("127.0.0.1:0")?;
        let port = first.local_addr()?.port();
        let Some(third) = port.checked_add(2) else { continue };
        match (port + 1..=third).map(|port| TcpListener::bind(("127.0.0.1", port))).collect::<Result<Vec<_>, _>>() {
            Ok(mut others) => {
                others.push(first);
                return Ok(([port, port + 1, third], others));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..self.members.len() {
            self.kill(node);
        }
    }
}
