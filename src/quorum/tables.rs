//! Runs the text tables of `tests/tables/`; their format is described in `tests/tables/README.md`.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::types::StoreId;

/// A store's letters as an id.
fn store(name: &str) -> StoreId {
    assert!(
        !name.is_empty() && name.len() <= 16 && name.bytes().all(|b| b.is_ascii_alphanumeric()),
        "{name:?} is no store"
    );
    StoreId::from_bits(name.bytes().fold(0, |bits, b| bits << 8 | u128::from(b)))
}

/// `eu/3 a b c | us/1 d`
fn owners(layout: u64, text: &str) -> OwnersIn {
    let region = |text: &str| {
        let mut words = text.split_whitespace();
        let (region, n) = words.next().and_then(|word| word.split_once('/')).expect("region/n");
        RegionOwners { region: region.into(), n: n.parse().expect("n"), owners: words.map(store).collect() }
    };
    OwnersIn { layout, regions: text.split('|').map(region).collect() }
}

#[derive(Default)]
struct Table {
    live: BTreeMap<u64, OwnersIn>,
    region: String,
    level: String,
    durable: usize,
}

impl Table {
    /// Runs one line; a case's verdict is returned, to be compared.
    fn line(&mut self, line: &str) -> Option<(String, String)> {
        if let Some((votes, expected)) = line.split_once("->") {
            return Some((self.case(votes), expected.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "owners" => {
                let (layout, rest) = rest.split_once(' ').expect("owners LAYOUT REGION/N STORE...");
                let layout = layout.parse().expect("a layout's version");
                self.live.insert(layout, owners(layout, rest));
            }
            "forget" => drop(self.live.remove(&rest.parse().expect("a layout's version"))),
            "region" => self.region = rest.into(),
            "level" => {
                let (level, durable) = rest.split_once(" durable=").unwrap_or((rest, "0"));
                (self.level, self.durable) = (level.into(), durable.parse().expect("durable=K"));
            }
            _ => panic!("{word:?} is no word of a table"),
        }
        None
    }

    fn case(&self, votes: &str) -> String {
        let live: Vec<_> = self.live.values().cloned().collect();
        let found = self.level.parse().and_then(|level: Level| requirement(level, &live, &self.region));
        let requirement = match found.and_then(|found| found.check_durable(self.durable).map(|()| found)) {
            Ok(requirement) => requirement,
            Err(error) => return format!("error {error}"),
        };
        let mut tally = Tally::durable(requirement, self.durable);
        for vote in votes.split_whitespace().filter(|vote| *vote != "none") {
            let at = vote.find(['+', '-', '!']).expect("store, then +, - or !");
            let (member, layouts) = (store(&vote[..at]), &vote[at + 1..]);
            let all: Vec<u64> = self.live.keys().copied().collect();
            let layouts = if layouts.is_empty() { all } else { vec![layouts.parse().expect("a layout's version")] };
            match &vote[at..=at] {
                "-" => tally.failed(member),
                mark => tally.acknowledged(member, &layouts, mark == "!"),
            }
        }
        let Counted { answered, needed, n, layout, .. } = tally.counted();
        let verdict = format!("{:?}", tally.verdict()).to_lowercase();
        format!("{verdict} {answered}/{needed}/{n} in {layout}")
    }
}

#[test]
fn every_table_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    let mut cases = 0;
    let mut wrong = Vec::new();
    for path in &files {
        let mut table = Table::default();
        for (number, line) in std::fs::read_to_string(path).unwrap().lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            if let Some((got, expected)) = table.line(line) {
                cases += 1;
                if got != expected {
                    wrong.push(format!("{}:{}: {line}\n    got {got}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cases} cases are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(files.len() >= 3 && cases >= 100, "{cases} cases in {} tables: some are gone", files.len());
}

/// Counts a group the slow and obvious way.
fn verdict_by_hand(requirement: &Requirement, votes: &[(StoreId, u8)]) -> Verdict {
    let best = |id: StoreId| votes.iter().filter(|(of, _)| *of == id).map(|(_, vote)| *vote).max().unwrap_or(0);
    let is = |group: &Group, wanted: fn(u8) -> bool| group.members.iter().filter(|id| wanted(best(**id))).count();
    if requirement.groups().iter().all(|group| is(group, |vote| vote >= 2) >= group.need) {
        Verdict::Met
    } else if requirement.groups().iter().any(|group| is(group, |vote| vote != 1) < group.need) {
        Verdict::Hopeless
    } else {
        Verdict::Open
    }
}

/// Every level, one or two layouts, every assignment of (nothing, failed, yes) to up to 5 members: the tally agrees
/// with counting by hand, and finds met exactly where a quorum's rule says so.
#[test]
fn every_vote_of_every_level_is_counted_right() {
    let mut cases = 0;
    for n in 1..=5u128 {
        for older in [0, 1, n] {
            let mut live = vec![testing::owners(2, 0..n)];
            if older > 0 {
                live.push(testing::owners(1, (n - 1)..(n - 1 + older.min(3))));
            }
            let levels = Level::NAMED.into_iter().chain((1..=5).map(Level::Count));
            for requirement in levels.filter_map(|level| requirement(level, &live, "eu").ok()) {
                let members = requirement.members();
                for code in 0..3u32.pow(u32::try_from(members.len()).unwrap()) {
                    let votes: Vec<_> = members
                        .iter()
                        .enumerate()
                        .map(|(at, id)| (*id, (code / 3u32.pow(at as u32) % 3) as u8))
                        .collect();
                    let mut tally = Tally::new(requirement.clone());
                    for (id, vote) in &votes {
                        match vote {
                            0 => {}
                            1 => tally.failed(*id),
                            _ => tally.yes(*id),
                        }
                    }
                    assert_eq!(tally.verdict(), verdict_by_hand(&requirement, &votes), "{requirement:?} {votes:?}");
                    assert!(!(tally.is_met() && tally.is_hopeless()));
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 10_000, "{cases}");
}

proptest! {
    #[test]
    fn met_stays_met_and_order_and_repetition_do_not_count(
        level in proptest::sample::select(Level::NAMED.to_vec()),
        durable in 0usize..4,
        votes in proptest::collection::vec((0u128..7, 1u8..4, any::<bool>(), any::<bool>()), 0..24),
    ) {
        let live = [testing::owners(2, 0..5), testing::owners(1, 3..6)];
        let Ok(requirement) = requirement(level, &live, "eu") else { return Ok(()) };
        let record = |tally: &mut Tally, (id, vote, one, two): (u128, u8, bool, bool)| {
            let id = StoreId::from_bits(id);
            let layouts: Vec<u64> = [(1, one), (2, two)].into_iter().filter(|(_, named)| *named).map(|(l, _)| l).collect();
            match vote {
                1 => tally.failed(id),
                _ => tally.acknowledged(id, &layouts, vote == 3),
            }
        };
        let mut tally = Tally::durable(requirement.clone(), durable);
        let mut was = (false, 0);
        for vote in &votes {
            record(&mut tally, *vote);
            prop_assert!(!(tally.is_met() && tally.is_hopeless()));
            prop_assert!(tally.is_met() || !was.0, "met was taken back");
            if vote.1 == 1 {
                prop_assert!(was.1 != 2 || tally.is_hopeless(), "a failure gave hope");
            }
            was = (tally.is_met(), if tally.is_hopeless() { 2 } else { 0 });
        }
        let mut again = Tally::durable(requirement, durable);
        votes.iter().rev().chain(&votes).for_each(|vote| record(&mut again, *vote));
        prop_assert_eq!(tally.verdict(), again.verdict());
        prop_assert_eq!(tally.counted(), again.counted());
    }
}
