//! `hints`: what waits on the members for owners that missed it, and a wait until it is with them.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::Cell;
use futures_util::future::join_all;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::args::{AdminArgs, Format, Reach};
use super::config;
use super::objects::client;
use super::output::{Exit, Failure, Paint, json, note, print, state_cell, table};
use super::status::{admin_client, admin_of, admin_token};
use crate::client::Client;
use crate::env::Env;
use crate::kv::{HintsLeft, HintsView, HintsWaited};
use crate::types::Wall;

pub(super) const HINTS: &str = "\
Every member is asked, at one port above its client port; with --admin, those that are named. A hint is a note that an
owner missed a write; it is replayed once the owner is back. DROPPED is what was not kept: comparison finds it.

Examples:
  quorate hints
  quorate hints -o json
  quorate hints wait                           until what waits now is with its owners";

const WAIT: &str = "\
A sync point: what is left later is not waited for. What owners miss while it runs is. Ends with 1 where something is
left when the time is over.

Examples:
  quorate hints wait
  quorate hints wait --timeout 10m";

/// Waited for at once: then everybody says how far it is.
const ROUND: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct HintsArgs {
    #[command(subcommand)]
    command: Option<HintsCommand>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Subcommand, Debug)]
enum HintsCommand {
    /// Wait until all hints that wait now are replayed.
    #[command(after_help = WAIT)]
    Wait(WaitArgs),
}

#[derive(Args, Debug)]
struct WaitArgs {
    /// How long to wait.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = config::duration)]
    timeout: Duration,
    /// A node's admin address. Default: one port above each endpoint.
    #[arg(long = "admin", value_name = "URL", env = "QUORATE_ADMIN_ENDPOINTS", value_delimiter = ',')]
    admin: Vec<String>,
    /// The file with the admin token.
    #[arg(long, value_name = "FILE", env = "QUORATE_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// A node's client address.
    #[arg(
        long = "endpoint",
        value_name = "URL",
        env = "QUORATE_ENDPOINTS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7400"
    )]
    endpoints: Vec<String>,
    /// How to show it.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

/// What one node says, or why it says nothing.
#[derive(Serialize)]
pub(super) struct Said<T> {
    #[serde(rename = "asked")]
    pub(super) node: String,
    #[serde(flatten)]
    pub(super) said: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unreached: Option<String>,
}

pub(super) async fn hints(args: HintsArgs) -> Result<(), Failure> {
    match args.command {
        Some(HintsCommand::Wait(args)) => wait(args).await,
        None => show(&args.admin).await,
    }
}

/// A client for every node that is to be asked: those that were named, else all members.
pub(super) async fn nodes(args: &AdminArgs) -> Result<Vec<(String, Client)>, Failure> {
    let admins: Vec<(String, String)> = if args.admin.is_empty() {
        let members = admin_client(args)?.members().await.map_err(|error| Failure::of_read(&error))?.members;
        let admin = |client: &str| admin_of(&format!("http://{client}"));
        let mut named: Vec<_> =
            members.into_iter().filter_map(|member| Some((member.name, admin(&member.addresses.client)?))).collect();
        named.sort();
        named
    } else {
        args.admin.iter().map(|url| (url.clone(), url.trim_end_matches('/').to_owned())).collect()
    };
    let token = admin_token(args)?;
    let one = |(name, url): (String, String)| {
        let client =
            client(&args.reach, |config| (config.admin_endpoints, config.admin_token) = (vec![url], token.clone()));
        client.map(|client| (name, client))
    };
    admins.into_iter().map(one).collect()
}

async fn show(args: &AdminArgs) -> Result<(), Failure> {
    let nodes = nodes(args).await?;
    let asked = nodes.iter().map(async |(name, client)| match client.hints().await {
        Ok(view) => Said { node: view.node.clone(), said: Some(view), unreached: None },
        Err(error) => Said { node: name.clone(), said: None, unreached: Some(error.to_string()) },
    });
    let said: Vec<Said<HintsView>> = join_all(asked).await;
    match args.reach.output {
        Some(Format::Json) => print(&json(&said)?)?,
        other => print(screen(&said, other == Some(Format::Wide), Paint::stdout()).as_bytes())?,
    }
    match said.iter().all(|said| said.said.is_none()) {
        true => Err(Failure::new(Exit::Failed, "no node could be asked", "`quorate members`")),
        false => Ok(()),
    }
}

fn screen(said: &[Said<HintsView>], wide: bool, paint: Paint) -> String {
    let views = || said.iter().filter_map(|said| said.said.as_ref());
    let rows: Vec<Vec<Cell>> = views()
        .flat_map(|view| view.targets.iter().map(move |target| (view, target)))
        .map(|(view, target)| {
            let mut row = vec![
                Cell::new(&view.node),
                Cell::new(&target.node),
                Cell::new(target.keys),
                Cell::new(target.owed),
                Cell::new(HumanBytes(target.bytes)),
                Cell::new(&target.oldest),
                state_cell(&target.state),
            ];
            if wide {
                row.extend([Cell::new(target.replayed), Cell::new(&target.store)]);
            }
            row.push(Cell::new(target.error.as_deref().unwrap_or("-")));
            row
        })
        .collect();
    let mut text = String::new();
    if rows.is_empty() {
        text += "No hints wait.\n";
    } else {
        let mut header = vec!["ON", "FOR", "KEYS", "OWED", "BYTES", "OLDEST", "STATE"];
        if wide {
            header.extend(["REPLAYED", "STORE"]);
        }
        header.push("LAST ERROR");
        text += &table(&header, rows, paint);
    }
    let sum = |of: fn(&HintsView) -> u64| views().map(of).sum::<u64>();
    let (left, replayed, dropped) = (sum(|view| view.left), sum(|view| view.replayed), sum(|view| view.dropped));
    text += &format!("\nSince the nodes started: {left} left, {replayed} replayed, {dropped} dropped\n");
    let (owed, unreadable) = (sum(|view| view.owed), sum(|view| view.unreadable));
    if owed > 0 {
        text += &format!("{owed} keys are owed: they counted towards a quorum, and nothing drops them\n");
    }
    if unreadable > 0 {
        text += &format!("{unreadable} hints cannot be read, and are left alone: `quorate status`\n");
    }
    let marked = sum(|view| view.marked);
    if marked > 0 {
        text += &format!("{marked} partitions are marked for comparison with their other owners\n");
    }
    for (node, why) in said.iter().filter_map(|said| Some((&said.node, said.unreached.as_ref()?))) {
        text += &format!("{} {node} could not be asked: {why}\n", paint.red("note:"));
    }
    text
}

async fn wait(args: WaitArgs) -> Result<(), Failure> {
    let WaitArgs { timeout, admin, admin_token_file, endpoints, output } = args;
    let admin = AdminArgs { admin, admin_token_file, reach: Reach { endpoints, timeout: ROUND, output } };
    let (nodes, clock) = (nodes(&admin).await?, Env::real().clock);
    let give_up = clock.now() + timeout;
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("hints [{bar:40}] {pos}/{len} {elapsed} {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let mut points: Vec<Option<Wall>> = vec![None; nodes.len()];
    let mut most = 0;
    loop {
        let left = give_up.since(clock.now()).min(ROUND);
        let asked = nodes.iter().zip(&points).map(async |((name, client), point)| {
            match client.wait_for_hints(left, *point).await {
                Ok(waited) => Said { node: waited.node.clone(), said: Some(waited), unreached: None },
                Err(error) => Said { node: name.clone(), said: None, unreached: Some(error.to_string()) },
            }
        });
        let said: Vec<Said<HintsWaited>> = join_all(asked).await;
        for (point, said) in points.iter_mut().zip(&said) {
            *point = said.said.as_ref().map(|waited| waited.until).or(*point);
        }
        let keys = said.iter().filter_map(|said| said.said.as_ref()).flat_map(|said| &said.left);
        let keys: u64 = keys.map(|left: &HintsLeft| left.keys).sum();
        most = most.max(keys);
        bar.set_length(most);
        bar.set_position(most - keys);
        let done = said.iter().all(|said| said.said.as_ref().is_some_and(|waited| waited.done));
        if !done && clock.now() < give_up {
            if said.iter().any(|said| said.unreached.is_some()) {
                // It may be starting: another look.
                clock.sleep(ROUND / 4).await;
            }
            bar.set_message(waits(&said));
            continue;
        }
        bar.finish_and_clear();
        if output == Some(Format::Json) {
            print(&json(&said)?)?;
        }
        if done {
            note("all hints that waited are replayed");
            return Ok(());
        }
        return Err(Failure::new(Exit::Failed, format!("in {timeout:?}: {}", waits(&said)), "`quorate hints`"));
    }
}

fn waits(said: &[Said<HintsWaited>]) -> String {
    let mut texts = Vec::new();
    for one in said {
        match &one.said {
            Some(waited) => {
                let left = |left: &HintsLeft| format!("{} keys for {} wait on {}", left.keys, left.node, one.node);
                texts.extend(waited.left.iter().map(left));
            }
            None => texts.push(format!("{} cannot be asked", one.node)),
        }
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::HintTarget;

    #[test]
    fn hints_are_a_table_and_whoever_cannot_be_asked_is_named() {
        let target = HintTarget {
            node: "n3".into(),
            store: "s".into(),
            keys: 300,
            bytes: 18_000,
            owed: 40,
            oldest: "2026-01-01T00:00:00Z".into(),
            state: "waiting".into(),
            replayed: 0,
            error: None,
        };
        let view = HintsView {
            node: "n1".into(),
            targets: vec![target],
            owed: 40,
            left: 2000,
            marked: 2,
            ..Default::default()
        };
        let said = [
            Said { node: "n1".into(), said: Some(view), unreached: None },
            Said { node: "n3".into(), said: None, unreached: Some("refused".into()) },
        ];
        let lines = [
            "ON  FOR  KEYS  OWED  BYTES      OLDEST                STATE    LAST ERROR",
            "n1  n3   300   40    17.58 KiB  2026-01-01T00:00:00Z  waiting  -",
            "",
            "Since the nodes started: 2000 left, 0 replayed, 0 dropped",
            "40 keys are owed: they counted towards a quorum, and nothing drops them",
            "2 partitions are marked for comparison with their other owners",
            "note: n3 could not be asked: refused",
        ];
        assert_eq!(screen(&said, false, Paint::never()), lines.join("\n") + "\n");
        assert!(screen(&said[1..], false, Paint::never()).starts_with("No hints wait.\n"));
    }

    #[test]
    fn what_is_left_is_told_by_node_and_owner() {
        let left = vec![HintsLeft { node: "n3".into(), keys: 7 }];
        let waited = HintsWaited { node: "n1".into(), left, ..HintsWaited::default() };
        let said = [
            Said { node: "n1".into(), said: Some(waited), unreached: None },
            Said { node: "n2".into(), said: None, unreached: Some("refused".into()) },
        ];
        assert_eq!(waits(&said), "7 keys for n3 wait on n1, n2 cannot be asked");
    }
}
