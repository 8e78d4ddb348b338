//! The system partition's keys: the map and the nodes are ordinary keys of namespace 0, so they are replicated, versioned and
//! read like any others. This file says how they are named and encoded; who writes them is the node's business.
//!
//! ```text
//!   cluster        what the cluster is; its absence means that it was never made
//!   map/<id be>    one descriptor
//!   node/<id be>   one node
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use kontiki_types::key::{self, KeyRange};
use kontiki_types::limits::{SCAN_PAGE_BYTES_MAX, SCAN_ROWS_MAX};
use kontiki_types::read::{ReadData, Scan};
use kontiki_types::{
    CallError, Descriptor, Fault, NamespaceId, NodeId, NodeInfo, PartitionId, PartitionMap, Read, ReadReply, Row, Version,
    encoding,
};

use crate::machine::MachineReader;

const CLUSTER: &[u8] = b"cluster";
const MAP: &[u8] = b"map/";
const NODE: &[u8] = b"node/";

/// The key that exists once the cluster was made.
pub fn cluster_key() -> Bytes {
    key::internal(NamespaceId::SYSTEM, CLUSTER)
}

/// The key of a partition's descriptor in the map.
pub fn map_key(partition: PartitionId) -> Bytes {
    numbered(MAP, partition.0)
}

/// The key of a node.
pub fn node_key(node: NodeId) -> Bytes {
    numbered(NODE, node.0)
}

/// The keys of all descriptors.
pub fn map_range() -> KeyRange {
    prefixed(MAP)
}

/// The keys of all nodes.
pub fn node_range() -> KeyRange {
    prefixed(NODE)
}

fn numbered(prefix: &[u8], number: u64) -> Bytes {
    let mut user = BytesMut::with_capacity(prefix.len() + 8);
    user.put_slice(prefix);
    user.put_u64(number);
    key::internal(NamespaceId::SYSTEM, &user)
}

fn prefixed(prefix: &[u8]) -> KeyRange {
    let start = key::internal(NamespaceId::SYSTEM, prefix);
    let end = key::prefix_end(&start);
    KeyRange::new(start, end)
}

/// The value of a map key.
pub fn encode_descriptor(descriptor: &Descriptor) -> Bytes {
    encoding::encode(descriptor).into()
}

/// Reads the value of a map key.
pub fn decode_descriptor(row: &Row) -> Result<Descriptor, Fault> {
    encoding::decode(&row.value).map_err(|error| corrupt(row, &error))
}

/// The value of a node key.
pub fn encode_node(node: &NodeInfo) -> Bytes {
    encoding::encode(node).into()
}

/// Reads the value of a node key.
pub fn decode_node(row: &Row) -> Result<NodeInfo, Fault> {
    encoding::decode(&row.value).map_err(|error| corrupt(row, &error))
}

fn corrupt(row: &Row, error: &encoding::DecodeError) -> Fault {
    Fault::corrupt(format!("system key `{}`", key::display(&row.key)), error.to_string())
}

/// The map and the nodes as the system partition's replica knows them, of one moment. Empty before the cluster was made.
pub fn read_map(reader: &MachineReader) -> Result<PartitionMap, Fault> {
    let at = reader.clock();
    let partitions = rows(reader, map_range(), at)?.iter().map(decode_descriptor).collect::<Result<_, _>>()?;
    let nodes = rows(reader, node_range(), at)?.iter().map(decode_node).collect::<Result<_, _>>()?;
    Ok(PartitionMap::new(partitions, nodes))
}

/// All rows of a range at a version.
fn rows(reader: &MachineReader, mut range: KeyRange, at: Version) -> Result<Vec<Row>, Fault> {
    let mut all = Vec::new();
    loop {
        let scan = Scan { range, reverse: false, keys_only: false, rows_max: SCAN_ROWS_MAX, bytes_max: SCAN_PAGE_BYTES_MAX };
        let end = scan.range.end.clone();
        let ReadReply { data, .. } = reader.read(&Read::Scan(scan), Some(at)).map_err(fault)?;
        let ReadData::Page { rows, resume } = data else {
            return Err(Fault::Invariant("a scan was not answered with a page".to_owned()));
        };
        all.extend(rows);
        match resume {
            Some(start) => range = KeyRange { start, end },
            None => return Ok(all),
        }
    }
}

/// Reading the system's own keys from the system partition at its own clock is never refused.
fn fault(error: CallError) -> Fault {
    match error {
        CallError::Fault(fault) => fault,
        other => Fault::Invariant(format!("the system partition refused to read its own keys: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_keys() {
        assert_eq!(hex::encode(cluster_key()), "00000000636c7573746572");
        assert_eq!(hex::encode(map_key(PartitionId(2))), "000000006d61702f0000000000000002");
        assert_eq!(hex::encode(node_key(NodeId(3))), "000000006e6f64652f0000000000000003");
        assert!(map_range().contains(&map_key(PartitionId(u64::MAX))) && !map_range().contains(&node_key(NodeId(0))));
        assert!(node_range().contains(&node_key(NodeId(u64::MAX))) && !node_range().contains(&cluster_key()));
    }
}
