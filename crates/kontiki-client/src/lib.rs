//! The Client API: routing, retries, map cache, scan merging.
