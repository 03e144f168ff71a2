//! HL7 FHIR R4 `Consent` (<https://hl7.org/fhir/R4/consent.html>), as far as IHE Privacy Consent on FHIR uses it
//! (<https://profiles.ihe.net/ITI/PCF>). An element that is not here is refused, for it might change the meaning.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The profile that is written.
pub(super) const PROFILE: &str =
    "https://profiles.ihe.net/ITI/PCF/StructureDefinition/IHE.PCF.consentAdvanced";
/// Of the code that says what a consent is about.
pub(super) const SCOPE: &str = "http://terminology.hl7.org/CodeSystem/consentscope";
/// Of the code that says what kind of document a consent is.
pub(super) const LOINC: &str = "http://loinc.org";
/// Of the part that an actor plays.
pub(super) const PARTICIPATION: &str = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType";
/// Of purposes of use.
pub(super) const ACT_REASON: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";
/// Of labels that say how confidential data is.
pub(super) const CONFIDENTIALITY: &str = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality";
/// Of identifiers that are URIs, such as did:key.
pub(super) const URI: &str = "urn:ietf:rfc:3986";
/// Of what a base rule `deny` without conditions means: [`DISSENT`] or [`DEFAULT`].
pub(super) const BASE_RULE: &str = "urn:medanchor:base-rule";
/// It denies whatever its exceptions do not permit.
pub(super) const DISSENT: &str = "dissent";
/// It says what holds anyhow: nothing is permitted that neither a consent nor a policy permits.
pub(super) const DEFAULT: &str = "default";
/// Of data classes.
pub(super) const CLASS: &str = "urn:medanchor:data-class";
/// Of roles.
pub(super) const ROLE: &str = "urn:medanchor:role";
/// Of custody keys, which stand for patients.
pub(super) const CUSTODY: &str = "urn:medanchor:custody";
/// Of consents.
pub(super) const CONSENT: &str = "urn:medanchor:consent";
/// Of entries in a log: its origin, `#`, and the leaf index.
pub(super) const LEAF: &str = "urn:medanchor:leaf";
/// Of a document by its SHA-256, in hexadecimal digits.
pub(super) const DOCUMENT: &str = "urn:medanchor:document-sha256";

/// The resource.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Consent {
    pub(super) resource_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) meta: Option<Meta>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) contained: Vec<PractitionerRole>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) identifier: Vec<Identifier>,
    pub(super) status: String,
    pub(super) scope: CodeableConcept,
    pub(super) category: Vec<CodeableConcept>,
    pub(super) patient: Reference,
    pub(super) date_time: String,
    pub(super) performer: Vec<Reference>,
    pub(super) organization: Vec<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source_reference: Option<Reference>,
    /// A form; the resource's own hash, which is kept, covers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source_attachment: Option<Value>,
    pub(super) policy: Vec<Policy>,
    pub(super) provision: Provision,
    /// What the elements say, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) language: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Meta {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) profile: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) security: Vec<Coding>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tag: Vec<Coding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_updated: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
}

/// Of a resource that ends a consent no more is read: a server may leave the rest out.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended {
    pub(super) resource_type: String,
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) identifier: Vec<Identifier>,
    pub(super) status: String,
    pub(super) patient: Reference,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CodeableConcept {
    pub(super) coding: Vec<Coding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Coding {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) system: Option<String>,
    pub(super) code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    display: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_selected: Option<bool>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Identifier {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) system: Option<String>,
    pub(super) value: String,
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    used_as: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reference {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identifier: Option<Identifier>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    display: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
    pub(super) uri: String,
}

/// Somebody in a role, which `actor.reference` has no other place for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PractitionerRole {
    pub(super) resource_type: String,
    pub(super) id: String,
    /// An organisation, or one of its people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) organization: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) practitioner: Option<Reference>,
    pub(super) code: Vec<CodeableConcept>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Provision {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) period: Option<Period>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) actor: Vec<Actor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) security_label: Vec<Coding>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) purpose: Vec<Coding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data_period: Option<Period>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) data: Vec<Data>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) provision: Vec<Self>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Period {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Actor {
    pub(super) role: CodeableConcept,
    pub(super) reference: Reference,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    pub(super) meaning: String,
    pub(super) reference: Reference,
}

impl Policy {
    pub(super) fn new(uri: String) -> Self {
        Self {
            authority: None,
            uri,
        }
    }
}

impl Coding {
    pub(super) fn new(system: &str, code: impl Into<String>) -> Self {
        Self {
            system: Some(system.to_owned()),
            code: code.into(),
            ..Self::default()
        }
    }

    pub(super) fn is_of(&self, system: &str) -> bool {
        self.system.as_deref() == Some(system)
    }
}

impl Provision {
    /// Whether it says of no condition but when it is valid.
    pub(super) fn is_for_all(&self) -> bool {
        let lists = [
            self.actor.len(),
            self.security_label.len(),
            self.purpose.len(),
            self.data.len(),
        ];
        lists.iter().all(|length| *length == 0) && self.data_period.is_none()
    }
}

impl From<Coding> for CodeableConcept {
    fn from(coding: Coding) -> Self {
        Self {
            coding: vec![coding],
            text: None,
        }
    }
}

impl Identifier {
    pub(super) fn new(system: &str, value: impl Into<String>) -> Self {
        Self {
            system: Some(system.to_owned()),
            value: value.into(),
            used_as: None,
        }
    }
}

impl Reference {
    pub(super) fn to(identifier: Identifier) -> Self {
        Self {
            identifier: Some(identifier),
            ..Self::default()
        }
    }

    pub(super) fn contained(id: &str) -> Self {
        Self {
            reference: Some(format!("#{id}")),
            ..Self::default()
        }
    }

    /// Whether nothing but an identifier says who is meant.
    pub(super) fn is_identifier(&self) -> bool {
        self.reference.is_none()
    }

    /// The value of its identifier, if that is of `system`.
    pub(super) fn value_of(&self, system: &str) -> Option<&str> {
        let identifier = self.identifier.as_ref()?;
        (identifier.system.as_deref() == Some(system)).then_some(identifier.value.as_str())
    }
}
