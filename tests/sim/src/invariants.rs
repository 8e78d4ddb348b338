//! What must hold at every moment, whatever went wrong: one file for each, with its source.

mod bounds;
mod committed;
mod content;
mod durable;
mod entries;
mod identities;
mod leaders;
mod matching;
mod progress;

use crate::watch::Seen;

/// Something that must hold. It may remember what it has seen.
pub trait Invariant {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Looks at all nodes.
    ///
    /// # Errors
    /// What is broken, with the nodes, positions and values that show it.
    fn check(&mut self, seen: &Seen) -> Result<(), String>;
}

/// Those that are looked at often.
pub(crate) fn cheap() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<leaders::OneLeader>::default(),
        Box::<bounds::Bounds>::default(),
        Box::<progress::Progress>::default(),
        Box::<matching::LogMatching>::default(),
        Box::<committed::Committed>::default(),
        Box::<identities::Identities>::default(),
    ]
}

/// Those that read whole replicas.
pub(crate) fn contents() -> Vec<Box<dyn Invariant>> {
    vec![Box::<content::SameContent>::default()]
}

/// Those that look at what is durable.
pub(crate) fn platters() -> Vec<Box<dyn Invariant>> {
    vec![Box::<durable::Durable>::default()]
}
