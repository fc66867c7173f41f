//! How well the planner places: the figures of placement for clusters of many shapes, as `docs/placement.md` has them.
//!
//! `cargo run --release --no-default-features --example placement` prints the tables, and how long the planner took;
//! with `-- --write` it puts the tables into the document and draws its plot anew.

mod figures;
mod plot;
mod random_tokens;
mod tables;

use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let write = std::env::args().any(|argument| argument == "--write");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut document = fs::read_to_string(docs.join("placement.md"))?;
    for table in tables::TABLES {
        let rows = figures::SIZES.iter().map(|nodes| (table.row)(*nodes)).collect::<Result<Vec<_>, _>>()?;
        println!("{}\n{}\n", table.head, rows.join("\n"));
        document = tables::put(&document, &table, &rows).ok_or("the document has no place for the table")?;
    }
    for (q, nodes) in [(1024, 10), (1024, 100), (1024, 1000), (4096, 1000)] {
        let shape = figures::Shape { q, ..figures::Shape::plain(nodes) };
        for row in figures::measure(shape)?.iter().filter(|row| row.n == 1) {
            println!("{nodes} nodes, Q = {q}: {:<8} {:.1} ms", row.change, row.time.as_secs_f64() * 1e3);
        }
    }
    if write {
        let plot = tables::plot(&document).ok_or("the document has no table of balance")?;
        fs::write(docs.join("placement.svg"), plot)?;
        fs::write(docs.join("placement.md"), document)?;
    }
    Ok(())
}
