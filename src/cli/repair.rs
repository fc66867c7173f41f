//! `repair`: members compare what they hold, now, and make equal what differs.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use comfy_table::Cell;
use futures_util::future::join_all;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::Format;
use super::hints::Said;
use super::output::{Exit, Failure, Paint, confirm, json, note, print, state_cell, table};
use super::workers::Asked;
use crate::client::Client;
use crate::env::{Clock, Env};
use crate::kv::layouts::OperationView;
use crate::kv::{Error, RepairRequest, RepairView};

pub(super) const REPAIR: &str = "\
Every member compares what it holds with the other owners and makes equal what differs; each pair of members is compared
once. Keys that were written in the last seconds are left out. What is compared by itself, and how often: node.repair.
--accept-data-loss gives up keys of one partition that cannot be read and that no other owner holds; it asks first, unless
--yes is said.

Examples:
  quorate repair --dry-run                     what differs; nothing is changed
  quorate repair
  quorate repair --bucket orders
  quorate repair --partition 17 --node n2
  quorate repair --partition 17 --accept-data-loss --yes";

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A node that cannot be asked for so long is given up; its repair goes on.
const SILENT_FOR: Duration = Duration::from_secs(15);

#[derive(Args, Debug)]
pub(super) struct RepairArgs {
    /// This bucket alone.
    #[arg(long, value_name = "BUCKET")]
    bucket: Option<String>,
    /// This partition alone.
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Say what differs, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Give up what cannot be read in this partition, and what no other owner holds.
    #[arg(long, requires = "partition", conflicts_with_all = ["dry_run", "bucket"])]
    accept_data_loss: bool,
    /// Do not ask.
    #[arg(long, requires = "accept_data_loss")]
    yes: bool,
    #[command(flatten)]
    asked: Asked,
}

pub(super) async fn repair(args: RepairArgs) -> Result<(), Failure> {
    let RepairArgs { bucket, partition, dry_run, accept_data_loss, yes, asked } = args;
    if accept_data_loss {
        let of = partition.map_or_else(String::new, |partition| format!(" of partition {partition}"));
        confirm(&format!("Keys{of} that nobody can read will read as never written, for good. Go on?"), yes)?;
    }
    let clients = asked.clients().await?;
    // Where some are named, they compare with everybody.
    let once = asked.names_none();
    let request = RepairRequest { bucket, partition, dry_run, once, accept_data_loss };
    let begun = join_all(clients.iter().map(async |(_, client)| client.begin_repair(&request).await)).await;
    if begun.iter().all(Result::is_err)
        && let Some(Err(error)) = begun.first()
    {
        return Err(Failure::of_write(error));
    }
    let clock = Env::real().clock;
    let bar = bar();
    let mut watched: Vec<Watched<'_>> = Vec::new();
    let mut told = BTreeSet::new();
    for ((node, client), begun) in clients.iter().zip(begun) {
        let began = clock.now();
        watched.push(match begun {
            Ok(begun) => {
                Watched { node: begun.node, client, id: begun.id, heard: began, last: Ok(OperationView::default()) }
            }
            Err(error) => Watched { node: node.clone(), client, id: String::new(), heard: began, last: Err(error) },
        });
    }
    loop {
        join_all(watched.iter_mut().map(|one| one.look(&*clock))).await;
        let operations = || watched.iter().filter_map(|one| one.last.as_ref().ok());
        bar.set_length(operations().map(|operation| operation.total).sum());
        bar.set_position(operations().map(|operation| operation.done).sum());
        let keys: u64 = operations().filter_map(|one| one.repair.as_ref()).map(|repair| repair.keys).sum();
        if bar.is_hidden() {
            // Nobody sees the bar: what is waited for is said once.
            let waiting = watched.iter().filter_map(Watched::waits_for);
            for (node, why) in waiting.filter(|(node, _)| told.insert((*node).to_owned())) {
                note(&format!("{node}: {why}"));
            }
        }
        let waits = watched.iter().find_map(Watched::waits_for).map(|(_, why)| why.to_owned());
        bar.set_message(waits.unwrap_or_else(|| format!("{keys} keys differ")));
        if watched.iter().all(Watched::is_over) {
            break;
        }
        clock.sleep(LOOK_EVERY).await;
    }
    bar.finish_and_clear();
    let said: Vec<Said<OperationView>> = watched.into_iter().map(Watched::said).collect();
    match asked.admin.reach.output {
        Some(Format::Json) => print(&json(&said)?)?,
        _ => print(screen(&said, Paint::stdout()).as_bytes())?,
    }
    let wrong = |one: &Said<OperationView>| {
        let why = match &one.said {
            Some(operation) if operation.state == "done" => return None,
            Some(operation) => operation.error.clone().unwrap_or_else(|| operation.state.clone()),
            None => one.unreached.clone().unwrap_or_default(),
        };
        Some(format!("{}: {why}", one.node))
    };
    let wrong: Vec<String> = said.iter().filter_map(wrong).collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, wrong.join("; "), "`quorate members`, then the same again")),
    }
}

/// A repair that is followed.
struct Watched<'a> {
    node: String,
    client: &'a Client,
    id: String,
    heard: crate::types::Mono,
    last: Result<OperationView, Error>,
}

impl Watched<'_> {
    fn is_over(&self) -> bool {
        self.last.as_ref().map_or(true, |operation| !matches!(operation.state.as_str(), "" | "running"))
    }

    /// Why it does not go on, though it is under way: which node, and what for.
    fn waits_for(&self) -> Option<(&str, &str)> {
        let operation = self.last.as_ref().ok().filter(|operation| operation.state == "running")?;
        operation.error.as_deref().map(|why| (self.node.as_str(), why))
    }

    async fn look(&mut self, clock: &dyn Clock) {
        if self.is_over() {
            return;
        }
        match self.client.operation(&self.id).await {
            Ok(operation) => (self.last, self.heard) = (Ok(operation), clock.now()),
            Err(error) if error.code == crate::kv::ErrorCode::NotKnown => self.last = Err(error),
            Err(error) if clock.now().since(self.heard) >= SILENT_FOR => self.last = Err(error),
            Err(_) => {}
        }
    }

    fn said(self) -> Said<OperationView> {
        match self.last {
            Ok(operation) => Said { node: self.node, said: Some(operation), unreached: None },
            Err(error) => Said { node: self.node, said: None, unreached: Some(error.to_string()) },
        }
    }
}

fn bar() -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("compared [{bar:40}] {pos}/{len} {elapsed} {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    if bar.is_hidden() {
        note("members compare what they hold");
    }
    bar
}

fn screen(said: &[Said<OperationView>], paint: Paint) -> String {
    let mut all = RepairView::default();
    let mut rows = Vec::new();
    for operation in said.iter().filter_map(|one| one.said.as_ref()) {
        let Some(repair) = &operation.repair else { continue };
        rows.push(vec![
            Cell::new(&repair.node),
            state_cell(&operation.state),
            Cell::new(repair.compared),
            Cell::new(repair.differed),
            Cell::new(repair.keys),
            Cell::new(repair.repaired),
            Cell::new(HumanBytes(repair.bytes)),
        ]);
        all.dry_run = repair.dry_run;
        all.compared += repair.compared;
        all.differed += repair.differed;
        all.keys += repair.keys;
        all.repaired += repair.repaired;
        all.bytes += repair.bytes;
        all.given_up += repair.given_up;
    }
    let mut text = table(&["ON", "STATE", "COMPARED", "DIFFERED", "KEYS", "REPAIRED", "BYTES"], rows, paint);
    let RepairView { compared, differed, keys, repaired, bytes, given_up, dry_run, .. } = all;
    text +=
        &format!("\n{compared} pairs of a partition and two owners compared, {differed} differed, in {keys} keys: ");
    text += &match dry_run {
        true => "nothing was changed (dry run)\n".to_owned(),
        false => format!("{repaired} repaired, {} exchanged\n", HumanBytes(bytes)),
    };
    if given_up > 0 {
        text += &format!("{given_up} keys that nobody holds were given up\n");
    }
    for (node, why) in said.iter().filter_map(|said| Some((&said.node, said.unreached.as_ref()?))) {
        text += &format!("{} {node} did not compare: {why}\n", paint.red("note:"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(node: &str, dry_run: bool, keys: u64) -> Said<OperationView> {
        let repaired = if dry_run { 0 } else { keys };
        let (node, bytes) = (node.to_owned(), 100 * repaired);
        let repair =
            RepairView { node, dry_run, compared: 64, differed: 3, keys, repaired, bytes, ..RepairView::default() };
        let operation =
            OperationView { state: "done".into(), repair: Some(repair.clone()), ..OperationView::default() };
        Said { node: repair.node, said: Some(operation), unreached: None }
    }

    #[test]
    fn a_summary_counts_what_all_have_done_and_names_who_did_not() {
        let gone = Said { node: "n3".to_owned(), said: None, unreached: Some("refused".to_owned()) };
        let text = screen(&[ended("n1", false, 5), ended("n2", false, 2), gone], Paint::never());
        let lines = [
            "ON  STATE  COMPARED  DIFFERED  KEYS  REPAIRED  BYTES",
            "n1  done   64        3         5     5         500 B",
            "n2  done   64        3         2     2         200 B",
            "",
            "128 pairs of a partition and two owners compared, 6 differed, in 7 keys: 7 repaired, 700 B exchanged",
            "note: n3 did not compare: refused",
        ];
        assert_eq!(text, lines.join("\n") + "\n");
        let dry = screen(&[ended("n1", true, 5)], Paint::never());
        assert!(dry.contains("in 5 keys: nothing was changed (dry run)"), "{dry}");
    }
}
