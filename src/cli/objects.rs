//! `put`, `get`, `delete`, `where`: one object, through the client.
//!
//! `put` and `delete` read first and send the context of what they saw, so that they supersede what is there. Where they
//! see siblings they write nothing: which of them to drop is for people to say.

use std::io::Read;

use comfy_table::Cell;
use serde_json::json;

use super::args::{DeleteArgs, Format, GetArgs, Object, PutArgs, Reach, WhereArgs, WriteArgs};
use super::output::{Exit, Failure, Paint, explain_table, json, micros, note, print, result_word, state_cell, table};
use crate::client::{Client, ClientConfig};
use crate::env::Env;
use crate::kv::plans::quoted;
use crate::kv::wire::{Envelope, parse_dot};
use crate::kv::{
    ContextToken, ErrorCode, Kv, Lifetime, Owners, ReadAnswer, ReadOptions, RepairMode, SiblingView, Value,
    WriteAnswer, WriteOptions, date,
};
use crate::quorum::{Explain, Level, ReplicaResult};
use crate::types::{Bucket, Key, ObjectId, Wall};

/// Most bytes taken from stdin: far more than any node takes, far less than memory.
const STDIN_MOST: u64 = 64 << 20;

/// A client for these endpoints.
pub(super) fn client(reach: &Reach, adjust: impl FnOnce(&mut ClientConfig)) -> Result<Client, Failure> {
    let mut config = ClientConfig::new(reach.endpoints.iter().map(|url| url.trim_end_matches('/')));
    adjust(&mut config);
    Client::new(config, Env::real())
        .map_err(|error| Failure::new(Exit::Usage, error.to_string(), "--endpoint http://127.0.0.1:7400"))
}

fn object_id(object: &Object) -> Result<ObjectId, Failure> {
    let usage = |text: String| Failure::new(Exit::Usage, text, "");
    let bucket = Bucket::new(&object.bucket).map_err(|error| usage(error.to_string()))?;
    let key = Key::new(object.key.clone().into_bytes()).map_err(|error| usage(error.to_string()))?;
    Ok(ObjectId::new(bucket, key))
}

/// The key as one types it.
fn key_word(id: &ObjectId) -> String {
    quoted(&String::from_utf8_lossy(id.key.as_bytes()))
}

pub(super) async fn put(args: PutArgs) -> Result<(), Failure> {
    let id = object_id(&args.object)?;
    let bytes = if args.value == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(STDIN_MOST + 1).read_to_end(&mut bytes);
        read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read stdin: {error}"), ""))?;
        if bytes.len() as u64 > STDIN_MOST {
            return Err(Failure::new(Exit::Usage, format!("stdin has more than {STDIN_MOST} bytes"), ""));
        }
        bytes
    } else {
        args.value.clone().into_bytes()
    };
    let value = Value { content_type: args.content_type.clone(), ..Value::from(bytes) };
    write(id, Some(value), args.ttl.unwrap_or_default(), &args.write, &args.reach).await
}

pub(super) async fn delete(args: DeleteArgs) -> Result<(), Failure> {
    write(object_id(&args.object)?, None, Lifetime::Unsaid, &args.write, &args.reach).await
}

async fn write(
    id: ObjectId,
    value: Option<Value>,
    ttl: Lifetime,
    args: &WriteArgs,
    reach: &Reach,
) -> Result<(), Failure> {
    let client = client(reach, |_| {})?;
    let verb = if value.is_some() { "put" } else { "delete" };
    let context = match (&args.context, args.blind) {
        (Some(context), _) => Some(ContextToken(context.clone())),
        (None, true) => None,
        (None, false) => {
            let r = args.r.unwrap_or(match args.consistency {
                Level::Any => Level::One,
                level => level,
            });
            // What is read is superseded: a sloppy write reads what hints say as well.
            let sloppy = args.sloppy || args.w.unwrap_or(args.consistency) == Level::Any;
            let options = ReadOptions { r, timeout: reach.timeout, sloppy, ..ReadOptions::default() };
            let seen = client.get(id.clone(), options).await.map_err(|error| Failure::of_read(&error))?;
            if seen.siblings.len() > 1 {
                return Err(siblings_stand(&id, &seen, verb));
            }
            if value.is_none() && seen.siblings.is_empty() {
                return Err(Failure::new(Exit::NotFound, format!("{id} has no value"), ""));
            }
            Some(seen.context)
        }
    };
    let options = WriteOptions {
        w: args.w.unwrap_or(args.consistency),
        timeout: reach.timeout,
        context,
        ttl,
        explain: args.explain,
        sloppy: args.sloppy,
        ..WriteOptions::default()
    };
    let answer = match value {
        Some(value) => client.put(id.clone(), value, options).await,
        None => client.delete(id.clone(), options).await,
    };
    let answer = answer.map_err(|error| Failure::of_write(&error))?;
    if let Some(explain) = &answer.explain {
        note(explain_table(explain, Paint::stderr()).trim_end());
    }
    show_written(&id, &answer, reach.output)
}

fn show_written(id: &ObjectId, answer: &WriteAnswer, output: Option<Format>) -> Result<(), Failure> {
    let counted = answer.counted;
    if answer.sibling_count > 1 {
        note(&format!(
            "note: {id} has {} siblings now; `quorate get {} {} -o wide` shows them",
            answer.sibling_count,
            id.bucket,
            key_word(id)
        ));
    }
    match output {
        Some(Format::Json) => print(&json(&json!({
            "bucket": id.bucket.as_str(), "key": String::from_utf8_lossy(id.key.as_bytes()), "etag": answer.etag.to_string(),
            "context": answer.context, "siblings": answer.sibling_count, "write": counted, "explain": answer.explain,
        }))?),
        _ => {
            note(&format!(
                "done: {} of {} replicas have it, {} were asked for",
                counted.answered, counted.n, counted.needed
            ));
            Ok(())
        }
    }
}

/// What to do about siblings, in words and as a command.
fn siblings_stand(id: &ObjectId, seen: &ReadAnswer, verb: &str) -> Failure {
    note(siblings_table(seen, Paint::stderr(), false).trim_end());
    let (bucket, key) = (id.bucket.as_str(), key_word(id));
    let value = if verb == "put" { " VALUE" } else { "" };
    let next = format!(
        "this settles all {} of them:\n  quorate {verb} {bucket} {key}{value} --context {}",
        seen.siblings.len(),
        seen.context.0
    );
    let text =
        format!("{id} has {} siblings: writers who did not see each other; nothing was written", seen.siblings.len());
    Failure::new(Exit::Siblings, text, next)
}

fn siblings_table(seen: &ReadAnswer, paint: Paint, wide: bool) -> String {
    let row = |sibling: &SiblingView| {
        let value = sibling.value.as_ref();
        let mut row = vec![
            Cell::new(date::rfc3339(sibling.written_at)),
            Cell::new(value.map_or_else(|| "-".into(), |value| format!("{} B", value.bytes.len()))),
            Cell::new(value.and_then(|value| value.content_type.clone()).unwrap_or_else(|| "-".into())),
            Cell::new(value.map_or_else(|| "(deleted)".into(), |value| preview(&value.bytes))),
        ];
        if wide {
            row.insert(0, Cell::new(sibling.dot.to_string()));
        }
        row
    };
    let mut header = vec!["WRITTEN", "SIZE", "TYPE", "VALUE"];
    if wide {
        header.insert(0, "VERSION");
    }
    table(&header, seen.siblings.iter().map(row).collect(), paint)
}

/// The beginning of a value, on one line.
pub(super) fn preview(bytes: &[u8]) -> String {
    let shown: String = String::from_utf8_lossy(&bytes[..bytes.len().min(240)])
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(60)
        .collect();
    if shown.len() < bytes.len() { format!("{shown}…") } else { shown }
}

pub(super) async fn get(args: GetArgs) -> Result<(), Failure> {
    let id = object_id(&args.object)?;
    let client = client(&args.reach, |_| {})?;
    let options = ReadOptions {
        r: args.r.unwrap_or(args.consistency),
        timeout: args.reach.timeout,
        explain: args.explain,
        sloppy: args.sloppy,
        ..ReadOptions::default()
    };
    let answer = client.get(id.clone(), options).await.map_err(|error| Failure::of_read(&error))?;
    if let Some(explain) = &answer.explain {
        note(explain_table(explain, Paint::stderr()).trim_end());
    }
    let (bucket, key) = (id.bucket.as_str(), key_word(&id));
    if answer.siblings.is_empty() {
        let next = format!("`quorate where {bucket} {key}` shows what each replica holds");
        return Err(Failure::new(Exit::NotFound, format!("{id} has no value"), next));
    }
    let count = answer.siblings.len();
    if args.latest && args.reach.output.is_none() && answer.siblings[0].value.is_none() {
        let text = format!("{id} has {count} siblings, and the latest is a delete");
        let next = format!("`quorate get {bucket} {key}` shows the others");
        return Err(Failure::new(Exit::NotFound, text, next));
    }
    match args.reach.output {
        Some(Format::Json) => {
            let envelope = Envelope {
                context: Some(answer.context.clone()),
                read: Some(answer.counted),
                explain: answer.explain.clone(),
                ..Envelope::new(&id, answer.etag, &answer.siblings)
            };
            print(&json(&envelope)?)?;
        }
        Some(format) => {
            let wide = format == Format::Wide;
            let mut text = siblings_table(&answer, Paint::stdout(), wide);
            if wide {
                let etag = answer.etag.map_or_else(|| "-".into(), |etag| etag.to_string());
                text += &format!("etag     {etag}\ncontext  {}\n", answer.context.0);
            }
            print(text.as_bytes())?;
        }
        None if answer.siblings.len() > 1 && !args.latest => {
            note(siblings_table(&answer, Paint::stderr(), false).trim_end());
        }
        None => {
            if let Some(value) = &answer.siblings[0].value {
                print(&value.bytes)?;
            }
        }
    }
    match count {
        1 => Ok(()),
        _ if args.latest => {
            note(&format!("note: this is the one written last of {count} siblings"));
            Ok(())
        }
        _ => {
            let text = format!("{id} has {count} siblings: writers who did not see each other");
            let next = format!("this settles them:\n  quorate put {bucket} {key} VALUE --context {}", answer.context.0);
            Err(Failure::new(Exit::Siblings, text, next))
        }
    }
}

pub(super) async fn whereabouts(args: WhereArgs) -> Result<(), Failure> {
    let id = object_id(&args.object)?;
    let client = client(&args.reach, |_| {})?;
    let owners = client.owners(&id).await.map_err(|error| Failure::of_read(&error))?;
    let explain = ask_all(&client, &id, &owners, &args.reach).await?;
    let now = Env::real().clock.wall();
    if args.reach.output == Some(Format::Json) {
        return print(&json(&json!({ "owners": owners, "explain": explain }))?);
    }
    let wide = args.reach.output == Some(Format::Wide);
    let rows = owners.owners.iter().map(|owner| {
        let replica = explain.replicas.iter().find(|replica| replica.node == owner.node);
        let dots = replica.map(|replica| replica.dots.clone()).unwrap_or_default();
        let newest = dots.iter().filter_map(|dot| parse_dot(dot)).map(|dot| dot.stamp.wall()).max();
        let versions = match dots.len() {
            0 => "-".to_owned(),
            _ => dots.join(" + "),
        };
        let mut row = vec![
            Cell::new(&owner.node),
            Cell::new(&owner.zone),
            state_cell(&owner.state),
            Cell::new(holds(replica.and_then(|replica| replica.result))),
            Cell::new(versions),
            Cell::new(newest.map_or_else(|| "-".into(), |at| age(at, now))),
        ];
        if wide {
            row.insert(1, Cell::new(&owner.region));
            row.push(Cell::new(micros(replica.and_then(|replica| replica.answered_us))));
        }
        row
    });
    let mut header = vec!["OWNER", "ZONE", "STATE", "HOLDS", "VERSION", "AGE"];
    if wide {
        header.insert(1, "REGION");
        header.push("ANSWERED AT");
    }
    let mut text = table(&header, rows.collect(), Paint::stdout());
    if !owners.fallbacks.is_empty() {
        let each = owners.fallbacks.iter().map(|node| format!("{} ({})", node.node, node.state));
        text +=
            &format!("stand in for owners that are down, where --sloppy: {}\n", each.collect::<Vec<_>>().join(", "));
    }
    print(
        format!("{id}  partition {}  token {}  layout {}\n{text}", owners.partition, owners.token, owners.layout)
            .as_bytes(),
    )
}

/// What a replica holds, or why that is not known.
fn holds(result: Option<ReplicaResult>) -> String {
    match result {
        Some(ReplicaResult::Value | ReplicaResult::Same) => "a version".into(),
        Some(ReplicaResult::NotFound) => "nothing".into(),
        other => result_word(other),
    }
}

/// Reads at the highest R that is met: a replica that is down is shown as such and does not hide the others.
async fn ask_all(client: &Client, id: &ObjectId, owners: &Owners, reach: &Reach) -> Result<Explain, Failure> {
    let up = owners.owners.iter().filter(|owner| owner.state != "down").count().max(1);
    let mut levels = (1..=up).rev().filter_map(|count| u8::try_from(count).ok());
    loop {
        let Some(count) = levels.next() else {
            return Err(Failure::new(Exit::Quorum, "no replica answered", "`quorate status` shows who is down"));
        };
        let options = ReadOptions {
            r: Level::Count(count),
            timeout: reach.timeout,
            repair: Some(RepairMode::Off),
            hedge: false,
            explain: true,
            ..ReadOptions::default()
        };
        match client.get(id.clone(), options).await {
            Ok(answer) => return Ok(answer.explain.unwrap_or_default()),
            Err(error) if count > 1 && is_quorum(error.code) => {}
            Err(error) => return Err(Failure::of_read(&error)),
        }
    }
}

fn is_quorum(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::QuorumUnavailable | ErrorCode::ReplicasFailed | ErrorCode::ReadTimeout)
}

/// How long ago, roughly.
fn age(at: Wall, now: Wall) -> String {
    let seconds = now.0.saturating_sub(at.0) / 1_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted("JP/1850147"), "JP/1850147");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn ages_and_previews_are_short() {
        assert_eq!(age(Wall(0), Wall(90_000)), "90 s");
        assert_eq!(age(Wall(0), Wall(7_200_000)), "2 h");
        assert_eq!(age(Wall(9), Wall(0)), "0 s");
        assert_eq!(preview(b"a\nb"), "a b");
        assert!(preview(&[b'x'; 100]).ends_with('…'));
    }
}
