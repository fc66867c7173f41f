//! The book: every page is in its table of contents, every link leads somewhere, every command exists.

use std::collections::{BTreeMap, BTreeSet};

use crate::reference::{below, help, hold};
use crate::{files, read, root};

/// Every page, as a path from `docs`.
fn pages() -> Vec<String> {
    let all = files("docs", ".md").into_iter().map(|path| path.trim_start_matches("docs/").to_owned());
    all.filter(|page| page != "SUMMARY.md").collect()
}

fn page(name: &str) -> String {
    read(&format!("docs/{name}"))
}

/// A page without its fenced blocks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The targets of `[text](target)`.
fn links(text: &str) -> Vec<String> {
    let text = prose(text);
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// What a heading is linked by, as mdBook and GitHub make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let text = prose(text);
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#'));
    headings.map(|heading| anchor(&heading.replace(['`', '*'], ""))).collect()
}

#[test]
fn every_page_is_in_the_table_of_contents_once() {
    let summary = page("SUMMARY.md");
    let listed = links(&summary);
    let once: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(once.len(), listed.len(), "a page is listed twice");
    assert_eq!(once, pages().into_iter().collect(), "listed, and there");
    // The four kinds of documentation, in this order.
    let parts: Vec<&str> = summary.lines().filter_map(|line| line.strip_prefix("# ")).skip(1).collect();
    assert_eq!(parts[..4], ["Tutorial", "How-to", "Reference", "Explanation"]);
    let book: toml::Table = toml::from_str(&page("book.toml")).unwrap();
    assert_eq!(book["book"]["src"].as_str(), Some("."));
}

/// The records are many, and one comes with every second change: their part is written by the machine that writes the
/// reference.
#[test]
fn the_reference_to_decisions_is_the_records_there_are() {
    let summary = page("SUMMARY.md");
    let above = "- [Decisions](decisions/README.md)\n";
    let mut wanted = summary.split_inclusive(above).next().unwrap().to_owned();
    assert!(wanted.ends_with(above), "the records are not in it");
    for record in pages().iter().filter(|name| name.starts_with("decisions/") && !name.ends_with("README.md")) {
        let text = page(record);
        let title = text.lines().next().unwrap().trim_start_matches("# ");
        wanted += &format!("  - [{title}]({record})\n");
    }
    hold("SUMMARY.md", &wanted);
}

#[test]
fn every_page_begins_with_its_title() {
    for name in pages() {
        let text = page(&name);
        let first = text.lines().find(|line| !line.is_empty() && !line.starts_with("<!--")).unwrap();
        assert!(first.starts_with("# "), "{name}: {first}");
    }
}

#[test]
fn every_link_of_the_book_leads_to_a_place_in_the_book() {
    let anchors: BTreeMap<String, BTreeSet<String>> = pages()
        .into_iter()
        .map(|name| {
            let of = anchors(&page(&name));
            (name, of)
        })
        .collect();
    let mut followed = 0;
    for name in pages() {
        let dir = root().join("docs").join(&name).parent().unwrap().to_owned();
        for link in links(&page(&name)).iter().filter(|link| !link.contains("://")) {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root().join("docs").join(&name) } else { dir.join(file) };
            let target = target.canonicalize().unwrap_or_else(|error| panic!("{name}: {link}: {error}"));
            let inside = target.strip_prefix(root().join("docs").canonicalize().unwrap());
            let inside = inside.unwrap_or_else(|_| panic!("{name}: {link} is not part of the book"));
            let inside = if target.is_dir() { inside.join("README.md") } else { inside.to_owned() };
            if !place.is_empty() {
                let known = &anchors[inside.to_str().unwrap()];
                assert!(known.contains(place), "{name}: {link}: there are {known:?}");
            }
            followed += 1;
        }
    }
    assert!(followed > 80, "{followed}");
}

/// Lines of a page that a reader would type: of indented and fenced blocks, those that begin with `quorate`.
fn typed(text: &str) -> Vec<String> {
    let (mut found, mut fenced) = (Vec::new(), false);
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let shown = if fenced { line } else { line.strip_prefix("    ").unwrap_or("") };
        let shown = shown.trim_start().trim_start_matches("$ ");
        if shown.starts_with("quorate ") {
            // A remark stands behind two spaces, or behind a mark of the shell.
            let command = shown.split("  ").next().unwrap();
            found.push(command.split(['|', '>', ';', '#']).next().unwrap().trim().to_owned());
        }
    }
    // And those that stand in a line of text.
    let inline = prose(text);
    let spans = inline.split('`').skip(1).step_by(2).filter(|span| span.starts_with("quorate "));
    found.extend(spans.map(|span| span.replace('\n', " ")));
    found
}

#[test]
fn every_command_in_the_book_exists_with_its_flags() {
    let top = help(&[]);
    let commands = below(&top);
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut checked = 0;
    let written = ["reference/cli.md"];
    for name in pages().into_iter().filter(|name| !name.starts_with("decisions/") && !written.contains(&name.as_str()))
    {
        for line in typed(&page(&name)) {
            // `a|b` and `a ... b` stand for several.
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            let Some(first) = words.first().map(|word| word.split(['|', '.', ',']).next().unwrap()) else { continue };
            if first.starts_with('-') || first.chars().all(char::is_uppercase) {
                continue;
            }
            assert!(commands.contains(&first.to_owned()), "{name}: there is no command {first}: {line}");
            let mut said = known.entry(first.to_owned()).or_insert_with(|| help(&[first])).clone();
            let inner = below(&said);
            if let Some(second) = words.get(1).map(|word| word.split('|').next().unwrap())
                && !inner.is_empty()
                && second.chars().all(|c| c.is_ascii_lowercase())
            {
                assert!(inner.contains(&second.to_owned()), "{name}: there is no command {first} {second}: {line}");
                let both = format!("{first} {second}");
                said = known.entry(both).or_insert_with(|| help(&[first, second])).clone();
            }
            for flag in words.iter().filter(|word| word.starts_with('-') && word.len() > 1) {
                let flag = flag.split('=').next().unwrap().trim_end_matches([')', '.', ',', ']']);
                let there = said.split(|c: char| c.is_whitespace() || c == ',').any(|word| word == flag);
                assert!(there, "{name}: {first} has no flag {flag}: {line}");
            }
            checked += 1;
        }
    }
    assert!(checked > 80, "{checked}");
}

#[test]
fn headings_are_linked_as_their_readers_make_them() {
    assert_eq!(anchor("Those who decide are lost"), "those-who-decide-are-lost");
    assert_eq!(anchor("Read, change, write back"), "read-change-write-back");
    assert_eq!(links("a [b](c.md)\n```\n[d](e.md)\n```\n[f](#g)"), ["c.md", "#g"]);
    assert_eq!(
        typed("    quorate a -x   remark\n```\n$ quorate b | c\n```\n`quorate d`"),
        ["quorate a -x", "quorate b", "quorate d"]
    );
}
