//! `layout`: plan, look, commit, watch. What is asked of a node goes through the client; the screens are in `screens`.

mod args;
mod screens;

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(super) use args::LayoutArgs;
use args::{AbortArgs, Accepts, CommitArgs, ForceArgs, LayoutCommand, PlanArgs, SkipArgs};
pub(super) use screens::{ring as ring_screen, waits_line};

use super::args::{AdminArgs, Format};
use super::output::{Exit, Failure, Paint, confirm, json, note, print};
use super::status::admin_client;
use crate::client::Client;
use crate::env::Env;
use crate::kv::layouts::{
    AbortRequest, Begun, CommitRequest, ForceRequest, LabelsRequest, OperationView, PlanRequest, Replacement,
    SkipRequest,
};
use crate::kv::{Error, ErrorCode};

/// How often a change that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn layout(args: LayoutArgs) -> Result<(), Failure> {
    match args.command {
        LayoutCommand::Plan(args) => plan(*args).await,
        LayoutCommand::Commit(args) => commit(args).await,
        LayoutCommand::Abort(args) => abort(args).await,
        LayoutCommand::Skip(args) => skip(args).await,
        LayoutCommand::Force(args) => force(args).await,
        LayoutCommand::Show(args) => show(args).await,
        LayoutCommand::History(args) => history(args).await,
    }
}

fn request_of(args: &PlanArgs) -> PlanRequest {
    let mut labels = std::collections::BTreeMap::<String, LabelsRequest>::new();
    for (name, zone) in &args.zone {
        labels.entry(name.clone()).or_default().zone = Some(zone.clone());
    }
    for (name, region) in &args.region {
        labels.entry(name.clone()).or_default().region = Some(region.clone());
    }
    let replacement = |(old, new): &(String, String)| Replacement { old: old.clone(), new: new.clone() };
    PlanRequest {
        add: args.add.clone(),
        leave: args.leave.clone(),
        remove: args.remove.clone(),
        replace: args.replace.iter().map(replacement).collect(),
        weights: args.weight.iter().cloned().collect(),
        labels,
        abort: args.abort,
        rebalance: args.rebalance,
    }
}

async fn plan(args: PlanArgs) -> Result<(), Failure> {
    let request = request_of(&args);
    if request == PlanRequest::default() {
        let next = "`quorate layout plan --help` shows what there is";
        return Err(Failure::new(Exit::Usage, "a plan changes something: --add, --leave, --remove, …", next));
    }
    let client = admin_client(&args.admin)?;
    let mut plan = client.plan_layout(&request).await.map_err(|error| refused(&error))?;
    // It is kept by the node that made it.
    if let Some(admin) = args.admin.admin.first() {
        plan.command = format!("{} --admin {admin}", plan.command);
    }
    match args.admin.reach.output {
        Some(Format::Json) => print(&json(&plan)?),
        other => print(screens::plan(&plan, other == Some(Format::Wide), Paint::stdout()).as_bytes()),
    }
}

async fn commit(args: CommitArgs) -> Result<(), Failure> {
    let Accepts { force, accept_data_loss, .. } = args.accepts;
    if accept_data_loss {
        confirm("Acknowledged writes may be lost for good. Go on?", args.accepts.yes)?;
    }
    let client = admin_client(&args.admin)?;
    let request = CommitRequest { version: args.version, force, accept_data_loss };
    let begun = client.commit_layout(&args.plan, request).await;
    done(&client, &args.admin, begun, args.accepts.wait).await
}

async fn abort(args: AbortArgs) -> Result<(), Failure> {
    let Accepts { force, accept_data_loss, .. } = args.accepts;
    if accept_data_loss {
        confirm("Acknowledged writes may be lost for good. Go on?", args.accepts.yes)?;
    }
    let client = admin_client(&args.admin)?;
    let request = AbortRequest { remove: args.remove.clone(), force, accept_data_loss };
    let begun = client.abort_layout(&request).await;
    done(&client, &args.admin, begun, args.accepts.wait).await
}

async fn skip(args: SkipArgs) -> Result<(), Failure> {
    let Accepts { force, accept_data_loss, .. } = args.accepts;
    let who = args.members.join(", ");
    confirm(&format!("{who}: stopped for good, and never to be copied from again. Go on?"), args.accepts.yes)?;
    let client = admin_client(&args.admin)?;
    let request = SkipRequest { members: args.members.clone(), force, accept_data_loss };
    let begun = client.skip_members(&request).await;
    done(&client, &args.admin, begun, args.accepts.wait).await
}

async fn force(args: ForceArgs) -> Result<(), Failure> {
    let who = args.gone.join(", ");
    let text = format!(
        "This layout is decided by nobody. If {who} still runs anywhere, there will be two clusters. What only {who} \
         held is lost. Go on?"
    );
    confirm(&text, args.yes)?;
    let client = admin_client(&args.admin)?;
    let request = ForceRequest { gone: args.gone.clone(), accept_data_loss: args.accept_data_loss };
    let begun = client.force_layout(&request).await;
    done(&client, &args.admin, begun, args.wait).await
}

async fn show(args: AdminArgs) -> Result<(), Failure> {
    let view = admin_client(&args)?.layout().await.map_err(|error| Failure::of_read(&error))?;
    match args.reach.output {
        Some(Format::Json) => print(&json(&view)?),
        _ => print(screens::show(&view, Paint::stdout()).as_bytes()),
    }
}

async fn history(args: AdminArgs) -> Result<(), Failure> {
    let view = admin_client(&args)?.layout().await.map_err(|error| Failure::of_read(&error))?;
    match args.reach.output {
        Some(Format::Json) => print(&json(&view.history)?),
        other => print(screens::history(&view, other == Some(Format::Wide), Paint::stdout()).as_bytes()),
    }
}

/// What was said of something that was to be decided.
async fn done(client: &Client, admin: &AdminArgs, begun: Result<Begun, Error>, wait: bool) -> Result<(), Failure> {
    let begun = begun.map_err(|error| refused(&error))?;
    for warning in &begun.warnings {
        note(&format!("{} {warning}", Paint::stderr().red("warning:")));
    }
    if !wait {
        note(&format!("layout {} is decided; `quorate layout show` tells how far it has come", begun.version));
    }
    let ended = if wait { Some(watch(client, &begun).await?) } else { None };
    match (admin.reach.output, &ended) {
        (Some(Format::Json), Some(operation)) => print(&json(operation)?)?,
        (Some(Format::Json), None) => print(&json(&begun)?)?,
        (_, None) => print(format!("{}\n", begun.id).as_bytes())?,
        (_, Some(_)) => {}
    }
    match ended {
        Some(operation) if operation.state != "done" => {
            let why = operation.error.unwrap_or_else(|| operation.state.clone());
            Err(Failure::new(Exit::Failed, format!("{}: {why}", operation.id), "`quorate layout show`"))
        }
        Some(_) => {
            note(&format!("layout {} is in force", begun.version));
            Ok(())
        }
        None => Ok(()),
    }
}

/// Watches a change until it has ended, whichever way.
async fn watch(client: &Client, begun: &Begun) -> Result<OperationView, Failure> {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("layout {prefix} [{bar:40}] {pos}/{len} {elapsed} {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(begun.version.to_string());
    let clock = Env::real().clock;
    let mut told = String::new();
    loop {
        match client.operation(&begun.id).await {
            Ok(operation) => {
                bar.set_length(operation.total);
                bar.set_position(operation.done);
                let waits = screens::waits(&operation);
                if operation.state != "running" && operation.state != "unheard" {
                    bar.finish_and_clear();
                    return Ok(operation);
                }
                // Where there is no bar, what is awaited is told line by line.
                if bar.is_hidden() && waits != told {
                    note(&waits);
                }
                bar.set_message(waits.clone());
                told = waits;
            }
            // A node that restarts, or one that has not heard of it: another look.
            Err(error) if matches!(error.code, ErrorCode::Unreachable | ErrorCode::NotServing) => {}
            Err(error) => return Err(Failure::of_read(&error)),
        }
        clock.sleep(LOOK_EVERY).await;
    }
}

/// An error of a plan or a decision, with the next step that fits it.
fn refused(error: &Error) -> Failure {
    let failure = Failure::of_write(error);
    let next = if error.detail.contains("accepting data loss") {
        "if that is what you want: the same with --accept-data-loss"
    } else if error.detail.contains("force goes on") {
        "start members that are down, or go on all the same with --force"
    } else {
        return failure;
    };
    Failure { next: next.to_owned(), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_a_request() {
        use clap::Parser;

        use crate::cli::args::{Cli, Command};

        let line = "quorate layout plan --add n4 --leave n2 --replace n3=n6 --weight n1=200 --zone n1=b --region n1=eu";
        let cli = Cli::parse_from(line.split(' '));
        let Command::Layout(LayoutArgs { command: LayoutCommand::Plan(args) }) = cli.command else { panic!() };
        let labels = LabelsRequest { zone: Some("b".into()), region: Some("eu".into()) };
        let expected = PlanRequest {
            add: vec!["n4".into()],
            leave: vec!["n2".into()],
            replace: vec![Replacement { old: "n3".into(), new: "n6".into() }],
            weights: [("n1".to_owned(), 200)].into(),
            labels: [("n1".to_owned(), labels)].into(),
            ..PlanRequest::default()
        };
        assert_eq!(request_of(&args), expected);
        for bad in ["--replace n3", "--weight n1=heavy", "--weight n1=-1", "--zone =b", "--zone n1="] {
            let line = format!("quorate layout plan {bad}");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_refusal_needs_is_the_next_step() {
        let error = |detail: &str| Error::refused(ErrorCode::LayoutRefused, detail);
        assert!(refused(&error("…; only accepting data loss goes on")).next.contains("--accept-data-loss"));
        assert!(refused(&error("too few …; force goes on all the same")).next.contains("--force"));
        assert!(refused(&error("n3 is up")).next.contains("layout show"));
    }
}
