//! `workers`: what runs in the background of the members, and what it is told.

use clap::{Args, Subcommand};
use comfy_table::Cell;
use futures_util::future::join_all;
use indicatif::HumanBytes;

use super::args::{AdminArgs, Format};
use super::hints::{Said, nodes};
use super::output::{Exit, Failure, Paint, json, note, print, state_cell, table};
use crate::client::Client;
use crate::kv::{ScrubView, Steer, WorkerView, WorkersView};

pub(super) const WORKERS: &str = "\
Every member is asked, at one port above its client port; with --node or --admin, those that are named. What is told to a
worker is told to all that are asked. A paused worker stops at its next safe point, until it is resumed or its node starts
again; `quorate status` says so meanwhile. RATE is the most bytes a second that a worker moves.

Examples:
  quorate workers
  quorate workers -o wide                      what each of them does, and what the last scrub found
  quorate workers --node n3
  quorate workers pause anti-entropy           on all members
  quorate workers pause transfers --node n3    on one of them";

const PAUSE: &str = "\
Examples:
  quorate workers pause anti-entropy
  quorate workers pause transfers --node n3";

const RESUME: &str = "\
Examples:
  quorate workers resume anti-entropy
  quorate workers resume transfers --node n3";

const RUN: &str = "\
What the worker would begin later it begins now. A paused one begins once it is resumed.

Examples:
  quorate workers run expiry
  quorate workers run anti-entropy --node n3";

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct WorkersArgs {
    #[command(subcommand)]
    command: Option<WorkersCommand>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Subcommand, Debug)]
enum WorkersCommand {
    /// Stop a worker at its next safe point.
    #[command(after_help = PAUSE)]
    Pause(SteerArgs),
    /// Let a worker go on.
    #[command(after_help = RESUME)]
    Resume(SteerArgs),
    /// Have a worker begin now.
    #[command(after_help = RUN)]
    Run(SteerArgs),
}

#[derive(Args, Debug)]
struct SteerArgs {
    /// The worker, as `quorate workers` calls it.
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    asked: Asked,
}

/// Who is asked.
#[derive(Args, Debug)]
pub(super) struct Asked {
    /// A member's name; give several to ask several. Default: all members.
    #[arg(long = "node", value_name = "NAME", value_delimiter = ',', conflicts_with = "admin")]
    nodes: Vec<String>,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

impl Asked {
    /// Whether nobody was named: then all members are asked.
    pub(super) fn names_none(&self) -> bool {
        self.nodes.is_empty() && self.admin.admin.is_empty()
    }

    /// A client for every node that is to be asked.
    pub(super) async fn clients(&self) -> Result<Vec<(String, Client)>, Failure> {
        let all = nodes(&self.admin).await?;
        if self.nodes.is_empty() {
            return Ok(all);
        }
        if let Some(stranger) = self.nodes.iter().find(|name| !all.iter().any(|(member, _)| member == *name)) {
            let members: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
            let text = format!("{stranger:?} is no member: they are {}", members.join(", "));
            return Err(Failure::new(Exit::NotFound, text, "`quorate members`"));
        }
        Ok(all.into_iter().filter(|(name, _)| self.nodes.contains(name)).collect())
    }
}

pub(super) async fn workers(args: WorkersArgs) -> Result<(), Failure> {
    match args.command {
        Some(WorkersCommand::Pause(args)) => steer(args, Steer::Pause).await,
        Some(WorkersCommand::Resume(args)) => steer(args, Steer::Resume).await,
        Some(WorkersCommand::Run(args)) => steer(args, Steer::Run).await,
        None => show(&args.asked).await,
    }
}

async fn show(asked: &Asked) -> Result<(), Failure> {
    let clients = asked.clients().await?;
    let answers = clients.iter().map(async |(name, client)| match client.workers().await {
        Ok(view) => Said { node: view.node.clone(), said: Some(view), unreached: None },
        Err(error) => Said { node: name.clone(), said: None, unreached: Some(error.to_string()) },
    });
    let said: Vec<Said<WorkersView>> = join_all(answers).await;
    match asked.admin.reach.output {
        Some(Format::Json) => print(&json(&said)?)?,
        other => print(screen(&said, other == Some(Format::Wide), Paint::stdout()).as_bytes())?,
    }
    match said.iter().all(|said| said.said.is_none()) {
        true => Err(Failure::new(Exit::Failed, "no node could be asked", "`quorate members`")),
        false => Ok(()),
    }
}

/// A worker's row, after the node's name.
fn row(worker: &WorkerView, wide: bool) -> Vec<Cell> {
    let progress = match (worker.done, worker.total) {
        (Some(done), Some(total)) => format!("{done}/{total}"),
        _ => "-".to_owned(),
    };
    let rate = match worker.rate {
        None => "-".to_owned(),
        Some(0) => "any".to_owned(),
        Some(rate) => format!("{}/s", HumanBytes(rate)),
    };
    let mut row = vec![
        Cell::new(&worker.name),
        state_cell(&worker.state),
        Cell::new(progress),
        Cell::new(rate),
        Cell::new(worker.runs),
        Cell::new(worker.ended.as_deref().unwrap_or("-")),
    ];
    if wide {
        row.extend([Cell::new(worker.error_at.as_deref().unwrap_or("-")), Cell::new(&worker.about)]);
    }
    row.push(Cell::new(worker.error.as_deref().unwrap_or("-")));
    row
}

fn screen(said: &[Said<WorkersView>], wide: bool, paint: Paint) -> String {
    let views = said.iter().filter_map(|said| said.said.as_ref());
    let rows: Vec<Vec<Cell>> = views
        .flat_map(|view| view.workers.iter().map(move |worker| (view, worker)))
        .map(|(view, worker)| [vec![Cell::new(&view.node)], row(worker, wide)].concat())
        .collect();
    let mut text = String::new();
    if rows.is_empty() {
        text += "No workers: what was asked does not serve yet.\n";
    } else {
        let mut header = vec!["ON", "WORKER", "STATE", "PROGRESS", "RATE", "RUNS", "LAST ENDED"];
        if wide {
            header.extend(["ERROR AT", "WHAT IT DOES"]);
        }
        header.push("LAST ERROR");
        text += &table(&header, rows, paint);
    }
    for view in said.iter().filter_map(|said| said.said.as_ref()) {
        if let Some(scrub) =
            view.scrub.as_ref().filter(|scrub| wide || scrub.found + scrub.disagreeing + scrub.gaps > 0)
        {
            text += &format!("\n{} scrub: {}\n", view.node, scrub_line(scrub, paint));
        }
    }
    for (node, why) in said.iter().filter_map(|said| Some((&said.node, said.unreached.as_ref()?))) {
        text += &format!("{} {node} could not be asked: {why}\n", paint.red("note:"));
    }
    text
}

/// What a scrub came to.
fn scrub_line(scrub: &ScrubView, paint: Paint) -> String {
    let ScrubView { began, ended, keys, bytes, found, mended, waiting, index_entries, disagreeing, leaves, gaps } =
        scrub;
    let until = ended.as_ref().map_or("and goes on".to_owned(), |ended| format!("to {ended}"));
    let bytes = HumanBytes(*bytes);
    let mut line = format!("{began} {until}: {keys} keys, {bytes} read; ");
    if found + index_entries + disagreeing + leaves + gaps == 0 {
        return line + "all well";
    }
    line += &paint.red(&format!("{found} keys damaged"));
    line += &format!(
        ", {mended} of them mended, {waiting} waiting; {index_entries} index entries, {leaves} Merkle leaves rewritten"
    );
    if *disagreeing > 0 {
        line += &format!(
            "; {disagreeing} index entries were not their records': written again, compared with the other owners"
        );
    }
    if *gaps > 0 {
        line += &format!("; {gaps} partitions with unreadable places, merged from the other owners");
    }
    line
}

async fn steer(args: SteerArgs, steer: Steer) -> Result<(), Failure> {
    let SteerArgs { name, asked } = args;
    let clients = asked.clients().await?;
    let told = join_all(clients.iter().map(async |(_, client)| client.steer(&name, steer).await)).await;
    let mut said: Vec<Said<WorkerView>> = Vec::new();
    let mut failed = None;
    for ((node, _), told) in clients.iter().zip(told) {
        let (view, error) = match told {
            Ok(view) => (Some(view), None),
            Err(error) => (None, Some(error)),
        };
        if let Some(error) = &error {
            note(&format!("{node}: {error}"));
            failed.get_or_insert_with(|| Failure::of_read(error));
        }
        said.push(Said { node: node.clone(), said: view, unreached: error.map(|error| error.to_string()) });
    }
    if asked.admin.reach.output == Some(Format::Json) {
        print(&json(&said)?)?;
    } else {
        for (node, worker) in said.iter().filter_map(|said| Some((&said.node, said.said.as_ref()?))) {
            note(&format!("{node}: {}", outcome(worker, steer)));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// What has become of it.
fn outcome(worker: &WorkerView, steer: Steer) -> String {
    let name = &worker.name;
    match steer {
        Steer::Pause => {
            format!(
                "{name} stops at its next safe point, until `quorate workers resume {name}` or a restart of the node"
            )
        }
        Steer::Resume => format!("{name} goes on"),
        Steer::Run if worker.state == "paused" => {
            format!("{name} is paused: it runs once it is resumed, by `quorate workers resume {name}`")
        }
        Steer::Run => format!("{name} runs now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str, state: &str, rate: Option<u64>) -> WorkerView {
        WorkerView {
            name: name.into(),
            about: "Works.".into(),
            state: state.into(),
            rate,
            runs: 3,
            ended: Some("2026-01-01T00:00:00Z".into()),
            ..WorkerView::default()
        }
    }

    #[test]
    fn workers_are_a_table_and_whoever_cannot_be_asked_is_named() {
        let busy = WorkerView {
            done: Some(3),
            total: Some(64),
            ended: None,
            error: Some("n2: timed out".into()),
            ..worker("anti-entropy", "running", Some(16 << 20))
        };
        let workers = vec![worker("transfers", "paused", Some(0)), busy, worker("expiry", "idle", None)];
        let view = WorkersView { node: "n1".into(), workers, scrub: Some(ScrubView::default()) };
        let said = [
            Said { node: "n1".into(), said: Some(view), unreached: None },
            Said { node: "n3".into(), said: None, unreached: Some("refused".into()) },
        ];
        let lines = [
            "ON  WORKER        STATE    PROGRESS  RATE         RUNS  LAST ENDED            LAST ERROR",
            "n1  transfers     paused   -         any          3     2026-01-01T00:00:00Z  -",
            "n1  anti-entropy  running  3/64      16.00 MiB/s  3     -                     n2: timed out",
            "n1  expiry        idle     -         -            3     2026-01-01T00:00:00Z  -",
            "note: n3 could not be asked: refused",
        ];
        assert_eq!(screen(&said, false, Paint::never()), lines.join("\n") + "\n");
        let wide = screen(&said, true, Paint::never());
        assert!(wide.contains("WHAT IT DOES") && wide.contains("n1 scrub: ") && wide.contains("all well"), "{wide}");
        let scrub = ScrubView { found: 3, mended: 2, waiting: 1, ..ScrubView::default() };
        let line = scrub_line(&scrub, Paint::never());
        assert!(line.contains("3 keys damaged, 2 of them mended, 1 waiting"), "{line}");
        assert!(screen(&[], false, Paint::never()).starts_with("No workers"));
    }

    #[test]
    fn what_was_told_is_said_back_with_what_comes_of_it() {
        let paused = worker("expiry", "paused", None);
        assert!(outcome(&paused, Steer::Run).contains("quorate workers resume expiry"));
        assert!(outcome(&paused, Steer::Pause).contains("restart"));
        assert_eq!(outcome(&worker("expiry", "idle", None), Steer::Run), "expiry runs now");
    }
}
