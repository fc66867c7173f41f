//! Lists of keys: whom to ask, and how what they say becomes one ordered page.
//!
//! Keys lie on the ring by their hash, so the keys of one bucket in byte order come from every partition. A [`Cover`] says
//! which nodes are asked for which partitions, and, as they fail, who is asked in their place; a [`Merge`] makes one stream
//! of theirs. Two rules keep a page honest:
//! - **Nothing is said of what lies behind a stream's bound.** A stream that was cut short says up to where it is whole; the
//!   page goes no further than the least of these, or asks on.
//! - **A partition that too few could answer for is a gap**, named with its reasons, and no key of it is on the page.

mod core;
mod cover;
mod merge;
#[cfg(test)]
mod tests;

pub use core::{Answer, Asking, Keys, ListCore, ListPage, ListStep, Wanted};
pub use cover::{Cover, Gap};
pub use merge::{Merge, Next};
