//! Kontiki as a library: a node inside your process, and its client.
