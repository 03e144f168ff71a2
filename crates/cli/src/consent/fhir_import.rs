use super::{
    ConsentGiven, ConsentWithdrawn, entry,
    fhir::{
        ACT_REASON, Actor as FhirActor, BASE_RULE, CLASS, CONFIDENTIALITY, CONSENT, CUSTODY,
        Coding, Consent, DEFAULT, DISSENT, Data, Ended, PARTICIPATION, Period as FhirPeriod,
        PractitionerRole, Provision as FhirProvision, ROLE, Reference, SCOPE, URI,
    },
    give,
    provision::{check_permits, inherit},
    withdraw_consent,
};
use crate::{CliError, Session, clock, files};
use anyhow::{Context, Result};
use medanchor_anchor::{Actor, Consented, Effect, Nonce, Period, Provision};
use medanchor_dag::{CustodyId, Did, Hash, sha256};
use medanchor_policy::purpose;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, path::PathBuf};

/// What is taken from a FHIR resource.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The resource.
    pub file: PathBuf,
    /// The custody key of its patient; absent, as it says itself.
    pub custody: Option<CustodyId>,
    /// Whom its references and identifiers mean: `Organization/x`, or `system|value`, is this did:key.
    pub who: Vec<(String, Did)>,
    /// What a base rule `deny` without conditions means; absent, as the resource says itself.
    pub base_rule: Option<BaseRule>,
    /// The server whose ids the resource has.
    pub server: String,
}

/// What a base rule `deny` without conditions means, where it has exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseRule {
    /// Whatever its exceptions do not permit is denied, also what policies permit without consent.
    Dissent,
    /// What holds anyhow: nothing is permitted that neither a consent nor a policy permits.
    Default,
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
    take(session, options, &bytes)
        .await
        .with_context(|| format!("take the consent from `{}`", file.display()))
}

async fn take(session: &Session, options: &ImportOptions, bytes: &[u8]) -> Result<ConsentImported> {
    let ended: Ended = parse(bytes)?;
    if ended.resource_type != "Consent" {
        refuse(format!("it is a `{}`", ended.resource_type))?;
    }
    let custody = custody(&ended.patient, options.custody)?;
    let consent = consent_id(&ended, &options.server, &custody)?;
    match ended.status.as_str() {
        "active" => {
            let resource: Consent = parse(bytes)?;
            check(&resource)?;
            let reading = Reading {
                who: &options.who,
                contained: &resource.contained,
                base_rule: base_rule(&resource, options.base_rule)?,
            };
            let (effect, provision, except) = reading.meaning(&resource.provision)?;
            let consented = Consented {
                consent,
                custody,
                effect,
                provision,
                except,
                document: Some(Hash::new(sha256(bytes))),
            };
            give(session, consented).await.map(ConsentImported::Given)
        }
        "inactive" | "rejected" | "entered-in-error" => {
            let given = entry(session, custody, consent).await?;
            if given.is_none_or(|given| given.withdrawn) {
                refuse(
                    "the resource is not active, and no consent that was imported of it is in force",
                )?;
            }
            let withdrawn = withdraw_consent(session, custody, consent.into_array()).await?;
            Ok(ConsentImported::Withdrawn(withdrawn))
        }
        status => Ok(refuse(format!(
            "its status is `{status}`: `active` is given; `inactive`, `rejected` and `entered-in-error` withdraw"
        ))?),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CliError> {
    serde_json::from_slice(bytes).map_err(|error| refusal(format!("no FHIR Consent: {error}")))
}

/// What IHE PCF asks of every consent.
pub(super) fn check(resource: &Consent) -> Result<(), CliError> {
    let meta = resource.meta.as_ref();
    let marks = meta
        .iter()
        .flat_map(|meta| meta.tag.iter().chain(&meta.security));
    if let Some(mark) = marks
        .into_iter()
        .find(|mark| ["SUBSETTED", "HTEST"].contains(&mark.code.as_str()))
    {
        return refuse(format!(
            "it is marked `{}`: it is not whole, or not meant",
            mark.code
        ));
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

/// The patient's custody key.
pub(super) fn custody(
    patient: &Reference,
    given: Option<CustodyId>,
) -> Result<CustodyId, CliError> {
    let own = patient.value_of(CUSTODY).map(str::parse);
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

/// The consent's own id here, or one that follows from the resource's on its server.
pub(super) fn consent_id(
    resource: &Ended,
    server: &str,
    custody: &CustodyId,
) -> Result<Nonce, CliError> {
    let mut own = resource
        .identifier
        .iter()
        .filter(|identifier| identifier.system.as_deref() == Some(CONSENT));
    match (own.next(), own.next(), &resource.id) {
        (Some(identifier), None, _) => {
            let mut id = [0; 16];
            hex::decode_to_slice(&identifier.value, &mut id)
                .map_err(|_| refusal("its identifier is no consent id"))?;
            Ok(Nonce::new(id))
        }
        (Some(_), Some(_), _) => refuse("it has two consent ids"),
        (None, _, Some(id)) => {
            let parts = [
                ID_DOMAIN,
                custody.as_bytes(),
                server.as_bytes(),
                b"\0",
                id.as_bytes(),
            ];
            let hash = sha256(&parts.concat());
            let mut nonce = Nonce::new([0; 16]);
            nonce.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
            Ok(nonce)
        }
        (None, _, None) => refuse(
            "it has no `id`, so that its next version could not replace it, nor its end withdraw it: give it one",
        ),
    }
}

/// As it was said beside the resource, or as the resource says itself.
pub(super) fn base_rule(
    resource: &Consent,
    said: Option<BaseRule>,
) -> Result<Option<BaseRule>, CliError> {
    let codes = resource.category.iter().flat_map(|concept| &concept.coding);
    let own = codes.filter(|coding| coding.is_of(BASE_RULE));
    let own = own.map(|coding| match coding.code.as_str() {
        DISSENT => Ok(BaseRule::Dissent),
        DEFAULT => Ok(BaseRule::Default),
        code => refuse(format!("`{code}` says nothing of a base rule")),
    });
    let own = own.collect::<Result<Vec<_>, _>>()?;
    match (own.as_slice(), said) {
        ([], said) => Ok(said),
        ([own], None) => Ok(Some(*own)),
        ([own], Some(said)) if *own == said => Ok(Some(said)),
        _ => refuse("what its base rule means is said twice, and not the same"),
    }
}

/// How a resource's references and rules are understood.
pub(super) struct Reading<'a> {
    pub(super) who: &'a [(String, Did)],
    pub(super) contained: &'a [PractitionerRole],
    pub(super) base_rule: Option<BaseRule>,
}

impl Reading<'_> {
    /// The base rule and its exceptions.
    pub(super) fn meaning(
        &self,
        base: &FhirProvision,
    ) -> Result<(Effect, Provision, Vec<Provision>), CliError> {
        let mut provision = self.provision(base)?;
        let effect = self.effect(base)?;
        if effect == Effect::Permit {
            check_permits(&provision)?;
        }
        let mut except = base
            .provision
            .iter()
            .map(|exception| self.exception(effect, &provision, exception))
            .collect::<Result<Vec<_>, _>>()?;
        if except.len() > Consented::MAX_EXCEPTIONS {
            return refuse("it has more than 16 exceptions");
        }
        if effect == Effect::Silent {
            // What is silent has no end; what its exceptions permit ends with it.
            for exception in &mut except {
                exception.valid = both(exception.valid, provision.valid)?;
            }
            provision.valid = Period::default();
        }
        Ok((effect, provision, except))
    }

    fn effect(&self, base: &FhirProvision) -> Result<Effect, CliError> {
        let has_exceptions = !base.provision.is_empty();
        match base.kind.as_str() {
            "permit" => Ok(Effect::Permit),
            "deny" if base.is_for_all() && has_exceptions => match self.base_rule {
                Some(BaseRule::Dissent) => Ok(Effect::Deny),
                Some(BaseRule::Default) => Ok(Effect::Silent),
                None => refuse(
                    "its base rule is `deny` without conditions: say whether it denies all that its exceptions do not permit, \
                     treatment included (`--dissent`), or says what holds anyhow (`--default`)",
                ),
            },
            "deny" => Ok(Effect::Deny),
            kind => refuse(format!("`provision.type` is `{kind}`")),
        }
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
            inherit(&mut provision, base);
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
        if let Some(role) = reference
            .value_of(ROLE)
            .filter(|_| reference.is_identifier())
        {
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
        let codes = contained.code.iter().flat_map(|concept| &concept.coding);
        let roles: Vec<_> = codes.filter(|coding| coding.is_of(ROLE)).collect();
        let [role] = roles.as_slice() else {
            return refuse(format!("`#{id}` is not in one role of `{ROLE}`"));
        };
        let ((Some(party), None) | (None, Some(party))) =
            (&contained.organization, &contained.practitioner)
        else {
            return refuse(format!("`#{id}` is not one organisation or practitioner"));
        };
        match contained.resource_type.as_str() {
            "PractitionerRole" => Ok(Actor {
                party: Some(self.who(party)?),
                role: Some(role.code.clone()),
            }),
            kind => refuse(format!("`#{id}` is a `{kind}`")),
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

    /// Whom a reference and an identifier mean, the same if it has both: a did:key, or as it was said beside the resource.
    fn who(&self, reference: &Reference) -> Result<Did, CliError> {
        let named = reference.reference.iter().cloned();
        let identified = reference
            .identifier
            .iter()
            .map(|identifier| match &identifier.system {
                Some(system) if system != URI => format!("{system}|{}", identifier.value),
                _ => identifier.value.clone(),
            });
        let dids = named.chain(identified).map(|name| self.named(&name));
        let dids = dids.collect::<Result<Vec<_>, _>>()?;
        match dids.as_slice() {
            [did] => Ok(*did),
            [did, same] if did == same => Ok(*did),
            [] => refuse("it speaks of nobody"),
            _ => refuse("a reference and its identifier mean different people"),
        }
    }

    fn named(&self, name: &str) -> Result<Did, CliError> {
        let mut said = self.who.iter().filter(|(known, _)| known == name);
        match (said.next(), said.next()) {
            (Some((_, did)), None) => Ok(*did),
            (Some(_), Some(_)) => refuse(format!("`{name}` is said to be two")),
            (None, _) => name.parse().map_err(|_| {
                refusal(format!(
                    "it speaks of `{name}`, whose did:key is not known: say it with `--who '{name}=DID'`"
                ))
            }),
        }
    }
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

/// What lies in both.
fn both(one: Period, other: Period) -> Result<Period, CliError> {
    let until = [one.until, other.until].into_iter().flatten().min();
    let period = Period {
        from: one.from.max(other.from),
        until,
    };
    match (period.from, until) {
        (Some(from), Some(until)) if until < from => {
            refuse("an exception is never valid while its base rule is")
        }
        _ => Ok(period),
    }
}

/// Reads `REFERENCE=DID`.
pub(crate) fn who(text: &str) -> Result<(String, Did), String> {
    let problem =
        || "write a reference of the resource and whom it means: `Organization/x=did:key:...`";
    let (name, did) = text.rsplit_once('=').ok_or_else(problem)?;
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
