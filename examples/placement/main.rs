//! How well the planner places: the four figures of placement, printed for clusters of many shapes.
//!
//! `cargo run --release --no-default-features --example placement`

use std::time::{Duration, Instant};

use quorate::ring::report::{FiguresAtN, PlacementReport};
use quorate::ring::{BucketSettings, DEFAULT_REPLICAS_MAX, Grid, Layout, LayoutError, Member, planner};
use quorate::types::{NodeId, StoreId};

/// Members numbered from `first`; weights and zones go round.
fn members(numbers: std::ops::Range<usize>, weights: &[u32], zones: usize) -> Vec<Member> {
    numbers
        .map(|number| Member {
            // Ids are random in life; here they are spread by a multiplication, so that every run prints the same.
            node: NodeId::from_bits((number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
            store: StoreId::from_bits((number as u128 + 1).wrapping_mul(0xd1b5_4a32_d192_ed03_8cb9_2ba7_2f3d_8dd7)),
            name: format!("n{number}"),
            region: "home".into(),
            zone: format!("z{}", number % zones),
            weight: weights[number % weights.len()],
            peer_address: format!("10.0.{}.{}:7400", number / 250, number % 250),
            client_address: format!("10.0.{}.{}:7401", number / 250, number % 250),
        })
        .collect()
}

#[allow(clippy::disallowed_methods, reason = "an edge: planning time is one of the four figures")]
fn timed(plan: impl FnOnce() -> Result<Layout, LayoutError>) -> Result<(Layout, Duration), LayoutError> {
    let start = Instant::now();
    let layout = plan()?;
    Ok((layout, start.elapsed()))
}

fn row(what: &str, before: Option<&Layout>, (layout, time): &(Layout, Duration)) {
    let report = PlacementReport::of(before, layout);
    for n in [1, 2, 3, 5] {
        let Some(at) = report.at(n).filter(|at| at.n == n) else { continue };
        let FiguresAtN { max_over_mean, least_max_over_mean, moves, least_moves, zone_violations, .. } = at;
        let moved = if before.is_some() {
            let ratio = *moves as f64 / (*least_moves).max(1) as f64;
            format!("{moves:>6} {least_moves:>6} {ratio:>7.3}")
        } else {
            " ".repeat(21)
        };
        let time = if n == 1 { format!("{:.1} ms", time.as_secs_f64() * 1e3) } else { String::new() };
        let what = if n == 1 { what } else { "" };
        println!(
            "{what:<38} {n} {max_over_mean:>9.3} {least_max_over_mean:>7.3}  {moved} {zone_violations:>6} {time:>11}"
        );
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let heads = ["Q = 1024", "n", "max/mean", "least", "moves", "least", "ratio", "zones", "time"];
    let [q, n, load, least_load, moves, least_moves, ratio, zones, time] = heads;
    println!("{q:<38} {n} {load:>9} {least_load:>7}  {moves:>6} {least_moves:>6} {ratio:>7} {zones:>6} {time:>11}");
    let found = |members: Vec<Member>| {
        timed(|| planner::found("figures", Grid::default(), DEFAULT_REPLICAS_MAX, BucketSettings::default(), members))
    };
    for (weights, zones, shape) in
        [(&[1][..], 1, "one zone"), (&[1], 5, "5 zones"), (&[1, 2, 4], 3, "weights 1 2 4, 3 zones")]
    {
        for count in [3, 10, 100, 1000] {
            let all = members(0..count, weights, zones);
            let founded = found(all.clone())?;
            row(&format!("{count} nodes, {shape}"), None, &founded);
            let first = &founded.0;
            let more = members(0..count + 1, weights, zones);
            row("  one added", Some(first), &timed(|| planner::plan(first, more))?);
            let fewer = all[1..].to_vec();
            row("  one removed", Some(first), &timed(|| planner::plan(first, fewer))?);
            let mut replaced = all.clone();
            let heir = members(count..count + 1, weights, zones).remove(0);
            let (zone, weight) = (replaced[0].zone.clone(), replaced[0].weight);
            replaced[0] = Member { zone, weight, ..heir };
            row("  one replaced", Some(first), &timed(|| planner::plan(first, replaced))?);
        }
    }
    Ok(())
}
