//! One process a seed: the target runs itself again, with the name of a job and a seed.
//!
//! A seed decides a run only as long as nothing of another run is left in the process: hash keys, thread locals, and
//! what a crash of the simulation itself leaves behind. A child says one line, its [`Outcome`] as JSON; a child that
//! dies without it has failed, and what it wrote to its standard error says why.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

const CHILD: &str = "--child";
const TRACED: &str = "--traced";
/// What marks the line of the outcome.
const SAYS: &str = "outcome: ";

/// What a child can be asked to do: a name, and what does it with a seed, keeping a trace or not.
#[derive(Clone, Copy)]
pub(crate) struct Job(pub(crate) &'static str, pub(crate) fn(u64, bool) -> Outcome);

/// What came of one run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// What happened, and how often.
    pub(crate) counts: BTreeMap<String, u64>,
    /// Promises that were broken. Empty: all is well.
    pub(crate) broken: Vec<String>,
    /// Everything, in order, where it was asked for.
    pub(crate) trace: String,
}

/// Does what a child is asked for; none if this process is no child.
pub(crate) fn asked_for(args: &[String], jobs: &[Job]) -> Option<ExitCode> {
    let [child, name, seed, rest @ ..] = args else { return None };
    if child != CHILD {
        return None;
    }
    let Job(_, run) = jobs.iter().find(|Job(job, _)| job == name).expect("a job of this target");
    let outcome = run(seed.parse().unwrap(), rest.first().is_some_and(|flag| flag == TRACED));
    println!("{SAYS}{}", serde_json::to_string(&outcome).unwrap());
    Some(ExitCode::SUCCESS)
}

fn one(job: &str, seed: u64, traced: bool) -> Outcome {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([CHILD, job, &seed.to_string()]).stdin(Stdio::null());
    if traced {
        command.arg(TRACED);
    }
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    let outcome = said.lines().find_map(|line| line.strip_prefix(SAYS)).map(serde_json::from_str);
    match outcome {
        Some(outcome) if ended.status.success() => outcome.unwrap(),
        _ => {
            let why = String::from_utf8_lossy(&ended.stderr);
            let broken = vec![format!("the process of seed {seed} ended with {}:\n{}", ended.status, why.trim())];
            Outcome { broken, ..Outcome::default() }
        }
    }
}

/// Runs a job with each of these seeds; what came of it, in the order of the seeds.
pub(crate) fn all(job: &str, seeds: &[u64], traced: bool) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(seeds.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = seeds.get(at) else { return };
                    let outcome = one(job, *seed, traced);
                    outcomes.lock().unwrap().insert(at, outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap().into_values().collect()
}

/// Runs seeds that must break nothing; the sum of what happened. A seed that breaks something is told, with the line
/// that replays it.
pub(crate) fn none_breaks(job: &str, test: &str, seeds: &[u64]) -> BTreeMap<String, u64> {
    let mut total = BTreeMap::<String, u64>::new();
    let mut failed = Vec::new();
    for (seed, outcome) in seeds.iter().zip(all(job, seeds, false)) {
        if !outcome.broken.is_empty() {
            eprintln!("{}\n{}", outcome.broken.join("\n"), replay(test, *seed));
            failed.push(*seed);
        }
        for (what, count) in outcome.counts {
            *total.entry(what).or_default() += count;
        }
    }
    eprintln!("{job}, {} seeds from {}: {total:?}", seeds.len(), seeds.first().copied().unwrap_or_default());
    assert!(failed.is_empty(), "{} of {} seeds broke a promise: {failed:?}", failed.len(), seeds.len());
    total
}

/// Runs one seed twice, in two processes: what happened in them has to be the same, byte for byte.
pub(crate) fn repeats(job: &str, seed: u64) {
    let runs = all(job, &[seed, seed], true);
    let [first, second] = &runs[..] else { panic!("two runs") };
    assert_eq!(first.broken, [""; 0], "seed {seed}");
    assert!(first.trace.lines().count() > 1_000, "a trace of {} lines shows little", first.trace.lines().count());
    let differ = first.trace.lines().zip(second.trace.lines()).position(|(one, other)| one != other);
    if let Some(line) = differ {
        let show = |trace: &str| trace.lines().skip(line.saturating_sub(2)).take(4).collect::<Vec<_>>().join("\n");
        panic!("seed {seed}, line {line}:\n{}\n-- and in the other run\n{}", show(&first.trace), show(&second.trace));
    }
    assert!(first == second, "seed {seed}: one run went on where the other ended, or they counted otherwise");
}

/// The one command that runs this seed again.
pub(crate) fn replay(test: &str, seed: u64) -> String {
    format!(
        "replay: QUORATE_SEED={seed} QUORATE_SEEDS=1 cargo test --release --no-default-features --features sim,http \
         --test turmoil {test}"
    )
}
