//! Real nodes: child processes of the release binary on loopback, each with a data directory of its own.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quorate::client::{Client, ClientConfig};
use quorate::env::Env;
use quorate::kv::Status;

/// The ports of one node.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    pub(crate) client: u16,
    pub(crate) admin: u16,
    pub(crate) peer: u16,
}

/// One node: where it lives, and its process while it runs.
pub(crate) struct Server {
    pub(crate) ports: Ports,
    pub(crate) directory: PathBuf,
    pub(crate) seeds: Vec<String>,
    /// What it is started with beside the usual flags.
    pub(crate) flags: Vec<String>,
    /// What runs the binary: nothing, or a tracer.
    pub(crate) runner: Vec<String>,
    child: Option<Child>,
}

/// Ports nobody listens on: taken all at once, then given back.
pub(crate) fn free_ports(count: usize) -> Vec<Ports> {
    let held: Vec<_> = (0..3 * count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    ports.chunks(3).map(|three| Ports { client: three[0], admin: three[1], peer: three[2] }).collect()
}

impl Server {
    /// Nodes that found a cluster together, not started yet.
    pub(crate) fn cluster(size: usize, root: &Path) -> Vec<Self> {
        let ports = free_ports(size);
        let seeds: Vec<String> = if size == 1 {
            Vec::new()
        } else {
            ports.iter().map(|ports| format!("127.0.0.1:{}", ports.peer)).collect()
        };
        let server = |(index, ports): (usize, Ports)| Self {
            ports,
            directory: root.join(format!("n{}", index + 1)),
            seeds: seeds.clone(),
            flags: Vec::new(),
            runner: Vec::new(),
            child: None,
        };
        ports.into_iter().enumerate().map(server).collect()
    }

    /// One that is to join the cluster which these seeds name, not started yet.
    pub(crate) fn fresh(root: &Path, name: &str, seeds: &[String]) -> Self {
        let mut server = Self {
            ports: free_ports(1).remove(0),
            directory: root.join(name),
            seeds: seeds.to_vec(),
            flags: Vec::new(),
            runner: Vec::new(),
            child: None,
        };
        server.set("node.name", name);
        server
    }

    /// A setting, from its next start on.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.flags.retain(|flag| !flag.starts_with(&format!("--set={key}=")));
        self.flags.push(format!("--set={key}={value}"));
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Stopped, and its data gone.
    pub(crate) fn wipe(&self) {
        assert!(!self.runs(), "it runs");
        std::fs::remove_dir_all(&self.directory).unwrap();
    }

    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "it runs");
        std::fs::create_dir_all(&self.directory).unwrap();
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.directory.with_extension("log")).unwrap();
        let mut words: Vec<String> = self.runner.clone();
        words.push(env!("CARGO_BIN_EXE_quorate").into());
        words.extend(["server".into(), "--data-dir".into(), self.directory.display().to_string()]);
        for (flag, port) in [
            ("--client-listen", self.ports.client),
            ("--admin-listen", self.ports.admin),
            ("--peer-listen", self.ports.peer),
        ] {
            words.extend([flag.into(), format!("127.0.0.1:{port}")]);
        }
        // A share of a large disk may be more than is free where the tests run.
        words.extend(["--set".into(), "node.disk_reserve=64MiB".into()]);
        for seed in &self.seeds {
            words.extend(["--seed".into(), seed.clone()]);
        }
        words.extend(self.flags.clone());
        let mut command = Command::new(&words[0]);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(name);
            }
        }
        command.args(&words[1..]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Kill -9: the node, and with it the tracer it may run under.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        let traced = format!("/proc/{0}/task/{0}/children", child.id());
        for pid in std::fs::read_to_string(traced).unwrap_or_default().split_whitespace() {
            let _ = Command::new("kill").args(["-KILL", pid]).status();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().unwrap();
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        child.wait().unwrap()
    }

    pub(crate) fn client_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.client)
    }

    pub(crate) fn admin_address(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.admin)
    }

    /// A client of this node alone.
    pub(crate) fn client(&self) -> Client {
        let mut config = ClientConfig::new([format!("http://{}", self.client_address())]);
        config.admin_endpoints = vec![self.admin_address()];
        config.max_attempts = 1;
        config.idempotent = false;
        Client::new(config, Env::real()).unwrap()
    }

    /// What the log says so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.with_extension("log")).unwrap_or_default()
    }

    /// Waits until what its status says is as wanted.
    pub(crate) async fn wait_for(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let client = self.client();
        let mut last = String::new();
        for _ in 0..1200 {
            match client.status().await {
                Ok(status) if wanted(&status) => return status,
                Ok(status) => last = format!("{status:?}"),
                Err(error) => last = error.to_string(),
            }
            pause(Duration::from_millis(25)).await;
        }
        panic!("{}: waited in vain until {what}: {last}\n{}", self.directory.display(), self.log());
    }

    /// Waits until it serves and holds this many members for up.
    pub(crate) async fn wait_until_up(&self, members: usize) {
        let up = |status: &Status| status.members.iter().filter(|member| member.state == "up").count();
        self.wait_for("all are up", |status| status.health != "not_serving" && up(status) == members).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// Between two looks at a condition.
#[allow(clippy::disallowed_methods, reason = "real processes live in real time")]
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Starts all, waits until each holds all for up.
pub(crate) async fn start_all(servers: &mut [Server]) {
    for server in servers.iter_mut() {
        server.start();
    }
    let size = servers.len();
    for server in servers.iter() {
        server.wait_until_up(size).await;
    }
}
