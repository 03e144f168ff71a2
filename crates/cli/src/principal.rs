use crate::{CliError, DeviceOptions, DeviceRow, Recorded, Session};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, Enrolled, PrincipalKind, RolesChanged, Standing};
use medanchor_api::{principal_kind_name, standing_name};
use medanchor_dag::Did;
use serde::Serialize;
use std::fmt;

/// Who is to be enrolled.
#[derive(Clone, Debug)]
pub struct EnrolOptions {
    /// Its first key, and its name: the `did` that its `medanchor key show` prints.
    pub who: Did,
    /// What it is.
    pub kind: PrincipalKind,
    /// Roles it may act in.
    pub roles: Vec<String>,
    /// A short label for lists; never a patient's name.
    pub label: Option<String>,
    /// What a device is.
    pub device: DeviceOptions,
}

/// A statement about a principal is in the log.
#[derive(Clone, Debug, Serialize)]
pub struct Changed {
    /// The principal.
    pub did: String,
    /// What became of it: `enrolled`, `suspended`, `reinstated`, `revoked` or `roles`.
    pub change: &'static str,
    /// The salt of a device's serial number, hexadecimal: without it nobody can show the number later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_salt: Option<String>,
    /// Where the log has it.
    #[serde(flatten)]
    pub recorded: Recorded,
}

/// Who is enrolled.
#[derive(Clone, Debug, Serialize)]
pub struct PrincipalList {
    /// They, ordered by key.
    pub principals: Vec<PrincipalRow>,
    /// Leaves in the log that they were read from.
    pub tree_size: u64,
}

/// One principal.
#[derive(Clone, Debug, Serialize)]
pub struct PrincipalRow {
    /// The did:key that it was enrolled with.
    pub did: String,
    /// The did:key that it signs with now.
    pub key: String,
    /// `organisation`, `person`, `device` or `service`.
    pub kind: &'static str,
    /// did:key of its organisation.
    pub org: String,
    /// `active`, `suspended` or `revoked`.
    pub standing: &'static str,
    /// Roles it may act in.
    pub roles: Vec<String>,
    /// Its label.
    pub label: String,
    /// What a device is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceRow>,
    /// Leaf that last changed it.
    pub leaf_index: u64,
}

/// Enrols a principal: an organisation for itself, all others under the user's own organisation.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn enrol(session: &Session, options: &EnrolOptions) -> Result<Changed> {
    let keys = session.home.own_keys()?;
    let org = match options.kind {
        PrincipalKind::Organisation => options.who,
        _ => keys.did(),
    };
    if options.kind != PrincipalKind::Device && options.device != DeviceOptions::default() {
        let problem = "--manufacturer, --model, --udi, --firmware and --serial are for devices";
        return Err(CliError::Usage(problem.to_owned()).into());
    }
    let (device, salt) = options.device.details()?;
    let roles = sorted(&options.roles);
    let body = Body::Enrolled(Box::new(Enrolled {
        who: options.who,
        kind: options.kind,
        org,
        roles,
        label: options.label.clone(),
        device,
    }));
    Ok(Changed {
        did: options.who.to_string(),
        change: "enrolled",
        serial_salt: salt.map(hex::encode),
        recorded: session.say(&keys, body).await?,
    })
}

/// Takes a principal's right to act until it is reinstated, as its organisation.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn suspend(session: &Session, who: Did) -> Result<Changed> {
    change(session, who, Body::Suspended(Standing { who }), "suspended").await
}

/// Gives a suspended principal its right to act back, as its organisation.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn reinstate(session: &Session, who: Did) -> Result<Changed> {
    let body = Body::Reinstated(Standing { who });
    change(session, who, body, "reinstated").await
}

/// Revokes a principal for good, as its organisation.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn revoke(session: &Session, who: Did) -> Result<Changed> {
    change(session, who, Body::Revoked(Standing { who }), "revoked").await
}

/// Gives a principal these roles and no others, as its organisation.
///
/// # Errors
///
/// When the log refuses it or no node takes it.
pub async fn change_roles(session: &Session, who: Did, roles: &[String]) -> Result<Changed> {
    let roles = sorted(roles);
    let body = Body::RolesChanged(RolesChanged { who, roles });
    change(session, who, body, "roles").await
}

fn sorted(roles: &[String]) -> Vec<String> {
    let mut roles = roles.to_vec();
    roles.sort();
    roles.dedup();
    roles
}

async fn change(session: &Session, who: Did, body: Body, change: &'static str) -> Result<Changed> {
    let keys = session.home.own_keys()?;
    Ok(Changed {
        did: who.to_string(),
        change,
        serial_salt: None,
        recorded: session.say(&keys, body).await?,
    })
}

/// Who of this kind is enrolled.
///
/// # Errors
///
/// When no node answers.
pub async fn list_principals(session: &Session, kind: PrincipalKind) -> Result<PrincipalList> {
    let mut principals = Vec::new();
    let mut after = None;
    loop {
        let page = session.client.principals(&[kind], after).await;
        let page = page.context("list principals")?;
        let tree_size = page.tree_size;
        let Some(last) = page.value.last() else {
            return Ok(PrincipalList {
                principals,
                tree_size,
            });
        };
        after = Some(last.did);
        principals.extend(page.value.into_iter().map(|entry| PrincipalRow {
            did: entry.did.to_string(),
            key: entry.key.to_string(),
            kind: principal_kind_name(entry.kind),
            org: entry.org.to_string(),
            standing: standing_name(entry.standing),
            roles: entry.roles,
            label: entry.label,
            device: entry.device.map(DeviceRow::from),
            leaf_index: entry.leaf_index,
        }));
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {}\n{}", self.change, self.did, self.recorded)?;
        match &self.serial_salt {
            Some(salt) => write!(f, "\nserial salt {salt}: keep it with the serial number"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for PrincipalList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.tree_size;
        write!(f, "{} enrolled, of {size} leaves", self.principals.len())?;
        for row in &self.principals {
            let (did, standing, roles) = (&row.did, row.standing, row.roles.join(","));
            write!(f, "\n{did}  {standing:<9}  {roles:<20}  {}", row.label)?;
            if row.key != row.did {
                write!(f, "\n  signs with {}", row.key)?;
            }
        }
        Ok(())
    }
}
