//! Histories as text that a person reads at a glance: one lane per process, time runs to the right.
//!
//! ```text
//!   p1  [put x 1 @3]    [put x 2        ?
//!   p2          [get x 1 @3]     [get x 2]    [cas x 2 3 no]
//!   p3                      [del x)
//! ```
//!
//! `[` is the call; the sign after the text is its end: `]` acknowledged, `)` failed without effect, `?` nobody knows (the process
//! stopped waiting there). Two calls overlap if their columns do; one column is 10 us. After the name of the call comes the key, then:
//!
//! | call | text | | call | text |
//! |---|---|---|---|---|
//! | get | `get x 1`, absent: `get x -` | | set | `add s a`, `members s a,b`, empty: `members s -` |
//! | put, delete | `put x 1`, `del x` | | lists | `append f a:1`, `lists f a:1,2 b:3` |
//! | compare and set | `cas x 1 2`, by version: `cas x =7 2` | | snapshot | `snapshot r/ r/a=1@3 r/b=2@4 @5` |
//! | counter | `inc n`, `inc n 4`, `count n 4` | | | |
//!
//! At the end may stand `@7` the version, `#7` the session, `%7` the partition, `no` for a condition that did not hold. `get~` is a
//! read that may be stale.

mod parse;
mod render;

pub use parse::parse;
pub use render::{notation, render};
