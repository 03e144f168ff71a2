use crate::{CliError, Session, files};
use anyhow::{Context, Result};
use medanchor_anchor::{Body, Class, PlacedNode, Placement, PlacementRule, Quota};
use medanchor_api::{ListedMember, Members};
use medanchor_dag::Did;
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path};

/// Where records are held, as a node says.
#[derive(Clone, Debug, Serialize)]
pub struct ShownPlacement {
    /// The rules.
    #[serde(flatten)]
    pub rules: RulesFile,
    /// Copies of the records that no rule is for, on any member's node.
    pub copies: u32,
    /// Bytes that organisations with a quota have anchored, in the order of the quotas.
    pub used_bytes: Vec<u64>,
}

/// Where records are held, as people write it: members by their short names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesFile {
    /// Nodes with a weight or a zone of their own.
    #[serde(default, rename = "node")]
    pub nodes: Vec<NodeRules>,
    /// How many copies there are of what, and who may have them.
    #[serde(default, rename = "rule")]
    pub rules: Vec<ClassRules>,
    /// The most that organisations may have anchored.
    #[serde(default, rename = "quota")]
    pub quotas: Vec<QuotaRules>,
}

/// How much an organisation may have anchored under its custody keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaRules {
    /// A member's short name, or the did:key of another organisation.
    pub org: String,
    /// Bytes of payloads, however many copies of them are held.
    pub bytes: u64,
}

/// How much of the data a node gets, and what it shares its fate with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRules {
    /// The member's short name.
    pub name: String,
    /// Its share relative to others, 0 to 16; 0: it is to hold nothing.
    #[serde(default = "one")]
    pub weight: u8,
    /// Nodes in one zone may fail together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// A rule for some classes of data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassRules {
    /// The classes; without any the rule is for all that no other is for.
    #[serde(default)]
    pub classes: Vec<Class>,
    /// Nodes that hold a record.
    pub copies: u8,
    /// Members whose nodes alone may hold it, by their short names; without any all may.
    #[serde(default)]
    pub only: Vec<String>,
    /// Only the node of the organisation that owns the custody key.
    #[serde(default)]
    pub at_home: bool,
}

/// Where records are held now.
///
/// # Errors
///
/// When no node answers.
pub async fn show_placement(session: &Session) -> Result<ShownPlacement> {
    let listed = session.client.members().await.context("list the members")?;
    Ok(ShownPlacement {
        copies: listed.copies,
        used_bytes: listed.usages.clone(),
        rules: RulesFile::new(&listed),
    })
}

/// What a majority of the members sign to have records held by other rules. `path` is a TOML file.
///
/// # Errors
///
/// When the file is not of this form, names no member, or no node answers.
pub async fn placement(session: &Session, path: &Path) -> Result<Body> {
    let text = files::read(path, MAX_FILE_BYTES)?;
    let wrong = |problem: String| CliError::Usage(format!("`{}`: {problem}", path.display()));
    let text = String::from_utf8(text).map_err(|error| wrong(error.to_string()))?;
    let file: RulesFile = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let listed = session.client.members().await.context("list the members")?;
    let placement = file.placement(&listed.members).map_err(wrong)?;
    Ok(Body::Placed(Box::new(placement)))
}

impl RulesFile {
    fn new(listed: &Members) -> Self {
        let member = |is_meant: &dyn Fn(&ListedMember) -> bool| {
            let mut members = listed.members.iter().rev();
            let found = members.find(|member| is_meant(member));
            found.map(|member| member.name.clone())
        };
        Self::of(
            &listed.placement,
            |node_id| member(&|one| one.node_id == node_id),
            |org| member(&|one| one.org == *org),
        )
    }

    /// As the statement says it, which names nodes by their ids and organisations by their keys.
    pub(crate) fn unnamed(placement: &Placement) -> Self {
        Self::of(placement, |_| None, |_| None)
    }

    fn of(
        placement: &Placement,
        node: impl Fn(u64) -> Option<String>,
        org: impl Fn(&Did) -> Option<String>,
    ) -> Self {
        let org = |did: &Did| org(did).unwrap_or_else(|| did.to_string());
        let nodes = placement.nodes.iter().map(|rules| NodeRules {
            name: node(rules.node_id).unwrap_or_else(|| rules.node_id.to_string()),
            weight: rules.weight,
            zone: rules.zone.clone(),
        });
        let rules = placement.rules.iter().map(|rule| ClassRules {
            classes: rule.classes.clone(),
            copies: rule.copies,
            only: rule.only.iter().map(org).collect(),
            at_home: rule.at_home,
        });
        let quotas = placement.quotas.iter().map(|quota| QuotaRules {
            org: org(&quota.org),
            bytes: quota.bytes,
        });
        Self {
            nodes: nodes.collect(),
            rules: rules.collect(),
            quotas: quotas.collect(),
        }
    }

    fn placement(self, members: &[ListedMember]) -> Result<Placement, String> {
        let named = |name: &String| {
            let is_meant =
                |member: &&ListedMember| member.name == *name && member.removed_at.is_none();
            let found = members.iter().find(is_meant);
            found.ok_or_else(|| format!("no member is named `{name}`"))
        };
        let nodes = self.nodes.into_iter().map(|node| {
            Ok(PlacedNode {
                node_id: named(&node.name)?.node_id,
                weight: node.weight,
                zone: node.zone,
            })
        });
        let rules = self.rules.into_iter().map(|mut rule| {
            let only = rule.only.iter().map(|name| Ok(named(name)?.org));
            let mut only = only.collect::<Result<Vec<_>, String>>()?;
            only.sort_unstable();
            rule.classes.sort_unstable();
            Ok(PlacementRule {
                classes: rule.classes,
                copies: rule.copies,
                only,
                at_home: rule.at_home,
            })
        });
        let quotas = self.quotas.into_iter().map(|quota| {
            Ok(Quota {
                org: match quota.org.parse() {
                    Ok(org) => org,
                    Err(_) => named(&quota.org)?.org,
                },
                bytes: quota.bytes,
            })
        });
        Ok(Placement {
            nodes: nodes.collect::<Result<_, String>>()?,
            rules: rules.collect::<Result<_, String>>()?,
            quotas: quotas.collect::<Result<_, String>>()?,
        })
    }
}

impl fmt::Display for RulesFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            write!(f, "node      {} weighs {}", node.name, node.weight)?;
            match &node.zone {
                Some(zone) => writeln!(f, ", zone {zone}")?,
                None => writeln!(f)?,
            }
        }
        for rule in &self.rules {
            writeln!(f, "rule      {rule}")?;
        }
        for quota in &self.quotas {
            writeln!(f, "quota     {}: {} bytes", quota.org, quota.bytes)?;
        }
        Ok(())
    }
}

impl fmt::Display for ClassRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes: Vec<&str> = self.classes.iter().map(|class| class.as_str()).collect();
        match classes.as_slice() {
            [] => write!(f, "all others")?,
            classes => write!(f, "{}", classes.join(", "))?,
        }
        write!(f, ": {} copies, ", self.copies)?;
        match (self.at_home, self.only.as_slice()) {
            (true, _) => write!(f, "by the owner's own node"),
            (false, []) => write!(f, "by any member"),
            (false, only) => write!(f, "by {}", only.join(", ")),
        }
    }
}

impl fmt::Display for ShownPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rules)?;
        for (quota, used) in self.rules.quotas.iter().zip(&self.used_bytes) {
            writeln!(f, "used      {}: {used} bytes", quota.org)?;
        }
        write!(f, "otherwise {} copies, by any member", self.copies)
    }
}

fn one() -> u8 {
    1
}

const MAX_FILE_BYTES: u64 = 64 << 10;
