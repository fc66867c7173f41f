//! What came of a run: the judges of the other tier on its history, and what happened, counted.

use std::collections::BTreeMap;

use quorate::sim::check::{Violation, converge, lost, mono, overlap};
use quorate::sim::faults::Schedule;
use quorate::sim::history::{self, Event, Line};

use super::cluster::{Cluster, host};
use super::plan::Options;
use super::run::{PROGRESS, Shared};
use crate::children::Outcome;

/// What is not equal on all replicas, and what of a replica's own books is wrong.
pub(super) fn equal(cluster: &Cluster) -> Vec<Violation> {
    let (mut dumps, mut violations) = (BTreeMap::new(), Vec::new());
    for number in 0..cluster.len() {
        let audit = cluster.audit(number);
        let wrong = |detail| Violation { rule: "audit", about: host(number), op: None, detail };
        violations.extend(audit.wrong.into_iter().map(wrong));
        let records = audit.records.into_iter().map(|(key, record)| (key.to_vec(), record.to_vec())).collect();
        dumps.insert(host(number), records);
    }
    violations.extend(converge(&dumps, |_| cluster.setup.n.into()));
    violations
}

/// What an operation after the heal, on a cluster that is well, was not answered with.
fn no_progress(history: &[Line]) -> Vec<Violation> {
    let late = |line: &&Line| matches!(&line.event, Event::Invoke(invoke) if invoke.client == PROGRESS);
    let asked: BTreeMap<u64, &Line> = history.iter().filter(late).map(|line| (line.op, line)).collect();
    let answered = history.iter().filter(|line| matches!(line.event, Event::Ok(_)) && asked.contains_key(&line.op));
    if asked.len() == answered.count() && !asked.is_empty() {
        return Vec::new();
    }
    let ends = history.iter().filter(|line| asked.contains_key(&line.op)).map(|line| format!("{:?}", line.event));
    let detail = ends.collect::<Vec<_>>().join("\n    ");
    vec![Violation { rule: "no-progress", about: "simulated/progress".to_owned(), op: None, detail }]
}

/// What the judges say.
pub(super) fn verdict(options: &Options, schedule: &Schedule, shared: &Shared) -> Outcome {
    let (cluster, n) = (&shared.cluster, shared.cluster.setup.n);
    let history = shared.recorder.lines();
    let mut violations = std::mem::take(&mut *shared.violations.lock().unwrap());
    if violations.is_empty() {
        violations.extend(no_progress(&history));
        violations.extend(lost::check(&history));
    }
    violations.extend(overlap::check(&history, overlap::Rules { n, lww: false }));
    violations.extend(mono::check(&history, n));
    let sights = &cluster.sights;
    for line in &history {
        sights.count(match line.event {
            Event::Invoke(_) => "operations",
            Event::Ok(_) => "operations answered",
            Event::Info { .. } => "operations of unknown outcome",
            Event::Fail { .. } => "operations refused",
        });
    }
    let tally = cluster.tally();
    for (what, count) in [
        ("sibling writes", tally.siblings),
        ("read repairs", tally.read_repairs),
        ("hedges", tally.hedges),
        ("hand-overs", tally.handovers),
        ("quarantines", tally.quarantines),
        ("new incarnations", tally.incarnations),
        ("failed commits", tally.commit_failures),
        ("rollback proofs", tally.rollbacks),
    ] {
        sights.add(what, count);
    }
    sights.add("bits turned over", cluster.world.flips());
    if tally.clashes > 0 {
        let detail = format!("{} times one dot was met with two values", tally.clashes);
        violations.push(Violation { rule: "clash", about: "cluster".to_owned(), op: None, detail });
    }
    if let Ok(path) = std::env::var("QUORATE_HISTORY") {
        std::fs::write(path, history::write(&history)).unwrap();
    }
    let mut broken: Vec<String> = violations.iter().take(20).map(|violation| format!("  {violation}")).collect();
    if !broken.is_empty() {
        let Options { seed, nodes, length, durability, think, lag, short, .. } = options;
        let what = format!(
            "seed {seed}: {nodes} nodes, {length:?}, durability {durability:?}, a step every {think:?}, {lag} of the \
             commits lag, {short} of the reads and writes are short\n{}\n{} violations",
            schedule.options,
            violations.len()
        );
        broken.insert(0, what);
    }
    let trace = cluster.world.trace().map(|trace| trace + &history::write(&history)).unwrap_or_default();
    Outcome { counts: sights.all(), broken, trace }
}
