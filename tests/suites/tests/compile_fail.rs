//! Mistakes a newcomer makes, and what the compiler says to them. The texts stand in `ui/*.stderr`;
//! after a change of a message run with `TRYBUILD=overwrite` and read what changed.

#[test]
fn a_mistake_in_a_contract_an_actor_or_a_record_is_explained_by_the_compiler() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
