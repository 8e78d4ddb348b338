//! Given the map and the load: what should move; pure functions.
