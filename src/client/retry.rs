//! Whether to try again, and what to tell in the end: pure, so that a table can test it.

use crate::kv::{Error, ErrorCode, Outcome};

/// How one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was no connection: the request was not sent.
    Unseen(String),
    /// The request was sent, at least in part, and no answer came.
    Lost(String),
    /// The node said no.
    Said(Error),
}

/// What to do now.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Try again, at the next endpoint.
    Again,
    /// Tell this.
    GiveUp(Error),
}

/// The attempts of one call so far.
#[derive(Debug)]
pub(super) struct Retry {
    safe: bool,
    most: u32,
    attempts: u32,
    unknown: bool,
    last: Option<Error>,
}

impl Retry {
    /// `safe`: the same request twice is one request (a read, or a write with an Idempotency-Key).
    pub(super) fn new(safe: bool, most: u32) -> Self {
        Self { safe, most, attempts: 0, unknown: false, last: None }
    }

    /// How many attempts have failed.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether a failure of the coming attempt may be followed by another one.
    pub(super) fn may_go_on(&self) -> bool {
        self.attempts + 1 < self.most
    }

    /// Takes in a failed attempt. I-HONEST: a write that may have been done is tried again only where that is safe.
    pub(super) fn after(&mut self, failure: Failure) -> Verdict {
        self.attempts += 1;
        let (error, worth_it) = match failure {
            Failure::Unseen(detail) => (Error::refused(ErrorCode::Unreachable, detail), true),
            Failure::Lost(detail) => (Error::new(ErrorCode::Unreachable, Outcome::Unknown, detail), true),
            Failure::Said(error) => {
                let worth_it = is_passing(error.code);
                (error, worth_it)
            }
        };
        let harmless = self.safe || error.outcome == Outcome::NotApplied;
        self.unknown |= error.outcome == Outcome::Unknown;
        let again = worth_it && harmless && self.attempts < self.most;
        self.last = Some(error);
        if again { Verdict::Again } else { Verdict::GiveUp(self.out_of_time()) }
    }

    /// The last attempt's error, with the weakest outcome of all attempts.
    pub(super) fn out_of_time(&mut self) -> Error {
        let nothing = || Error::refused(ErrorCode::Unreachable, "not tried");
        let mut error = self.last.take().unwrap_or_else(nothing);
        if self.unknown {
            error.outcome = Outcome::Unknown;
        }
        error
    }
}

/// Whether another node, or the same a moment later, may say otherwise.
fn is_passing(code: ErrorCode) -> bool {
    match code {
        ErrorCode::QuorumUnavailable
        | ErrorCode::Overloaded
        | ErrorCode::HintsFull
        | ErrorCode::ClockDrift
        | ErrorCode::ReadOnly
        | ErrorCode::DiskFull
        | ErrorCode::NotServing
        | ErrorCode::ReplicasFailed
        | ErrorCode::IdempotencyInFlight
        | ErrorCode::WriteTimeout
        | ErrorCode::ReadTimeout
        | ErrorCode::SessionUnmet
        | ErrorCode::Unreachable
        | ErrorCode::Internal => true,
        ErrorCode::BadParameter
        | ErrorCode::BadContext
        | ErrorCode::BadFloor
        | ErrorCode::ContextTooLarge
        | ErrorCode::ContextRequired
        | ErrorCode::TooManySiblings
        | ErrorCode::ValueTooLarge
        | ErrorCode::ObjectTooLarge
        | ErrorCode::IdempotencyReused
        | ErrorCode::LayoutConflict
        | ErrorCode::LayoutRefused
        | ErrorCode::Paused
        | ErrorCode::Undecided
        | ErrorCode::NotKnown
        | ErrorCode::PreconditionFailed
        | ErrorCode::PreconditionRequired
        | ErrorCode::Unauthorized
        | ErrorCode::Unexpected
        | ErrorCode::NotYet => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Failure {
        Failure::Lost("reset".to_owned())
    }

    fn said(code: ErrorCode, outcome: Outcome) -> Failure {
        Failure::Said(Error::new(code, outcome, ""))
    }

    fn gives_up(verdict: Verdict) -> Option<(ErrorCode, Outcome)> {
        match verdict {
            Verdict::Again => None,
            Verdict::GiveUp(error) => Some((error.code, error.outcome)),
        }
    }

    #[test]
    fn a_write_that_may_be_done_is_not_tried_again_without_a_key() {
        let unknown = Some((ErrorCode::Unreachable, Outcome::Unknown));
        assert_eq!(gives_up(Retry::new(false, 8).after(lost())), unknown);
        assert_eq!(gives_up(Retry::new(true, 8).after(lost())), None);
        let timeout = said(ErrorCode::WriteTimeout, Outcome::Unknown);
        assert!(gives_up(Retry::new(false, 8).after(timeout)).is_some());
    }

    #[test]
    fn what_was_not_taken_is_tried_elsewhere() {
        for safe in [false, true] {
            assert_eq!(gives_up(Retry::new(safe, 8).after(Failure::Unseen(String::new()))), None);
            let refused = said(ErrorCode::QuorumUnavailable, Outcome::NotApplied);
            assert_eq!(gives_up(Retry::new(safe, 8).after(refused)), None);
        }
    }

    #[test]
    fn the_weakest_outcome_is_told() {
        let mut retry = Retry::new(true, 2);
        assert_eq!(gives_up(retry.after(lost())), None);
        let told = gives_up(retry.after(said(ErrorCode::QuorumUnavailable, Outcome::NotApplied)));
        assert_eq!(told, Some((ErrorCode::QuorumUnavailable, Outcome::Unknown)));
        let mut retry = Retry::new(true, 8);
        assert_eq!(gives_up(retry.after(lost())), None);
        let told = gives_up(retry.after(said(ErrorCode::BadContext, Outcome::NotApplied)));
        assert_eq!(told, Some((ErrorCode::BadContext, Outcome::Unknown)));
    }

    #[test]
    fn a_wrong_request_stays_wrong_and_attempts_are_bounded() {
        let wrong = said(ErrorCode::BadParameter, Outcome::NotApplied);
        assert!(gives_up(Retry::new(true, 8).after(wrong)).is_some());
        let mut retry = Retry::new(true, 3);
        let tries = std::iter::from_fn(|| gives_up(retry.after(lost())).is_none().then_some(())).count();
        assert_eq!(tries, 2);
    }
}
