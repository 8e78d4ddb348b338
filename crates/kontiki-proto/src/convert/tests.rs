//! Round trips: what goes to the wire comes back as it was.

use super::*;

#[test]
fn a_key_outside_of_the_default_namespace_has_no_place_on_the_wire() {
    let error = user_key(&key::internal(NamespaceId::SYSTEM, b"map")).expect_err("a system key");
    assert!(error.to_string().contains("default namespace"), "{error}");
    assert_eq!(user_key(&internal_key(b"k")), Ok(Bytes::from_static(b"k")));
}
