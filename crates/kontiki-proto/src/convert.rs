//! Conversions between the wire and the types.
