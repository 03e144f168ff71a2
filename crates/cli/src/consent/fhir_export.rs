use super::{
    entry,
    fhir::{
        ACT_REASON, Actor as FhirActor, BASE_RULE, CLASS, CONSENT, CUSTODY, CodeableConcept,
        Coding, Consent, DEFAULT, DISSENT, DOCUMENT, Data, Identifier, LEAF, LOINC, Meta,
        PARTICIPATION, PROFILE, Period as FhirPeriod, Policy, PractitionerRole,
        Provision as FhirProvision, ROLE, Reference, SCOPE, URI,
    },
    unknown,
};
use crate::{CliError, Session, access_policy::show_access_policy, clock, files, log::proved};
use anyhow::{Context, Result};
use medanchor_anchor::{
    Actor, Body, ConsentEntry, Consented, Effect, Nonce, Outcome, Period, PrincipalKind, Provision,
    Receipt, Strength,
};
use medanchor_api::LeafName;
use medanchor_dag::{CustodyId, Did};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

/// A consent as a FHIR resource.
#[derive(Clone, Debug, Serialize)]
pub struct ConsentExported {
    /// The consent.
    pub consent: String,
    /// The leaf that last changed it, whose receipt was verified.
    pub leaf_index: u64,
    /// Where the resource was written; absent, it is below.
    pub file: Option<PathBuf>,
    /// The resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<Value>,
}

/// A consent as a FHIR R4 `Consent` that conforms to IHE PCF. The receipt of the leaf that last changed it is verified, and
/// that the leaf gives it as it is written, or withdraws it. That no later leaf changed it, what was withdrawn, and whose keys
/// have signed, is the node's word.
///
/// # Errors
///
/// When no node answers, there is no such consent, the leaf does not show it, or the file cannot be written.
pub async fn export_consent(
    session: &Session,
    custody: CustodyId,
    consent: [u8; 16],
    out: Option<&Path>,
) -> Result<ConsentExported> {
    let given = entry(session, custody, Nonce::new(consent)).await?;
    let given = given.ok_or_else(|| unknown(custody, consent))?;
    let resource = resource(session, &given).await?;
    let resource = serde_json::to_value(&resource).context("write the resource")?;
    if let Some(path) = out {
        let text = serde_json::to_string_pretty(&resource).context("write the resource")? + "\n";
        files::replace(path, text.as_bytes())
            .with_context(|| format!("write `{}`", path.display()))?;
    }
    Ok(ConsentExported {
        consent: hex::encode(consent),
        leaf_index: given.since,
        file: out.map(Path::to_owned),
        resource: out.is_none().then_some(resource),
    })
}

async fn resource(session: &Session, given: &ConsentEntry) -> Result<Consent> {
    let body = &given.consented;
    let (receipt, _) = proved(session, LeafName::Index(given.since), Strength::Published).await?;
    let mut performers = Vec::new();
    for key in signers(&receipt, given)? {
        performers.push(session.identity(&key).await?);
    }
    let listed = session.client.custody(&body.custody).await;
    let listed = listed.context("ask for the custody key")?.value;
    let owner = listed
        .context("the node does not know the custody key")?
        .owner;
    let policy = show_access_policy(session, None).await?.access_policy;
    let leaf = Identifier::new(LEAF, format!("{}#{}", session.origin, given.since));
    let source = match &body.document {
        Some(document) => Identifier::new(DOCUMENT, document.to_string()),
        None => leaf.clone(),
    };
    let mut contained = Contained::new(organisations(session, body).await?);
    let provision = contained.base(body);
    Ok(Consent {
        resource_type: "Consent".to_owned(),
        id: None,
        meta: Some(Meta {
            profile: vec![PROFILE.to_owned()],
            ..Meta::default()
        }),
        contained: contained.roles,
        identifier: vec![
            Identifier::new(CONSENT, hex::encode(body.consent.as_slice())),
            leaf,
        ],
        status: match given.withdrawn {
            true => "inactive".to_owned(),
            false => "active".to_owned(),
        },
        scope: Coding::new(SCOPE, "patient-privacy").into(),
        category: categories(body),
        patient: Reference::to(Identifier::new(CUSTODY, body.custody.to_string())),
        date_time: clock::rfc3339(receipt.leaf.at),
        performer: performers.iter().map(reference).collect(),
        organization: vec![reference(&owner)],
        source_reference: Some(Reference::to(source)),
        source_attachment: None,
        policy: vec![Policy::new(format!("ipfs://{policy}"))],
        provision,
        text: None,
        language: None,
    })
}

/// That it is a consent, and what its base rule means where FHIR does not say it.
pub(super) fn categories(body: &Consented) -> Vec<CodeableConcept> {
    let mut categories = vec![Coding::new(LOINC, "59284-0").into()];
    if body.provision == Provision::default() && !body.except.is_empty() {
        let base_rule = match body.effect {
            Effect::Silent => DEFAULT,
            Effect::Permit | Effect::Deny => DISSENT,
        };
        categories.push(Coding::new(BASE_RULE, base_rule).into());
    }
    categories
}

/// The keys that signed the leaf, if that says what the node says of the consent.
fn signers(receipt: &Receipt, given: &ConsentEntry) -> Result<Vec<Did>> {
    let opening = receipt.opening.as_ref();
    let opening = opening.filter(|_| receipt.leaf.outcome == Outcome::Ok);
    let signed = opening.map(|opening| &opening.0.signed);
    let is_it = signed.is_some_and(|signed| match &signed.statement.body {
        Body::Consented(body) => !given.withdrawn && *body == given.consented,
        Body::Withdrawn(body) => {
            let consented = &given.consented;
            given.withdrawn
                && (body.consent, body.custody) == (consented.consent, consented.custody)
        }
        _ => false,
    });
    match signed {
        Some(signed) if is_it => Ok(signed.signatures.iter().map(|(did, _)| *did).collect()),
        _ => {
            let problem = format!(
                "leaf {} does not show you the consent: it says something else, or you may not see what it says",
                given.since
            );
            Err(CliError::NotVerified(problem).into())
        }
    }
}

/// Which of the parties that a consent names in a role are organisations.
async fn organisations(session: &Session, body: &Consented) -> Result<BTreeSet<Did>> {
    let actors = body
        .provisions()
        .flat_map(|(provision, _)| &provision.actors);
    let in_roles = actors.filter(|actor| actor.role.is_some());
    let parties: BTreeSet<Did> = in_roles.filter_map(|actor| actor.party).collect();
    let mut organisations = BTreeSet::new();
    for party in parties {
        let listed = session.client.principal(&party).await;
        let listed = listed.with_context(|| format!("ask for {party}"))?.value;
        if listed.is_some_and(|listed| listed.kind == PrincipalKind::Organisation) {
            organisations.insert(party);
        }
    }
    Ok(organisations)
}

/// Parties in roles, which a resource contains.
pub(super) struct Contained {
    organisations: BTreeSet<Did>,
    pub(super) roles: Vec<PractitionerRole>,
}

impl Contained {
    pub(super) fn new(organisations: BTreeSet<Did>) -> Self {
        Self {
            organisations,
            roles: Vec::new(),
        }
    }

    pub(super) fn base(&mut self, body: &Consented) -> FhirProvision {
        let except = body.except.iter();
        let except: Vec<_> = except
            .map(|exception| self.provision(exception, body.effect.of_exceptions()))
            .collect();
        FhirProvision {
            provision: except,
            ..self.provision(&body.provision, body.effect)
        }
    }

    fn provision(&mut self, provision: &Provision, effect: Effect) -> FhirProvision {
        let kind = match effect {
            Effect::Permit => "permit",
            Effect::Deny | Effect::Silent => "deny",
        };
        let classes = provision.classes.iter();
        let purposes = provision.purposes.iter();
        FhirProvision {
            kind: kind.to_owned(),
            period: period(&provision.valid),
            actor: provision
                .actors
                .iter()
                .map(|actor| self.actor(actor))
                .collect(),
            security_label: classes
                .map(|class| Coding::new(CLASS, class.as_str()))
                .collect(),
            purpose: purposes.map(|code| Coding::new(ACT_REASON, code)).collect(),
            data_period: period(&provision.captured),
            data: provision.devices.iter().map(made_by).collect(),
            provision: Vec::new(),
        }
    }

    fn actor(&mut self, actor: &Actor) -> FhirActor {
        let reference = match (&actor.party, &actor.role) {
            (Some(party), Some(role)) => self.in_role(party, role),
            (Some(party), None) => reference(party),
            (None, role) => Reference::to(Identifier::new(ROLE, role.as_deref().unwrap_or(""))),
        };
        FhirActor {
            role: Coding::new(PARTICIPATION, "IRCP").into(),
            reference,
        }
    }

    fn in_role(&mut self, party: &Did, role: &str) -> Reference {
        let id = format!("role-{}", self.roles.len() + 1);
        let is_organisation = self.organisations.contains(party);
        let contained = Reference::contained(&id);
        self.roles.push(PractitionerRole {
            resource_type: "PractitionerRole".to_owned(),
            id,
            organization: is_organisation.then(|| reference(party)),
            practitioner: (!is_organisation).then(|| reference(party)),
            code: vec![Coding::new(ROLE, role).into()],
        });
        contained
    }
}

fn reference(did: &Did) -> Reference {
    Reference::to(Identifier::new(URI, did.to_string()))
}

fn made_by(device: &Did) -> Data {
    Data {
        meaning: "authoredby".to_owned(),
        reference: reference(device),
    }
}

fn period(period: &Period) -> Option<FhirPeriod> {
    (*period != Period::default()).then(|| FhirPeriod {
        start: period.from.map(clock::rfc3339),
        end: period.until.map(clock::rfc3339),
    })
}

impl fmt::Display for ConsentExported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, &self.resource) {
            (Some(file), _) => write!(
                f,
                "consent {} is in `{}`; leaf {} shows it",
                self.consent,
                file.display(),
                self.leaf_index
            ),
            (None, Some(resource)) => write!(f, "{resource:#}"),
            (None, None) => Ok(()),
        }
    }
}
