//! Holds the figures of `docs/placement.md`: they are what the example writes.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../examples/placement/figures.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod figures;
#[path = "../examples/placement/plot.rs"]
mod plot;
#[path = "../examples/placement/random_tokens.rs"]
mod random_tokens;
#[path = "../examples/placement/tables.rs"]
#[allow(dead_code, reason = "the example uses the rest")]
mod tables;

use std::fs;

/// The sizes, of those measured, that a test can afford.
fn small() -> impl Iterator<Item = usize> {
    figures::SIZES.into_iter().filter(|nodes| *nodes <= 7)
}

fn read(name: &str) -> String {
    fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn the_plot_shows_the_table() {
    assert_eq!(tables::plot(&read("placement.md")).unwrap(), read("placement.svg"), "run the example with --write");
}

#[test]
fn the_tables_are_what_the_planner_does() {
    let document = read("placement.md");
    for table in tables::TABLES {
        let (_, rows) = document.split_once(table.head).unwrap();
        for nodes in small() {
            let row = (table.row)(nodes).unwrap();
            assert!(!row.contains(tables::BROKEN), "{row}");
            assert!(rows.lines().skip(2).take_while(|line| line.starts_with('|')).any(|line| line == row), "{row}");
        }
    }
}
