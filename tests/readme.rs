//! Runs the examples of the README and of the tutorial as a reader would: with bash, curl and `quorate` itself, and holds
//! each to what is said that it answers. The README's blocks meet a fresh `quorate dev`; the tutorial starts its own nodes.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod cluster;

use std::process::Command;

use cluster::Process;

/// The `sh run` blocks, each with the number of its first line.
fn blocks(readme: &str) -> Vec<(usize, Vec<String>)> {
    let (mut found, mut open) = (Vec::new(), false);
    for (at, line) in readme.lines().enumerate() {
        match line {
            "```sh run" => {
                open = true;
                found.push((at + 2, Vec::new()));
            }
            "```" => open = false,
            _ if open => found.last_mut().unwrap().1.push(line.to_owned()),
            _ => {}
        }
    }
    found
}

/// Commands with what is expected of each: the `#=>` lines behind it.
fn steps(block: &[String]) -> Vec<(String, Vec<String>)> {
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    let mut closed = true;
    for line in block {
        if let Some(expected) = line.strip_prefix("#=> ") {
            steps.last_mut().unwrap().1.push(expected.to_owned());
            closed = true;
        } else if closed {
            steps.push((line.clone(), Vec::new()));
            closed = false;
        } else {
            let command = &mut steps.last_mut().unwrap().0;
            *command = format!("{command}\n{line}");
        }
    }
    steps
}

/// The steps as a script: a mark after each tells the outputs apart, and each documented port becomes one that is free.
fn script(steps: &[(String, Vec<String>)], base: u16) -> String {
    let marked: Vec<String> = steps.iter().map(|(command, _)| format!("{command}\nprintf '\\n#next#\\n'")).collect();
    let mut script = marked.join("\n");
    for node in 0..4 {
        for service in 0..3 {
            let (documented, port) = (7400 + 10 * node + service, base + 10 * node + service);
            script = script.replace(&format!("127.0.0.1:{documented}"), &format!("127.0.0.1:{port}"));
        }
    }
    assert!(!script.contains("127.0.0.1:74"), "a port that no node has:\n{script}");
    script
}

/// Holds the outputs, which marks divide, to what was expected; how much was.
fn hold(place: &str, steps: &[(String, Vec<String>)], text: &str) -> usize {
    let mut ran = 0;
    for ((command, expected), answer) in steps.iter().zip(text.split("\n#next#\n")) {
        for wanted in expected {
            let shown = answer.to_lowercase().contains(&wanted.to_lowercase());
            assert!(shown, "{place}: {command}\nshould show {wanted:?}, shows:\n{answer}");
            ran += 1;
        }
    }
    ran
}

#[test]
fn every_example_answers_what_the_readme_says() {
    let readme = include_str!("../README.md");
    let (_dev, base) = Process::dev();
    let mut ran = 0;
    for (line, block) in blocks(readme) {
        // One shell a block, as variables are shared.
        let steps = steps(&block);
        let script = script(&steps, base);
        let output = Command::new("bash").args(["-euo", "pipefail", "-c", &script]).output().unwrap();
        let (text, errors) = (cluster::stdout(&output), cluster::stderr(&output));
        assert!(output.status.success(), "README.md:{line}: {script}\n{text}\n{errors}");
        ran += hold(&format!("README.md:{line}"), &steps, &text);
    }
    assert!(ran >= 20, "only {ran} expectations were checked");
}

/// What a newcomer types in the first ten minutes, word for word, in one shell and an empty directory. A node that is killed
/// there comes back with its data, which only durable storage has.
#[cfg(feature = "rocksdb")]
#[test]
fn the_tutorial_works_word_for_word() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = blocks(include_str!("../docs/tutorial.md"));
    let all: Vec<_> = blocks.iter().flat_map(|(_, block)| steps(block)).collect();
    // Whatever goes wrong in between, no node is left.
    let ended = "trap 'kill -9 $(jobs -p) 2>/dev/null || true' EXIT\n";
    let script = format!("{ended}{}", script(&all, cluster::free_base(4)));
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_quorate")).parent().unwrap().to_owned();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    // A share of a large disk may be more than is free where the tests run.
    shell.env("PATH", path).env("NO_COLOR", "1").env("QUORATE_NODE__DISK_RESERVE", "64MiB");
    let output = shell.args(["-euo", "pipefail", "-c", &script]).current_dir(&dir).output().unwrap();
    let (text, errors) = (cluster::stdout(&output), cluster::stderr(&output));
    assert!(output.status.success(), "docs/tutorial.md: {script}\n{text}\n{errors}");
    let ran = hold("docs/tutorial.md", &all, &text);
    assert!(ran >= 25, "only {ran} expectations were checked");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "it cleans up after itself");
}
