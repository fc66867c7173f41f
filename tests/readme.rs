//! Runs the README's examples as a reader would: with bash and curl, against a fresh `quorate dev`, and holds each to
//! what the README says it answers.
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

#[test]
fn every_example_answers_what_the_readme_says() {
    let readme = include_str!("../README.md");
    let (_dev, base) = Process::dev();
    let mut ran = 0;
    for (line, block) in blocks(readme) {
        // One shell a block, as variables are shared; a mark after each step tells the outputs apart.
        let steps = steps(&block);
        let marked: Vec<String> =
            steps.iter().map(|(command, _)| format!("{command}\nprintf '\\n#next#\\n'")).collect();
        let mut script = marked.join("\n");
        for (documented, port) in [("7400", base), ("7401", base + 1), ("7410", base + 10), ("7420", base + 20)] {
            script = script.replace(&format!("127.0.0.1:{documented}"), &format!("127.0.0.1:{port}"));
        }
        assert!(!script.contains("127.0.0.1:74"), "a port that no node of `quorate dev` has:\n{script}");
        let output = Command::new("bash").args(["-euo", "pipefail", "-c", &script]).output().unwrap();
        let (text, errors) = (cluster::stdout(&output), cluster::stderr(&output));
        assert!(output.status.success(), "README.md:{line}: {script}\n{text}\n{errors}");
        let answers: Vec<&str> = text.split("\n#next#\n").collect();
        for ((command, expected), answer) in steps.iter().zip(answers) {
            for wanted in expected {
                let shown = answer.to_lowercase().contains(&wanted.to_lowercase());
                assert!(shown, "README.md:{line}: {command}\nshould show {wanted:?}, shows:\n{answer}");
                ran += 1;
            }
        }
    }
    assert!(ran >= 20, "only {ran} expectations were checked");
}
