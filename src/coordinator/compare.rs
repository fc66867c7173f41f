//! Answers another owner's comparison of Merkle trees. Nothing is kept from one question to the next.
//!
//! Only under the newest layout, and only what both sides own: what the asker may compare is its own to say, and harms
//! nobody; what comes of it are reads and merges like any other.

use std::collections::BTreeMap;

use super::Coordinator;
use crate::merkle::{Answering, Reply as Answers, Root, Roots, RootsReply, answer_roots};
use crate::replica::Fault;
use crate::transport::messages::merkle::{CompareRoots, Descend, Descended, RootsCompared};
use crate::transport::messages::{Reply, Tell};
use crate::types::PartitionId;

impl Coordinator {
    pub(super) async fn serve_compare_roots(&self, asked: &CompareRoots) -> Reply {
        let compared = match asked.read() {
            None => RootsReply::Malformed,
            Some(roots) => match self.roots(&roots).await {
                Ok(held) => {
                    answer_roots(&roots, self.inner.replica.first_hour(), |partition| held.get(&partition).copied())
                }
                Err(fault) => return Reply::refused(fault.refusal(), fault.to_string()),
            },
        };
        Reply::new(Tell::RootsCompared(RootsCompared::from(&compared)))
    }

    /// The roots of these partitions here, as far as anything can be told of them.
    async fn roots(&self, asked: &Roots) -> Result<BTreeMap<PartitionId, Root>, Fault> {
        let mut held = BTreeMap::new();
        if self.inner.replica.first_hour() > asked.terms.first {
            // It is asked again.
            return Ok(held);
        }
        for (partition, _) in &asked.roots {
            if let Some(tree) = self.inner.replica.tree(*partition, &asked.terms).await? {
                held.insert(*partition, tree.root());
            }
        }
        Ok(held)
    }

    pub(super) async fn serve_descend(&self, asked: &Descend) -> Reply {
        let told = |answers: &Answers| Reply::new(Tell::Descended(Descended::from(answers)));
        let Some(request) = asked.read() else { return told(&Answers::Malformed) };
        let mut answering = match Answering::new(&request, self.inner.replica.first_hour()) {
            Ok(answering) => answering,
            Err(reply) => return told(&reply),
        };
        while let Some(wanted) = answering.wanted() {
            match self.inner.replica.survey(wanted, &request.terms).await {
                Ok(read) => answering.read(read.as_ref()),
                Err(fault) => return Reply::refused(fault.refusal(), fault.to_string()),
            }
        }
        told(&answering.reply())
    }
}
