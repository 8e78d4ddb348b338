//! Collects the calls of many processes while they are made. The times are the caller's; the order in which it tells is kept even
//! where its clock stands still.
//!
//! **Invariant:** no moment is given twice, so nothing overlaps but what did.

use super::{Operation, Outcome};

/// A history that grows.
#[derive(Debug, Default)]
pub struct Recorder {
    operations: Vec<Operation>,
    last_us: Option<u64>,
}

/// A call that was begun.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(usize);

impl Recorder {
    /// At `now_us`, or just after what was told last, if the clock has not moved since.
    fn moment(&mut self, now_us: u64) -> u64 {
        let moment = self.last_us.map_or(now_us, |last| now_us.max(last + 1));
        self.last_us = Some(moment);
        moment
    }

    /// A call is made. Until [`Recorder::end`] nobody knows how it ends, and if that never comes, for ever.
    pub fn begin(&mut self, invoked: Operation, now_us: u64) -> Ticket {
        let start_us = self.moment(now_us);
        self.operations.push(Operation { start_us, ..invoked });
        Ticket(self.operations.len() - 1)
    }

    /// The process stops waiting for it, and knows this.
    pub fn end(&mut self, ticket: Ticket, outcome: Outcome, now_us: u64) {
        let end_us = self.moment(now_us);
        if let Some(operation) = self.operations.get_mut(ticket.0) {
            (operation.outcome, operation.end_us) = (outcome, Some(end_us));
        }
    }

    /// What was told so far, in the order of the calls.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// All of it.
    pub fn into_operations(self) -> Vec<Operation> {
        self.operations
    }
}
