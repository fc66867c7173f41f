//! `tombstones`: deletions that wait on the members to be removed for good, and for whom.

use comfy_table::Cell;
use futures_util::future::join_all;

use super::args::{AdminArgs, Format};
use super::hints::{Said, nodes};
use super::output::{Exit, Failure, Paint, json, print, table};
use crate::kv::{HolderUp, TombstonesView};

pub(super) const TOMBSTONES: &str = "\
Every member is asked, at one port above its client port; with --admin, those that are named. Each speaks of the partitions
that it drives, as of its last look: WAITING are deletions, RIPE those that have stayed for node.collect.linger. They go once
every owner, and everybody who may hold hints for one, has confirmed them; who cannot now is named.

Examples:
  quorate tombstones
  quorate tombstones -o json
  quorate workers run collection               look now";

pub(super) async fn tombstones(args: AdminArgs) -> Result<(), Failure> {
    let nodes = nodes(&args).await?;
    let asked = nodes.iter().map(async |(name, client)| match client.tombstones().await {
        Ok(view) => Said { node: view.node.clone(), said: Some(view), unreached: None },
        Err(error) => Said { node: name.clone(), said: None, unreached: Some(error.to_string()) },
    });
    let said: Vec<Said<TombstonesView>> = join_all(asked).await;
    match args.reach.output {
        Some(Format::Json) => print(&json(&said)?)?,
        _ => print(screen(&said, Paint::stdout()).as_bytes())?,
    }
    match said.iter().all(|said| said.said.is_none()) {
        true => Err(Failure::new(Exit::Failed, "no node could be asked", "`quorate members`")),
        false => Ok(()),
    }
}

fn screen(said: &[Said<TombstonesView>], paint: Paint) -> String {
    let views = || said.iter().filter_map(|said| said.said.as_ref());
    let numbers = |view: &TombstonesView| [view.waiting, view.ripe, view.partitions, view.collected, view.rounds];
    let rows = views().map(|view| {
        let cells = numbers(view).into_iter().map(Cell::new);
        std::iter::once(Cell::new(&view.node)).chain(cells).collect::<Vec<_>>()
    });
    let mut text = table(&["ON", "WAITING", "RIPE", "PARTITIONS", "COLLECTED", "ROUNDS"], rows.collect(), paint);
    let held_up: Vec<(&TombstonesView, &HolderUp)> =
        views().flat_map(|view| view.held_up_by.iter().map(move |holder| (view, holder))).collect();
    if !held_up.is_empty() {
        text.push('\n');
        let row = |(view, holder): (&TombstonesView, &HolderUp)| {
            let HolderUp { node, partitions, waiting, why, .. } = holder;
            [&view.node, node]
                .map(Cell::new)
                .into_iter()
                .chain([Cell::new(partitions), Cell::new(waiting), Cell::new(why)])
                .collect()
        };
        let header = ["ON", "HELD UP BY", "PARTITIONS", "WAITING", "WHY"];
        text += &table(&header, held_up.into_iter().map(row).collect(), paint);
    }
    for (node, why) in said.iter().filter_map(|said| Some((&said.node, said.unreached.as_ref()?))) {
        text += &format!("{} {node} could not be asked: {why}\n", paint.red("note:"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_a_table_and_who_holds_it_up_another() {
        let holder =
            HolderUp { node: "n3".into(), partitions: 2, waiting: 30, why: "it is down".into(), ..HolderUp::default() };
        let view = TombstonesView {
            node: "n1".into(),
            waiting: 40,
            ripe: 30,
            partitions: 3,
            collected: 7,
            rounds: 1,
            held_up_by: vec![holder],
            ..TombstonesView::default()
        };
        let said = [
            Said { node: "n1".into(), said: Some(view), unreached: None },
            Said { node: "n3".into(), said: None, unreached: Some("refused".into()) },
        ];
        let lines = [
            "ON  WAITING  RIPE  PARTITIONS  COLLECTED  ROUNDS",
            "n1  40       30    3           7          1",
            "",
            "ON  HELD UP BY  PARTITIONS  WAITING  WHY",
            "n1  n3          2           30       it is down",
            "note: n3 could not be asked: refused",
        ];
        assert_eq!(screen(&said, Paint::never()), lines.join("\n") + "\n");
    }
}
