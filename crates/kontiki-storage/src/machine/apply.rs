//! Applying: a slice of log entries becomes one engine batch. What one write does is in `write`; here is what surrounds it: the
//! order of entries, the other commands, the batch, and publishing.

use std::sync::Arc;

use bytes::Bytes;
use kontiki_types::{ClockKind, Command, Descriptor, Effect, Fault, Reject, Reply, Version, Write, encoding};

use super::overlay::Overlay;
use super::{Applied, Entry, Machine, State};
use crate::engine::{Batch, Engine};

/// One apply on its way: the state that it changes, and the batch that it fills. `'e` is the life of the entries, into which
/// the commands and the overlay point.
pub(super) struct Step<'m, 'e> {
    pub(super) engine: &'m dyn Engine,
    pub(super) state: &'m mut State,
    pub(super) batch: Batch,
    pub(super) overlay: Overlay<'e>,
    /// Whether a system key was written.
    pub(super) system_changed: bool,
    descriptor_changed: bool,
    horizon_changed: bool,
}

impl Machine {
    /// Applies entries in order, in one engine batch together with the applied position. A command that is refused is a reply; a
    /// command that does not decode, an index that does not follow, or a failing engine is a fault, after which this machine
    /// applies nothing more (every later call gives the same fault).
    pub fn apply(&mut self, entries: &[Entry<'_>]) -> Result<Applied, Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let applied = self.apply_all(entries);
        if let Err(fault) = &applied {
            self.fault = Some(fault.clone());
        }
        applied
    }

    fn apply_all(&mut self, entries: &[Entry<'_>]) -> Result<Applied, Fault> {
        let Some(last) = entries.last() else { return Ok(Applied::default()) };
        self.check_order(entries)?;
        let commands = entries.iter().map(|entry| self.decode(entry)).collect::<Result<Vec<_>, _>>()?;
        // Blind writes read nothing, so nothing has to be kept for them to see.
        let overlay = Overlay::new(commands.iter().flatten().any(reads));
        let mut step = Step {
            engine: &*self.engine,
            state: &mut self.state,
            batch: Batch::new(),
            overlay,
            system_changed: false,
            descriptor_changed: false,
            horizon_changed: false,
        };
        let mut replies = Vec::with_capacity(commands.len());
        for command in &commands {
            replies.push(command.as_ref().map_or(Ok(Reply::None), |command| step.command(command))?);
        }
        let Step { mut batch, system_changed, descriptor_changed, horizon_changed, .. } = step;
        self.state.applied_index = last.index;
        self.state.position = Some(Bytes::copy_from_slice(last.position));
        if let Some(membership) = entries.iter().rev().find_map(|entry| entry.membership) {
            self.state.membership = Some(Bytes::copy_from_slice(membership));
        }
        self.state.sessions.write_changes(&mut batch);
        if descriptor_changed {
            self.state.put_replica(self.replica, &mut batch);
        }
        self.state.put_applied(&mut batch);
        self.engine.write(&batch)?;
        self.published.publish(&self.state);
        // After publishing: what is dropped must be refused to every reader that begins, and noticed by every reader that has begun.
        if horizon_changed || descriptor_changed {
            self.state.announce_horizon(&*self.engine);
        }

        let mut effects = Vec::new();
        if system_changed {
            effects.push(Effect::MapChanged);
        }
        if descriptor_changed {
            effects.push(Effect::DescriptorChanged(Descriptor::clone(&self.state.descriptor)));
        }
        Ok(Applied { replies, effects })
    }

    /// Entries come in the order of their indexes: one applied twice would make this replica differ from the others for ever. That
    /// none is left out is the log's promise: it never hands out entries with a gap.
    fn check_order(&self, entries: &[Entry<'_>]) -> Result<(), Fault> {
        let mut last = self.state.position.is_some().then_some(self.state.applied_index);
        for entry in entries {
            if last.is_some_and(|last| entry.index <= last) {
                let partition = self.partition();
                let place = last.map_or_else(|| "nothing".to_owned(), |last| format!("entry {last}"));
                return Err(Fault::Invariant(format!("{partition} has applied {place} and was given entry {}", entry.index)));
            }
            last = Some(entry.index);
        }
        Ok(())
    }

    fn decode<'e>(&self, entry: &Entry<'e>) -> Result<Option<Command<&'e [u8]>>, Fault> {
        let decode = |bytes| {
            encoding::decode::<Command<&[u8]>>(bytes)
                .map_err(|error| Fault::corrupt(format!("entry {} of {}", entry.index, self.partition()), error.to_string()))
        };
        entry.command.map(decode).transpose()
    }
}

/// Whether running a command may look at a key.
fn reads(command: &Command<&[u8]>) -> bool {
    let looks = |write: &Write<&[u8]>| {
        !write.conditions.is_empty() || write.ops.iter().any(|op| !matches!(op, kontiki_types::Op::Put { .. }))
    };
    matches!(command, Command::Writes { writes, .. } if writes.iter().any(looks))
}

impl<'e> Step<'_, 'e> {
    fn command(&mut self, command: &Command<&'e [u8]>) -> Result<Reply, Fault> {
        match command {
            Command::Writes { stamp_ms, writes } => {
                let outcomes = writes.iter().map(|write| self.write(*stamp_ms, write)).collect::<Result<_, _>>()?;
                Ok(Reply::Writes(outcomes))
            }
            Command::OpenSession { stamp_ms } => Ok(self.open_session(*stamp_ms)),
            Command::AdvanceClock { to } => Ok(self.advance_clock(*to)),
            Command::SetDescriptor { descriptor } => Ok(self.set_descriptor(descriptor)),
            Command::AdvanceHorizon { to } => Ok(self.advance_horizon(*to)),
        }
    }

    /// The version of the next write; the clock moves to it only when the write is accepted.
    pub(super) fn next_version(&self, stamp_ms: u64) -> Result<Version, Reject> {
        if self.state.clock.is_exhausted() {
            return Err(Reject::invalid("the partition has given its last version; its clock was advanced beyond use"));
        }
        Ok(self.state.clock.next(self.state.descriptor.clock, stamp_ms))
    }

    fn open_session(&mut self, stamp_ms: u64) -> Reply {
        match self.next_version(stamp_ms) {
            Err(reject) => Reply::Rejected(reject),
            Ok(version) => {
                self.state.clock = version;
                Reply::SessionOpened(self.state.sessions.open(version, self.state.descriptor.clock))
            }
        }
    }

    fn advance_clock(&mut self, to: Version) -> Reply {
        if to > self.state.clock {
            if self.state.descriptor.clock == ClockKind::Counter {
                return Reply::Rejected(Reject::invalid(
                    "the partition counts its writes and takes no part in snapshots of several partitions; read it alone",
                ));
            }
            if to.is_exhausted() {
                return Reply::Rejected(Reject::invalid(format!(
                    "version {to} would be the partition's last; name one that a reply gave"
                )));
            }
            self.state.clock = to;
        }
        Reply::Clock(self.state.clock)
    }

    /// Not beyond the clock: what the clock has not reached was not written yet, and must be readable when it is.
    fn advance_horizon(&mut self, to: Version) -> Reply {
        let reached = to.min(self.state.clock);
        if reached > self.state.horizon {
            self.state.horizon = reached;
            self.horizon_changed = true;
        }
        Reply::Horizon(self.state.horizon)
    }

    fn set_descriptor(&mut self, new: &Descriptor) -> Reply {
        let own = &self.state.descriptor;
        if new.id != own.id {
            return Reply::Rejected(Reject::invalid(format!("a descriptor of {} was given to {}", new.id, own.id)));
        }
        // Both counters only grow; the order of epochs looks at `conf` first and would let bounds go back.
        if new.epoch <= own.epoch || new.epoch.bounds < own.epoch.bounds {
            return Reply::Rejected(self.stale_epoch());
        }
        if new.range != own.range && new.epoch.bounds == own.epoch.bounds {
            return Reply::Rejected(Reject::invalid("the range changed and the epoch's bounds did not; raise epoch.bounds"));
        }
        if new.clock != own.clock {
            return Reply::Rejected(Reject::invalid("a partition keeps the kind of clock that it was made with"));
        }
        self.state.descriptor = Arc::new(new.clone());
        self.descriptor_changed = true;
        Reply::Descriptor(new.clone())
    }

    /// The answer to a request that was routed by another shape of this partition.
    pub(super) fn stale_epoch(&self) -> Reject {
        let own = &self.state.descriptor;
        Reject::StaleEpoch { partition: own.id, descriptors: vec![Descriptor::clone(own)] }
    }
}
