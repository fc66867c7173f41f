//! `ring`: who owns what, as one node knows it.

use super::args::{AdminArgs, Format};
use super::layout::ring_screen;
use super::output::{Failure, Paint, json, print};
use super::status::admin_client;

pub(super) async fn ring(args: AdminArgs) -> Result<(), Failure> {
    let ring = admin_client(&args)?.ring().await.map_err(|error| Failure::of_read(&error))?;
    match args.reach.output {
        Some(Format::Json) => print(&json(&ring)?),
        other => print(ring_screen(&ring, other == Some(Format::Wide), Paint::stdout()).as_bytes()),
    }
}
