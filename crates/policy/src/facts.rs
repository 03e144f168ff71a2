use cedar_policy::{
    Context, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
};
use medanchor_anchor::{Class, CustodyKind};
use medanchor_dag::{Cid, Did};
use std::str::FromStr;

/// What the policies may look at when one record is asked for. `default.cedarschema` explains each.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) requester: Did,
    pub(crate) record: Cid,
    pub(crate) role: &'a str,
    pub(crate) purposes: Vec<&'static str>,
    pub(crate) class: Class,
    pub(crate) custody_kind: CustodyKind,
    pub(crate) owns_custody: bool,
    pub(crate) controls_custody: bool,
    pub(crate) owns_device: bool,
    pub(crate) consented: bool,
    pub(crate) denied: bool,
    pub(crate) emergency: bool,
    pub(crate) second_factor: bool,
}

impl Facts<'_> {
    /// The same question in Cedar's terms, checked against the schema.
    pub(crate) fn to_request(&self, schema: &Schema) -> Result<Request, BadFacts> {
        let requester = entity("Medanchor::Principal", &self.requester.to_string())?;
        let action = entity("Medanchor::Action", "release")?;
        let record = entity("Medanchor::Record", &self.record.to_string())?;
        let context = self.to_context()?;
        Request::new(requester, action, record, context, Some(schema)).map_err(|_| BadFacts)
    }

    fn to_context(&self) -> Result<Context, BadFacts> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let purposes = self.purposes.iter().map(|code| text(code));
        let facts = [
            ("role", text(self.role)),
            ("purposes", RestrictedExpression::new_set(purposes)),
            ("class", text(self.class.as_str())),
            ("custodyKind", text(kind_name(self.custody_kind))),
            ("ownsCustody", flag(self.owns_custody)),
            ("controlsCustody", flag(self.controls_custody)),
            ("ownsDevice", flag(self.owns_device)),
            ("consented", flag(self.consented)),
            ("denied", flag(self.denied)),
            ("emergency", flag(self.emergency)),
            ("secondFactor", flag(self.second_factor)),
        ];
        let facts = facts.map(|(name, value)| (name.to_owned(), value));
        Context::from_pairs(facts).map_err(|_| BadFacts)
    }
}

/// The facts are not what the policies' schema expects.
pub(crate) struct BadFacts;

fn flag(value: bool) -> RestrictedExpression {
    RestrictedExpression::new_bool(value)
}

fn kind_name(kind: CustodyKind) -> &'static str {
    match kind {
        CustodyKind::Person => "person",
        CustodyKind::Dataset => "dataset",
        CustodyKind::Open => "open",
    }
}

fn entity(kind: &str, id: &str) -> Result<EntityUid, BadFacts> {
    let kind = EntityTypeName::from_str(kind).map_err(|_| BadFacts)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}
