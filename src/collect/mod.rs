//! Collection of tombstones: how owners agree, by proof, that a delete is known wherever what it deleted may be, so that
//! both may go (I-DELETE).
//!
//! Gossip is no proof: an old frame on a slow connection, a reader's late repair or a hint brings back what was deleted
//! once the tombstone is gone. So a **round** per partition goes by flushed steps on direct answers. *Mark*: every owner,
//! while it holds the identical deletions that the round lists, raises the partition's [`Epoch`] to the round's; from then
//! on whatever is read here was read by one that knows of them. *Drain*: whoever may hold hints holds none that was read
//! before. *Seal*: owners refuse what was read under an earlier epoch, and neither send nor take in what is listed.
//! *Drop*: it is removed.
//!
//! **The owner** is a [`Book`], kept with the partition: pure, and written in the batch that does what it says. **The
//! driver** is [`plan`], which tells from what the owners say what comes next, and a [`Drive`] through one round. Any
//! owner may drive, several may at once, and one that stops leaves nothing that another cannot finish: whatever matters
//! is in the books.
//!
//! The rules, each of which `tests/models/collection/` misses when it is taken out:
//! - An epoch belongs to one round, and begins with the version of the one live layout (decision 0021). An owner marks only
//!   upwards, and only what it holds. A mark of another round does not count.
//! - Rounds do not replace one another: an owner seals and drops every round it marked. A driver finishes those that all
//!   owners marked before it begins one.
//! - A round that some owner does not hold, and cannot mark any more, was never dropped by anybody, and is forgotten. Only
//!   who has not sealed a round may abandon it.
//! - What was dropped is taken out of what arrives until a round is sealed that began after all had dropped it.
//! - Who becomes an owner learns the epochs and what is still taken out, and inherits no mark.
//!
//! Bounds: [`HELD_MAX`] rounds in a book, [`LISTED_MAX`] keys in a round.
//!
//! Left to others: where books are stored and who reads them (`replica`), sending, which keys to list, when (`repair`).

mod book;
mod codec;
mod driver;
mod epoch;
mod round;

#[cfg(test)]
mod tests;

pub use book::{Book, HELD_MAX, Lesson, NoSuchRound, NotMarked, Stage, Status, TooOld, Unfinished};
pub use codec::BookError;
pub use driver::{Drive, Plan, Step, plan};
pub use epoch::Epoch;
pub use round::{LISTED_MAX, Listed, Round, RoundId};
