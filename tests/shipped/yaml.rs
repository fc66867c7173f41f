//! Reads the part of YAML that our files are written in, and refuses the rest: what passes here means the same to every
//! reader. Blocks, lists, one-line flows, quotes, folded and literal text, anchors with merge keys; no tags, no tabs.

use serde_json::{Map, Value};

/// Every document of a file.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for document in text.split("\n---\n") {
        let mut reader = Reader { lines: document.lines().collect(), at: 0, anchors: Map::new() };
        let value = reader.block(0);
        assert!(reader.peek().is_none(), "cannot read on from: {:?}", reader.peek());
        found.push(value);
    }
    found
}

/// The one document of a file.
pub(crate) fn document(text: &str) -> Value {
    let mut found = documents(text);
    assert_eq!(found.len(), 1, "several documents");
    found.remove(0)
}

struct Reader<'a> {
    lines: Vec<&'a str>,
    at: usize,
    anchors: Map<String, Value>,
}

impl<'a> Reader<'a> {
    /// The next line that says something: its indentation, and it without its comment.
    fn peek(&mut self) -> Option<(usize, &'a str)> {
        while let Some(line) = self.lines.get(self.at) {
            assert!(!line.contains('\t'), "a tab: {line:?}");
            let content = uncommented(line).trim_end();
            if !content.trim_start().is_empty() && content != "---" {
                return Some((content.len() - content.trim_start().len(), content.trim_start()));
            }
            self.at += 1;
        }
        None
    }

    /// What is indented this far, or further where it begins.
    fn block(&mut self, least: usize) -> Value {
        let Some((indent, line)) = self.peek().filter(|(indent, _)| *indent >= least) else { return Value::Null };
        if line == "-" || line.starts_with("- ") {
            return self.list(indent);
        }
        if pair(line).is_some() {
            return self.map(indent, Map::new());
        }
        self.at += 1;
        flow(line)
    }

    fn list(&mut self, indent: usize) -> Value {
        let mut items = Vec::new();
        while let Some((found, line)) = self.peek() {
            if found < indent || !(line == "-" || line.starts_with("- ")) {
                break;
            }
            assert_eq!(found, indent, "{line}");
            let rest = line[1..].trim_start();
            let inner = indent + (line.len() - rest.len());
            let value = match pair(rest).filter(|_| !rest.starts_with(['{', '[', '"', '\''])) {
                // A map whose first key stands behind the dash.
                Some((key, value)) => {
                    self.at += 1;
                    let first = self.value(value, inner);
                    self.map(inner, Map::from_iter([(key, first)]))
                }
                None if rest.is_empty() => {
                    self.at += 1;
                    self.block(indent + 1)
                }
                None => {
                    self.at += 1;
                    self.value(rest, indent)
                }
            };
            items.push(value);
        }
        Value::Array(items)
    }

    fn map(&mut self, indent: usize, mut map: Map<String, Value>) -> Value {
        let mut merged = Map::new();
        while let Some((found, line)) = self.peek() {
            if found < indent || line == "-" || line.starts_with("- ") {
                break;
            }
            assert_eq!(found, indent, "{line}");
            let (key, rest) = pair(line).unwrap_or_else(|| panic!("no key: {line}"));
            self.at += 1;
            let value = self.value(rest, indent);
            if key == "<<" {
                let Value::Object(more) = value else { panic!("{line}: no map to merge") };
                merged.extend(more);
            } else {
                assert!(map.insert(key, value).is_none(), "twice: {line}");
            }
        }
        // What is said here counts for more than what is merged.
        for (key, value) in merged {
            map.entry(key).or_insert(value);
        }
        Value::Object(map)
    }

    /// What stands behind a key or a dash of this indentation: on its line, or below.
    fn value(&mut self, rest: &str, indent: usize) -> Value {
        if let Some(name) = rest.strip_prefix('&') {
            let (name, rest) = name.split_once(' ').unwrap_or((name, ""));
            let value = self.value(rest, indent);
            self.anchors.insert(name.to_owned(), value.clone());
            return value;
        }
        if let Some(name) = rest.strip_prefix('*') {
            return self.anchors.get(name).unwrap_or_else(|| panic!("no anchor {name}")).clone();
        }
        match rest {
            "" => match self.peek() {
                // A list may stand as far out as its key.
                Some((found, line)) if found == indent && line.starts_with("- ") => self.list(indent),
                Some((found, _)) if found > indent => self.block(found),
                _ => Value::Null,
            },
            ">-" | ">" | "|" | "|-" => Value::String(self.text(rest, indent)),
            _ => flow(rest),
        }
    }

    /// Lines indented further than their key: folded into one, or as they are.
    fn text(&mut self, how: &str, indent: usize) -> String {
        let mut lines = Vec::new();
        while let Some(line) = self.lines.get(self.at) {
            let deep = line.len() - line.trim_start().len();
            if !line.trim().is_empty() && deep <= indent {
                break;
            }
            lines.push(line.trim());
            self.at += 1;
        }
        let text = lines.join(if how.starts_with('>') { " " } else { "\n" });
        let text = text.trim_end().to_owned();
        if how.ends_with('-') { text } else { text + "\n" }
    }
}

/// The line without its comment.
fn uncommented(line: &str) -> &str {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            // A quote opens where a value begins.
            None if matches!(c, '"' | '\'') && line[..at].ends_with([' ', '[', '{', ',']) => quote = Some(c),
            None if c == '#' && (at == 0 || line[..at].ends_with(' ')) => return &line[..at],
            None => {}
        }
    }
    line
}

/// `key: value` or `key:`.
fn pair(line: &str) -> Option<(String, &str)> {
    let (key, rest) = match line.strip_suffix(':').filter(|key| !key.contains(": ")) {
        Some(key) => (key, ""),
        None => line.split_once(": ")?,
    };
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || "_-./<".contains(c));
    plain.then(|| (key.to_owned(), rest.trim()))
}

/// A value on one line.
fn flow(text: &str) -> Value {
    let mut rest = text;
    let value = one(&mut rest, false);
    assert!(rest.trim().is_empty(), "{text}: what is {rest:?}?");
    value
}

fn one(rest: &mut &str, inside: bool) -> Value {
    *rest = rest.trim_start();
    let first = rest.chars().next().unwrap_or_default();
    match first {
        '[' | '{' => {
            let close = if first == '[' { ']' } else { '}' };
            let (mut items, mut map) = (Vec::new(), Map::new());
            *rest = rest[1..].trim_start();
            while !rest.starts_with(close) {
                if first == '[' {
                    items.push(one(rest, true));
                } else {
                    let (key, after) = rest.split_once(':').unwrap_or_else(|| panic!("no key: {rest}"));
                    *rest = after;
                    let value = one(rest, true);
                    assert!(map.insert(key.trim().to_owned(), value).is_none(), "{key} twice");
                }
                *rest = rest.trim_start();
                match rest.strip_prefix(',') {
                    Some(after) => *rest = after.trim_start(),
                    None => assert!(rest.starts_with(close), "no end: {rest}"),
                }
            }
            *rest = &rest[1..];
            if first == '[' { Value::Array(items) } else { Value::Object(map) }
        }
        '"' => {
            let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let text = stream.next().unwrap().unwrap_or_else(|error| panic!("{rest}: {error}"));
            let read = stream.byte_offset();
            *rest = &rest[read..];
            Value::String(text)
        }
        '\'' => {
            let (text, after) = rest[1..].split_once('\'').unwrap_or_else(|| panic!("no end: {rest}"));
            assert!(!after.starts_with('\''), "a quote in quotes: {rest}");
            *rest = after;
            Value::String(text.to_owned())
        }
        _ => {
            let end = if inside { rest.find([',', ']', '}']).unwrap_or(rest.len()) } else { rest.len() };
            let text = rest[..end].trim();
            *rest = &rest[end..];
            assert!(!text.starts_with(['&', '*', '!', '|', '>', '%', '@', '`']), "{text}: quote it");
            assert!(!text.contains(": ") && !text.contains(" #"), "{text}: quote it");
            scalar(text)
        }
    }
}

fn scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" => return Value::Null,
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        "yes" | "no" | "on" | "off" | "Yes" | "No" | "On" | "Off" => panic!("{text}: two readers disagree on it"),
        _ => {}
    }
    if text.len() > 1 && text.starts_with('0') && text.bytes().all(|digit| digit.is_ascii_digit()) {
        return i64::from_str_radix(text, 8).map(Value::from).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    match text.parse::<i64>() {
        Ok(number) => Value::from(number),
        Err(_) => Value::String(text.to_owned()),
    }
}

#[test]
fn what_our_files_use_is_read_as_yaml_means_it() {
    let text = "# a comment\nx: &node\n  one: 1 # and here\n  two: [a, \"b#\", 'c: d']\nservices:\n  s:\n    <<: *node\n    one: 2\n\
                list:\n- name: first\n  mode: 0440\n-   plain # text\n- - nested\nfolded: >-\n  a\n  > b\nempty:\n\
                flows: {a: true, b: [1, {c: d}]}\nurl: http://h:1/#x\n";
    let expected = serde_json::json!({
        "x": {"one": 1, "two": ["a", "b#", "c: d"]},
        "services": {"s": {"one": 2, "two": ["a", "b#", "c: d"]}},
        "list": [{"name": "first", "mode": 288}, "plain", ["nested"]],
        "folded": "a > b",
        "empty": null,
        "flows": {"a": true, "b": [1, {"c": "d"}]},
        "url": "http://h:1/#x",
    });
    // `- - nested` is more than our files need.
    let text = text.replace("- - nested", "- [nested]");
    assert_eq!(document(&text), expected);
    assert_eq!(documents("a: 1\n---\nb: 2\n").len(), 2);
}

#[test]
fn what_readers_disagree_on_is_refused() {
    for wrong in
        ["a: yes", "a: b: c", "a:\n\t- b", "a: *none", "a: 1\na: 2", "a: [1", "a: 'it''s'", "a:\n  b: 1\n c: 2"]
    {
        let refused = std::panic::catch_unwind(|| document(wrong));
        assert!(refused.is_err(), "{wrong:?} is {:?}", refused.unwrap());
    }
}
