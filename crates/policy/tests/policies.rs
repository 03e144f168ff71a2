//! Which policy sets are accepted, and what names them.

use medanchor_policy::{Policies, PoliciesError};
use proptest::prelude::*;

const SCHEMA: &str = include_str!("../src/default.cedarschema");

fn parse(policies: &str) -> Result<Policies, PoliciesError> {
    Policies::parse(policies, SCHEMA)
}

#[test]
fn default_set_is_valid_and_named_by_its_bytes() {
    let set = Policies::default_set().unwrap();
    let read_back = Policies::from_bytes(set.block().bytes()).unwrap();
    assert_eq!(read_back.cid(), set.cid());
    assert_eq!(set.cid(), *set.block().cid());
}

#[test]
fn other_text_has_another_cid() {
    let one = parse(r#"@id("a") permit (principal, action, resource);"#).unwrap();
    let other = parse(r#"@id("b") permit (principal, action, resource);"#).unwrap();
    assert_ne!(one.cid(), other.cid());
}

#[test]
fn misspelt_attribute_is_found_at_load() {
    let misspelt = r#"@id("a") permit (principal, action, resource) when { context.consentd };"#;
    assert!(matches!(parse(misspelt), Err(PoliciesError::Invalid(_))));
    let wrong_type = r#"@id("a") permit (principal, action, resource) when { context.role == 1 };"#;
    assert!(matches!(parse(wrong_type), Err(PoliciesError::Invalid(_))));
}

#[test]
fn policies_need_ids_of_their_own() {
    let all = "permit (principal, action, resource);";
    for policies in [
        all.to_owned(),
        format!("@id(\"\") {all}"),
        format!("@id(\"two words\") {all}"),
        format!("@id(\"{}\") {all}", "x".repeat(65)),
        format!("@id(\"same\") {all} @id(\"same\") {all}"),
    ] {
        assert!(
            matches!(parse(&policies), Err(PoliciesError::Id)),
            "{policies}"
        );
    }
}

#[test]
fn templates_and_broken_text_are_refused() {
    let template = r#"@id("a") permit (principal == ?principal, action, resource);"#;
    assert!(matches!(parse(template), Err(PoliciesError::Template)));
    assert!(matches!(parse("permit"), Err(PoliciesError::Policies(_))));
    let no_schema = Policies::parse("", "entity {");
    assert!(matches!(no_schema, Err(PoliciesError::Schema(_))));
    let too_long = " ".repeat(Policies::MAX_BYTES);
    assert!(matches!(parse(&too_long), Err(PoliciesError::Unsupported)));
}

proptest! {
    #[test]
    fn any_bytes_are_a_policy_set_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(Policies::from_bytes(&bytes).is_err());
    }

    #[test]
    fn flipped_bit_is_another_policy_set_or_none(position in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let set = Policies::default_set().unwrap();
        let mut bytes = set.block().bytes().to_vec();
        let at = position.index(bytes.len());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
        if let Ok(other) = Policies::from_bytes(&bytes) {
            prop_assert_ne!(other.cid(), set.cid());
        }
    }
}
