//! The generated gRPC code and its conversions to the types.
