//! What people and programs see: data on stdout, notes on stderr, an exit code that says what happened, and with every
//! error the next command to try.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::kv::{Error, ErrorCode, Outcome};
use crate::quorum::{Explain, ReplicaResult};

/// How a command ended: the process's exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exit {
    /// It failed.
    Failed = 1,
    /// It was asked for something that makes no sense.
    Usage = 2,
    /// There is no such object.
    NotFound = 3,
    /// Too few replicas.
    Quorum = 4,
    /// Siblings stand in the way.
    Siblings = 5,
    /// It may have been done, or may be done later.
    Unknown = 6,
}

/// An error as people see it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) text: String,
    /// The next command to try, or what to do.
    pub(super) next: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, text: text.into(), next: next.into() }
    }

    /// What a node, or the way to it, said of a read: nothing can have been done, so nothing is unknown.
    pub(super) fn of_read(error: &Error) -> Self {
        let failure = Self::of_write(&Error { outcome: Outcome::NotApplied, ..error.clone() });
        Self { text: said(error), ..failure }
    }

    /// What a node, or the way to it, said of a write, and whether it was done all the same.
    pub(super) fn of_write(error: &Error) -> Self {
        let exit = match error.code {
            ErrorCode::BadParameter
            | ErrorCode::BadContext
            | ErrorCode::BadFloor
            | ErrorCode::ValueTooLarge
            | ErrorCode::ContextTooLarge => Exit::Usage,
            ErrorCode::TooManySiblings => Exit::Siblings,
            ErrorCode::NotKnown => Exit::NotFound,
            ErrorCode::QuorumUnavailable
            | ErrorCode::ReplicasFailed
            | ErrorCode::ReadTimeout
            | ErrorCode::SessionUnmet => Exit::Quorum,
            _ if error.outcome == Outcome::Unknown => Exit::Unknown,
            _ => Exit::Failed,
        };
        let next = next(error.code);
        let outcome = match error.outcome {
            Outcome::Applied => "",
            Outcome::NotApplied => " (nothing was done)",
            Outcome::Unknown => " (whether it was done is unknown)",
        };
        Self::new(exit, said(error) + outcome, next)
    }

    /// Says it on stderr.
    pub(super) fn report(&self) -> ExitCode {
        let paint = Paint::stderr();
        note(&format!("{} {}", paint.red("error:"), self.text));
        if !self.next.is_empty() {
            note(&format!("{} {}", paint.bold(" next:"), self.next));
        }
        ExitCode::from(self.exit as u8)
    }
}

/// The next command to try, or what to do.
fn next(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::QuorumUnavailable | ErrorCode::ReplicasFailed | ErrorCode::ReadTimeout => {
            "`quorate status` shows who is down; `--consistency 1` needs one replica alone"
        }
        ErrorCode::Unreachable => {
            "is a node up there? --endpoint or QUORATE_ENDPOINTS names others; `quorate dev` starts a cluster"
        }
        ErrorCode::WriteTimeout => "`quorate get` shows whether it is there by now; if not, it may still arrive",
        ErrorCode::BadContext | ErrorCode::ContextTooLarge | ErrorCode::ContextRequired => {
            "`quorate get BUCKET KEY -o wide` shows the object's context"
        }
        ErrorCode::BadFloor => "`quorate get BUCKET KEY` without a floor reads what the nodes asked have",
        ErrorCode::SessionUnmet => "`quorate status` shows who is down: one of those may have it",
        ErrorCode::TooManySiblings => "`quorate get BUCKET KEY` shows them, and the command that settles them",
        ErrorCode::DiskFull => {
            "`quorate delete` makes room, and so do larger disks; `quorate status` shows whose are full"
        }
        ErrorCode::HintsFull => "`quorate hints` shows whom they wait for; without --sloppy owners alone are asked",
        ErrorCode::NotServing | ErrorCode::ReadOnly | ErrorCode::ClockDrift => {
            "`quorate status` tells why; --endpoint names another node"
        }
        ErrorCode::Overloaded => "the same again in a moment; `quorate status` shows whether members are down",
        ErrorCode::NotYet => "do without it; `quorate help` lists what there is",
        ErrorCode::Unauthorized => {
            "`quorate status --admin-token-file FILE`: the file that node.admin_token_file names"
        }
        ErrorCode::Unexpected => {
            "--endpoint names a node's client address, --admin its admin address; `quorate --version` and \
             `quorate status` show which versions meet"
        }
        ErrorCode::ValueTooLarge | ErrorCode::ObjectTooLarge => {
            "`quorate server --set node.limits.max_value=SIZE` and max_object are what a node takes"
        }
        ErrorCode::IdempotencyInFlight | ErrorCode::IdempotencyReused => "`quorate get BUCKET KEY` shows what is there",
        ErrorCode::LayoutConflict => "`quorate layout show` tells what is in force; then plan again",
        ErrorCode::LayoutRefused => "`quorate layout show` tells how things are, `quorate status` what to do about it",
        ErrorCode::Paused => "`quorate workers` shows what is paused; resume it, then the same again",
        ErrorCode::Undecided => {
            "`quorate layout show` tells whether it is by now; if not, the same again (a plan is decided once)"
        }
        ErrorCode::NotKnown => {
            "`quorate layout show` and `quorate workers` tell what there is; a plan is known to the node that made it"
        }
        ErrorCode::PreconditionFailed | ErrorCode::PreconditionRequired => {
            "`quorate bucket show BUCKET` shows how it is now; then the same again"
        }
        ErrorCode::BadParameter => "`quorate help COMMAND` shows what may be said",
        ErrorCode::Internal => "`quorate status` shows how the node is; its log says more",
    }
}

fn said(error: &Error) -> String {
    format!("{}: {}", error.code.as_str(), error.detail)
}

/// Colours, where they are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(bool);

impl Paint {
    pub(super) fn stdout() -> Self {
        Self(std::io::stdout().is_terminal() && wanted())
    }

    /// Plain, wherever it is written.
    #[cfg(test)]
    pub(super) const fn never() -> Self {
        Self(false)
    }

    pub(super) fn stderr() -> Self {
        Self(std::io::stderr().is_terminal() && wanted())
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.with("32", text)
    }
}

/// NO_COLOR: see no-color.org.
fn wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes to stdout. A reader that went away (`| head`) is no failure.
pub(super) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, format!("cannot write to stdout: {error}"), ""))
        }
        _ => Ok(()),
    }
}

/// Asks before something that cannot be undone; where nobody can be asked, --yes has to be said.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let unasked = || Failure::new(Exit::Usage, format!("not done: {question}"), "the same with --yes");
    if !std::io::stdin().is_terminal() {
        return Err(unasked());
    }
    note(&format!("{question} [y/N]"));
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read stdin: {error}"), ""))?;
    if matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::new(Exit::Failed, "not done", "")) }
}

/// Writes a line to stderr. If even that is gone there is nobody to tell.
pub(super) fn note(line: &str) {
    let _gone = writeln!(std::io::stderr().lock(), "{line}");
}

/// A document as JSON, on a line of its own.
pub(super) fn json(document: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let mut text = serde_json::to_vec_pretty(document)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot be written as JSON: {error}"), ""))?;
    text.push(b'\n');
    Ok(text)
}

/// A table: columns set apart by spaces, as `ps` and `kubectl` do it, so that `awk` can read it, too.
pub(super) fn table(header: &[&str], rows: Vec<Vec<Cell>>, paint: Paint) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    if paint.0 {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// A state, green where it is as it should be.
pub(super) fn state_cell(state: &str) -> Cell {
    match state {
        "up" | "ok" | "idle" | "running" => Cell::new(state).fg(Color::Green),
        "down" | "not_serving" => Cell::new(state).fg(Color::Red),
        other => Cell::new(other).fg(Color::Yellow),
    }
}

/// What a replica did, in a word.
pub(super) fn result_word(result: Option<ReplicaResult>) -> String {
    let word = result.and_then(|result| serde_json::to_value(result).ok());
    word.as_ref().and_then(|word| word.as_str()).unwrap_or("-").replace('_', " ")
}

/// Microseconds as people read them.
pub(super) fn micros(time: Option<u64>) -> String {
    match time {
        None => "-".into(),
        Some(time) if time < 1_000 => format!("{time} us"),
        Some(time) => format!("{}.{} ms", time / 1_000, time % 1_000 / 100),
    }
}

/// How an answer came about.
pub(super) fn explain_table(explain: &Explain, paint: Paint) -> String {
    let rows = explain.replicas.iter().map(|replica| {
        let role = serde_json::to_value(replica.role).unwrap_or_default();
        let mut marks = Vec::new();
        for (holds, mark) in [
            (replica.counted, "counted"),
            (replica.hedged, "hedged"),
            (explain.repaired.contains(&replica.node), "repaired"),
            (explain.hinted.contains(&replica.node), "hinted"),
            (explain.late.contains(&replica.node), "late"),
        ] {
            marks.extend(holds.then_some(mark));
        }
        vec![
            Cell::new(&replica.node),
            Cell::new(&replica.zone),
            Cell::new(role.as_str().unwrap_or("-")),
            Cell::new(micros(replica.sent_us)),
            Cell::new(micros(replica.answered_us)),
            Cell::new(result_word(replica.result)),
            Cell::new(marks.join(", ")),
        ]
    });
    let header = ["NODE", "ZONE", "ROLE", "ASKED AT", "ANSWERED AT", "RESULT", "NOTES"];
    let why =
        if explain.widened { "every owner was asked: those that answered first had not seen the floor\n" } else { "" };
    let decided = format!("{why}decided after {}\n", micros(explain.decided_us));
    table(&header, rows.collect(), paint) + &decided
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_ends_as_the_code_that_scripts_wait_for() {
        let cases = [
            (ErrorCode::BadParameter, Outcome::NotApplied, Exit::Usage),
            (ErrorCode::QuorumUnavailable, Outcome::NotApplied, Exit::Quorum),
            (ErrorCode::ReadTimeout, Outcome::Unknown, Exit::Quorum),
            (ErrorCode::WriteTimeout, Outcome::Unknown, Exit::Unknown),
            (ErrorCode::Unreachable, Outcome::Unknown, Exit::Unknown),
            (ErrorCode::Unreachable, Outcome::NotApplied, Exit::Failed),
            (ErrorCode::TooManySiblings, Outcome::NotApplied, Exit::Siblings),
            (ErrorCode::Overloaded, Outcome::NotApplied, Exit::Failed),
            (ErrorCode::NotYet, Outcome::NotApplied, Exit::Failed),
            (ErrorCode::Unauthorized, Outcome::NotApplied, Exit::Failed),
            (ErrorCode::Unexpected, Outcome::NotApplied, Exit::Failed),
            (ErrorCode::Internal, Outcome::Unknown, Exit::Unknown),
        ];
        for (code, outcome, exit) in cases {
            assert_eq!(Failure::of_write(&Error::new(code, outcome, "")).exit, exit, "{code:?} {outcome:?}");
        }
        let lost = Failure::of_read(&Error::new(ErrorCode::Unreachable, Outcome::Unknown, "reset"));
        assert_eq!((lost.exit, lost.text.as_str()), (Exit::Failed, "unreachable: reset"));
    }

    #[test]
    fn every_error_names_what_to_do_next() {
        for code in ErrorCode::ALL {
            let failure = Failure::of_read(&Error::refused(code, ""));
            assert!(!failure.next.is_empty(), "{code:?}");
        }
        assert!(next(ErrorCode::Unauthorized).contains("--admin-token-file"));
        assert!(next(ErrorCode::Unreachable).contains("quorate dev"));
    }

    #[test]
    fn tables_are_plain_where_nobody_wants_colour() {
        let rows = vec![vec![Cell::new("a"), state_cell("down")]];
        assert_eq!(table(&["NODE", "STATE"], rows, Paint(false)), "NODE  STATE\na     down\n");
        let coloured = table(&["NODE"], vec![vec![state_cell("down")]], Paint(true));
        assert!(coloured.contains("\x1b["), "{coloured:?}");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(micros(Some(999)), "999 us");
        assert_eq!(micros(Some(1_250)), "1.2 ms");
        assert_eq!(micros(None), "-");
    }
}
