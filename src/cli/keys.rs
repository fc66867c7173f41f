//! `quorate keys`: the keys of a bucket, page by page as they come.

use std::io::Write;

use clap::Args;
use comfy_table::Cell;

use super::args::{Format, Reach};
use super::objects::{client, preview};
use super::output::{Exit, Failure, Paint, note, print, table};
use crate::kv::wire::KeyDocument;
use crate::kv::{GapsSeen, KeyGap, KeyView, LIST_MOST, ListOptions, Pages};
use crate::quorum::Level;
use crate::types::Bucket;

pub(super) const KEYS: &str = "\
One key a line, as it is; a key may hold line breaks: -o json is exact, one document a line. Keys come in byte order.
Where too few replicas could answer for some partitions their keys are left out: a note names the partitions, and the
exit code is 4.

Examples:
  quorate keys greetings
  quorate keys carts --prefix 'JP/' --limit 100
  quorate keys carts --values -o json                     each key with its siblings' values
  quorate keys carts -r quorum                            what a quorum of the replicas jointly hold";

/// Keys asked for at once, unless the limit is lower.
const PAGE: usize = 1000;
/// Partitions named in a note, at most, of each that miss the same replicas.
const NAMED: usize = 16;

#[derive(Args, Debug)]
pub(super) struct KeysArgs {
    /// The bucket.
    bucket: String,
    /// Only keys that begin so.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
    /// At most so many. Unsaid: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// With the values.
    #[arg(long)]
    values: bool,
    /// How many replicas must answer for each partition: a number, one, quorum, all.
    #[arg(short, value_name = "R", default_value = "one")]
    r: Level,
    #[command(flatten)]
    reach: Reach,
}

pub(super) async fn keys(args: KeysArgs) -> Result<(), Failure> {
    let bucket = Bucket::new(&args.bucket).map_err(|error| Failure::new(Exit::Usage, error.to_string(), ""))?;
    let client = client(&args.reach, |_| {})?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let page_of = |left: u64| usize::try_from(left).unwrap_or(LIST_MOST).min(PAGE);
    let options = ListOptions {
        prefix: args.prefix.clone().into(),
        limit: page_of(left),
        cursor: None,
        values: args.values,
        r: args.r,
        // A page reads more than a key does.
        timeout: args.reach.timeout.max(ListOptions::default().timeout),
    };
    let mut pages = Pages::new(&client, bucket, options);
    let mut gaps = GapsSeen::default();
    while left > 0
        && let Some(page) = pages.next().await
    {
        let page = page.map_err(|error| Failure::of_read(&error))?;
        print(&shown(&page.keys, args.reach.output)?)?;
        gaps.add(&page.gaps);
        left = left.saturating_sub(page.keys.len() as u64);
        pages.limit(page_of(left.max(1)));
    }
    if gaps.count() == 0 {
        return Ok(());
    }
    gaps.gaps().iter().for_each(|gap| note(&format!("note: {}", gap_line(gap))));
    let text = format!("the keys of {} partitions are missing: too few of their replicas answered", gaps.count());
    Err(Failure::new(Exit::Quorum, text, "`quorate status` shows who is down; then the same again"))
}

/// A page as it is printed.
fn shown(keys: &[KeyView], output: Option<Format>) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    match output {
        Some(Format::Json) => {
            for key in keys {
                serde_json::to_writer(&mut text, &KeyDocument::from(key))
                    .map_err(|error| Failure::new(Exit::Failed, format!("this has no JSON form: {error}"), ""))?;
                text.push(b'\n');
            }
        }
        Some(format) if !keys.is_empty() => {
            let row = |key: &KeyView| {
                let mut row = vec![Cell::new(preview(key.key.as_bytes())), Cell::new(key.siblings)];
                if format == Format::Wide {
                    row.push(Cell::new(key.etag));
                }
                if key.values.is_some() {
                    row.push(Cell::new(previews(key)));
                }
                row
            };
            let mut header = vec!["KEY", "SIBLINGS"];
            if format == Format::Wide {
                header.push("ETAG");
            }
            if keys[0].values.is_some() {
                header.push("VALUE");
            }
            text.extend_from_slice(table(&header, keys.iter().map(row).collect(), Paint::stdout()).as_bytes());
        }
        Some(_) => {}
        None => {
            for key in keys {
                text.extend_from_slice(key.key.as_bytes());
                if key.values.is_some() {
                    // Into memory: it cannot fail.
                    let _ = write!(text, "\t{}", previews(key));
                }
                text.push(b'\n');
            }
        }
    }
    Ok(text)
}

/// The beginnings of the values, on one line.
fn previews(key: &KeyView) -> String {
    let values = key.values.iter().flatten().filter_map(|sibling| sibling.value.as_ref());
    values.map(|value| preview(&value.bytes)).collect::<Vec<_>>().join(" | ")
}

/// Which partitions are missing, and why.
fn gap_line(gap: &KeyGap) -> String {
    let mut named: Vec<String> = gap.partitions.iter().take(NAMED).map(u32::to_string).collect();
    if gap.partitions.len() > NAMED {
        named.push(format!("and {} more", gap.partitions.len() - NAMED));
    }
    let why: Vec<String> = gap.replicas.iter().map(|replica| format!("{} {}", replica.node, replica.state)).collect();
    format!("partitions {} are missing: {}", named.join(", "), why.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{ETag, ReplicaReport};
    use crate::types::{Digest, Key};

    fn key(bytes: &[u8]) -> KeyView {
        let etag = ETag { digest: Digest([1; 16]), expired: 0 };
        KeyView { key: Key::new(bytes.to_vec()).unwrap(), etag, siblings: 1, values: None }
    }

    #[test]
    fn keys_are_printed_as_they_are_and_json_is_exact() {
        let keys = [key(b"a/1"), key(b"b\xff")];
        assert_eq!(shown(&keys, None).unwrap(), b"a/1\nb\xff\n");
        let json = String::from_utf8(shown(&keys, Some(Format::Json)).unwrap()).unwrap();
        let lines: Vec<KeyDocument> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0].key.as_deref(), Some("a/1"));
        assert_eq!((lines[1].key.as_deref(), lines[1].clone().view()), (None, Some(keys[1].clone())));
        let table = String::from_utf8(shown(&keys, Some(Format::Table)).unwrap()).unwrap();
        assert!(table.contains("SIBLINGS") && table.contains("a/1"), "{table}");
        assert!(shown(&[], Some(Format::Table)).unwrap().is_empty());
    }

    #[test]
    fn a_gap_is_told_in_one_line() {
        let replicas = ["n2", "n3"].map(|node| ReplicaReport { node: node.into(), state: "down".into() }).to_vec();
        let line = gap_line(&KeyGap { partitions: (0..20).collect(), replicas });
        assert!(
            line.starts_with("partitions 0, 1, 2,") && line.ends_with("15, and 4 more are missing: n2 down, n3 down")
        );
    }
}
