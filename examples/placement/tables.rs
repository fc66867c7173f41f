//! The tables of `docs/placement.md`, a row per size of cluster, and the plot, which is drawn from them.

use std::error::Error;

use crate::figures::{Row, Shape, WEIGHTS, ZONES, measure};
use crate::plot::{Curve, svg};
use crate::random_tokens::{max_over_mean, moved_by_a_joiner};

/// A table of the document: it follows the line that is its head.
pub(crate) struct Table {
    /// The line of column titles.
    pub(crate) head: &'static str,
    /// A row, by the number of nodes.
    pub(crate) row: fn(usize) -> Result<String, Box<dyn Error>>,
}

/// All of them.
pub(crate) const TABLES: [Table; 4] = [
    Table { head: "| nodes | planner | best possible | 1 token | 16 tokens | 256 tokens |", row: balance },
    Table { head: "| nodes | planner | 1 token | 16 tokens | 256 tokens |", row: joiner },
    Table {
        head: "| nodes | 1 zone | 2 zones | 3 zones | 5 zones | 3 uneven zones |",
        row: |nodes| moves(nodes, false),
    },
    Table {
        head: "| nodes | 1 zone, uneven | 2 zones, uneven | 3 zones, uneven | 5 zones, uneven | 3 uneven zones, uneven |",
        row: |nodes| moves(nodes, true),
    },
];

/// What a row says where replicas share a zone needlessly.
pub(crate) const BROKEN: &str = "in one zone";

/// Random tokens are drawn so many times and averaged.
const DRAWS: u64 = 10;
const TOKENS: [usize; 3] = [1, 16, 256];

/// Replaces a table's rows in the document; nothing if it has no such table.
pub(crate) fn put(document: &str, table: &Table, rows: &[String]) -> Option<String> {
    let (before, rest) = document.split_once(table.head)?;
    let after = rest.trim_start_matches('\n').lines().skip_while(|line| line.starts_with('|')).collect::<Vec<_>>();
    let rule = "|---".repeat(table.head.matches('|').count() - 1);
    Some(format!("{before}{}\n{rule}|\n{}\n{}\n", table.head, rows.join("\n"), after.join("\n")))
}

/// The plot, from the document's table of balance.
pub(crate) fn plot(document: &str) -> Option<String> {
    let (_, rest) = document.split_once(TABLES[0].head)?;
    let rows: Vec<Vec<f64>> = rest
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').filter_map(|cell| cell.trim().replace(',', "").parse().ok()).collect())
        .collect();
    let curve = |column: usize, label, colour| {
        let points = rows.iter().filter_map(|row| Some((*row.first()?, *row.get(column)?))).collect();
        Curve { label, colour, points }
    };
    let curves = [
        curve(3, "random, 1 token", "#b22222"),
        curve(4, "random, 16 tokens", "#d98200"),
        curve(5, "random, 256 tokens", "#1f6fb2"),
        curve(1, "Quorate, Q = 1024", "#1a7a3a"),
    ];
    let title = "Greatest load over mean load, three replicas";
    Some(svg(title, &[3.0, 10.0, 30.0, 100.0, 300.0, 1000.0], &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0], &curves))
}

fn drawn(figure: impl Fn(u64) -> f64) -> f64 {
    (0..DRAWS).map(figure).sum::<f64>() / DRAWS as f64
}

fn balance(nodes: usize) -> Result<String, Box<dyn Error>> {
    let rows = measure(Shape::plain(nodes))?;
    let at = rows.iter().find(|row| row.change == "found" && row.n == 3).ok_or("three replicas")?;
    let random: String =
        TOKENS.iter().map(|tokens| format!(" {:.3} |", drawn(|seed| max_over_mean(nodes, *tokens, 3, seed)))).collect();
    Ok(format!("| {nodes} | {:.3} | {:.3} |{random}", at.load, at.least_load))
}

fn joiner(nodes: usize) -> Result<String, Box<dyn Error>> {
    let rows = measure(Shape::plain(nodes))?;
    let at = rows.iter().find(|row| row.change == "add" && row.n == 3).ok_or("three replicas")?;
    let mean = 3.0 * 1024.0 / (nodes + 1) as f64;
    let random: String = TOKENS
        .iter()
        .map(|tokens| {
            let moved: Vec<f64> = (0..DRAWS).map(|seed| moved_by_a_joiner(nodes + 1, *tokens, 3, seed)).collect();
            let least = moved.iter().copied().fold(f64::MAX, f64::min);
            let most = moved.iter().copied().fold(0.0, f64::max);
            format!(" {least:.2} to {most:.2} |")
        })
        .collect();
    Ok(format!("| {nodes} | {:.2} |{random}", at.moves as f64 / mean))
}

/// Per column of zones, the worst of all changes at any n: moves, the least, their ratio.
fn moves(nodes: usize, uneven: bool) -> Result<String, Box<dyn Error>> {
    let mut cells = format!("| {nodes} |");
    for zones in ZONES {
        let mut rows: Vec<Row> = Vec::new();
        for weights in WEIGHTS.into_iter().filter(|(name, _)| (*name != "equal") == uneven) {
            rows.extend(measure(Shape { zones, weights, ..Shape::plain(nodes) })?);
        }
        let broken: usize = rows.iter().map(|row| row.zone_violations).sum();
        let ratio = |row: &Row| row.moves as f64 / row.least_moves.max(1) as f64;
        let changed = rows.iter().filter(|row| row.change != "found");
        let worst = changed.max_by(|a, b| ratio(a).total_cmp(&ratio(b))).ok_or("no changes")?;
        let zones_broken = if broken == 0 { String::new() } else { format!(", {broken} {BROKEN}") };
        cells += &format!(" {:.2} ({}/{}){zones_broken} |", ratio(worst), worst.moves, worst.least_moves);
    }
    Ok(cells)
}
