//! The judges are judged: by histories that a person has drawn (`histories/`), by a reference that tries every order, and by wrong
//! judges that the drawn histories must catch.
//!
//! ```text
//!   histories/*.txt ── golden ──┐
//!   simulate (seed) ── random ──┼── the judges ── same verdict as `naive`?
//!                     speed, formats
//! ```
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read their golden files and take the time")]

mod formats;
mod golden;
mod naive;
mod random;
mod shrinking;
mod simulate;
mod speed;
mod windows;
