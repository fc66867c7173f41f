//! What the planner does to clusters of many shapes: the figures of placement, per shape the worst of all changes.

use std::time::{Duration, Instant};

use quorate::ring::report::PlacementReport;
use quorate::ring::{BucketSettings, DEFAULT_REPLICAS_MAX, Grid, Layout, LayoutError, Member, planner};
use quorate::types::{NodeId, StoreId};

/// The sizes measured.
pub(crate) const SIZES: [usize; 10] = [3, 4, 5, 7, 10, 16, 31, 100, 300, 1000];

/// How weights go round among the members of a zone.
pub(crate) const WEIGHTS: [(&str, &[u32]); 3] = [
    ("equal", &[1]),
    ("1 2 4", &[1, 2, 4]),
    // Once in so many members that it is there once, or a few times in a thousand.
    ("one heavy", &[4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
];

/// How zones go round among members.
pub(crate) const ZONES: [(&str, &[usize]); 5] =
    [("1", &[0]), ("2", &[0, 1]), ("3", &[0, 1, 2]), ("5", &[0, 1, 2, 3, 4]), ("3 uneven", &[0, 1, 2, 0, 0, 1])];

/// The changes measured.
pub(crate) const CHANGES: [&str; 4] = ["add", "remove", "replace", "reweigh"];

/// One shape of cluster.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Shape {
    /// Members.
    pub(crate) nodes: usize,
    /// Partitions.
    pub(crate) q: u32,
    /// The longest owner list.
    pub(crate) replicas_max: u8,
    /// One of [`WEIGHTS`].
    pub(crate) weights: (&'static str, &'static [u32]),
    /// One of [`ZONES`].
    pub(crate) zones: (&'static str, &'static [usize]),
}

impl Shape {
    /// Equal members in one zone, with the defaults.
    pub(crate) fn plain(nodes: usize) -> Self {
        Self { nodes, q: Grid::DEFAULT, replicas_max: DEFAULT_REPLICAS_MAX, weights: WEIGHTS[0], zones: ZONES[0] }
    }

    /// Member `number` of this shape.
    pub(crate) fn member(&self, number: usize) -> Member {
        let ((_, weights), (_, zones)) = (self.weights, self.zones);
        let zone_count = zones.iter().max().map_or(1, |last| last + 1);
        Member {
            // Ids are random in life; here they are spread by a multiplication, so that every run prints the same.
            node: NodeId::from_bits((number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
            store: StoreId::from_bits((number as u128 + 1).wrapping_mul(0xd1b5_4a32_d192_ed03_8cb9_2ba7_2f3d_8dd7)),
            name: format!("n{number}"),
            region: "home".into(),
            zone: format!("z{}", zones[number % zones.len()]),
            // Shifted from zone to zone, so that no zone has all the heavy ones.
            weight: weights[(number / zone_count + number % zone_count) % weights.len()],
            peer_address: format!("10.0.{}.{}:7400", number / 250, number % 250),
            client_address: format!("10.0.{}.{}:7401", number / 250, number % 250),
        }
    }

    /// All of its members.
    pub(crate) fn members(&self) -> Vec<Member> {
        (0..self.nodes).map(|number| self.member(number)).collect()
    }

    /// Layout 1 of this shape.
    pub(crate) fn found(&self) -> Result<Layout, Box<dyn std::error::Error>> {
        let grid = Grid::new(self.q)?;
        Ok(planner::found("figures", grid, self.replicas_max, BucketSettings::default(), self.members())?)
    }

    /// The members after a change, one of [`CHANGES`].
    pub(crate) fn changed(&self, change: &str) -> Vec<Member> {
        let mut members = self.members();
        // Somewhere in the middle: the last of a round of zones or weights is not typical.
        let at = self.nodes / 2;
        match change {
            "add" => members.push(self.member(self.nodes)),
            "remove" => drop(members.remove(at)),
            "replace" => {
                let Member { zone, weight, .. } = members[at].clone();
                members[at] = Member { zone, weight, ..self.member(self.nodes) };
            }
            _ => members[at].weight *= 2,
        }
        members
    }
}

/// The figures after one plan, at one n.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Row {
    /// Of what.
    pub(crate) shape: Shape,
    /// After which change; "found" before any.
    pub(crate) change: &'static str,
    /// How many owners are used.
    pub(crate) n: u8,
    /// Greatest load relative to the share by weight.
    pub(crate) load: f64,
    /// The least it can be.
    pub(crate) least_load: f64,
    /// Replicas moved.
    pub(crate) moves: usize,
    /// The lower bound of that.
    pub(crate) least_moves: usize,
    /// Partitions that break the rule of zones.
    pub(crate) zone_violations: usize,
    /// How long the planner took.
    pub(crate) time: Duration,
}

/// Founds a cluster of a shape, and makes every change to it.
pub(crate) fn measure(shape: Shape) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let mut rows = Vec::new();
    let (founded, time) = timed(|| shape.found())?;
    rows.extend(judge(shape, "found", None, &founded, time));
    for change in CHANGES {
        let (planned, time) = timed(|| -> Result<_, LayoutError> { planner::plan(&founded, shape.changed(change)) })?;
        rows.extend(judge(shape, change, Some(&founded), &planned, time));
    }
    Ok(rows)
}

fn judge(shape: Shape, change: &'static str, before: Option<&Layout>, layout: &Layout, time: Duration) -> Vec<Row> {
    let report = PlacementReport::of(before, layout);
    let row = |at: quorate::ring::report::FiguresAtN| Row {
        shape,
        change,
        n: at.n,
        load: at.max_over_mean,
        least_load: at.least_max_over_mean,
        moves: at.moves,
        least_moves: at.least_moves,
        zone_violations: at.zone_violations,
        time,
    };
    report.figures.into_iter().map(row).collect()
}

#[allow(clippy::disallowed_methods, reason = "an edge: planning time is one of the four figures")]
fn timed<T, E>(plan: impl FnOnce() -> Result<T, E>) -> Result<(T, Duration), E> {
    let start = Instant::now();
    let done = plan()?;
    Ok((done, start.elapsed()))
}
