//! A cluster of real processes that changes: its nodes by name, and what it shows of each step.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use quorate::kv::layouts::LayoutView;
use quorate::kv::{Kv, Status};
use quorate::quorum::Level;
use serde_json::Value;

use crate::data::{for_all, id, write};
use crate::server::{Server, pause};

/// Names of those that found a cluster.
const NAMES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];

/// The nodes, in the order in which they came.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<(&'static str, Server)>,
    seeds: Vec<String>,
    root: tempfile::TempDir,
}

impl Cluster {
    /// So many nodes, founded.
    pub(crate) async fn of(size: usize) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut servers = Server::cluster(size, root.path());
        let seeds = servers[0].seeds.clone();
        for (server, name) in servers.iter_mut().zip(NAMES) {
            server.set("node.name", name);
        }
        crate::server::start_all(&mut servers).await;
        Self { nodes: NAMES.into_iter().zip(servers).collect(), seeds, root }
    }

    /// Stores these at a quorum, through all nodes.
    pub(crate) async fn fill(&self, records: &[(String, String)]) {
        let clients: Vec<_> = self.nodes.iter().map(|(_, server)| server.client()).collect();
        for_all(records.iter().enumerate(), |(index, (key, value))| {
            let client = &clients[index % clients.len()];
            async move {
                client.put(id(key), value.clone().into(), write(Level::Quorum)).await.unwrap();
            }
        })
        .await;
    }

    /// A node with an empty directory and the seeds of all others, not started yet.
    pub(crate) fn fresh(&mut self, name: &'static str) -> &mut Server {
        self.nodes.push((name, Server::fresh(self.root.path(), name, &self.seeds)));
        &mut self.nodes.last_mut().unwrap().1
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Server {
        &mut self.nodes.iter_mut().find(|(found, _)| *found == name).unwrap().1
    }

    /// Those whose process runs.
    pub(crate) fn running(&self) -> Vec<&Server> {
        self.nodes.iter().map(|(_, server)| server).filter(|server| server.runs()).collect()
    }

    /// Those that were ever started.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Server> {
        self.nodes.iter().map(|(_, server)| server)
    }

    /// Waits until a node's `/admin/layout` is as wanted.
    pub(crate) async fn until(&self, node: &Server, what: &str, wanted: impl Fn(&LayoutView) -> bool) -> LayoutView {
        let client = node.client();
        let mut last = String::new();
        for _ in 0..4800 {
            match client.layout().await {
                Ok(view) if wanted(&view) => return view,
                Ok(view) => last = format!("{view:?}"),
                Err(error) => last = error.to_string(),
            }
            pause(Duration::from_millis(25)).await;
        }
        for (name, server) in &self.nodes {
            println!("-- {name}\n{}", server.log());
        }
        panic!("waited in vain until {what}: {last}");
    }

    /// Waits until every node that runs has these members and no others, all of them up, by a layout that is complete
    /// and alone; and `quorate status` says the same.
    pub(crate) async fn settles(&self, members: &[&str]) -> u64 {
        let names = |of: &mut dyn Iterator<Item = &String>| of.cloned().collect::<BTreeSet<String>>();
        let wanted: BTreeSet<String> = members.iter().map(|name| (*name).to_owned()).collect();
        let mut version = 0;
        for server in self.running() {
            let settled = |view: &LayoutView| {
                view.complete
                    && view.live.len() == 1
                    && view.head.as_ref().is_some_and(|head| head.version == view.reads_in)
                    && view.leaving.is_empty()
                    && names(&mut view.trackers.iter().map(|tracker| &tracker.member)) == wanted
            };
            let view = self.until(server, &format!("{members:?} are the members"), settled).await;
            version = version.max(view.reads_in);
            server.wait_until_up(members.len()).await;
        }
        for server in self.running() {
            let told = quorate(server, &["status"]);
            let told = told.unwrap_or_else(|said| panic!("quorate status: {said}"));
            let listed = told["members"].as_array().unwrap().iter().map(|member| member["name"].as_str().unwrap());
            assert_eq!(listed.map(str::to_owned).collect::<BTreeSet<String>>(), wanted, "{told}");
            assert!(told["layout"].as_u64() >= Some(version), "{told}");
            shows_up(server, &wanted).await;
        }
        version
    }

    /// Waits until every node that runs shows a change as the last one, and as complete: `quorate status` says so, to
    /// people as to programs.
    pub(crate) async fn shows(&self, change: &str) {
        for server in self.running() {
            let shown = |status: &Status| {
                let last = status.change.as_ref().filter(|last| last.complete);
                last.is_some_and(|last| last.changes.iter().any(|words| words.contains(change)))
            };
            server.wait_for(&format!("{change:?} is complete"), shown).await;
            let told = quorate(server, &["status"]).unwrap();
            let words: Vec<&str> =
                told["change"]["changes"].as_array().unwrap().iter().map(|words| words.as_str().unwrap()).collect();
            assert!(words.iter().any(|words| words.contains(change)), "{told}");
            assert_eq!(told["change"]["complete"], true, "{told}");
            let screen = screen(server, &["status"]);
            let line = screen.lines().nth(1).unwrap();
            assert!(line.starts_with("layout ") && line.contains(change) && line.ends_with("; complete"), "{screen}");
        }
    }

    /// Waits until the nodes have deleted so many objects that they do not own any more, and seem to be done.
    pub(crate) async fn forgets(&self, objects: u64) {
        let (mut before, mut calm) = (0, 0);
        for _ in 0..1200 {
            let mut forgotten = 0;
            for server in self.running() {
                let answer = reqwest::get(format!("{}/metrics", server.admin_address())).await.unwrap();
                let text = answer.text().await.unwrap();
                let count = text.lines().find_map(|line| line.strip_prefix("quorate_forgotten_objects_total "));
                forgotten += count.unwrap().parse::<u64>().unwrap();
            }
            calm = if forgotten == before { calm + 1 } else { 0 };
            if forgotten >= objects && calm == 30 {
                return;
            }
            before = forgotten;
            pause(Duration::from_millis(100)).await;
        }
        panic!("{before} objects of {objects} were deleted by those that do not own them any more");
    }

    /// Plans, commits and waits, all by the command line. Layouts that follow by themselves may come between a plan and
    /// its commit: then it is planned anew, as the refusal says.
    pub(crate) fn change(&self, at: &Server, plan: &[&str]) {
        let mut refused = String::new();
        for _ in 0..20 {
            let planned = match quorate(at, &[&["layout", "plan"], plan].concat()) {
                Ok(planned) => planned,
                Err(said) if said.contains("unfinished") || said.contains("conflict") => {
                    refused = said;
                    std::thread::sleep(Duration::from_millis(250));
                    continue;
                }
                Err(said) => panic!("layout plan {plan:?}: {said}"),
            };
            let (id, version) = (planned["id"].as_str().unwrap(), planned["version"].to_string());
            match quorate(at, &["layout", "commit", id, "--version", &version, "--wait"]) {
                Ok(ended) => {
                    assert_eq!(ended["state"], "done", "{ended}");
                    return;
                }
                Err(said) if said.contains("was decided") => refused = said,
                Err(said) => panic!("layout commit of {plan:?}: {said}"),
            }
        }
        panic!("{plan:?} was never committed: {refused}");
    }
}

/// Waits until the screen of `quorate status` has these members, and all of them up: one that has just come back may be
/// taken for down once more.
async fn shows_up(server: &Server, wanted: &BTreeSet<String>) {
    let wanted: BTreeSet<Vec<&str>> = wanted.iter().map(|name| vec![name.as_str(), "up"]).collect();
    let mut shown = String::new();
    for _ in 0..200 {
        shown = screen(server, &["status"]);
        let rows = shown.lines().skip_while(|line| !line.starts_with("MEMBER")).skip(1);
        let rows = rows.take_while(|line| !line.is_empty()).map(|line| line.split_whitespace().take(2).collect());
        if rows.collect::<BTreeSet<Vec<&str>>>() == wanted {
            return;
        }
        pause(Duration::from_millis(50)).await;
    }
    panic!("the members are {wanted:?}, and status shows\n{shown}");
}

/// Runs a command against this node's admin interface: the document it prints, or what it says went wrong.
pub(crate) fn quorate(at: &Server, words: &[&str]) -> Result<Value, String> {
    let output = run(&[words, &["-o", "json", "--admin", &at.admin_address()]].concat());
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {:?}", output.stdout))
}

/// The same, as people see it.
pub(crate) fn screen(at: &Server, words: &[&str]) -> String {
    let output = run(&[words, &["--admin", &at.admin_address()]].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A command that must end with this code: what it says.
pub(crate) fn fails(at: &Server, code: i32, words: &[&str]) -> String {
    let output = run(&[words, &["--admin", &at.admin_address()]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    said
}

/// Runs the binary that the nodes run.
pub(crate) fn run(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.args(words).stdin(Stdio::null());
    tokio::task::block_in_place(|| command.output()).unwrap()
}

/// How many of the records that ship with the project are loaded: `QUORATE_GROWTH_RECORDS`, or `all`.
pub(crate) fn records() -> Vec<(String, String)> {
    let mut records = crate::data::records();
    match std::env::var("QUORATE_GROWTH_RECORDS").as_deref() {
        Ok("all") => {}
        Ok(number) => records.truncate(number.parse().expect("QUORATE_GROWTH_RECORDS is a number, or all")),
        Err(_) => records.truncate(2000),
    }
    records
}
