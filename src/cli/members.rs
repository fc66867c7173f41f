//! `members`: who is in the cluster, and what one node thinks of each.

use comfy_table::Cell;

use super::args::{AdminArgs, Format};
use super::output::{Failure, Paint, json, print, state_cell, table};
use super::status::admin_client;
use crate::kv::Members;

/// Past this phi a member has been down for so long that the number says no more.
const PHI_SHOWN: f64 = 99.0;

pub(super) async fn members(args: AdminArgs) -> Result<(), Failure> {
    let client = admin_client(&args)?;
    let members = client.members().await.map_err(|error| Failure::of_read(&error))?;
    match args.reach.output {
        Some(Format::Json) => print(&json(&members)?),
        other => print(screen(&members, other == Some(Format::Wide), Paint::stdout()).as_bytes()),
    }
}

fn screen(members: &Members, wide: bool, paint: Paint) -> String {
    let mut members: Vec<_> = members.members.iter().collect();
    if members.is_empty() {
        return "No members: this node is in no cluster yet.\n".to_owned();
    }
    members.sort_by(|one, other| one.name.cmp(&other.name));
    let rows = members.into_iter().map(|member| {
        let phi = match member.phi {
            None => "-".to_owned(),
            Some(phi) if phi > PHI_SHOWN => format!(">{PHI_SHOWN}"),
            Some(phi) => format!("{phi:.1}"),
        };
        let layout = if member.layout == 0 { "-".to_owned() } else { member.layout.to_string() };
        let mut row = vec![
            Cell::new(&member.name),
            state_cell(&member.state),
            Cell::new(phi),
            Cell::new(member.since.as_deref().unwrap_or("-")),
            Cell::new(layout),
            Cell::new(&member.region),
            Cell::new(&member.zone),
            Cell::new(member.weight),
            Cell::new(&member.addresses.client),
            Cell::new(&member.addresses.peer),
        ];
        if wide {
            row.extend([Cell::new(&member.id), Cell::new(member.incarnation.as_deref().unwrap_or("-"))]);
        }
        row
    });
    let mut header = vec!["MEMBER", "STATE", "PHI", "SINCE", "LAYOUT", "REGION", "ZONE", "WEIGHT", "CLIENTS", "PEERS"];
    if wide {
        header.extend(["ID", "INCARNATION"]);
    }
    table(&header, rows.collect(), paint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Addresses, MemberView};

    fn member(name: &str, state: &str, phi: Option<f64>, layout: u64) -> MemberView {
        MemberView {
            id: format!("id-{name}"),
            name: name.into(),
            incarnation: (layout > 0).then(|| "0a".into()),
            addresses: Addresses { client: format!("{name}:7400"), peer: format!("{name}:7402") },
            region: "eu".into(),
            zone: "a".into(),
            weight: 100,
            state: state.into(),
            phi,
            since: (layout > 0).then(|| "2026-01-01T00:00:00Z".into()),
            layout,
        }
    }

    #[test]
    fn members_are_a_table() {
        let members = Members {
            members: vec![
                member("n3", "down", Some(4e11), 0),
                member("n1", "up", None, 7),
                member("n2", "up", Some(0.31), 6),
            ],
        };
        let lines = [
            "MEMBER  STATE  PHI  SINCE                 LAYOUT  REGION  ZONE  WEIGHT  CLIENTS  PEERS",
            "n1      up     -    2026-01-01T00:00:00Z  7       eu      a     100     n1:7400  n1:7402",
            "n2      up     0.3  2026-01-01T00:00:00Z  6       eu      a     100     n2:7400  n2:7402",
            "n3      down   >99  -                     -       eu      a     100     n3:7400  n3:7402",
        ];
        let plain = Paint::never();
        assert_eq!(screen(&members, false, plain), lines.join("\n") + "\n");
        let wide = screen(&members, true, plain);
        let last = |line: usize| wide.lines().nth(line).unwrap().split_whitespace().rev().take(2).collect::<Vec<_>>();
        assert_eq!((last(0), last(1), last(3)), (vec!["INCARNATION", "ID"], vec!["0a", "id-n1"], vec!["-", "id-n3"]));
        assert!(screen(&Members::default(), false, plain).starts_with("No members"));
    }
}
