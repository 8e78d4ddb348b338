//! The header of a replica's state: everything about it but its rows. On disk it is two records (who we are; how far we applied); to
//! another replica it is sent as one, before the rows.

use bytes::Bytes;
use kontiki_types::{Descriptor, Fault, PartitionId, ReplicaId, Version, encoding};

use crate::schema::{self, Key};

/// The state of a replica after some entry of its log, without sessions and data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The descriptor in force.
    pub descriptor: Descriptor,
    /// The index of the last entry applied; 0 before the first (then `position` is `None`).
    pub applied_index: u64,
    /// The partition's clock.
    pub clock: Version,
    /// The oldest version that may be read: of what is older, only what is visible there is kept.
    pub horizon: Version,
    /// The position of the last entry applied. Opaque here.
    pub position: Option<Bytes>,
    /// The last membership applied. Opaque here.
    pub membership: Option<Bytes>,
}

/// How records are got: from an engine, or from a view of one.
pub(super) type Get<'a> = &'a dyn Fn(&[u8]) -> Result<Option<Bytes>, Fault>;

/// What is on disk of how far a log was applied: index, clock, position (`None` before the first entry), membership,
/// horizon.
pub(super) type AppliedRecord<B> = (u64, Version, Option<B>, Option<B>, Version);

/// The value of a replica record.
pub(super) fn replica_record(descriptor: &Descriptor, replica: ReplicaId, out: &mut Vec<u8>) {
    encoding::encode_into(&(descriptor, replica), out);
}

/// Reads the replica record of a partition; `None` if there is none.
pub(super) fn load_replica(get: Get<'_>, partition: PartitionId) -> Result<Option<(Descriptor, ReplicaId)>, Fault> {
    let key = Key::<&[u8]>::Replica { partition }.encode();
    let Some(stored) = get(&key)? else { return Ok(None) };
    let corrupt = |detail: String| Fault::corrupt(schema::place(&key), detail);
    let (descriptor, replica): (Descriptor, ReplicaId) = encoding::decode(&stored).map_err(|error| corrupt(error.to_string()))?;
    if descriptor.id != partition {
        return Err(corrupt(format!("it describes {}, not {partition}", descriptor.id)));
    }
    Ok(Some((descriptor, replica)))
}

/// Reads both records of a replica; `None` if there is no replica.
pub(super) fn load(get: Get<'_>, partition: PartitionId) -> Result<Option<(Header, ReplicaId)>, Fault> {
    let Some((descriptor, replica)) = load_replica(get, partition)? else { return Ok(None) };
    let key = Key::<&[u8]>::Applied { partition }.encode();
    let corrupt = |detail: String| Fault::corrupt(schema::place(&key), detail);
    let stored = get(&key)?.ok_or_else(|| corrupt(format!("{partition} has a replica here but no applied record")))?;
    let (applied_index, clock, position, membership, horizon): AppliedRecord<Bytes> =
        encoding::decode(&stored).map_err(|error| corrupt(error.to_string()))?;
    Ok(Some((Header { descriptor, applied_index, clock, horizon, position, membership }, replica)))
}

/// Reads a record that holds one number; `None` if it is not there.
pub(super) fn load_number(get: Get<'_>, key: &Key<&[u8]>) -> Result<Option<u64>, Fault> {
    let key = key.encode();
    let decode =
        |stored: Bytes| encoding::decode(&stored).map_err(|error| Fault::corrupt(schema::place(&key), error.to_string()));
    get(&key)?.map(decode).transpose()
}

impl Header {
    /// The value of the applied record.
    pub(super) fn applied(&self) -> AppliedRecord<&Bytes> {
        (self.applied_index, self.clock, self.position.as_ref(), self.membership.as_ref(), self.horizon)
    }

    /// The bytes by which it is sent.
    pub fn encode(&self) -> Vec<u8> {
        encoding::encode(&(&self.descriptor, self.applied()))
    }

    /// Reads what [`Header::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let decoded: Result<(Descriptor, AppliedRecord<Bytes>), _> = encoding::decode(bytes);
        let (descriptor, (applied_index, clock, position, membership, horizon)) =
            decoded.map_err(|error| Fault::corrupt("the header of a snapshot", error.to_string()))?;
        Ok(Self { descriptor, applied_index, clock, horizon, position, membership })
    }
}
