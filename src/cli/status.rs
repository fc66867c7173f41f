//! `status`: one screen on how the cluster is.

use comfy_table::Cell;

use super::args::{AdminArgs, Format};
use super::config::host_port;
use super::layout::waits_line;
use super::objects::client;
use super::output::{Exit, Failure, Paint, json, print, state_cell, table};
use crate::client::Client;
use crate::kv::{ChangeView, Status};

pub(super) async fn status(args: AdminArgs) -> Result<(), Failure> {
    let client = admin_client(&args)?;
    let status = client.status().await.map_err(|error| Failure::of_read(&error))?;
    match args.reach.output {
        Some(Format::Json) => print(&json(&status)?),
        other => print(screen(&status, other == Some(Format::Wide), Paint::stdout()).as_bytes()),
    }
}

/// A client that knows where to ask administrators' questions, and with which token.
pub(super) fn admin_client(args: &AdminArgs) -> Result<Client, Failure> {
    let admin = if args.admin.is_empty() {
        args.reach.endpoints.iter().filter_map(|url| admin_of(url)).collect()
    } else {
        args.admin.iter().map(|url| url.trim_end_matches('/').to_owned()).collect()
    };
    let token = admin_token(args)?;
    client(&args.reach, |config| (config.admin_endpoints, config.admin_token) = (admin, token))
}

/// The token that admin requests carry, where one is set.
pub(super) fn admin_token(args: &AdminArgs) -> Result<Option<String>, Failure> {
    let Some(path) = &args.admin_token_file else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Exit::Usage, format!("the admin token {} cannot be read: {error}", path.display()), "")
    })?;
    Ok(Some(text.trim().to_owned()))
}

/// By convention the admin port is one above the client port.
pub(super) fn admin_of(endpoint: &str) -> Option<String> {
    let (host, port) = host_port(endpoint.strip_prefix("http://")?.trim_end_matches('/')).ok()?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Some(format!("http://{host}:{}", port.checked_add(1)?))
}

pub(super) fn screen(status: &Status, wide: bool, paint: Paint) -> String {
    let health = if status.health == "ok" { paint.green(&status.health) } else { paint.red(&status.health) };
    let cluster = status.cluster.as_deref().unwrap_or("none yet");
    let mut text = format!(
        "{health}  as {} sees it  layout {}  cluster {cluster}  version {}\n",
        status.node, status.layout, status.version
    );
    if let Some(change) = &status.change {
        text += &format!("{}\n", change_line(change, paint));
    }
    text.push('\n');
    let mut members: Vec<_> = status.members.iter().collect();
    members.sort_by(|one, other| one.name.cmp(&other.name));
    let rows = members.into_iter().map(|member| {
        let mut row = vec![
            Cell::new(&member.name),
            state_cell(&member.state),
            Cell::new(member.since.as_deref().unwrap_or("-")),
            Cell::new(&member.zone),
            Cell::new(&member.addresses.client),
            Cell::new(&member.addresses.peer),
        ];
        if wide {
            row.extend([
                Cell::new(&member.region),
                Cell::new(member.weight),
                Cell::new(&member.id),
                Cell::new(member.incarnation.as_deref().unwrap_or("-")),
            ]);
        }
        row
    });
    let mut header = vec!["MEMBER", "STATE", "SINCE", "ZONE", "CLIENTS", "PEERS"];
    if wide {
        header.extend(["REGION", "WEIGHT", "ID", "INCARNATION"]);
    }
    if !status.members.is_empty() {
        text += &table(&header, rows.collect(), paint);
        text.push('\n');
    }
    for waiting in &status.hints {
        let command = paint.dim("quorate hints");
        text += &format!("Hints: {} keys wait here for {}  {command}\n", waiting.keys, waiting.node);
    }
    if status.attention.is_empty() {
        return text + "Nothing needs attention.\n";
    }
    text += &format!("{}\n", paint.bold("Needs attention"));
    for item in &status.attention {
        text += &format!("  {}: {}\n", paint.red(&item.code), item.text);
        // The command that shows this screen is no next step.
        if !item.command.is_empty() && item.command != "quorate status" {
            text += &format!("    {}\n", paint.dim(&item.command));
        }
    }
    text
}

/// What changed last, and how far that has come.
fn change_line(change: &ChangeView, paint: Paint) -> String {
    let what = change.changes.join(", ");
    let since = change.since.as_ref().map_or_else(String::new, |since| format!(" since {since}"));
    let state = if change.complete {
        paint.green("complete")
    } else {
        let waits = waits_line(&change.waits_for);
        format!("{}, {waits}", paint.bold(&format!("{} of {} steps", change.done, change.total)))
    };
    format!("layout {}{since}: {what}; {state}", change.layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::layouts::WaitView;

    #[test]
    fn the_last_change_is_on_the_screen_while_it_is_under_way_and_after() {
        let wait = WaitView { member: "n4".into(), awaited: "synced".into(), ..WaitView::default() };
        let mut change = ChangeView {
            layout: 2,
            changes: vec!["n4 joins".into(), "n5 joins".into()],
            since: Some("2026-01-01T00:00:00.000Z".into()),
            done: 8,
            total: 15,
            waits_for: vec![wait],
            ..ChangeView::default()
        };
        let shown = |change: &ChangeView| {
            let status = Status { health: "ok".into(), change: Some(change.clone()), ..Status::default() };
            screen(&status, false, Paint::never()).lines().nth(1).map(str::to_owned)
        };
        let line = "layout 2 since 2026-01-01T00:00:00.000Z: n4 joins, n5 joins; ";
        assert_eq!(shown(&change), Some(format!("{line}8 of 15 steps, waits for n4 (synced)")));
        (change.done, change.waits_for) = (15, Vec::new());
        assert_eq!(shown(&change), Some(format!("{line}15 of 15 steps, waits for what follows by itself")));
        change.complete = true;
        assert_eq!(shown(&change), Some(format!("{line}complete")));
        assert_eq!(screen(&Status::default(), false, Paint::never()).lines().nth(1), Some(""));
    }

    #[test]
    fn the_admin_port_is_one_above() {
        assert_eq!(admin_of("http://127.0.0.1:7410/").as_deref(), Some("http://127.0.0.1:7411"));
        assert_eq!(admin_of("http://[::1]:7410").as_deref(), Some("http://[::1]:7411"));
        assert_eq!(admin_of("127.0.0.1:7410"), None);
    }
}
