//! Many Raft groups in one process; the only crate that names openraft.
