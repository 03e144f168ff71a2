use crate::{
    Checkpoint, CheckpointError, Founded, NoteError, NoteSignature, SignatureKind, SignedNote,
    Signer, VerifierKey, VerifierKeyError,
};
use medanchor_dag::Did;
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Whom a client believes: log keys, witnesses, and how many of these must have co-signed
/// (<https://c2sp.org/tlog-policy>). Its text is the policy file.
///
/// Every member of a network has a log key of its own under the network's name, and publishes with it
/// while it leads. The file has one `log` line for each, and does not tell which witness is of the same
/// organisation: what must hold "besides the signer" is therefore counted as one co-signature more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustPolicy {
    logs: Vec<LogLine>,
    witnesses: Vec<WitnessLine>,
    groups: Vec<GroupLine>,
    quorum: Option<String>,
    rule: Option<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct LogLine {
    key: VerifierKey,
    url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct WitnessLine {
    name: String,
    key: VerifierKey,
    url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct GroupLine {
    name: String,
    threshold: usize,
    members: Vec<String>,
}

/// Who must have co-signed, with the names resolved. No witness stands in it twice.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Witness(Did),
    AtLeast(usize, Vec<Self>),
}

/// How much a checkpoint must carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// Enough that some honest member has computed it: one member's co-signature more than
    /// [`TrustPolicy::tolerated_faults`]. What a key release waits for. A witness that others run does not count: it has
    /// no tree, and signs the first that any holder of a log key shows it.
    Witnessed,
    /// The whole quorum: no two clients can have been shown different logs.
    Published,
}

/// A checkpoint that satisfies a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedCheckpoint {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The log key that signed it.
    pub log: VerifierKey,
    /// The policy's witnesses that co-signed it, each once.
    pub cosigners: Vec<Cosigner>,
}

/// A witness that co-signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigner {
    /// Its key.
    pub key: VerifierKey,
    /// When, by its clock, in unix seconds; its earliest if it co-signed more than once.
    pub at_unix_seconds: u64,
}

/// Whom a client believes about a checkpoint: one policy, or the policies of a network by the size of its log.
pub trait Trust {
    /// Checks a checkpoint and its signatures.
    ///
    /// # Errors
    ///
    /// [`TrustError`]; the checkpoint must then be ignored.
    fn check(&self, note: &SignedNote, strength: Strength)
    -> Result<CheckedCheckpoint, TrustError>;

    /// The policy that is or was in force for a log of `size` leaves.
    fn at(&self, size: u64) -> &TrustPolicy;
}

impl Trust for TrustPolicy {
    fn check(
        &self,
        note: &SignedNote,
        strength: Strength,
    ) -> Result<CheckedCheckpoint, TrustError> {
        Self::check(self, note, strength)
    }

    fn at(&self, _: u64) -> &TrustPolicy {
        self
    }
}

/// Why a checkpoint is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The note is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// It is of a log that the policy does not list.
    #[error("policy lists no log `{0}`")]
    UnknownLog(String),
    /// A signature that claims to be by a listed key does not verify.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// No listed log key signed it.
    #[error("checkpoint is not signed by a listed key of its log")]
    Unsigned,
    /// Too few witnesses co-signed it: ask for a later one, or for one with more co-signatures.
    #[error("{found} listed witnesses co-signed the checkpoint, {needed} are needed")]
    Quorum {
        /// Listed witnesses that co-signed.
        found: usize,
        /// The fewest that can be enough.
        needed: usize,
    },
    /// The policy it satisfies was replaced since: have it shown to be a prefix of the log as it is now.
    #[error(
        "checkpoint of {0} leaves is by a policy that was replaced, and not shown to be in the log as it is now"
    )]
    Retired(u64),
    /// It contradicts the log as it is now: its keys signed what was never in the log.
    #[error("checkpoint of {0} leaves contradicts the log as it is now")]
    Rewritten(u64),
}

/// What is weak in a policy. It is obeyed all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyWarning {
    /// No witness is asked for: whoever holds a log key can show each client another log.
    #[error("quorum is none: the log alone is believed")]
    Unwitnessed,
    /// Honest witnesses that are shown different logs are each enough for their own.
    #[error("{needed} of {witnesses} witnesses is no majority: the log can split the view")]
    NoMajority {
        /// The fewest witnesses that satisfy the quorum.
        needed: usize,
        /// Witnesses that count.
        witnesses: usize,
    },
    /// One dishonest witness, such as the publisher's own, is enough for a split view.
    #[error("{needed} of {witnesses} witnesses: one dishonest witness can split the view")]
    NoFaultTolerated {
        /// The fewest witnesses that satisfy the quorum.
        needed: usize,
        /// Witnesses that count.
        witnesses: usize,
    },
    /// Without this witness nothing can be published.
    #[error("nothing is published while witness `{0}` is down")]
    Indispensable(String),
}

impl TrustPolicy {
    /// The most bytes that a policy file may have.
    pub const MAX_BYTES: usize = 64 * 1024;
    /// The most lines of each kind.
    pub const MAX_LINES: usize = 64;

    /// The policy that any of `logs` may sign and `quorum` of `witnesses` must co-sign.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] as for its text.
    pub fn new(
        logs: &[VerifierKey],
        witnesses: &[VerifierKey],
        quorum: u8,
    ) -> Result<Self, PolicyError> {
        let mut text = String::new();
        for key in logs {
            text += &format!("log {key}\n");
        }
        for key in witnesses {
            text += &format!("witness {} {key}\n", key.name());
        }
        if quorum == 0 {
            text += "quorum none\n";
        } else {
            let names: Vec<_> = witnesses.iter().map(VerifierKey::name).collect();
            text += &format!("group cosigners {quorum} {}\n", names.join(" "));
            text += "quorum cosigners\n";
        }
        text.parse()
    }

    /// The policy with which a network begins.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] when its keys or its quorum make none.
    pub fn founded(founded: &Founded) -> Result<Self, PolicyError> {
        let parse = |text: &String| text.parse().map_err(PolicyError::Founded);
        let members = &founded.members;
        let logs: Result<Vec<_>, _> = members.iter().map(|m| parse(&m.log_key)).collect();
        let witnesses: Result<Vec<_>, _> = members
            .iter()
            .map(|member| &member.cosigner_key)
            .chain(&founded.witnesses)
            .map(parse)
            .collect();
        Self::new(&logs?, &witnesses?, founded.quorum)
    }

    /// Whether some of all its witnesses must have co-signed, no matter which.
    pub(crate) fn is_one_group(&self) -> bool {
        match (self.groups.as_slice(), &self.quorum) {
            ([group], Some(quorum)) => {
                let names = self.witnesses.iter().map(|witness| &witness.name);
                group.name == *quorum && names.eq(&group.members)
            }
            _ => false,
        }
    }

    /// The log keys it lists.
    pub fn logs(&self) -> impl Iterator<Item = &VerifierKey> {
        self.logs.iter().map(|log| &log.key)
    }

    /// The witness keys it lists.
    pub fn witnesses(&self) -> impl Iterator<Item = &VerifierKey> {
        self.witnesses.iter().map(|witness| &witness.key)
    }

    /// How many witnesses may be dishonest, together with the log, and still no two clients can be shown
    /// different logs: the largest f with `k > f + floor((n - f) / 2)`, where n witnesses count and k are
    /// the fewest that satisfy the quorum. 0 also when there is no such f: see [`TrustPolicy::warnings`].
    pub fn tolerated_faults(&self) -> usize {
        let tolerated = self.rule.as_ref().and_then(Rule::tolerated_faults);
        tolerated.unwrap_or(0)
    }

    /// What a client that uses this policy should know.
    pub fn warnings(&self) -> Vec<PolicyWarning> {
        let Some(rule) = &self.rule else {
            return vec![PolicyWarning::Unwitnessed];
        };
        let (needed, witnesses) = (rule.fewest(), rule.witnesses());
        let mut warnings = match rule.tolerated_faults() {
            None => vec![PolicyWarning::NoMajority { needed, witnesses }],
            Some(0) if witnesses > 1 => {
                vec![PolicyWarning::NoFaultTolerated { needed, witnesses }]
            }
            Some(_) => Vec::new(),
        };
        let indispensable = self.witnesses.iter().filter(|witness| {
            let all_others = |key: &Did| key != witness.key.key();
            !rule.is_satisfied(&all_others)
        });
        warnings.extend(indispensable.map(|w| PolicyWarning::Indispensable(w.name.clone())));
        warnings
    }

    /// Checks a checkpoint: signed by a listed key of its log, every signature by a listed key good, and
    /// co-signed by enough witnesses, each public key counted once.
    ///
    /// Whether it is recent is the caller's to judge, who has a clock.
    ///
    /// # Errors
    ///
    /// [`TrustError`]; the checkpoint must then be ignored.
    pub fn check(
        &self,
        note: &SignedNote,
        strength: Strength,
    ) -> Result<CheckedCheckpoint, TrustError> {
        let checkpoint: Checkpoint = note.text().parse()?;
        let logs: Vec<_> = self
            .logs()
            .filter(|key| key.name() == checkpoint.origin)
            .collect();
        if logs.is_empty() {
            return Err(TrustError::UnknownLog(checkpoint.origin));
        }
        let log = *note.signers(logs)?.first().ok_or(TrustError::Unsigned)?;
        let cosigners = distinct(&note.signers(self.witnesses())?);
        self.check_quorum(&checkpoint.origin, &cosigners, strength)?;
        Ok(CheckedCheckpoint {
            checkpoint,
            log: log.key.clone(),
            cosigners,
        })
    }

    /// A checkpoint that was checked, with no signature that `strength` can do without: one by a log key, then as few
    /// co-signatures as are enough, in the order of the policy. Where there is a choice, who stands later in the
    /// policy is kept: outside witnesses stand behind the members, and are the farther from who publishes.
    ///
    /// It is what a receipt carries: each of its bytes counts.
    pub fn trim(
        &self,
        note: &SignedNote,
        checked: &CheckedCheckpoint,
        strength: Strength,
    ) -> SignedNote {
        let mut kept = checked.cosigners.clone();
        for witness in self.witnesses() {
            let mut fewer = kept.clone();
            fewer.retain(|cosigner| cosigner.key != *witness);
            let origin = &checked.checkpoint.origin;
            if self.check_quorum(origin, &fewer, strength).is_ok() {
                kept = fewer;
            }
        }
        let is_kept = |key: &&VerifierKey| kept.iter().any(|cosigner| cosigner.key == **key);
        let cosigners = self.witnesses().filter(is_kept);
        note.signed_by([&checked.log].into_iter().chain(cosigners))
    }

    /// The name on the first signature whose key the policy does not list. A receipt has none; where one has, the
    /// members may have changed since.
    pub fn stranger<'n>(&self, note: &'n SignedNote) -> Option<&'n str> {
        let stranger = note.stranger(self.logs().chain(self.witnesses()));
        stranger.map(NoteSignature::name)
    }

    fn check_quorum(
        &self,
        origin: &str,
        cosigners: &[Cosigner],
        strength: Strength,
    ) -> Result<(), TrustError> {
        let Some(rule) = &self.rule else {
            return Ok(());
        };
        let cosigned = |key: &Did| cosigners.iter().any(|c| c.key.key() == key);
        let members: Vec<&Cosigner> = cosigners
            .iter()
            .filter(|by| by.key.is_member_of(origin))
            .collect();
        let (found, needed) = match strength {
            Strength::Published => (rule.count(&cosigned), rule.fewest()),
            // Up to f of them may lie, the publisher's own among these: one more is honest.
            Strength::Witnessed => {
                let by_member = |key: &Did| members.iter().any(|by| by.key.key() == key);
                (rule.count(&by_member), self.tolerated_faults() + 1)
            }
        };
        let enough = strength == Strength::Witnessed && found >= needed;
        if enough || rule.is_satisfied(&cosigned) {
            Ok(())
        } else {
            Err(TrustError::Quorum { found, needed })
        }
    }
}

/// The co-signers, each public key once.
fn distinct(signers: &[Signer<'_>]) -> Vec<Cosigner> {
    let mut cosigners: BTreeMap<&Did, Cosigner> = BTreeMap::new();
    for signer in signers {
        let at_unix_seconds = signer.at_unix_seconds.unwrap_or(0);
        let cosigner = cosigners
            .entry(signer.key.key())
            .or_insert_with(|| Cosigner {
                key: signer.key.clone(),
                at_unix_seconds,
            });
        cosigner.at_unix_seconds = cosigner.at_unix_seconds.min(at_unix_seconds);
    }
    cosigners.into_values().collect()
}

impl Rule {
    fn is_satisfied(&self, cosigned: &impl Fn(&Did) -> bool) -> bool {
        match self {
            Self::Witness(key) => cosigned(key),
            Self::AtLeast(threshold, members) => {
                let satisfied = members.iter().filter(|m| m.is_satisfied(cosigned));
                satisfied.count() >= *threshold
            }
        }
    }

    /// How many of its witnesses co-signed.
    fn count(&self, cosigned: &impl Fn(&Did) -> bool) -> usize {
        match self {
            Self::Witness(key) => usize::from(cosigned(key)),
            Self::AtLeast(_, members) => members.iter().map(|m| m.count(cosigned)).sum(),
        }
    }

    fn witnesses(&self) -> usize {
        self.count(&|_| true)
    }

    /// The fewest witnesses that can satisfy it.
    fn fewest(&self) -> usize {
        match self {
            Self::Witness(_) => 1,
            Self::AtLeast(threshold, members) => {
                let mut each: Vec<_> = members.iter().map(Self::fewest).collect();
                each.sort_unstable();
                each.iter().take(*threshold).sum()
            }
        }
    }

    /// Any two sets that satisfy it have at least `2 * fewest - witnesses` witnesses in common, and one
    /// of them must be honest. For nested groups this is a safe bound, not always the best one.
    fn tolerated_faults(&self) -> Option<usize> {
        let (fewest, witnesses) = (self.fewest(), self.witnesses());
        (0..witnesses)
            .rev()
            .find(|faults| fewest > faults + (witnesses - faults) / 2)
    }
}

/// Why text is not a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Longer than [`TrustPolicy::MAX_BYTES`].
    #[error("policy is too long")]
    TooLong,
    /// A line cannot be obeyed.
    #[error("line {line} of the policy")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        problem: PolicyLineError,
    },
    /// It does not say who must have co-signed.
    #[error("policy has no quorum line")]
    NoQuorum,
    /// The founding statement holds a key that cannot be used.
    #[error("founding statement holds a bad verifier key")]
    Founded(#[source] VerifierKeyError),
}

/// What is wrong with a line of a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyLineError {
    /// Not `log`, `witness`, `group` or `quorum` with what belongs to it.
    #[error("not a log, witness, group or quorum line")]
    Syntax,
    /// A control character other than tab and newline.
    #[error("control character")]
    Character,
    /// More than [`TrustPolicy::MAX_LINES`] of this kind.
    #[error("too many lines of this kind")]
    TooMany,
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] VerifierKeyError),
    /// A log line with a co-signing key, or a witness line with a log key.
    #[error("key is of the wrong type for this line")]
    KeyKind,
    /// The same public key stands on two such lines.
    #[error("public key stands on two lines")]
    DuplicateKey,
    /// The name is taken, or is `none`.
    #[error("name `{0}` is taken")]
    DuplicateName(String),
    /// Nothing on the lines before has this name.
    #[error("name `{0}` is not defined before")]
    UnknownName(String),
    /// It is a member of a group already.
    #[error("`{0}` is a member twice")]
    DuplicateMember(String),
    /// Not `all`, `any` or a number from 1 to the number of members.
    #[error("threshold is not all, any or a number of members")]
    Threshold,
    /// A second quorum line.
    #[error("second quorum line")]
    SecondQuorum,
}

impl FromStr for TrustPolicy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if text.len() > Self::MAX_BYTES {
            return Err(PolicyError::TooLong);
        }
        let mut parser = Parser::default();
        for (number, line) in (1..).zip(text.split('\n')) {
            parser.line(line).map_err(|problem| PolicyError::Line {
                line: number,
                problem,
            })?;
        }
        let (quorum, rule) = match parser.quorum {
            None => return Err(PolicyError::NoQuorum),
            Some(None) => (None, None),
            Some(Some((name, rule))) => (Some(name), Some(rule)),
        };
        Ok(Self {
            logs: parser.logs,
            witnesses: parser.witnesses,
            groups: parser.groups,
            quorum,
            rule,
        })
    }
}

#[derive(Default)]
struct Parser {
    logs: Vec<LogLine>,
    witnesses: Vec<WitnessLine>,
    groups: Vec<GroupLine>,
    /// `Some(None)` is `quorum none`.
    quorum: Option<Option<(String, Rule)>>,
    defined: BTreeMap<String, Rule>,
    members: Vec<String>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), PolicyLineError> {
        if line.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
            return Err(PolicyLineError::Character);
        }
        let items: Vec<&str> = line.split([' ', '\t']).filter(|s| !s.is_empty()).collect();
        match items.as_slice() {
            [] => Ok(()),
            [comment, ..] if comment.starts_with('#') => Ok(()),
            ["log", key] => self.log(key, None),
            ["log", key, url] => self.log(key, Some(url)),
            ["witness", name, key] => self.witness(name, key, None),
            ["witness", name, key, url] => self.witness(name, key, Some(url)),
            ["group", name, threshold, members @ ..] if !members.is_empty() => {
                self.group(name, threshold, members)
            }
            ["quorum", name] => self.quorum(name),
            _ => Err(PolicyLineError::Syntax),
        }
    }

    fn log(&mut self, key: &str, url: Option<&str>) -> Result<(), PolicyLineError> {
        let key = parse_key(key, SignatureKind::Ed25519)?;
        if self.logs.iter().any(|log| log.key.key() == key.key()) {
            return Err(PolicyLineError::DuplicateKey);
        }
        let url = url.map(str::to_owned);
        push(&mut self.logs, LogLine { key, url })
    }

    fn witness(&mut self, name: &str, key: &str, url: Option<&str>) -> Result<(), PolicyLineError> {
        let key = parse_key(key, SignatureKind::Cosignature)?;
        if self.witnesses.iter().any(|w| w.key.key() == key.key()) {
            return Err(PolicyLineError::DuplicateKey);
        }
        self.define(name, Rule::Witness(*key.key()))?;
        let line = WitnessLine {
            name: name.to_owned(),
            key,
            url: url.map(str::to_owned),
        };
        push(&mut self.witnesses, line)
    }

    fn group(
        &mut self,
        name: &str,
        threshold: &str,
        members: &[&str],
    ) -> Result<(), PolicyLineError> {
        let threshold = parse_threshold(threshold, members.len())?;
        let mut rules = Vec::new();
        for member in members {
            let rule = self.rule(member)?;
            let member = (*member).to_owned();
            if self.members.contains(&member) {
                return Err(PolicyLineError::DuplicateMember(member));
            }
            rules.push(rule);
            self.members.push(member);
        }
        self.define(name, Rule::AtLeast(threshold, rules))?;
        let line = GroupLine {
            name: name.to_owned(),
            threshold,
            members: members.iter().map(|&member| member.to_owned()).collect(),
        };
        push(&mut self.groups, line)
    }

    fn quorum(&mut self, name: &str) -> Result<(), PolicyLineError> {
        if self.quorum.is_some() {
            return Err(PolicyLineError::SecondQuorum);
        }
        self.quorum = Some(match name {
            NONE => None,
            _ => Some((name.to_owned(), self.rule(name)?)),
        });
        Ok(())
    }

    fn define(&mut self, name: &str, rule: Rule) -> Result<(), PolicyLineError> {
        if name == NONE || self.defined.contains_key(name) {
            return Err(PolicyLineError::DuplicateName(shortened(name)));
        }
        self.defined.insert(name.to_owned(), rule);
        Ok(())
    }

    fn rule(&self, name: &str) -> Result<Rule, PolicyLineError> {
        let rule = self.defined.get(name).cloned();
        rule.ok_or_else(|| PolicyLineError::UnknownName(shortened(name)))
    }
}

fn parse_key(text: &str, kind: SignatureKind) -> Result<VerifierKey, PolicyLineError> {
    let key: VerifierKey = text.parse()?;
    if key.kind() == kind {
        Ok(key)
    } else {
        Err(PolicyLineError::KeyKind)
    }
}

fn parse_threshold(text: &str, members: usize) -> Result<usize, PolicyLineError> {
    let threshold = match text {
        "all" => Some(members),
        "any" => Some(1),
        _ => text.parse().ok().filter(|k: &usize| k.to_string() == text),
    };
    threshold
        .filter(|threshold| (1..=members).contains(threshold))
        .ok_or(PolicyLineError::Threshold)
}

fn push<T>(lines: &mut Vec<T>, line: T) -> Result<(), PolicyLineError> {
    if lines.len() >= TrustPolicy::MAX_LINES {
        return Err(PolicyLineError::TooMany);
    }
    lines.push(line);
    Ok(())
}

fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}

impl fmt::Display for TrustPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = |url: &Option<String>| url.as_ref().map_or(String::new(), |u| format!(" {u}"));
        for log in &self.logs {
            writeln!(f, "log {}{}", log.key, url(&log.url))?;
        }
        for w in &self.witnesses {
            writeln!(f, "witness {} {}{}", w.name, w.key, url(&w.url))?;
        }
        for g in &self.groups {
            writeln!(
                f,
                "group {} {} {}",
                g.name,
                g.threshold,
                g.members.join(" ")
            )?;
        }
        writeln!(f, "quorum {}", self.quorum.as_deref().unwrap_or(NONE))
    }
}

const NONE: &str = "none";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cosign;
    use medanchor_dag::{Hash, SigningKey};
    use proptest::prelude::*;

    const ORIGIN: &str = "anchor.example";

    #[test]
    fn tolerated_faults_follow_the_safe_table() {
        // n, f and the least safe k.
        for (witnesses, faults, quorum) in [
            (1, 0, 1),
            (2, 0, 2),
            (3, 0, 2),
            (3, 2, 3),
            (4, 1, 3),
            (5, 2, 4),
            (7, 2, 5),
            (7, 1, 5),
            (10, 3, 7),
        ] {
            let policy = policy(witnesses, quorum);
            let tolerated = policy.tolerated_faults();
            assert!(tolerated >= faults, "{quorum} of {witnesses}: {tolerated}");
            let safe = |f: usize| usize::from(quorum) > f + (usize::from(witnesses) - f) / 2;
            assert!(safe(tolerated) && (tolerated + 1 == witnesses.into() || !safe(tolerated + 1)));
        }
    }

    #[test]
    fn weak_policies_are_warned_about() {
        assert_eq!(policy(4, 3).warnings(), vec![]);
        assert_eq!(policy(0, 0).warnings(), vec![PolicyWarning::Unwitnessed]);
        let (needed, witnesses) = (2, 3);
        assert_eq!(
            policy(3, 2).warnings(),
            vec![PolicyWarning::NoFaultTolerated { needed, witnesses }]
        );
        let (needed, witnesses) = (1, 2);
        assert_eq!(
            policy(2, 1).warnings(),
            vec![PolicyWarning::NoMajority { needed, witnesses }]
        );
        let indispensable: Vec<_> = policy(3, 3)
            .witnesses()
            .map(|key| PolicyWarning::Indispensable(key.name().to_owned()))
            .collect();
        assert_eq!(policy(3, 3).warnings(), indispensable);
    }

    #[test]
    fn nested_groups_are_judged_by_the_fewest_that_satisfy_them() {
        let keys: Vec<_> = (0..6).map(witness_key).collect();
        let mut text = format!("log {}\n", log_key(0));
        for (name, key) in ["x1", "x2", "x3", "y1", "y2", "y3"].iter().zip(&keys) {
            text += &format!("witness {name} {key} https://{name}.example/\n");
        }
        text += "group x 2 x1 x2 x3\ngroup y any y1 y2 y3\ngroup both all x y\nquorum both\n";
        let policy: TrustPolicy = text.parse().unwrap();
        assert_eq!(policy.tolerated_faults(), 0);
        let (needed, witnesses) = (3, 6);
        assert_eq!(
            policy.warnings(),
            vec![PolicyWarning::NoMajority { needed, witnesses }]
        );
        let published = |by: &[u8]| policy.check(&note(0, by), Strength::Published).is_ok();
        assert!(published(&[0, 2, 5]));
        assert!(!published(&[0, 1, 2]));
        assert!(!published(&[0, 3, 4, 5]));
    }

    #[test]
    fn published_needs_the_quorum_and_witnessed_one_more_than_the_faults() {
        let policy = policy(4, 3);
        let check = |by: &[u8], strength| policy.check(&note(0, by), strength).map(|_| ());
        let quorum = |found, needed| Err(TrustError::Quorum { found, needed });
        assert_eq!(check(&[0, 1, 2], Strength::Published), Ok(()));
        assert_eq!(check(&[0, 1], Strength::Published), quorum(2, 3));
        assert_eq!(check(&[0, 1], Strength::Witnessed), Ok(()));
        assert_eq!(check(&[0], Strength::Witnessed), quorum(1, 2));
        // A stranger does not count, and one witness counts once.
        assert_eq!(check(&[0, 9], Strength::Witnessed), quorum(1, 2));
        let once = note(0, &[0]);
        let later = cosign(&once, &witness_name(0), &witness(0), 2_000).unwrap();
        let twice = SignedNote::parse(&format!("{once}{later}\n")).unwrap();
        let checked = policy.check(&twice, Strength::Witnessed).map(|_| ());
        assert_eq!(checked, quorum(1, 2));
    }

    #[test]
    fn witness_without_a_tree_does_not_make_a_checkpoint_witnessed() {
        let names = [
            witness_name(0),
            witness_name(1),
            witness_name(2),
            "w.example".to_owned(),
        ];
        let keys: Vec<_> = (0..).zip(&names).map(|(n, name)| named(name, n)).collect();
        let policy = TrustPolicy::new(&[log_key(0)], &keys, 3).unwrap();
        let check = |by: &[usize], strength| {
            let mut note = note(0, &[]);
            for &n in by {
                let key = witness(u8::try_from(n).unwrap());
                note.add(cosign(&note, &names[n], &key, 1_000).unwrap())
                    .unwrap();
            }
            policy.check(&note, strength).map(|_| ())
        };
        let too_few = Err(TrustError::Quorum {
            found: 1,
            needed: 2,
        });
        assert_eq!(check(&[0, 3], Strength::Witnessed), too_few);
        assert_eq!(check(&[0, 1], Strength::Witnessed), Ok(()));
        // It counts as much as any for the quorum, and what has that is witnessed, too.
        for strength in [Strength::Published, Strength::Witnessed] {
            assert_eq!(check(&[0, 1, 3], strength), Ok(()));
        }
        let others: Vec<_> = (0..3).map(|n| named(&format!("w{n}.example"), n)).collect();
        let alone = TrustPolicy::new(&[log_key(0)], &others, 3).unwrap();
        let mut note = note(0, &[]);
        for n in 0..3 {
            let name = format!("w{n}.example");
            note.add(cosign(&note, &name, &witness(n), 1_000).unwrap())
                .unwrap();
        }
        assert!(alone.check(&note, Strength::Witnessed).is_ok());
    }

    #[test]
    fn any_listed_log_key_may_sign_and_no_other() {
        let policy = policy(4, 3);
        for leader in 0..3 {
            let checked = policy.check(&note(leader, &[0, 1, 2]), Strength::Published);
            let checked = checked.unwrap();
            assert_eq!(checked.log, log_key(leader));
            assert_eq!(checked.cosigners.len(), 3);
            assert_eq!(checked.cosigners[0].at_unix_seconds, 1_000);
        }
        let stranger = policy.check(&note(7, &[0, 1, 2]), Strength::Published);
        assert_eq!(stranger, Err(TrustError::Unsigned));
    }

    #[test]
    fn other_origins_and_bad_signatures_are_refused() {
        let elsewhere = Checkpoint {
            origin: "other.example".to_owned(),
            ..checkpoint()
        };
        let note_elsewhere = elsewhere.sign(&log(0)).unwrap();
        assert_eq!(
            policy(4, 3).check(&note_elsewhere, Strength::Published),
            Err(TrustError::UnknownLog("other.example".to_owned()))
        );
        let text = note(0, &[0, 1, 2, 3]).to_string();
        let changed = SignedNote::parse(&text.replace("\n3\n", "\n4\n")).unwrap();
        assert_eq!(
            policy(4, 3).check(&changed, Strength::Published),
            Err(NoteError::Signature(ORIGIN.to_owned()).into())
        );
    }

    #[test]
    fn quorum_none_believes_the_log_alone() {
        let policy = policy(0, 0);
        for strength in [Strength::Witnessed, Strength::Published] {
            assert!(policy.check(&note(0, &[]), strength).is_ok());
            assert!(policy.check(&note(7, &[]), strength).is_err());
        }
    }

    #[test]
    fn policy_is_read_back_from_its_text() {
        let text = format!(
            "# comment\n\n\t log  {}\thttps://log.example/\nwitness W0 {}\n  # more\nwitness W1 {}\n\
             group g any W0 W1\nquorum g",
            log_key(0),
            witness_key(0),
            witness_key(1)
        );
        let policy: TrustPolicy = text.parse().unwrap();
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }

    #[test]
    fn malformed_policies_are_refused() {
        use PolicyLineError as E;
        let (log, w0, w1) = (log_key(0), witness_key(0), witness_key(1));
        let same_key = VerifierKey::new("z", SignatureKind::Cosignature, *w0.key()).unwrap();
        for (text, line, problem) in [
            (format!("log {w0}\nquorum none"), 1, E::KeyKind),
            (format!("witness W {log}\nquorum W"), 1, E::KeyKind),
            (format!("log {log}\nlog {log}"), 2, E::DuplicateKey),
            (
                format!("witness A {w0}\nwitness B {same_key}"),
                2,
                E::DuplicateKey,
            ),
            (
                format!("witness A {w0}\nwitness A {w1}"),
                2,
                E::DuplicateName("A".to_owned()),
            ),
            (
                format!("witness none {w0}"),
                1,
                E::DuplicateName("none".to_owned()),
            ),
            (
                "group g any W\nquorum g".to_owned(),
                1,
                E::UnknownName("W".to_owned()),
            ),
            ("quorum g".to_owned(), 1, E::UnknownName("g".to_owned())),
            (
                format!("witness A {w0}\ngroup g any A A"),
                2,
                E::DuplicateMember("A".to_owned()),
            ),
            (
                format!("witness A {w0}\ngroup g any A\ngroup h any A"),
                3,
                E::DuplicateMember("A".to_owned()),
            ),
            (format!("witness A {w0}\ngroup g 0 A"), 2, E::Threshold),
            (format!("witness A {w0}\ngroup g 2 A"), 2, E::Threshold),
            (format!("witness A {w0}\ngroup g 01 A"), 2, E::Threshold),
            (format!("witness A {w0}\ngroup g any"), 2, E::Syntax),
            ("quorum none\nquorum none".to_owned(), 2, E::SecondQuorum),
            ("quorum none\r\n".to_owned(), 1, E::Character),
            ("trust me".to_owned(), 1, E::Syntax),
        ] {
            let refused = Err(PolicyError::Line { line, problem });
            assert_eq!(text.parse::<TrustPolicy>(), refused, "{text}");
        }
        assert_eq!("".parse::<TrustPolicy>(), Err(PolicyError::NoQuorum));
        let long = "#".repeat(TrustPolicy::MAX_BYTES + 1);
        assert_eq!(long.parse::<TrustPolicy>(), Err(PolicyError::TooLong));
    }

    proptest! {
        #[test]
        fn parse_of_arbitrary_text_never_panics(
            text in "((log|witness|group|quorum|all|any|none|a|b|1|\\+|#|é)[ \t\n\u{0}]){0,30}"
        ) {
            if let Ok(policy) = text.parse::<TrustPolicy>() {
                prop_assert_eq!(policy.to_string().parse(), Ok(policy));
            }
        }

        #[test]
        fn what_is_published_is_witnessed(
            witnesses in 1_u8..8,
            quorum in 1_u8..8,
            by in prop::collection::btree_set(0_u8..8, 0..8),
        ) {
            prop_assume!(quorum <= witnesses);
            let policy = policy(witnesses, quorum);
            let note = note(0, &by.into_iter().collect::<Vec<_>>());
            let published = policy.check(&note, Strength::Published).is_ok();
            let witnessed = policy.check(&note, Strength::Witnessed).is_ok();
            prop_assert!(witnessed || !published);
        }
    }

    /// A network of three members and, where `witnesses` is more, outside witnesses.
    fn policy(witnesses: u8, quorum: u8) -> TrustPolicy {
        let logs: Vec<_> = (0..3).map(log_key).collect();
        let witnesses: Vec<_> = (0..witnesses).map(witness_key).collect();
        TrustPolicy::new(&logs, &witnesses, quorum).unwrap()
    }

    fn note(leader: u8, cosigners: &[u8]) -> SignedNote {
        let mut note = checkpoint().sign(&log(leader)).unwrap();
        for &by in cosigners {
            note.add(cosign(&note, &witness_name(by), &witness(by), 1_000).unwrap())
                .unwrap();
        }
        note
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: ORIGIN.to_owned(),
            size: 3,
            root: Hash::of(b"root"),
        }
    }

    fn log(n: u8) -> SigningKey {
        SigningKey::from_seed(&[0x40 + n; 32])
    }

    fn log_key(n: u8) -> VerifierKey {
        VerifierKey::new(ORIGIN, SignatureKind::Ed25519, log(n).did()).unwrap()
    }

    fn witness(n: u8) -> SigningKey {
        SigningKey::from_seed(&[0x80 + n; 32])
    }

    fn witness_key(n: u8) -> VerifierKey {
        named(&witness_name(n), n)
    }

    fn named(name: &str, n: u8) -> VerifierKey {
        VerifierKey::new(name, SignatureKind::Cosignature, witness(n).did()).unwrap()
    }

    fn witness_name(n: u8) -> String {
        format!("{ORIGIN}/org{n}")
    }
}
