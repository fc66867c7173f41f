//! The target's own `main`: runs tests by name, or, as a child of itself, one job with one seed.

use std::panic::catch_unwind;
use std::process::ExitCode;

use crate::children::{self, Job};

/// A test: its name, and what panics when it fails.
#[derive(Clone, Copy)]
pub(crate) struct Test(pub(crate) &'static str, pub(crate) fn());

/// What the command line asks for.
#[derive(Default)]
struct Asked {
    list: bool,
    exact: bool,
    /// Only tests that are left out by default: there are none.
    ignored: bool,
    words: Vec<String>,
    skip: Vec<String>,
}

impl Asked {
    /// Takes what the standard harness takes. What concerns its threads and output means nothing here.
    fn parse(mut args: impl Iterator<Item = String>) -> Self {
        let mut asked = Self::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--list" => asked.list = true,
                "--exact" => asked.exact = true,
                "--ignored" => asked.ignored = true,
                "--skip" => asked.skip.extend(args.next()),
                "--test-threads" | "--color" | "--format" | "--logfile" | "-Z" => drop(args.next()),
                flag if flag.starts_with('-') => {}
                _ => asked.words.push(arg),
            }
        }
        asked
    }

    fn wants(&self, name: &str) -> bool {
        let named = |word: &String| if self.exact { name == word } else { name.contains(word.as_str()) };
        !self.ignored && !self.skip.iter().any(named) && (self.words.is_empty() || self.words.iter().any(named))
    }
}

pub(crate) fn main(tests: &[Test], jobs: &[Job]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(child) = children::asked_for(&args, jobs) {
        return child;
    }
    let asked = Asked::parse(args.into_iter());
    if asked.list {
        tests.iter().for_each(|Test(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (wanted, others): (Vec<_>, Vec<_>) = tests.iter().partition(|Test(name, _)| asked.wants(name));
    println!("\nrunning {} tests", wanted.len());
    let mut failed = Vec::new();
    for Test(name, run) in &wanted {
        let ended = catch_unwind(run);
        println!("test {name} ... {}", if ended.is_ok() { "ok" } else { "FAILED" });
        if ended.is_err() {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        println!("\nfailures:\n    {}", failed.join("\n    "));
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        wanted.len() - failed.len(),
        failed.len(),
        others.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
