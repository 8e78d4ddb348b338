//! Taking over the whole state of another replica of the same partition, record by record, in one engine batch: what installing a
//! snapshot means. The source is another engine, read through one cursor, which is one moment of it.

use kontiki_types::{Descriptor, Effect, Fault, KeyRange, encoding};

use super::Machine;
use crate::engine::{Batch, Engine};
use crate::schema::{self, Key};

impl Machine {
    /// Replaces this replica's data, sessions and applied position by those of the same partition in `source`, which must not be
    /// applying at the time. Atomic; durable after the next flush. This replica keeps its own id. After a fault it applies nothing more, as after one
    /// of `apply`.
    pub fn copy_from(&mut self, source: &dyn Engine) -> Result<Vec<Effect>, Fault> {
        let copied = self.copy(source);
        if let Err(fault) = &copied {
            self.fault = Some(fault.clone());
        }
        copied
    }

    fn copy(&mut self, source: &dyn Engine) -> Result<Vec<Effect>, Fault> {
        let partition = self.partition();
        let mut batch = Batch::new();
        let old = self.descriptor();
        let replica = Key::<&[u8]>::Replica { partition }.encode();
        let stored = source.get(&replica)?;
        let stored =
            stored.ok_or_else(|| Fault::Invariant(format!("the source of a snapshot holds no replica of {partition}")))?;
        let (descriptor, _): (Descriptor, kontiki_types::ReplicaId) =
            encoding::decode(&stored).map_err(|error| Fault::corrupt(schema::place(&replica), error.to_string()))?;
        let covers = [schema::data(&old.range), schema::data(&descriptor.range), schema::sessions(partition)];
        for (from, to) in &covers {
            let mut cursor = self.engine.cursor(from, to)?;
            cursor.seek(from)?;
            while cursor.valid() {
                batch.delete(cursor.key());
                cursor.next()?;
            }
        }
        for (from, to) in [schema::data(&descriptor.range), schema::sessions(partition)] {
            let mut cursor = source.cursor(&from, &to)?;
            cursor.seek(&from)?;
            while cursor.valid() {
                batch.put(cursor.key(), cursor.value());
                cursor.next()?;
            }
        }
        let applied = Key::<&[u8]>::Applied { partition }.encode();
        if let Some(stored) = source.get(&applied)? {
            batch.put(&applied, &stored);
        }
        batch.put_with(|out| out.extend_from_slice(&replica), |out| encoding::encode_into(&(&descriptor, self.replica), out));
        self.engine.write(&batch)?;
        let reopened = Self::open(std::sync::Arc::clone(&self.engine), partition)?;
        let reopened =
            reopened.ok_or_else(|| Fault::Invariant(format!("the replica of {partition} vanished while it was replaced")))?;
        self.state = reopened.state;
        self.published.publish(&self.state);
        let system = descriptor.range.overlaps(&KeyRange::namespace(kontiki_types::NamespaceId::SYSTEM));
        let mut effects = vec![Effect::DescriptorChanged(descriptor)];
        effects.extend(system.then_some(Effect::MapChanged));
        Ok(effects)
    }
}
