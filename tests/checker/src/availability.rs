//! How long nobody was served: the longest time without a success, for each partition and each fault, and how soon after it there was
//! one.
//!
//! ```text
//!   fault              |======= window =======|
//!   successes  x  x  x |      x               |        x ── called after the window's end
//!                      |<gap >|<───── longest gap ────>|
//!                                             |<recovery>
//! ```
//!
//! **Invariant:** what never came back is counted up to the end of the history, and is told apart (`recovery_us` is nothing).

use std::collections::BTreeMap;
use std::fmt;

use crate::history::Operation;

/// A time in which something was broken. A fault that takes no time (a kill) begins and ends at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// What was broken.
    pub name: String,
    /// Since when, us.
    pub from_us: u64,
    /// Until when, us.
    pub to_us: u64,
}

/// How one partition did in one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The partition, where it is known.
    pub group: Option<u64>,
    /// The name of the window.
    pub window: String,
    /// Successes from the window's begin until it recovered.
    pub successes: u64,
    /// The longest time without a success from the window's begin until it recovered.
    pub longest_gap_us: u64,
    /// When that time began.
    pub gap_from_us: u64,
    /// From the window's begin to the first success of a call made since then. Nothing: there was none.
    pub first_success_us: Option<u64>,
    /// From the window's end to the first success of a call made since then. Nothing: there was none.
    pub recovery_us: Option<u64>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| format!("{}.{} ms", us / 1000, us % 1000 / 100);
        let group = self.group.map_or_else(|| "all".to_owned(), |group| format!("partition {group}"));
        let after = self.recovery_us.map_or_else(|| "never recovered".to_owned(), |us| format!("recovered after {}", ms(us)));
        write!(f, "{}, {group}: longest gap {}, {after}", self.window, ms(self.longest_gap_us))
    }
}

/// How each partition did in each window, over the operations that `of` picks (only writes, say). `end_us` is the end of the history.
pub fn report(operations: &[Operation], windows: &[Window], end_us: u64, of: impl Fn(&Operation) -> bool) -> Vec<Row> {
    // Calls and returns of successes. A partition that was only called without success has none, but has a row.
    let mut groups: BTreeMap<Option<u64>, Vec<(u64, u64)>> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| of(operation)) {
        let successes = groups.entry(operation.group).or_default();
        if let (Some(end), true) = (operation.end_us, operation.is_ok()) {
            successes.push((operation.start_us, end));
        }
    }
    groups.values_mut().for_each(|successes| successes.sort_unstable_by_key(|(_, end)| *end));
    let rows = groups.iter().flat_map(|(group, successes)| windows.iter().map(|window| row(*group, successes, window, end_us)));
    rows.collect()
}

fn row(group: Option<u64>, successes: &[(u64, u64)], window: &Window, end_us: u64) -> Row {
    let first_since = |since: u64| successes.iter().find(|(start, _)| *start >= since).map(|(_, end)| *end);
    let recovered = first_since(window.to_us);
    let until = recovered.unwrap_or(end_us).max(window.to_us);
    let inside = |at: &u64| (window.from_us..=until).contains(at);
    let mut times: Vec<u64> = successes.iter().map(|(_, end)| *end).filter(inside).collect();
    let count = times.len() as u64;
    times.insert(0, window.from_us);
    times.push(until);
    // The first of the longest.
    let longest = times.windows(2).map(|pair| (pair[1] - pair[0], pair[0])).max_by_key(|(gap, from)| (*gap, u64::MAX - from));
    let (longest_gap_us, gap_from_us) = longest.unwrap_or((0, window.from_us));
    Row {
        group,
        window: window.name.clone(),
        successes: count,
        longest_gap_us,
        gap_from_us,
        first_success_us: first_since(window.from_us).map(|at| at - window.from_us),
        recovery_us: recovered.map(|at| at - window.to_us),
    }
}
