//! Holds the arrows of the map in `src/lib.rs`: which room may name which, and who may name what from outside.
//!
//! The rules are the tables below: change the map and the table together. The checker reads the source as tokens, not
//! as text, so comments and strings don't count, and `use` trees, `super::` and written-out paths do.
//!
//! Code under `#[cfg(test)]` is not shipped, so it may cross rooms (a replica's test may boot a simulated cluster);
//! two rules hold there all the same: tests of pure rooms stay off clocks and sockets, and rocksdb stays in its file.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Rooms of the map that are not built yet.
const TO_COME: &[&str] = &[];
/// Pure rooms, lowest first: no runtime, clock, randomness, I/O.
const PURE: &[&str] = &["types", "causality", "pacing", "quorum", "ring", "merkle", "membership", "paxos", "collect"];
/// Shell rooms, bottom up: each may name those before it.
const SHELL: &[&str] = &["replica", "peers", "cluster", "repair", "coordinator", "node"];
/// Rooms that every shell room may name.
const BELOW_SHELL: &[&str] = &[
    "types",
    "causality",
    "pacing",
    "quorum",
    "ring",
    "merkle",
    "membership",
    "paxos",
    "collect",
    "env",
    "metrics",
    "storage",
    "transport",
    "kv",
];

/// Room -> rooms it may name. Shell rooms are worked out from [`SHELL`] and [`BELOW_SHELL`].
const ARROWS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("causality", &["types"]),
    ("pacing", &["types"]),
    ("quorum", &["types", "causality"]),
    ("ring", &["types", "causality"]),
    ("merkle", &["types", "causality"]),
    ("membership", &["types", "causality"]),
    ("paxos", &["types", "causality"]),
    ("collect", &["types", "causality"]),
    ("env", PURE),
    ("metrics", PURE),
    ("storage", &["types", "causality", "pacing", "quorum", "ring", "merkle", "membership", "paxos", "env", "metrics"]),
    (
        "transport",
        &[
            "types",
            "causality",
            "pacing",
            "quorum",
            "ring",
            "merkle",
            "membership",
            "paxos",
            "collect",
            "env",
            "metrics",
        ],
    ),
    (
        "kv",
        &[
            "types",
            "causality",
            "pacing",
            "quorum",
            "ring",
            "merkle",
            "membership",
            "paxos",
            "env",
            "metrics",
            "storage",
            "transport",
        ],
    ),
    // A client is linked into other people's programs: the interface, and the values its signatures are made of.
    ("client", &["kv", "types", "causality", "quorum", "pacing", "env"]),
];
/// Edges and what stands beside them may name the shell and all below it, and these.
const EDGES: &[(&str, &[&str])] =
    &[("sim", &[]), ("http", &[]), ("cli", &["http", "client", "sim"]), ("main", &["cli", "http", "client", "sim"])];

/// What only some may name: a path's beginning, who may name it (a path under `src/` begins with one of these), why.
/// In shipped code.
const RESERVED: &[(&[&str], &[&str], &str)] = &[
    (&["murmur3"], &["types/"], "only types/ names murmur3: one place decides where a key lies"),
    (
        &["tokio", "time"],
        &["env.rs", "sim/", "client/", "http/", "cli/", "main.rs"],
        "below the edges time comes from env::Clock, else a simulation cannot own it",
    ),
    (&["crate", "storage", "rocks"], ADAPTER_PICKERS, PICKS),
    (&["crate", "storage", "memory"], ADAPTER_PICKERS, PICKS),
    (&["crate", "transport", "tcp"], ADAPTER_PICKERS, PICKS),
    (&["crate", "transport", "faults"], ADAPTER_PICKERS, PICKS),
];
const ADAPTER_PICKERS: &[&str] = &["main.rs", "sim/", "node/builder", "storage/", "transport/"];
const PICKS: &str = "only main, sim and the node's builder pick adapters";

/// What nobody but one file may name, test or not.
const ROCKS: (&str, &str) = ("rocksdb", "storage/rocks.rs");

/// What no shipped line of a pure room may name: a path's beginning.
const IMPURE: &[&[&str]] = &[
    &["tokio"],
    &["tokio_util"],
    &["axum"],
    &["hyper"],
    &["hyper_util"],
    &["reqwest"],
    &["rocksdb"],
    &["rand"],
    &["std", "net"],
    &["std", "fs"],
    &["std", "thread"],
    &["std", "process"],
    &["std", "env"],
];
/// What not even a pure room's tests may name.
const IMPURE_IN_TESTS: &[&[&str]] = &[&["tokio"], &["axum"], &["hyper"], &["reqwest"], &["std", "net"]];
/// Names of clocks: barred in pure rooms wherever they stand in a path, however they were imported.
const CLOCKS: &[&str] = &["Instant", "SystemTime"];

/// The rooms that `room` may name.
fn allowed(room: &str) -> BTreeSet<&'static str> {
    if let Some((_, below)) = ARROWS.iter().find(|(name, _)| *name == room) {
        return below.iter().copied().collect();
    }
    let mut rooms: BTreeSet<_> = BELOW_SHELL.iter().copied().collect();
    match SHELL.iter().position(|name| *name == room) {
        Some(at) => rooms.extend(&SHELL[..at]),
        None => {
            rooms.extend(SHELL);
            rooms.extend(EDGES.iter().find(|(name, _)| *name == room).unwrap_or(&("", &[])).1);
        }
    }
    rooms
}

/// Every room there is, `main` aside.
fn rooms() -> BTreeSet<&'static str> {
    let named = ARROWS.iter().chain(EDGES).map(|(name, _)| *name);
    named.chain(SHELL.iter().copied()).filter(|name| *name != "main").collect()
}

// -- Reading Rust ----------------------------------------------------------------------------------------------------

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Ident(String),
    /// `::` is one token, written `:` twice in one string; all others are one character.
    Punct(&'static str),
    Other(char),
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    line: usize,
}

impl Token {
    fn is(&self, c: char) -> bool {
        self.kind == Kind::Other(c)
    }

    fn is_colons(&self) -> bool {
        self.kind == Kind::Punct("::")
    }

    fn ident(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }
}

/// Splits source text into tokens, leaving out comments, strings, characters and lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let (mut at, mut line, mut out) = (0, 1, Vec::new());
    while at < text.len() {
        let (c, next) = (text[at], text.get(at + 1).copied().unwrap_or('\0'));
        let start = at;
        match c {
            '/' if next == '/' => at = find(&text, at, |t, i| t[i] == '\n'),
            '/' if next == '*' => at = block_comment(&text, at),
            '"' => at = string(&text, at),
            // 'a' and '\n' are characters, 'a alone is a lifetime.
            '\'' if next == '\\' => at = find(&text, at + 3, |t, i| t[i] == '\'') + 1,
            '\'' if text.get(at + 2) == Some(&'\'') => at += 3,
            '\'' => at = find(&text, at + 1, |t, i| !is_word(t[i])),
            c if is_word(c) => {
                at = find(&text, at, |t, i| !is_word(t[i]));
                let word: String = text[start..at].iter().collect();
                if matches!(word.as_str(), "r" | "br" | "cr") && raw_string(&text, at).is_some() {
                    at = raw_string(&text, at).unwrap();
                } else if !c.is_ascii_digit() {
                    out.push(Token { kind: Kind::Ident(word), line });
                }
            }
            ':' if next == ':' => {
                out.push(Token { kind: Kind::Punct("::"), line });
                at += 2;
            }
            c => {
                if !c.is_whitespace() {
                    out.push(Token { kind: Kind::Other(c), line });
                }
                at += 1;
            }
        }
        line += text[start..at.min(text.len())].iter().filter(|c| **c == '\n').count();
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn find(text: &[char], from: usize, stop: impl Fn(&[char], usize) -> bool) -> usize {
    (from..text.len()).find(|i| stop(text, *i)).unwrap_or(text.len())
}

fn block_comment(text: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(text: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The end of a raw string whose hashes begin at `from`, if one does.
fn raw_string(text: &[char], from: usize) -> Option<usize> {
    let quote = find(text, from, |t, i| t[i] != '#');
    (text.get(quote) == Some(&'"')).then(|| {
        let hashes = quote - from;
        let ends = |t: &[char], i: usize| t[i] == '"' && (1..=hashes).all(|h| t.get(i + h) == Some(&'#'));
        find(text, quote + 1, ends) + hashes + 1
    })
}

/// The token after the group that opens at `at` (`(`, `[` or `{`).
fn after_group(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.kind {
            Kind::Other('(' | '[' | '{') => depth += 1,
            Kind::Other(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// The token after the item that begins at `at`, its further attributes included.
fn after_item(tokens: &[Token], mut at: usize) -> usize {
    while tokens.get(at).is_some_and(|t| t.is('#')) {
        at = after_group(tokens, at + 1);
    }
    let first = tokens.get(at).and_then(Token::ident).unwrap_or_default();
    let item = [
        "fn",
        "pub",
        "impl",
        "mod",
        "struct",
        "enum",
        "trait",
        "async",
        "unsafe",
        "macro_rules",
        "use",
        "const",
        "static",
        "type",
        "extern",
        "let",
    ];
    let to_semicolon =
        tokens[at..].iter().take(5).any(|t| matches!(t.ident(), Some("use" | "let" | "static" | "type")));
    while at < tokens.len() {
        match tokens[at].kind {
            Kind::Other('{') if !to_semicolon => return after_group(tokens, at),
            Kind::Other('(' | '[' | '{') => at = after_group(tokens, at),
            Kind::Other(';') => return at + 1,
            Kind::Other(',') if !item.contains(&first) => return at + 1,
            Kind::Other(')' | ']' | '}') => return at,
            _ => at += 1,
        }
    }
    at
}

/// Which tokens stand under `#[cfg(test)]`, and the modules in other files that do.
fn test_code(tokens: &[Token]) -> (Vec<bool>, Vec<String>) {
    let (mut under, mut modules, mut at) = (vec![false; tokens.len()], Vec::new(), 0);
    while at < tokens.len() {
        let inner = tokens[at].is('#') && tokens.get(at + 1).is_some_and(|t| t.is('!'));
        let open = at + 1 + usize::from(inner);
        let attribute = tokens[at].is('#') && tokens.get(open).is_some_and(|t| t.is('['));
        if !attribute {
            at += 1;
            continue;
        }
        let end = after_group(tokens, open);
        let words: Vec<&str> = tokens[open..end].iter().filter_map(Token::ident).collect();
        // `not(test)` is shipped, and so may be `any(test, ..)`.
        let test = words.first() == Some(&"cfg")
            && words.contains(&"test")
            && !words.contains(&"not")
            && !words.contains(&"any");
        if test {
            let stop = if inner { tokens.len() } else { after_item(tokens, end) };
            under[at..stop].fill(true);
            if let [.., keyword, name, semicolon] = &tokens[at..stop]
                && keyword.ident() == Some("mod")
                && semicolon.is(';')
            {
                modules.extend(name.ident().map(str::to_owned));
            }
            at = stop;
        } else {
            at = end;
        }
    }
    (under, modules)
}

/// A path as written, `super`, `self` and `quorate` resolved to `crate::..`, and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Named {
    path: Vec<String>,
    line: usize,
    test: bool,
}

/// Every path in a file. `module` is the file's own place: `["quorum", "get"]`.
fn paths(tokens: &[Token], under_test: &[bool], module: &[String]) -> Vec<Named> {
    let (mut out, mut at, mut inline) = (Vec::new(), 0, Vec::new());
    let mut depth = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        match &token.kind {
            Kind::Other('{') => depth += 1,
            Kind::Other('}') => {
                depth -= 1;
                inline.retain(|(opened, _)| *opened < depth + 1);
            }
            Kind::Ident(word) if word == "mod" && tokens.get(at + 2).is_some_and(|t| t.is('{')) => {
                inline.push((depth + 1, tokens[at + 1].ident().unwrap_or_default().to_owned()));
                depth += 1;
                at += 3;
                continue;
            }
            Kind::Ident(_) => {
                let mut place = module.to_vec();
                place.extend(inline.iter().map(|(_, name)| name.clone()));
                let mut found = Vec::new();
                let end = tree(tokens, at, &[], &mut found);
                out.extend(found.into_iter().map(|(path, i)| Named {
                    path: resolve(path, &place),
                    line: tokens[i].line,
                    test: under_test[i],
                }));
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    out
}

/// Reads one path or `use` tree that begins at `at`; returns the token after it.
fn tree(tokens: &[Token], mut at: usize, prefix: &[String], out: &mut Vec<(Vec<String>, usize)>) -> usize {
    let (mut path, start) = (prefix.to_vec(), at);
    loop {
        match tokens.get(at).map(|t| &t.kind) {
            Some(Kind::Ident(name)) => path.push(name.clone()),
            Some(Kind::Other('*')) => path.push("*".to_owned()),
            Some(Kind::Other('{')) => {
                let end = after_group(tokens, at);
                at += 1;
                while at < end - 1 {
                    let before = at;
                    at = tree(tokens, at, &path, out);
                    // `as name`, commas, whatever else a tree may hold.
                    while at < end - 1 && !tokens[at].is(',') {
                        at += 1;
                    }
                    at = (at + 1).max(before + 1);
                }
                return end;
            }
            _ => break,
        }
        at += 1;
        if !tokens.get(at).is_some_and(Token::is_colons) {
            break;
        }
        at += 1;
    }
    out.push((path, start));
    at.max(start + 1)
}

fn resolve(path: Vec<String>, place: &[String]) -> Vec<String> {
    let first = path.first().map_or("", String::as_str);
    let (mut base, skip) = match first {
        "quorate" => (vec!["crate".to_owned()], 1),
        "self" | "super" => {
            let ups = path.iter().take_while(|s| *s == "super").count();
            let selfs = usize::from(first == "self");
            let keep = place.len().saturating_sub(ups);
            let mut base = vec!["crate".to_owned()];
            base.extend(place[..keep].iter().cloned());
            (base, ups + selfs)
        }
        _ => (Vec::new(), 0),
    };
    base.extend(path.into_iter().skip(skip));
    base
}

// -- Judging ---------------------------------------------------------------------------------------------------------

/// A file's place in the module tree: `quorum/get.rs` -> quorum, get; `kv/mod.rs` -> kv; `lib.rs`, `main.rs` -> nothing.
fn module_of(file: &str) -> Vec<String> {
    let mut parts: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

fn room_of(file: &str) -> String {
    module_of(file).into_iter().next().unwrap_or_else(|| file.trim_end_matches(".rs").to_owned())
}

fn begins<S: AsRef<str>>(path: &[String], with: &[S]) -> bool {
    path.len() >= with.len() && path.iter().zip(with).all(|(a, b)| a == b.as_ref())
}

/// What is wrong with one file: one line each, with where and why.
fn judge(file: &str, source: &str, whole_file_is_test: bool) -> Vec<String> {
    let tokens = tokens(source);
    let mut under_test = test_code(&tokens).0;
    if whole_file_is_test {
        under_test.fill(true);
    }
    let (room, known) = (room_of(file), rooms());
    let (allowed, pure) = (allowed(&room), PURE.contains(&room.as_str()));
    let mut wrong = Vec::new();
    for Named { path, line, test } in paths(&tokens, &under_test, &module_of(file)) {
        let mut say = |why: String| wrong.push(format!("src/{file}:{line}: {}: {why}", path.join("::")));
        if path[0] == ROCKS.0 && path.len() > 1 && file != ROCKS.1 {
            say(format!("only {} names rocksdb", ROCKS.1));
        }
        if pure && path.iter().any(|name| CLOCKS.contains(&name.as_str())) {
            say("a pure room reads no clock: take `now` as an argument".to_owned());
        }
        let impure = if test { IMPURE_IN_TESTS } else { IMPURE };
        if pure && path.len() > 1 && impure.iter().any(|with| begins(&path, with)) {
            say(format!("{room} is pure: no runtime, socket, disk or randomness"));
        }
        if test || file == "lib.rs" {
            continue;
        }
        for (with, who, why) in RESERVED {
            if begins(&path, with) && path.len() > 1 && !who.iter().any(|who| file.starts_with(who)) {
                say((*why).to_owned());
            }
        }
        if path[0] == "crate" && path.len() > 1 && path[1] != room {
            if !known.contains(path[1].as_str()) {
                say("not a room; name the room it comes from".to_owned());
            } else if !allowed.contains(path[1].as_str()) {
                say(format!("{room} may not name {}: arrows point down only", path[1]));
            }
        }
    }
    wrong
}

/// All of `src/`: path below it -> text.
fn sources() -> BTreeMap<String, String> {
    fn walk(dir: &Path, below: &str, out: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{below}{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                walk(&path, &format!("{name}/"), out);
            } else if name.ends_with(".rs") {
                out.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut out);
    out
}

/// Files that are modules under `#[cfg(test)]` of their parent, and all below them.
fn test_files(sources: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut roots = Vec::new();
    for (file, source) in sources {
        let place = module_of(file);
        for name in test_code(&tokens(source)).1 {
            roots.push(place.iter().cloned().chain([name]).collect::<Vec<_>>());
        }
    }
    sources.keys().filter(|file| roots.iter().any(|root| begins(&module_of(file), root))).cloned().collect()
}

#[test]
fn arrows_point_down_only() {
    let sources = sources();
    let tests = test_files(&sources);
    let wrong: Vec<String> = sources.iter().flat_map(|(file, text)| judge(file, text, tests.contains(file))).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_table_names_every_room_and_no_other() {
    let lib = &sources()["lib.rs"];
    let tokens = tokens(lib);
    let mods = tokens.windows(2).filter(|w| w[0].ident() == Some("mod")).filter_map(|w| w[1].ident());
    let mut rooms = rooms();
    rooms.retain(|room| !TO_COME.contains(room));
    assert_eq!(mods.collect::<BTreeSet<_>>(), rooms);
}

#[test]
fn the_table_has_no_cycle_and_pure_rooms_end_in_types() {
    fn reach(room: &str, seen: &mut Vec<String>) {
        assert!(!seen.iter().any(|r| r == room), "a cycle: {seen:?} -> {room}");
        seen.push(room.to_owned());
        allowed(room).iter().for_each(|next| reach(next, seen));
        seen.pop();
    }
    // From the leaves up, so that the depth stays small: pure, seams, kv.
    for room in ARROWS.iter().map(|(name, _)| *name).filter(|name| *name != "client") {
        reach(room, &mut Vec::new());
    }
    for (at, room) in SHELL.iter().enumerate() {
        assert!(SHELL[at..].iter().all(|above| !allowed(room).contains(above)), "{room}");
    }
    for room in PURE {
        assert!(allowed(room).iter().all(|below| ["types", "causality"].contains(below)), "{room}");
    }
}

// -- The checker is checked ------------------------------------------------------------------------------------------

/// What `judge` says of one file, without the place.
fn complaints(file: &str, source: &str) -> usize {
    judge(file, source, false).len()
}

#[test]
fn planted_bad_lines_are_caught() {
    let planted = [
        // Up instead of down, in every way to write it.
        ("quorum/get.rs", "use crate::replica::Replica;"),
        ("quorum/get.rs", "use crate::{types::Stamp, replica::{Replica, Shard}};"),
        ("quorum/get.rs", "pub use super::super::kv::Error as E;"),
        ("quorum/get.rs", "fn f() { let x = crate::kv::Outcome::Applied; }"),
        ("quorum/get.rs", "fn f(x: &'static crate::node::Node) {}"),
        ("quorum/get.rs", "mod inner { use super::super::super::peers::Link; }"),
        ("causality/mint.rs", "use crate::quorum::Level;"),
        ("types/id.rs", "use crate::causality::Dot;"),
        // Siblings among the pure rooms.
        ("ring/plan.rs", "use crate::quorum::Level;"),
        ("merkle/mod.rs", "use crate::membership::View;"),
        ("pacing/mod.rs", "use crate::causality::Dot;"),
        // Shell, bottom up.
        ("replica/mod.rs", "use crate::peers::Peers;"),
        ("peers/mod.rs", "use crate::coordinator::Put;"),
        ("cluster/mod.rs", "use crate::repair::Hints;"),
        ("coordinator/mod.rs", "use crate::node::Node;"),
        ("node/mod.rs", "use crate::http::serve;"),
        ("storage/mod.rs", "use crate::transport::Hello;"),
        ("kv/mod.rs", "use crate::coordinator::Get;"),
        ("client/mod.rs", "use crate::node::Node;"),
        ("client/mod.rs", "use crate::storage::Storage;"),
        ("http/kv.rs", "use crate::cli::Args;"),
        ("sim/mod.rs", "use crate::http::serve;"),
        // Everything at once hides what is named.
        ("kv/mod.rs", "use crate::*;"),
        ("kv/mod.rs", "use crate::elsewhere::Thing;"),
        // Impure.
        ("ring/plan.rs", "use std::time::Instant;"),
        ("ring/plan.rs", "use std::time; fn f() { time::SystemTime::now(); }"),
        ("ring/plan.rs", "use std::{collections::BTreeMap, net::SocketAddr};"),
        ("ring/plan.rs", "fn f() { std::fs::read(\"x\"); }"),
        ("ring/plan.rs", "use rand::RngExt;"),
        ("quorum/get.rs", "async fn f() { tokio::task::yield_now().await }"),
        ("quorum/get.rs", "fn f() -> ::tokio::task::JoinHandle<()> {}"),
        ("paxos/mod.rs", "#[cfg(not(test))] use tokio::sync::Mutex;"),
        ("paxos/mod.rs", "#[cfg(any(test, feature = \"sim\"))] use tokio::sync::Mutex;"),
        ("paxos/mod.rs", "#[cfg(test)] mod tests { use std::time::Instant; }"),
        ("paxos/mod.rs", "#[cfg(test)] use proptest::prelude::*; use rand::Rng;"),
        // Reserved.
        ("storage/memory.rs", "use rocksdb::DB;"),
        ("replica/mod.rs", "#[cfg(test)] mod tests { use rocksdb::DB; }"),
        ("ring/token.rs", "use murmur3::murmur3_x64_128;"),
        ("coordinator/get.rs", "async fn f() { tokio::time::sleep(d).await }"),
        ("transport/tcp.rs", "use tokio::{net::TcpStream, time::timeout};"),
        ("replica/mod.rs", "use crate::storage::memory::Memory;"),
        ("node/workers.rs", "use crate::transport::tcp::Tcp;"),
        ("http/admin.rs", "use crate::storage::rocks::Rocks;"),
    ];
    for (file, source) in planted {
        assert!(complaints(file, source) > 0, "not caught: {file}: {source}");
    }
}

#[test]
fn good_lines_pass() {
    let good = [
        ("quorum/get.rs", "use crate::causality::{Dot, Object};\nuse super::tally::Tally;\nuse std::time::Duration;"),
        (
            "quorum/get.rs",
            "// use crate::replica::Replica;\n/* crate::kv /* nested */ tokio::spawn */\nconst X: &str = \"tokio::time\";",
        ),
        ("quorum/get.rs", "const X: &str = r#\"a \" crate::kv::X\"#; const C: char = '\"'; use crate::types::Key;"),
        (
            "quorum/get.rs",
            "fn f<'a>(x: &'a str) -> char { '\\'' } pub(crate) struct S; pub(in crate::quorum) struct T;",
        ),
        ("quorum/get.rs", "#[cfg(test)]\nmod tests { use crate::kv::Error; use rand::Rng; use super::super::tally; }"),
        ("quorum/get.rs", "#[cfg(test)] use crate::kv::{A, B};\nuse crate::types::Key;"),
        ("types/key.rs", "use murmur3::murmur3_x64_128;"),
        ("env.rs", "fn f() { tokio::time::sleep(d); std::time::Instant::now(); } use rand::Rng;"),
        ("storage/rocks.rs", "use rocksdb::DB; use super::{Batch, Storage}; use crate::metrics::Metrics;"),
        ("storage/mod.rs", "#[cfg(feature = \"rocksdb\")]\npub mod rocks;"),
        ("replica/mod.rs", "use crate::{causality, kv::Error, storage::{Batch, Storage}};"),
        ("node/builder.rs", "use crate::storage::{memory::Memory, rocks::Rocks}; use crate::coordinator::Put;"),
        ("client/mod.rs", "use crate::kv::Kv; use crate::types::Key; use tokio::time::sleep;"),
        ("main.rs", "use quorate::cli; fn main() { quorate::cli::run() }"),
        ("cli/dev.rs", "use crate::{client, http, node, sim};"),
    ];
    for (file, source) in good {
        assert_eq!(judge(file, source, false), Vec::<String>::new(), "{file}");
    }
}

#[test]
fn lines_are_reported_where_they_stand() {
    let source = "//! Doc\n\nuse crate::types::Key;\nuse crate::{\n    causality::Dot,\n    kv::Error,\n};\n";
    let wrong = judge("ring/mod.rs", source, false);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(wrong[0].starts_with("src/ring/mod.rs:6: crate::kv::Error"), "{wrong:?}");
}

#[test]
fn test_modules_in_files_of_their_own_are_test_code() {
    let mut sources = BTreeMap::new();
    sources.insert("ring/mod.rs".to_owned(), "#[cfg(test)]\nmod laws;\nmod plan;".to_owned());
    sources.insert("ring/laws.rs".to_owned(), "use crate::kv::Error;".to_owned());
    sources.insert("ring/plan.rs".to_owned(), "use crate::kv::Error;".to_owned());
    assert_eq!(test_files(&sources), BTreeSet::from(["ring/laws.rs".to_owned()]));
}
