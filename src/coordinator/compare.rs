//! Answers another owner's comparison of Merkle trees. Nothing is kept from one question to the next.
//!
//! Only under the one live layout. What cannot be read here is a partition that nothing is told of; it stops no other.

use std::collections::BTreeMap;

use tracing::warn;

use super::Coordinator;
use crate::merkle::{Answering, Read, Reply as Answers, Root, Roots, RootsReply, answer_roots};
use crate::replica::Fault;
use crate::transport::messages::merkle::{CompareRoots, Descend, Descended, RootsCompared};
use crate::transport::messages::{Reply, Tell};
use crate::types::PartitionId;

impl Coordinator {
    pub(super) async fn serve_compare_roots(&self, asked: &CompareRoots) -> Reply {
        let compared = match asked.read() {
            None => RootsReply::Malformed,
            Some(roots) => {
                let held = match self.roots(&roots).await {
                    Ok(held) => held,
                    Err(fault) => return Reply::refused(fault.refusal(), fault.to_string()),
                };
                answer_roots(&roots, self.inner.replica.first_hour(), |partition| held.get(&partition).copied())
            }
        };
        Reply::new(Tell::RootsCompared(RootsCompared::from(&compared)))
    }

    /// The roots of these partitions here, as far as anything can be told of them.
    async fn roots(&self, asked: &Roots) -> Result<BTreeMap<PartitionId, Root>, Fault> {
        if self.inner.replica.first_hour() > asked.terms.first {
            // It is asked again.
            return Ok(BTreeMap::new());
        }
        let partitions: Vec<PartitionId> = asked.roots.iter().map(|(partition, _)| *partition).collect();
        let trees = self.inner.replica.trees(&partitions, &asked.terms).await?;
        Ok(trees.into_iter().map(|(partition, tree)| (partition, tree.root())).collect())
    }

    pub(super) async fn serve_descend(&self, asked: &Descend) -> Reply {
        let told = |answers: &Answers| Reply::new(Tell::Descended(Descended::from(answers)));
        let Some(request) = asked.read() else { return told(&Answers::Malformed) };
        let mut answering = match Answering::new(&request, self.inner.replica.first_hour()) {
            Ok(answering) => answering,
            Err(reply) => return told(&reply),
        };
        while let Some(wanted) = answering.wanted() {
            let partition = wanted.partition;
            let read: Option<Read> = match self.inner.replica.survey(wanted, &request.terms).await {
                Ok(read) => read,
                Err(fault @ (Fault::Stopping | Fault::Overloaded)) => {
                    return Reply::refused(fault.refusal(), fault.to_string());
                }
                Err(fault) => {
                    warn!(%partition, %fault, "what is held cannot be compared");
                    None
                }
            };
            answering.read(read.as_ref());
        }
        told(&answering.reply())
    }
}
