use crate::{Anchored, Member};
use cid::Cid;
use medanchor_dag::{Class, Did, sha256};
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, collections::BTreeMap};

/// Where records are held from now on: signed by a majority of the members. It replaces the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Nodes with a weight or a zone of their own; at most 32.
    pub nodes: Vec<PlacedNode>,
    /// Rules for classes of data; each class is in one of them at most, and one rule may be for all that are in none.
    /// Where there is none, it is the founding's number of copies on any member. At most 16.
    pub rules: Vec<PlacementRule>,
    /// The most that organisations may have anchored, each once; others are not limited. At most 64.
    pub quotas: Vec<Quota>,
}

/// How much an organisation may have anchored under its custody keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// The organisation.
    pub org: Did,
    /// Bytes of payloads, however many copies of them are held.
    pub bytes: u64,
}

/// How much of the data a node gets, and what it shares its fate with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedNode {
    /// The member's node id.
    pub node_id: u64,
    /// Its share relative to others, at most [`PlacedNode::MAX_WEIGHT`]. 0: it is to hold nothing.
    pub weight: u8,
    /// Nodes in one zone may fail together: `[a-z0-9-]{1,32}`. Without one it is a zone of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl PlacedNode {
    /// The most that a node weighs.
    pub const MAX_WEIGHT: u8 = 16;
}

/// How many copies there are of some classes of data, and who may have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementRule {
    /// The classes it is for, sorted; empty: those that no other rule is for.
    pub classes: Vec<Class>,
    /// Nodes that hold a record, 1 to 32.
    pub copies: u8,
    /// Organisations whose nodes alone may hold it, sorted, at most 32; empty: all members.
    pub only: Vec<Did>,
    /// Only the node of the organisation that owns the record's custody key. There is one copy then.
    pub at_home: bool,
}

impl PlacementRule {
    /// Whether a member's node may have a record whose custody key is `owner`'s.
    fn is_open_to(&self, member: &Member, owner: Option<&Did>) -> bool {
        let is_listed = self.only.is_empty() || self.only.contains(&member.org);
        let is_home = !self.at_home || owner == Some(&member.org);
        is_listed && is_home
    }
}

impl Placement {
    /// Whether an organisation may have anchored so many bytes.
    pub(crate) fn lets_anchor(&self, org: &Did, bytes: u64) -> bool {
        let mut quotas = self.quotas.iter();
        let quota = quotas.find(|quota| quota.org == *org);
        quota.is_none_or(|quota| bytes <= quota.bytes)
    }

    fn node(&self, member: &Member) -> Option<&PlacedNode> {
        let mut nodes = self.nodes.iter();
        nodes.find(|node| node.node_id == member.node_id)
    }

    fn weight(&self, member: &Member) -> u8 {
        self.node(member).map_or(1, |node| node.weight)
    }

    fn zone<'a>(&'a self, member: &'a Member) -> Zone<'a> {
        match self.node(member).and_then(|node| node.zone.as_deref()) {
            Some(name) => Zone::Named(name),
            None => Zone::Alone(member.node_id),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Zone<'a> {
    Named(&'a str),
    Alone(u64),
}

/// All that says where records are held: the rules and the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placing {
    placement: Placement,
    /// For what is in no rule.
    otherwise: PlacementRule,
    members: Vec<Member>,
}

impl Placing {
    pub(crate) fn new(placement: Placement, copies: u8, members: Vec<Member>) -> Self {
        let otherwise = PlacementRule {
            classes: Vec::new(),
            copies,
            only: Vec::new(),
            at_home: false,
        };
        Self {
            placement,
            otherwise,
            members,
        }
    }

    /// The members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The rules.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The same members with other rules.
    pub(crate) fn with_placement(&self, placement: Placement) -> Self {
        Self {
            placement,
            ..self.clone()
        }
    }

    /// The same rules with other members.
    pub(crate) fn with_members(&self, members: Vec<Member>) -> Self {
        Self {
            members,
            ..self.clone()
        }
    }

    pub(crate) fn rule(&self, class: Class) -> &PlacementRule {
        let rules = || self.placement.rules.iter();
        rules()
            .find(|rule| rule.classes.contains(&class))
            .or_else(|| rules().find(|rule| rule.classes.is_empty()))
            .unwrap_or(&self.otherwise)
    }

    /// Whether there are members enough for every rule.
    pub(crate) fn fits(&self) -> bool {
        Class::ALL.iter().all(|class| {
            let rule = self.rule(*class);
            let members = self.members.iter();
            let may_hold = members.filter(|one| {
                rule.is_open_to(one, Some(&one.org)) && self.placement.weight(one) > 0
            });
            may_hold.count() >= usize::from(rule.copies)
        })
    }
}

/// Where one record is to be held.
#[derive(Debug)]
pub struct Places<'p> {
    record: Cid,
    copies: usize,
    placement: &'p Placement,
    /// The members that its rule is open to, whatever they weigh.
    members: Vec<&'p Member>,
}

impl<'p> Places<'p> {
    /// `owner` is the organisation that owns the record's custody key; it is read only where the rule says `at_home`.
    pub(crate) fn new(placing: &'p Placing, anchored: &Anchored, owner: Option<&Did>) -> Self {
        let rule = placing.rule(anchored.class);
        let members = placing.members.iter();
        Self {
            record: anchored.record,
            copies: rule.copies.into(),
            placement: &placing.placement,
            members: members
                .filter(|member| rule.is_open_to(member, owner))
                .collect(),
        }
    }

    /// How many nodes are to hold it.
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// Whether a node is a member's that may hold it.
    pub fn may_hold(&self, node: &Did) -> bool {
        let mut members = self.eligible();
        members.any(|member| member.node == *node)
    }

    /// Whether a node is a member's that its rule is open to, if only for a legal hold: it may weigh nothing.
    pub fn is_open_to(&self, node: &Did) -> bool {
        self.members.iter().any(|member| member.node == *node)
    }

    /// The members that may hold it.
    fn eligible(&self) -> impl Iterator<Item = &'p Member> {
        let members = self.members.iter().copied();
        members.filter(|member| self.placement.weight(member) > 0)
    }

    /// Those of `holders` that are members' nodes which may hold it.
    pub fn counted<'h>(&self, holders: &'h [Did]) -> impl Iterator<Item = &'h Did> {
        holders.iter().filter(|holder| self.may_hold(holder))
    }

    /// The members that may hold it and for which `is_there` holds, in the order in which they should: everybody
    /// computes the same, and when one is missing, all others stay where they are.
    ///
    /// The score is that of rendezvous hashing (Thaler and Ravishankar, 1998), weighted: a node draws as many tickets
    /// as it weighs, and its highest counts. Of zones, those that have the fewest before come first.
    pub fn in_order(&self, is_there: impl Fn(&Member) -> bool) -> Vec<&'p Member> {
        let mut left: Vec<&Member> = self.eligible().filter(|one| is_there(one)).collect();
        left.sort_by_cached_key(|member| {
            let weight = self.placement.weight(member);
            Reverse(score(&self.record, &member.node, weight))
        });
        let mut used: BTreeMap<Zone<'_>, usize> = BTreeMap::new();
        let mut ordered = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let crowd = |member: &Member| used.get(&self.placement.zone(member)).copied();
            // The first of the least: the best of them.
            let best = left.iter().enumerate().min_by_key(|(_, one)| crowd(one));
            let member = left.remove(best.map_or(0, |(at, _)| at));
            *used.entry(self.placement.zone(member)).or_default() += 1;
            ordered.push(member);
        }
        ordered
    }
}

/// The highest of a node's tickets for a record.
fn score(record: &Cid, node: &Did, weight: u8) -> [u8; 32] {
    let mut bytes = b"medanchor/v1/placement\0".to_vec();
    bytes.extend_from_slice(&record.to_bytes());
    bytes.extend_from_slice(node.as_bytes());
    let first = sha256(&bytes);
    bytes.push(0);
    let more = (1..weight).map(|ticket| {
        if let Some(last) = bytes.last_mut() {
            *last = ticket;
        }
        sha256(&bytes)
    });
    more.fold(first, <[u8; 32]>::max)
}

/// What a member's node holds, or no longer does: signed by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holding {
    /// The node.
    pub node: Did,
    /// Records that it has on disk, whole, from now on.
    pub holds: Vec<Cid>,
    /// Records that it no longer answers for. It takes effect only while enough others hold them.
    pub gives_back: Vec<Cid>,
}

impl Holding {
    /// Records in one statement.
    pub const MAX_RECORDS: usize = 256;
}
