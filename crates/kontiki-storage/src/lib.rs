//! What a replica is on disk and how a command changes it; synchronous and deterministic.
