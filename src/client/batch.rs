//! Batches over HTTP: many operations in one request, sent again as a whole where that is safe.

use bytes::Bytes;
use reqwest::Method;

use super::attempt::Request;
use super::{Client, read};
use crate::kv::batch::wire::{BatchDocument, OperationDocument, Results};
use crate::kv::batch::{Done, Operation, check_count};
use crate::kv::wire::ENVELOPE_TYPE;
use crate::kv::{Error, ErrorCode, Outcome, ReadOptions};

impl Client {
    /// Carries out operations side by side, in one request to one node: what [`kv::batch::batch`](crate::kv::batch::batch) does
    /// on a node, by its rules. At most 100 of them and 4 MiB; not atomic. What became of each stands where it stood.
    ///
    /// Every write without an Idempotency-Key is given one, so that the whole can be sent to another node where one does
    /// not answer. A single operation that failed is not tried again: its error says whether it may be. All have as long as
    /// the one that has the longest.
    ///
    /// # Errors
    /// Where the whole was refused, or nobody answered: then of each write is true what the error says.
    pub async fn batch(&self, operations: Vec<Operation>) -> Result<Vec<Done>, Error> {
        check_count(operations.len())?;
        let budget = operations.iter().map(Operation::timeout).max().unwrap_or(ReadOptions::default().timeout);
        let (mut reads, mut ops) = (Vec::with_capacity(operations.len()), Vec::with_capacity(operations.len()));
        let (mut explain, mut safe) = (false, true);
        for mut operation in operations {
            reads.push(matches!(operation, Operation::Get(..)));
            match &mut operation {
                Operation::Get(_, options) => explain |= options.explain,
                Operation::Put(_, _, options) | Operation::Delete(_, options) => {
                    explain |= options.explain;
                    if options.idempotency_key.is_none() && self.0.config.idempotent {
                        options.idempotency_key = Some(Bytes::from(format!("{:032x}", self.0.env.entropy.u128())));
                    }
                    safe &= options.idempotency_key.is_some();
                }
            }
            ops.push(OperationDocument::of(operation)?);
        }
        let mut request = Request::new(Method::POST, ("/v1/batch".to_owned(), Vec::new()));
        request.header("accept", ENVELOPE_TYPE);
        if explain {
            request.param("explain", "1");
        }
        let body = serde_json::to_vec(&BatchDocument { ops })
            .map_err(|error| Error::refused(ErrorCode::BadParameter, format!("this has no JSON form: {error}")))?;
        request.json(body);
        let answer = self.execute(&self.0.endpoints, request, budget, safe, true).await?;
        let Results { results } = read(&answer)?;
        if results.len() != reads.len() {
            let detail = format!("{} results for {} operations", results.len(), reads.len());
            return Err(Error::new(ErrorCode::Internal, Outcome::Unknown, detail));
        }
        Ok(results.into_iter().zip(reads).map(|(result, read)| result.done(read)).collect())
    }
}
