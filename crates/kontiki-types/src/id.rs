//! Identifiers. Each is its own type, so that one can never be passed where another is meant; none is ever used twice.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number_id!(
    /// One process with one data directory. Given by the cluster, from 1, never reused.
    NodeId, u64, "n"
);
number_id!(
    /// A partition and the Raft group that replicates it. From 1; 1 is the system partition; never reused.
    PartitionId, u64, "p"
);
number_id!(
    /// One replica inside one group: openraft's node id. Allocated from the descriptor's counter and never reused, also when
    /// a partition moves back to a node that it left (reuse could form a second quorum from an old membership).
    ReplicaId, u64, "r"
);
number_id!(
    /// A named key space. 0 is the system's, 1 is `default`.
    NamespaceId, u32, "ns"
);

impl PartitionId {
    /// The partition that holds the map, the nodes and the cluster settings.
    pub const SYSTEM: Self = Self(1);
}

impl NamespaceId {
    /// The system's own keys: map, nodes, settings. No user key can reach it.
    pub const SYSTEM: Self = Self(0);
    /// The namespace that exists from the start.
    pub const DEFAULT: Self = Self(1);
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (i, byte) in self.0.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl $name {
            /// Reads what is printed: 32 hex digits, dashes between them.
            pub fn parse(text: &str) -> Option<Self> {
                let digits: Vec<u32> = text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
                let (pairs, rest) = digits.as_chunks::<2>();
                let bytes: Vec<u8> = pairs.iter().map(|[high, low]| (high << 4 | low) as u8).collect();
                if rest.is_empty() { bytes.try_into().ok().map(Self) } else { None }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

uuid_id!(
    /// One cluster. Every peer message and every data directory carries it; a mismatch is refused.
    ClusterId
);
uuid_id!(
    /// One data directory, random, written when the directory is created. A wiped disk is a new store, so a new node.
    StoreId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_with_their_prefix_and_uuid_shape() {
        assert_eq!(NodeId(3).to_string(), "n3");
        assert_eq!(PartitionId::SYSTEM.to_string(), "p1");
        let id = ClusterId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(id.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(ClusterId::parse(&id.to_string()), Some(id));
        for bad in [
            "",
            "0",
            "00010203-0405-0607-0809-0a0b0c0d0e0",
            "00010203-0405-0607-0809-0a0b0c0d0e0f0f",
            "x0010203-0405-0607-0809-0a0b0c0d0e0f",
        ] {
            assert_eq!(ClusterId::parse(bad), None, "{bad}");
        }
    }
}
