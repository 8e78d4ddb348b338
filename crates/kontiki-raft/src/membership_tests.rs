//! Groups whose members change while they are written to.
