use super::{
    ConsentGiven, ConsentWithdrawn, entry,
    fhir::{
        ACT_REASON, Actor as FhirActor, CLASS, CONFIDENTIALITY, CONSENT, CUSTODY, Coding, Consent,
        Data, PARTICIPATION, Period as FhirPeriod, PractitionerRole, Provision as FhirProvision,
        ROLE, Reference, SCOPE,
    },
    give, random_id, withdraw_consent,
};
use crate::{CliError, Session, clock, files};
use anyhow::{Context, Result};
use medanchor_anchor::{Actor, Consented, Effect, Nonce, Period, Provision};
use medanchor_dag::{CustodyId, Did, Hash, sha256};
use medanchor_policy::purpose;
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// What is taken from a FHIR resource.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The resource.
    pub file: PathBuf,
    /// The custody key of its patient; absent, as it says itself.
    pub custody: Option<CustodyId>,
    /// Who is meant by its references: `Organization/x` is this did:key.
    pub who: Vec<(String, Did)>,
    /// Whether a base rule `deny` without any condition denies what policies permit without consent, too.
    pub dissent: bool,
}

/// What became of a FHIR resource.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum ConsentImported {
    /// The consent is given, or given again.
    Given(ConsentGiven),
    /// The resource is not active any more: the consent is withdrawn.
    Withdrawn(ConsentWithdrawn),
}

/// Gives the consent that a FHIR R4 `Consent` says, or withdraws it where that is not active any more. The same resource,
/// by its id, replaces what was imported of it before.
///
/// # Errors
///
/// When the resource says anything that cannot be kept here as it is meant, the log refuses it or no node takes it.
pub async fn import_consent(session: &Session, options: &ImportOptions) -> Result<ConsentImported> {
    let file = &options.file;
    let bytes = files::read(file, MAX_BYTES)?;
    let resource: Consent = serde_json::from_slice(&bytes)
        .map_err(|error| CliError::Usage(error.to_string()))
        .with_context(|| format!("read the FHIR Consent in `{}`", file.display()))?;
    let reading = Reading {
        who: &options.who,
        contained: &resource.contained,
        dissent: options.dissent,
    };
    let context = || format!("take the consent from `{}`", file.display());
    check(&resource).with_context(context)?;
    let custody = custody(&resource, options.custody).with_context(context)?;
    let consent = match consent_id(&resource, &custody).with_context(context)? {
        Some(id) => id,
        None => random_id()?,
    };
    match resource.status.as_str() {
        "active" => {
            let (effect, provision, except) =
                reading.meaning(&resource.provision).with_context(context)?;
            let consented = Consented {
                consent,
                custody,
                effect,
                provision,
                except,
                document: Some(Hash::new(sha256(&bytes))),
            };
            give(session, consented).await.map(ConsentImported::Given)
        }
        "inactive" | "entered-in-error" => {
            let given = entry(session, custody, consent).await?;
            if given.is_none_or(|given| given.withdrawn) {
                let problem = "the resource is not active any more, and no consent that was imported of it is in force";
                return Err(CliError::Usage(problem.to_owned())).with_context(context);
            }
            let withdrawn = withdraw_consent(session, custody, consent.into_array()).await?;
            Ok(ConsentImported::Withdrawn(withdrawn))
        }
        status => refuse(format!(
            "its status is `{status}`: `active` is given, `inactive` and `entered-in-error` withdrawn"
        ))
        .with_context(context),
    }
}

/// What IHE PCF asks of every consent.
pub(super) fn check(resource: &Consent) -> Result<(), CliError> {
    if resource.resource_type != "Consent" {
        return refuse(format!("it is a `{}`", resource.resource_type));
    }
    let scope = Coding::new(SCOPE, "patient-privacy");
    let is_scope = |coding: &Coding| coding.is_of(SCOPE) && coding.code == scope.code;
    if !resource.scope.coding.iter().any(is_scope) {
        return refuse("its scope is not `patient-privacy`");
    }
    for (name, is_missing) in [
        ("category", resource.category.is_empty()),
        ("performer", resource.performer.is_empty()),
        ("organization", resource.organization.is_empty()),
        ("policy", resource.policy.is_empty()),
        (
            "source",
            resource.source_reference.is_none() && resource.source_attachment.is_none(),
        ),
    ] {
        if is_missing {
            return refuse(format!("`{name}` is missing"));
        }
    }
    match clock::span(&resource.date_time) {
        Some(_) => Ok(()),
        None => refuse("`dateTime` is no time"),
    }
}

pub(super) fn custody(resource: &Consent, given: Option<CustodyId>) -> Result<CustodyId, CliError> {
    let own = resource.patient.value_of(CUSTODY).map(str::parse);
    let own: Option<CustodyId> = own
        .transpose()
        .map_err(|_| refusal("its patient's custody key is no custody id"))?;
    match (own, given) {
        (Some(own), Some(given)) if own != given => refuse(format!(
            "it is a consent for custody key {own}, not for {given}"
        )),
        (Some(custody), _) | (None, Some(custody)) => Ok(custody),
        (None, None) => refuse(
            "nothing here says whose consent it is: name the patient's custody key with `--custody`",
        ),
    }
}

/// The consent's own id here, or one that follows from the resource's.
pub(super) fn consent_id(
    resource: &Consent,
    custody: &CustodyId,
) -> Result<Option<Nonce>, CliError> {
    let own = resource
        .identifier
        .iter()
        .find(|identifier| identifier.system.as_deref() == Some(CONSENT));
    if let Some(identifier) = own {
        let mut id = [0; 16];
        hex::decode_to_slice(&identifier.value, &mut id)
            .map_err(|_| refusal("its identifier is no consent id"))?;
        return Ok(Some(Nonce::new(id)));
    }
    Ok(resource.id.as_ref().map(|id| {
        let named = [ID_DOMAIN, custody.as_bytes(), id.as_bytes()].concat();
        let hash = sha256(&named);
        let mut nonce = Nonce::new([0; 16]);
        nonce.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        nonce
    }))
}

/// How a resource's references and rules are understood.
pub(super) struct Reading<'a> {
    pub(super) who: &'a [(String, Did)],
    pub(super) contained: &'a [PractitionerRole],
    pub(super) dissent: bool,
}

impl Reading<'_> {
    /// The base rule and its exceptions.
    pub(super) fn meaning(
        &self,
        base: &FhirProvision,
    ) -> Result<(Effect, Provision, Vec<Provision>), CliError> {
        let provision = self.provision(base)?;
        let has_exceptions = !base.provision.is_empty();
        let is_default = provision == Provision::default() && has_exceptions;
        let effect = match base.kind.as_str() {
            "permit" => Effect::Permit,
            "deny" if is_default && !self.dissent => Effect::Silent,
            "deny" => Effect::Deny,
            kind => return refuse(format!("`provision.type` is `{kind}`")),
        };
        if effect == Effect::Permit {
            check_permits(&provision)?;
        }
        let except = base.provision.iter();
        let except = except.map(|exception| self.exception(effect, &provision, exception));
        let except = except.collect::<Result<Vec<_>, _>>()?;
        if except.len() > Consented::MAX_EXCEPTIONS {
            return refuse("it has more than 16 exceptions");
        }
        Ok((effect, provision, except))
    }

    fn exception(
        &self,
        effect: Effect,
        base: &Provision,
        exception: &FhirProvision,
    ) -> Result<Provision, CliError> {
        let opposite = effect.of_exceptions();
        if exception.kind != opposite.to_string() {
            return refuse(format!(
                "an exception says `{}`: only `{opposite}` is an exception to its base rule",
                exception.kind
            ));
        }
        if !exception.provision.is_empty() {
            return refuse("an exception has exceptions: IHE PCF has one level");
        }
        let mut provision = self.provision(exception)?;
        if opposite == Effect::Permit {
            // It holds only where the base rule does: what that says of these, it says.
            if provision.actors.is_empty() {
                provision.actors.clone_from(&base.actors);
            }
            if provision.purposes.is_empty() {
                provision.purposes.clone_from(&base.purposes);
            }
            check_permits(&provision)?;
        }
        Ok(provision)
    }

    fn provision(&self, said: &FhirProvision) -> Result<Provision, CliError> {
        let actors = said.actor.iter().map(|actor| self.actor(actor));
        let devices = said.data.iter().map(|data| self.device(data));
        Ok(Provision {
            actors: actors.collect::<Result<_, _>>()?,
            purposes: said
                .purpose
                .iter()
                .map(purpose_of)
                .collect::<Result<_, _>>()?,
            classes: classes(said)?,
            devices: devices.collect::<Result<_, _>>()?,
            captured: period(said.data_period.as_ref())?,
            valid: period(said.period.as_ref())?,
        })
    }

    fn actor(&self, actor: &FhirActor) -> Result<Actor, CliError> {
        let is_recipient = |coding: &Coding| coding.is_of(PARTICIPATION) && coding.code == "IRCP";
        if !actor.role.coding.iter().any(is_recipient) {
            return refuse("an actor is no information recipient (`IRCP`)");
        }
        let reference = &actor.reference;
        if let Some(role) = reference.value_of(ROLE) {
            return Ok(Actor {
                party: None,
                role: Some(role.to_owned()),
            });
        }
        let contained = reference
            .reference
            .as_deref()
            .and_then(|name| name.strip_prefix('#'));
        match contained {
            Some(id) => self.contained(id),
            None => self.who(reference).map(Actor::party),
        }
    }

    /// Somebody in a role.
    fn contained(&self, id: &str) -> Result<Actor, CliError> {
        let mut found = self.contained.iter().filter(|contained| contained.id == id);
        let (Some(contained), None) = (found.next(), found.next()) else {
            return refuse(format!("`#{id}` is not contained once"));
        };
        let role = match contained.code.as_slice() {
            [concept] => concept.coding.iter().find(|coding| coding.is_of(ROLE)),
            _ => None,
        };
        let ((Some(party), None) | (None, Some(party))) =
            (&contained.organization, &contained.practitioner)
        else {
            return refuse(format!("`#{id}` is not one organisation or practitioner"));
        };
        match role {
            Some(role) if contained.resource_type == "PractitionerRole" => Ok(Actor {
                party: Some(self.who(party)?),
                role: Some(role.code.clone()),
            }),
            _ => refuse(format!("`#{id}` is not in one role of `{ROLE}`")),
        }
    }

    fn device(&self, data: &Data) -> Result<Did, CliError> {
        match data.meaning.as_str() {
            "authoredby" => self.who(&data.reference),
            meaning => refuse(format!(
                "`data.meaning` is `{meaning}`: only data `authoredby` a device can be told apart"
            )),
        }
    }

    /// Whom a reference means: a did:key, or as it was said beside the resource.
    fn who(&self, reference: &Reference) -> Result<Did, CliError> {
        let value = reference
            .identifier
            .as_ref()
            .map(|identifier| &identifier.value);
        let names = [reference.reference.as_ref(), value];
        let mut names = names.into_iter().flatten();
        let said = |name: &String| {
            let said = self.who.iter().find(|(known, _)| known == name);
            said.map(|(_, did)| *did).or_else(|| name.parse().ok())
        };
        names.clone().find_map(said).ok_or_else(|| {
            let name = names.next().map_or("nobody", String::as_str);
            refusal(format!(
                "it speaks of `{name}`, whose did:key is not known: say it with `--who {name}=DID`"
            ))
        })
    }
}

/// Nobody permits everybody everything by leaving something out.
fn check_permits(provision: &Provision) -> Result<(), CliError> {
    if provision.actors.is_empty() {
        return refuse("it permits something to everybody: name who may, with `actor`");
    }
    if provision.purposes.is_empty() {
        return refuse("it permits something for every purpose: name them, with `purpose`");
    }
    Ok(())
}

fn purpose_of(coding: &Coding) -> Result<String, CliError> {
    match coding.is_of(ACT_REASON) && purpose::chain(&coding.code).is_some() {
        true => Ok(coding.code.clone()),
        false => refuse(format!("`{}` is not an HL7 purpose of use", coding.code)),
    }
}

/// Records have a class and no other label: all of them count as of normal confidentiality.
fn classes(said: &FhirProvision) -> Result<Vec<medanchor_dag::Class>, CliError> {
    let (classes, others): (Vec<&Coding>, Vec<&Coding>) = said
        .security_label
        .iter()
        .partition(|label| label.is_of(CLASS));
    let is_normal = |label: &&Coding| label.is_of(CONFIDENTIALITY) && label.code == "N";
    if let Some(other) = others.first()
        && !others.iter().any(is_normal)
    {
        return refuse(format!(
            "it speaks of data labelled `{}`: records here have classes (`{CLASS}`) and count as `N`",
            other.code
        ));
    }
    if said.kind == "deny" && !classes.is_empty() && !others.is_empty() {
        return refuse("it denies data by class and by another label: say one of them");
    }
    let parse = |label: &Coding| {
        let class = label.code.parse();
        class.map_err(|_| refusal(format!("`{}` is no data class", label.code)))
    };
    classes.into_iter().map(parse).collect()
}

fn period(period: Option<&FhirPeriod>) -> Result<Period, CliError> {
    let Some(FhirPeriod { start, end }) = period else {
        return Ok(Period::default());
    };
    let span = |text: &String| {
        clock::span(text).ok_or_else(|| refusal(format!("`{text}` is no time after 1970")))
    };
    let from = start.as_ref().map(span).transpose()?;
    let until = end.as_ref().map(span).transpose()?;
    let period = Period {
        from: from.map(|(first, _)| first),
        until: until.map(|(_, last)| last),
    };
    match (period.from, period.until) {
        (Some(from), Some(until)) if until < from => refuse("a period ends before it begins"),
        _ => Ok(period),
    }
}

/// Reads `REFERENCE=DID`.
pub(crate) fn who(text: &str) -> Result<(String, Did), String> {
    let problem =
        || "write a reference of the resource and whom it means: `Organization/x=did:key:...`";
    let (name, did) = text.split_once('=').ok_or_else(problem)?;
    let did = did.parse().map_err(|_| problem())?;
    match name {
        "" => Err(problem().to_owned()),
        name => Ok((name.to_owned(), did)),
    }
}

fn refusal(problem: impl Into<String>) -> CliError {
    CliError::Usage(problem.into())
}

fn refuse<T>(problem: impl Into<String>) -> Result<T, CliError> {
    Err(refusal(problem))
}

impl fmt::Display for ConsentImported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(given) => given.fmt(f),
            Self::Withdrawn(withdrawn) => withdrawn.fmt(f),
        }
    }
}

const ID_DOMAIN: &[u8] = b"medanchor/v1/fhir-consent\0";
const MAX_BYTES: u64 = 1024 * 1024;
