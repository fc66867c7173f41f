//! `bucket`: list, show, set, purge, delete.
//!
//! `set` reads first and names what it read, so that it changes what it was asked to change and nothing that somebody
//! else changed meanwhile; what follows the cluster's defaults goes on doing so.

use comfy_table::Cell;
use serde_json::{Map, Value, json};

use super::args::Format;
use super::bucket_args::{BucketArgs, BucketCommand, EndArgs, ListArgs, SetArgs, ShowArgs};
use super::config;
use super::objects::client;
use super::output::{Exit, Failure, Paint, confirm, json, note, print, table};
use crate::kv::plans::quoted;
use crate::kv::{ANSWERED, BucketView, Buckets, Error, ErrorCode, Guard};
use crate::types::Bucket;

/// What `set` knows.
const SETTINGS: [&str; 12] = [
    "n",
    "regions.REGION",
    "mode",
    "role",
    "r",
    "w",
    "blind_writes",
    "sloppy",
    "ttl",
    "max_value",
    "max_siblings",
    "max_object",
];

pub(super) async fn bucket(args: BucketArgs) -> Result<(), Failure> {
    match args.command {
        BucketCommand::List(args) => list(args).await,
        BucketCommand::Show(args) => show(args).await,
        BucketCommand::Set(args) => set(args).await,
        BucketCommand::Purge(args) => end(args, true).await,
        BucketCommand::Delete(args) => end(args, false).await,
    }
}

fn named(name: &str) -> Result<Bucket, Failure> {
    Bucket::new(name).map_err(|wrong| Failure::new(Exit::Usage, wrong.to_string(), ""))
}

fn failed(error: &Error) -> Failure {
    let failure = Failure::of_write(error);
    let next = match error.code {
        ErrorCode::NotKnown => "`quorate bucket list` tells which there are; `quorate bucket purge` empties any name",
        ErrorCode::LayoutRefused | ErrorCode::LayoutConflict => {
            "`quorate status` tells what is under way; then the same again, with a longer --wait if need be"
        }
        ErrorCode::Undecided => "`quorate bucket show BUCKET` tells whether it is by now; if not, the same again",
        ErrorCode::BadParameter => "`quorate bucket set --help` tells what may be set",
        _ => return failure,
    };
    Failure { next: next.into(), ..failure }
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let client = client(&args.reach, |_| {})?;
    let buckets = client.buckets(args.reach.timeout).await.map_err(|error| Failure::of_read(&error))?;
    match args.reach.output {
        Some(Format::Json) => print(&json(&buckets)?),
        other => print(all(&buckets, other == Some(Format::Wide), Paint::stdout()).as_bytes()),
    }
}

async fn show(args: ShowArgs) -> Result<(), Failure> {
    let (bucket, client) = (named(&args.bucket)?, client(&args.reach, |_| {})?);
    let view = client.bucket(&bucket, args.reach.timeout).await.map_err(|error| Failure::of_read(&error))?;
    if !view.configured {
        note(&format!("{bucket} is not configured: it has the cluster's defaults"));
    }
    shown(&view, args.reach.output)
}

async fn set(args: SetArgs) -> Result<(), Failure> {
    let (bucket, client) = (named(&args.bucket)?, client(&args.reach, |_| {})?);
    let before = client.bucket(&bucket, args.reach.timeout).await.map_err(|error| Failure::of_read(&error))?;
    let guard = Guard { matches: before.etag.clone(), absent: before.etag.is_none() };
    let document = changed(&before, &args.settings)?;
    let after = client.set_bucket(&bucket, &document, &guard, args.wait).await.map_err(|error| failed(&error))?;
    told(&after, if before.configured { "changed" } else { "created" });
    shown(&after, args.reach.output)
}

async fn end(args: EndArgs, keeps: bool) -> Result<(), Failure> {
    let (bucket, client) = (named(&args.bucket)?, client(&args.reach, |_| {})?);
    let what = if keeps { "all that is in" } else { "the bucket with all that is in" };
    confirm(&format!("{what} {bucket} will be gone for good, on every node: go on?"), args.yes)?;
    let after = if keeps {
        client.purge_bucket(&bucket, args.wait).await
    } else {
        client.delete_bucket(&bucket, &Guard::default(), args.wait).await
    };
    let after = after.map_err(|error| failed(&error))?;
    told(&after, if keeps { "emptied" } else { "deleted" });
    match args.reach.output {
        Some(Format::Json) => print(&json(&after)?),
        _ => Ok(()),
    }
}

/// Says what has come of a change, and who does not go by it yet.
fn told(view: &BucketView, done: &str) {
    let bucket = &view.bucket;
    note(&format!("{bucket} is {done}, by layout {}", view.layout));
    if !view.waits_for.is_empty() {
        let waits = view.waits_for.join(", ");
        note(&format!("waiting for {waits}; `quorate bucket show {}` tells when it is complete", quoted(bucket)));
    }
}

fn shown(view: &BucketView, format: Option<Format>) -> Result<(), Failure> {
    match format {
        Some(Format::Json) => print(&json(view)?),
        _ => print(one(view).as_bytes()),
    }
}

/// The document that a bucket shall be: what it is, with these changes.
fn changed(before: &BucketView, settings: &[String]) -> Result<Value, Failure> {
    let usage = |text: String| Failure::new(Exit::Usage, text, "`quorate bucket set --help` tells what may be set");
    let mut document = match serde_json::to_value(before) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    };
    document.retain(|name, _| !ANSWERED.contains(&name.as_str()) && !before.defaults.iter().any(|unset| unset == name));
    if !before.configured {
        // It has no n of its own yet, nor a mode that could not be another.
        document.clear();
    }
    for setting in settings {
        let (name, text) =
            setting.split_once('=').ok_or_else(|| usage(format!("{setting:?} is NAME=VALUE, such as n=5")))?;
        let whole = |text: &str| text.parse::<u64>().map_err(|_| usage(format!("{name} is a number, got {text:?}")));
        if let Some(region) = name.strip_prefix("regions.").filter(|region| !region.is_empty()) {
            let regions = document.entry("regions").or_insert_with(|| json!({}));
            let Some(regions) = regions.as_object_mut() else { continue };
            if text == "default" {
                regions.remove(region);
            } else {
                regions.insert(region.to_owned(), whole(text)?.into());
            }
            continue;
        }
        let value = match name {
            _ if !SETTINGS.contains(&name) => {
                return Err(usage(format!("{name:?} is no setting of a bucket; there are {}", SETTINGS.join(", "))));
            }
            _ if text == "default" => {
                document.remove(name);
                continue;
            }
            "n" | "max_siblings" => whole(text)?.into(),
            "max_value" | "max_object" => match text.parse::<u64>() {
                Ok(bytes) => bytes.into(),
                Err(_) => config::size(text).map_err(|wrong| usage(format!("{name} {wrong}")))?.into(),
            },
            "sloppy" => match text {
                "true" | "on" => true.into(),
                "false" | "off" => false.into(),
                _ => return Err(usage(format!("sloppy is true or false, got {text:?}"))),
            },
            _ => text.into(),
        };
        document.insert(name.to_owned(), value);
    }
    Ok(Value::Object(document))
}

fn regions(view: &BucketView) -> String {
    let each: Vec<String> = view.regions.iter().map(|(region, n)| format!("{region}={n}")).collect();
    if each.is_empty() { "-".to_owned() } else { each.join(" ") }
}

fn all(buckets: &Buckets, wide: bool, paint: Paint) -> String {
    if buckets.buckets.is_empty() {
        return "No bucket is configured: all have the cluster's defaults.\n".to_owned();
    }
    let rows = buckets.buckets.iter().map(|view| {
        let mut row = vec![
            Cell::new(&view.bucket),
            Cell::new(view.n),
            Cell::new(&view.mode),
            Cell::new(&view.r),
            Cell::new(&view.w),
            Cell::new(&view.blind_writes),
        ];
        if wide {
            row.extend([
                Cell::new(regions(view)),
                Cell::new(view.ttl.as_deref().unwrap_or("never")),
                Cell::new(view.max_value),
                Cell::new(view.max_siblings),
                Cell::new(view.max_object),
                Cell::new(view.generation),
            ]);
        }
        row
    });
    let mut header = vec!["BUCKET", "N", "MODE", "R", "W", "BLIND WRITES"];
    if wide {
        header.extend(["REGIONS", "TTL", "MAX VALUE", "MAX SIBLINGS", "MAX OBJECT", "GENERATION"]);
    }
    table(&header, rows.collect(), paint)
}

fn one(view: &BucketView) -> String {
    let lines = [
        ("n", view.n.to_string()),
        ("regions", regions(view)),
        ("mode", view.mode.clone()),
        ("r", view.r.clone()),
        ("w", view.w.clone()),
        ("blind_writes", view.blind_writes.clone()),
        ("sloppy", view.sloppy.to_string()),
        ("ttl", view.ttl.clone().unwrap_or_else(|| "never".to_owned())),
        ("max_value", view.max_value.to_string()),
        ("max_siblings", view.max_siblings.to_string()),
        ("max_object", view.max_object.to_string()),
        ("generation", view.generation.to_string()),
    ];
    let line = |(name, value): (&str, String)| {
        let default = if view.defaults.iter().any(|unset| unset == name) { "  (the cluster's default)" } else { "" };
        format!("{name:<13} {value}{default}\n")
    };
    let mut text: String = lines.into_iter().map(line).collect();
    if !view.waits_for.is_empty() {
        text += &format!("layout {} waits for {}\n", view.layout, view.waits_for.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> BucketView {
        BucketView {
            bucket: "orders".into(),
            configured: true,
            n: 3,
            mode: "siblings".into(),
            role: "store".into(),
            r: "quorum".into(),
            w: "all".into(),
            blind_writes: "reject".into(),
            max_value: 1024,
            max_siblings: 64,
            max_object: 4096,
            defaults: vec!["r".into(), "max_siblings".into(), "max_value".into(), "max_object".into()],
            layout: 7,
            etag: Some("ab".into()),
            ..BucketView::default()
        }
    }

    fn document(before: &BucketView, settings: &[&str]) -> Result<Value, String> {
        let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
        changed(before, &settings).map_err(|failure| {
            assert_eq!(failure.exit, Exit::Usage);
            failure.text
        })
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_leaves_defaults_alone() {
        let kept = json!({"n":5,"regions":{},"mode":"siblings","role":"store","w":"all","blind_writes":"reject",
                          "sloppy":false,"ttl":null});
        assert_eq!(document(&view(), &["n=5"]), Ok(kept.clone()));
        let mut back = kept.clone();
        back.as_object_mut().unwrap().remove("w");
        back["regions"] = json!({"eu": 2});
        back["max_value"] = 65_536.into();
        assert_eq!(document(&view(), &["n=5", "w=default", "regions.eu=2", "max_value=64KiB"]), Ok(back));
        let fresh = BucketView { configured: false, ..view() };
        assert_eq!(document(&fresh, &["mode=lww", "sloppy=off"]), Ok(json!({"mode":"lww","sloppy":false})));
    }

    #[test]
    fn what_makes_no_sense_says_what_would() {
        let says = |setting: &str, why: &str| {
            let text = document(&view(), &[setting]).expect_err(why);
            assert!(text.contains(why), "{text:?} does not say {why:?}");
        };
        says("n", "\"n\" is NAME=VALUE");
        says("m=5", "\"m\" is no setting of a bucket; there are n, regions.REGION, mode");
        says("regions.=5", "no setting of a bucket");
        says("n=five", "n is a number, got \"five\"");
        says("max_value=1MB", "max_value is a size such as 512B");
        says("sloppy=maybe", "sloppy is true or false");
    }

    #[test]
    fn buckets_are_a_table_and_one_is_a_list() {
        let plain = Paint::never();
        let buckets = Buckets { buckets: vec![view()] };
        let lines = ["BUCKET  N  MODE      R       W    BLIND WRITES", "orders  3  siblings  quorum  all  reject"];
        assert_eq!(all(&buckets, false, plain), lines.join("\n") + "\n");
        assert!(all(&buckets, true, plain).lines().next().unwrap().ends_with("GENERATION"));
        assert!(all(&Buckets::default(), false, plain).starts_with("No bucket is configured"));
        let text = one(&BucketView { waits_for: vec!["n3".into()], ..view() });
        assert!(text.contains("r             quorum  (the cluster's default)\nw             all\n"), "{text}");
        assert!(text.ends_with("layout 7 waits for n3\n"));
    }
}
