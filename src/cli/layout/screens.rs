//! What `layout` and `ring` show.

use std::collections::BTreeMap;

use comfy_table::Cell;

use crate::cli::output::{Paint, state_cell, table};
use crate::kv::RingView;
use crate::kv::layouts::{LayoutSummary, LayoutView, OperationView, PlanView, TrackerView, WaitView};

/// Digits of a hash that are shown.
const HASH: usize = 12;

/// A plan, what it risks, and what commits it.
pub(super) fn plan(plan: &PlanView, wide: bool, paint: Paint) -> String {
    let mut text =
        format!("{} {}  layout {} -> {}  {}\n\n", paint.bold("plan"), plan.id, plan.parent, plan.version, plan.kind);
    let rows = plan.members.iter().map(|member| {
        let mut row = vec![
            Cell::new(&member.name),
            Cell::new(member.changes.join(", ")),
            Cell::new(&member.zone),
            Cell::new(member.weight),
            Cell::new(member.before),
            Cell::new(member.after),
            Cell::new(member.gains),
            Cell::new(bytes(member.bytes)),
        ];
        if wide {
            row.extend([Cell::new(&member.region), Cell::new(&member.id)]);
        }
        row
    });
    let mut header = vec!["MEMBER", "CHANGE", "ZONE", "WEIGHT", "PARTITIONS", "THEN", "COPIED", "BYTES"];
    if wide {
        header.extend(["REGION", "ID"]);
    }
    text += &table(&header, rows.collect(), paint);
    let rows = plan.zones.iter().map(|zone| {
        let label = if zone.zone.is_empty() { "-" } else { &zone.zone };
        vec![
            Cell::new(label),
            Cell::new(&zone.region),
            Cell::new(zone.members),
            Cell::new(zone.before),
            Cell::new(zone.after),
        ]
    });
    text += &format!("\n{}", table(&["ZONE", "REGION", "MEMBERS", "REPLICAS", "THEN"], rows.collect(), paint));
    if wide && !plan.moves.is_empty() {
        let rows = plan.moves.iter().map(|one| {
            vec![Cell::new(one.from.as_deref().unwrap_or("-")), Cell::new(&one.to), Cell::new(one.partitions)]
        });
        text += &format!("\n{}", table(&["FROM", "TO", "PARTITIONS"], rows.collect(), paint));
    }
    let least = plan.least_copied.map_or_else(String::new, |least| format!(", at least {least} in any plan"));
    let size = plan.bytes.map_or_else(|| "of unknown size".to_owned(), |size| format!("about {}", bytes(Some(size))));
    text += &format!(
        "\nCopies {} replicas, {size}{least}. Counted with n = {}.\nMost loaded, over the mean: {:.3}, then {:.3}.\n",
        plan.copied, plan.n, plan.max_over_mean_before, plan.max_over_mean
    );
    if plan.zone_violations > 0 {
        text += &format!("{} partitions have more replicas in one zone than need be.\n", plan.zone_violations);
    }
    text.push('\n');
    if plan.risks.is_empty() {
        text += "No risk is known: every partition keeps a live quorum, nothing acknowledged is left out.\n";
    } else {
        text += &format!("{}\n", paint.bold("Risks"));
        for risk in &plan.risks {
            let flag = risk.needs.replace('_', "-");
            text += &format!("  {}: {} (needs --{flag})\n", paint.red(&risk.code), risk.text);
        }
    }
    text + &format!("\nNothing has changed. Within ten minutes:\n  {}\n", plan.command)
}

/// The layouts that count, and how far everybody has come.
pub(super) fn show(view: &LayoutView, paint: Paint) -> String {
    let Some(head) = &view.head else {
        return "No layout: this node is in no cluster yet.\n".to_owned();
    };
    let state = if view.complete {
        paint.green("complete")
    } else {
        paint.bold(&format!("a change is under way, {} of {} steps", view.done, view.total))
    };
    let live: Vec<String> = view.live.iter().map(|layout| layout.version.to_string()).collect();
    let mut text = format!(
        "layout {}  {state}  {} members  hash {}\nwrites count in {}, reads in {}\n",
        head.version,
        head.members,
        short(&head.hash),
        live.join(" and "),
        view.reads_in
    );
    if view.deciders.len() < view.trackers.len() {
        text +=
            &format!("the next layout is decided by {} alone, until this one is complete\n", view.deciders.join(", "));
    }
    if !view.leaving.is_empty() {
        text += &format!("leaving: {}\n", view.leaving.join(", "));
    }
    let row = |tracker: &TrackerView| {
        let wait = view.waits_for.iter().find(|wait| wait.member == tracker.member);
        let synced: Vec<String> = tracker.synced.iter().map(u64::to_string).collect();
        vec![
            Cell::new(&tracker.member),
            Cell::new(tracker.ack),
            Cell::new(if synced.is_empty() { "-".into() } else { synced.join(",") }),
            Cell::new(tracker.sync_ack),
            Cell::new(tracker.awaited.as_deref().unwrap_or("-")),
            wait.map_or_else(|| Cell::new("-"), |wait| state_cell(&wait.state)),
            Cell::new(wait.and_then(|wait| wait.since.as_deref()).unwrap_or("-")),
        ]
    };
    let header = ["MEMBER", "ACK", "SYNCED", "READS", "AWAITED", "STATE", "SINCE"];
    text += &format!("\n{}", table(&header, view.trackers.iter().map(row).collect(), paint));
    if !view.candidates.is_empty() {
        let rows = view.candidates.iter().map(|candidate| {
            vec![
                Cell::new(&candidate.name),
                Cell::new(&candidate.region),
                Cell::new(&candidate.zone),
                Cell::new(candidate.weight),
                Cell::new(&candidate.peer_address),
                Cell::new(&candidate.id),
            ]
        });
        let header = ["WAITS TO JOIN", "REGION", "ZONE", "WEIGHT", "PEERS", "ID"];
        text += &format!("\n{}", table(&header, rows.collect(), paint));
    }
    text
}

/// What the layouts changed.
pub(super) fn history(view: &LayoutView, wide: bool, paint: Paint) -> String {
    let row = |layout: &LayoutSummary| {
        vec![
            Cell::new(layout.version),
            Cell::new(layout.since.as_deref().unwrap_or("-")),
            Cell::new(layout.members),
            Cell::new(if layout.changes.is_empty() { "-".into() } else { layout.changes.join(", ") }),
            Cell::new(if wide { &layout.hash } else { short(&layout.hash) }),
        ]
    };
    let rows: Vec<_> = view.history.iter().map(row).collect();
    if rows.is_empty() {
        return "No layout: this node is in no cluster yet.\n".to_owned();
    }
    table(&["LAYOUT", "SINCE", "MEMBERS", "CHANGES", "HASH"], rows, paint)
}

/// Who owns how much, or with `wide` what.
pub(in crate::cli) fn ring(ring: &RingView, wide: bool, paint: Paint) -> String {
    if ring.version == 0 {
        return "No ring: this node is in no cluster yet.\n".to_owned();
    }
    let live: Vec<String> = ring.live.iter().map(u64::to_string).collect();
    let mut text = format!(
        "layout {}  {} partitions  {} members  live: {}  hash {}\n\n",
        ring.version,
        ring.q,
        ring.members.len(),
        live.join(", "),
        short(&ring.hash)
    );
    if wide {
        let older = |id: u32| {
            let lists = ring.older.iter().filter_map(move |older| {
                let at = older.partitions.iter().find(|at| at.id == id)?;
                Some(format!("{}: {}", older.version, at.owners.join(" ")))
            });
            lists.collect::<Vec<_>>().join("; ")
        };
        let rows = ring.partitions.iter().map(|at| {
            let mut row = vec![Cell::new(at.id), Cell::new(at.owners.join(" "))];
            if !ring.older.is_empty() {
                row.push(Cell::new(older(at.id)));
            }
            row
        });
        let header: &[&str] =
            if ring.older.is_empty() { &["PARTITION", "OWNERS"] } else { &["PARTITION", "OWNERS", "AND STILL"] };
        return text + &table(header, rows.collect(), paint);
    }
    let mut owned: BTreeMap<&str, (usize, usize)> = ring.members.iter().map(|name| (name.as_str(), (0, 0))).collect();
    for at in &ring.partitions {
        for (position, owner) in at.owners.iter().enumerate() {
            let counts = owned.entry(owner).or_default();
            *counts = (counts.0 + usize::from(position == 0), counts.1 + 1);
        }
    }
    let all: usize = owned.values().map(|(_, count)| count).sum();
    let rows = owned.iter().map(|(name, (first, count))| {
        let share = *count as f64 * 100.0 / all.max(1) as f64;
        vec![Cell::new(name), Cell::new(count), Cell::new(first), Cell::new(format!("{share:.1}%"))]
    });
    text += &table(&["MEMBER", "PARTITIONS", "FIRST", "SHARE"], rows.collect(), paint);
    for older in &ring.older {
        text += &format!(
            "\nlayout {} still counts for writes: {} partitions have other owners there",
            older.version,
            older.partitions.len()
        );
    }
    if ring.older.is_empty() { text } else { text + "\n" }
}

/// For whom an operation waits, on one line.
pub(super) fn waits(operation: &OperationView) -> String {
    if operation.waits_for.is_empty() && operation.state != "running" {
        return operation.state.clone();
    }
    waits_line(&operation.waits_for)
}

/// For whom a change that is under way waits, on one line.
pub(in crate::cli) fn waits_line(waits: &[WaitView]) -> String {
    if waits.is_empty() {
        return "waits for what follows by itself".into();
    }
    let name = |wait: &WaitView| {
        let down = if wait.state == "down" { ", down" } else { "" };
        format!("{} ({}{down})", wait.member, wait.awaited)
    };
    let mut named: Vec<String> = waits.iter().take(4).map(name).collect();
    if waits.len() > named.len() {
        named.push(format!("{} more", waits.len() - named.len()));
    }
    format!("waits for {}", named.join(", "))
}

fn short(hash: &str) -> &str {
    hash.get(..HASH).unwrap_or(hash)
}

/// A size as people read it.
fn bytes(size: Option<u64>) -> String {
    let Some(size) = size else { return "?".into() };
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut scaled, mut unit) = (size as f64, 0);
    while scaled >= 1024.0 && unit + 1 < units.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{size} B") } else { format!("{scaled:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::layouts::{PlannedMember, PlannedZone, RiskView, WaitView};
    use crate::kv::{OlderRing, PartitionView};

    #[test]
    fn a_plan_ends_with_the_command_that_commits_it() {
        let member = |name: &str, changes: &[&str], before, after, gains| PlannedMember {
            name: name.into(),
            zone: "a".into(),
            weight: 1,
            changes: changes.iter().map(|change| (*change).to_owned()).collect(),
            before,
            after,
            gains,
            bytes: Some(gains * 1536),
            ..PlannedMember::default()
        };
        let risk = RiskView { code: "may_lose_data".into(), text: "where".into(), needs: "accept_data_loss".into() };
        let view = PlanView {
            id: "5b2f".into(),
            version: 8,
            parent: 7,
            kind: "change".into(),
            n: 3,
            members: vec![member("n1", &[], 8, 6, 0), member("n4", &["joins"], 0, 6, 6)],
            zones: vec![PlannedZone { zone: "a".into(), members: 2, before: 8, after: 12, ..PlannedZone::default() }],
            copied: 6,
            bytes: Some(9216),
            max_over_mean_before: 1.0,
            max_over_mean: 1.25,
            risks: vec![risk],
            command: "quorate layout commit 5b2f --version 8 --accept-data-loss".into(),
            ..PlanView::default()
        };
        let text = plan(&view, false, Paint::never());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "plan 5b2f  layout 7 -> 8  change");
        assert_eq!(lines[2], "MEMBER  CHANGE  ZONE  WEIGHT  PARTITIONS  THEN  COPIED  BYTES");
        assert_eq!(lines[4], "n4      joins   a     1       0           6     6       9.0 KiB");
        assert!(text.contains("Copies 6 replicas, about 9.0 KiB. Counted with n = 3."), "{text}");
        assert!(text.contains("may_lose_data: where (needs --accept-data-loss)"), "{text}");
        assert!(text.ends_with("\n  quorate layout commit 5b2f --version 8 --accept-data-loss\n"), "{text}");
        let safe = plan(&PlanView { risks: Vec::new(), bytes: None, ..view }, false, Paint::never());
        assert!(safe.contains("No risk is known") && safe.contains("of unknown size"), "{safe}");
    }

    #[test]
    fn a_change_names_for_whom_it_waits() {
        let tracker = |name: &str, ack, synced: &[u64], sync_ack, awaited: Option<&str>| TrackerView {
            member: name.into(),
            id: String::new(),
            ack,
            synced: synced.to_vec(),
            sync_ack,
            awaited: awaited.map(str::to_owned),
        };
        let head = LayoutSummary { version: 2, hash: "0123456789abcdef".into(), members: 2, ..Default::default() };
        let wait = WaitView {
            member: "n2".into(),
            awaited: "synced".into(),
            state: "down".into(),
            since: Some("2026-01-01T00:00:00.000Z".into()),
        };
        let view = LayoutView {
            head: Some(head.clone()),
            live: vec![head.clone(), LayoutSummary { version: 1, ..Default::default() }],
            reads_in: 1,
            deciders: vec!["n1".into()],
            trackers: vec![tracker("n1", 2, &[2], 1, None), tracker("n2", 2, &[], 1, Some("synced"))],
            waits_for: vec![wait.clone()],
            done: 3,
            total: 6,
            ..LayoutView::default()
        };
        let lines = [
            "layout 2  a change is under way, 3 of 6 steps  2 members  hash 0123456789ab",
            "writes count in 2 and 1, reads in 1",
            "the next layout is decided by n1 alone, until this one is complete",
            "",
            "MEMBER  ACK  SYNCED  READS  AWAITED  STATE  SINCE",
            "n1      2    2       1      -        -      -",
            "n2      2    -       1      synced   down   2026-01-01T00:00:00.000Z",
        ];
        assert_eq!(show(&view, Paint::never()), lines.join("\n") + "\n");
        let operation = OperationView { state: "running".into(), waits_for: vec![wait], ..OperationView::default() };
        assert_eq!(waits(&operation), "waits for n2 (synced, down)");
        assert!(show(&LayoutView::default(), Paint::never()).starts_with("No layout"));
        let past = LayoutView { history: vec![head], ..LayoutView::default() };
        assert!(history(&past, false, Paint::never()).contains("0123456789ab\n"));
    }

    #[test]
    fn a_ring_is_counted_or_listed() {
        let at = |id, owners: &[&str]| PartitionView { id, owners: owners.iter().map(|o| (*o).to_owned()).collect() };
        let view = RingView {
            version: 2,
            hash: "ab".into(),
            live: vec![1, 2],
            q: 2,
            members: vec!["a".into(), "b".into(), "c".into()],
            partitions: vec![at(0, &["a", "b"]), at(1, &["b", "a"])],
            older: vec![OlderRing { version: 1, hash: String::new(), partitions: vec![at(1, &["a"])] }],
        };
        let counted = ring(&view, false, Paint::never());
        assert!(counted.contains("a       2           1      50.0%\n"), "{counted}");
        assert!(counted.contains("c       0           0      0.0%\n"), "{counted}");
        assert!(counted.ends_with("layout 1 still counts for writes: 1 partitions have other owners there\n"));
        let listed = ring(&view, true, Paint::never());
        assert!(listed.contains("1          b a     1: a\n"), "{listed}");
    }
}
