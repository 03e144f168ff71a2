use crate::{CliError, Moment, clock, consent::check_purpose};
use medanchor_anchor::{Actor, Period, Provision};
use medanchor_dag::{Class, Did};
use serde::Serialize;
use std::{fmt, str::FromStr};

/// Uses of data, as options of a command say them: those that meet every condition. What is left out is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Organisations, people, devices or services that use it.
    pub parties: Vec<Did>,
    /// The roles that they act in; without `parties`, whoever acts in them.
    pub roles: Vec<String>,
    /// HL7 ActReason codes.
    pub purposes: Vec<String>,
    /// Data classes.
    pub classes: Vec<Class>,
    /// The devices that made the data.
    pub devices: Vec<Did>,
    /// Data that was captured then or later.
    pub captured_from: Option<Moment>,
    /// Data that was captured before.
    pub captured_before: Option<Moment>,
    /// Uses then or later.
    pub from: Option<Moment>,
    /// Uses before.
    pub before: Option<Moment>,
}

impl Uses {
    /// As the log has it.
    pub(super) fn provision(&self) -> Result<Provision, CliError> {
        self.purposes
            .iter()
            .try_for_each(|code| check_purpose(code))?;
        Ok(Provision {
            actors: self.actors(),
            purposes: self.purposes.clone(),
            classes: self.classes.clone(),
            devices: self.devices.clone(),
            captured: period(self.captured_from, self.captured_before)?,
            valid: period(self.from, self.before)?,
        })
    }

    fn actors(&self) -> Vec<Actor> {
        let parties: Vec<_> = or_any(&self.parties);
        let roles: Vec<_> = or_any(&self.roles);
        let actors = parties.into_iter().flat_map(|party| {
            let roles = roles.iter().cloned();
            roles.map(move |role| Actor { party, role })
        });
        actors
            .filter(|actor| actor.party.is_some() || actor.role.is_some())
            .collect()
    }
}

/// An exception holds where its base does: what it does not say of whom and what for, the base has said.
pub(super) fn inherit(exception: &mut Provision, base: &Provision) {
    if exception.actors.is_empty() {
        exception.actors.clone_from(&base.actors);
    }
    if exception.purposes.is_empty() {
        exception.purposes.clone_from(&base.purposes);
    }
}

/// Nobody permits everybody everything by leaving something out.
pub(super) fn check_permits(provision: &Provision) -> Result<(), CliError> {
    let missing = match (provision.actors.is_empty(), provision.purposes.is_empty()) {
        (true, _) => "something is permitted to everybody: say who may",
        (_, true) => "something is permitted for every purpose: say what for",
        _ => return Ok(()),
    };
    Err(CliError::Usage(missing.to_owned()))
}

fn or_any<T: Clone>(all: &[T]) -> Vec<Option<T>> {
    match all {
        [] => vec![None],
        all => all.iter().cloned().map(Some).collect(),
    }
}

fn period(from: Option<Moment>, before: Option<Moment>) -> Result<Period, CliError> {
    let from = from.map(Moment::unix_ms);
    let until = before.map(|before| before.unix_ms().checked_sub(1));
    let until = until.map(|until| until.filter(|until| from.is_none_or(|from| from <= *until)));
    match until {
        Some(None) => Err(CliError::Usage(
            "a period ends before it begins: give a later end".to_owned(),
        )),
        until => Ok(Period {
            from,
            until: until.flatten(),
        }),
    }
}

/// Why text is no exception.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no condition: write `class=imaging`, `party=DID`, `role=ROLE`, `purpose=CODE`, `device=DID`, or \
     `captured-from`, `captured-before`, `from` or `before` with a time, several with commas between them"
)]
pub struct UsesError(String);

impl FromStr for Uses {
    type Err = UsesError;

    fn from_str(text: &str) -> Result<Self, UsesError> {
        let mut uses = Self::default();
        for condition in text.split(',') {
            uses.add(condition)
                .ok_or_else(|| UsesError(condition.chars().take(80).collect()))?;
        }
        Ok(uses)
    }
}

impl Uses {
    fn add(&mut self, condition: &str) -> Option<()> {
        let (name, value) = condition.split_once('=')?;
        match name {
            "party" => self.parties.push(value.parse().ok()?),
            "role" => self.roles.push(value.to_owned()),
            "purpose" => self.purposes.push(value.to_owned()),
            "class" => self.classes.push(value.parse().ok()?),
            "device" => self.devices.push(value.parse().ok()?),
            "captured-from" => self.captured_from = Some(value.parse().ok()?),
            "captured-before" => self.captured_before = Some(value.parse().ok()?),
            "from" => self.from = Some(value.parse().ok()?),
            "before" => self.before = Some(value.parse().ok()?),
            _ => return None,
        }
        Some(())
    }
}

/// Uses of data, as the log says them. A list that is empty is no condition.
#[derive(Clone, Debug, Serialize)]
pub struct ProvisionRow {
    /// By whom: did:key, role, or `role@did:key`.
    pub actors: Vec<String>,
    /// HL7 ActReason codes.
    pub purposes: Vec<String>,
    /// Data classes.
    pub classes: Vec<String>,
    /// did:key of the devices that made the data.
    pub devices: Vec<String>,
    /// The first moment at which it was captured.
    pub captured_from: Option<String>,
    /// The last moment at which it was captured.
    pub captured_until: Option<String>,
    /// The first moment of its use.
    pub from: Option<String>,
    /// The last moment of its use.
    pub until: Option<String>,
}

impl From<&Provision> for ProvisionRow {
    fn from(provision: &Provision) -> Self {
        let Provision {
            actors,
            purposes,
            classes,
            devices,
            captured,
            valid,
        } = provision;
        Self {
            actors: actors.iter().map(actor).collect(),
            purposes: purposes.clone(),
            classes: classes.iter().map(Class::to_string).collect(),
            devices: devices.iter().map(Did::to_string).collect(),
            captured_from: captured.from.map(clock::rfc3339),
            captured_until: captured.until.map(clock::rfc3339),
            from: valid.from.map(clock::rfc3339),
            until: valid.until.map(clock::rfc3339),
        }
    }
}

fn actor(actor: &Actor) -> String {
    match (&actor.party, &actor.role) {
        (Some(party), Some(role)) => format!("{role}@{party}"),
        (Some(party), None) => party.to_string(),
        (None, role) => role.clone().unwrap_or_default(),
    }
}

impl fmt::Display for ProvisionRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("", &self.purposes),
            ("by ", &self.actors),
            ("of ", &self.classes),
            ("made by ", &self.devices),
        ];
        let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
        let lists = lists.map(|(name, list)| format!("{name}{}", list.join(",")));
        let times = [
            ("captured from ", &self.captured_from),
            ("captured until ", &self.captured_until),
            ("from ", &self.from),
            ("until ", &self.until),
        ];
        let times = times.into_iter().filter_map(|(name, time)| {
            let time = time.as_ref()?;
            Some(format!("{name}{time}"))
        });
        let said: Vec<_> = lists.chain(times).collect();
        match said.is_empty() {
            true => f.write_str("every use"),
            false => f.write_str(&said.join("  ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DID: &str = "did:key:z6MkfGNXPKZyaNqoSrWGFUxCBvxoa889Fqjj1HDvot5PxuDA";

    #[test]
    fn exception_is_read_as_it_is_written() {
        let text = format!(
            "class=imaging,class=log,party={DID},role=clinician,role=nurse,purpose=HRESCH,captured-before=2026-03-01,from=7"
        );
        let provision = text.parse::<Uses>().unwrap().provision().unwrap();
        let row = ProvisionRow::from(&provision);
        assert_eq!(row.classes, ["imaging", "log"]);
        assert_eq!(
            row.actors,
            [format!("clinician@{DID}"), format!("nurse@{DID}")]
        );
        assert_eq!(
            row.captured_until.as_deref(),
            Some("2026-02-28T23:59:59.999Z")
        );
        assert_eq!(provision.valid.from, Some(7));
        for text in [
            "",
            "class",
            "class=x",
            "kind=imaging",
            "party=x",
            "class=log,",
        ] {
            assert!(text.parse::<Uses>().is_err(), "{text}");
        }
    }

    #[test]
    fn period_that_ends_before_it_begins_is_refused() {
        for text in [
            "from=7,before=7",
            "captured-from=8,captured-before=7",
            "before=0",
        ] {
            let uses: Uses = text.parse().unwrap();
            assert!(uses.provision().is_err(), "{text}");
        }
        let one: Uses = "from=7,before=8".parse().unwrap();
        let valid = one.provision().unwrap().valid;
        assert_eq!((valid.from, valid.until), (Some(7), Some(7)));
    }
}
