use crate::{ByteRange, EraseOptions, LegallyHeld, Moment, Rate, Since, Uses, Wait, consent};
use clap::{Args, Parser, Subcommand, ValueEnum};
use medanchor_anchor::{CustodyKind, Finding, OverrideReason, Strength, WitnessUrl};
use medanchor_api::{Code, LeafName};
use medanchor_dag::{Cid, Class, CustodyId, Did, Hash, StreamId};
use medanchor_envelope::Suite;
use std::{path::PathBuf, time::Duration};

/// Seals, stores, releases and verifies medical-device data.
#[derive(Clone, Debug, Parser)]
#[command(name = "medanchor", version, propagate_version = true)]
pub(crate) struct Arguments {
    /// The user's folder; absent, `~/.medanchor`.
    #[arg(long, env = "MEDANCHOR_HOME", value_name = "DIR", global = true)]
    pub(crate) home: Option<PathBuf>,
    /// A file with the passphrase of the user's keys; absent, it is asked for at the terminal.
    #[arg(
        long,
        env = "MEDANCHOR_PASSPHRASE_FILE",
        value_name = "FILE",
        global = true
    )]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Use this node alone, by its name in `client.toml`; absent, all of them.
    #[arg(long, value_name = "NAME", global = true)]
    pub node: Option<String>,
    /// Print one JSON object on standard output, and nothing else.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// The user's own keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Custody keys, to which payloads are sealed.
    #[command(subcommand)]
    Custody(CustodyCommand),
    /// Erase what a custody key protects: destroy the key and the data at everybody who has them, and write a certificate that
    /// anybody verifies. Said again, it goes on. Ends with 5 while somebody has not destroyed what they have.
    Erase(EraseArguments),
    /// Devices of the user's organisation.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// People of the user's organisation.
    #[command(subcommand)]
    Person(PrincipalCommand),
    /// Second factors of people.
    #[command(subcommand)]
    Factor(FactorCommand),
    /// Emergencies in which consent is overridden.
    #[command(subcommand)]
    BreakGlass(BreakGlassCommand),
    /// Organisations.
    #[command(subcommand)]
    Org(PrincipalCommand),
    /// Services that act for the user's organisation.
    #[command(subcommand)]
    Service(PrincipalCommand),
    /// Consents.
    #[command(subcommand)]
    Consent(ConsentCommand),
    /// What was decided, and why.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Legal holds: what the user's organisation, a member, keeps whatever else happens.
    #[command(subcommand)]
    LegalHold(LegalHoldCommand),
    /// Seal a payload, store it and have it anchored.
    Put(PutArguments),
    /// Ask for a record's key.
    Request(RequestArguments),
    /// Fetch a record and open it.
    Get(GetArguments),
    /// Sealed records as CAR files, for backups, other networks and IPFS tools.
    #[command(subcommand)]
    Car(CarCommand),
    /// Verify a receipt, or a proof that somebody lied, without any server.
    Verify(VerifyArguments),
    /// Make a proof that somebody lied, of two receipts that contradict each other.
    Accuse(AccuseArguments),
    /// The anchor log.
    #[command(subcommand)]
    Log(LogCommand),
    /// The trust policy.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// For those who speak for a member.
    #[command(subcommand)]
    Admin(AdminCommand),
    /// How the nodes and all records are, or where one record is. Ends with 4 if a record has too few copies that are
    /// there now, a member's node is away, blocks are missing, or there are alarms.
    Status {
        /// The record's CID.
        record: Option<Cid>,
        /// Have every node read all of the record on its own disk now.
        #[arg(long, requires = "record")]
        read: bool,
    },
}

/// `medanchor car`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CarCommand {
    /// Write records, with all their sealed blocks, into a CAR.
    Export(CarExportArguments),
    /// Put the blocks of a CAR on a node. Nothing is anchored.
    Import {
        /// The CAR.
        file: PathBuf,
    },
}

/// `medanchor car export`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CarExportArguments {
    /// The records' CIDs.
    #[arg(
        value_name = "RECORD",
        required_unless_present = "stream",
        conflicts_with = "stream"
    )]
    pub(crate) records: Vec<Cid>,
    /// All records of a device's stream, by its id, instead.
    #[arg(long, value_name = "ID", requires = "device")]
    pub(crate) stream: Option<StreamId>,
    /// The device of that stream, its did:key.
    #[arg(long, value_name = "DID", requires = "stream")]
    pub(crate) device: Option<Did>,
    /// The file to write; `-` is standard output.
    #[arg(short, long, visible_alias = "out")]
    pub(crate) output: PathBuf,
}

/// `medanchor policy`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Follow the changes of the members from the policy file: fetch the policy chain, verify and keep it.
    Update {
        /// Receipts that are to verify with it besides those in the user's folder.
        receipts: Vec<PathBuf>,
    },
}

/// `medanchor admin`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// The organisations that keep the log.
    #[command(subcommand)]
    Member(MemberCommand),
    /// The outside witnesses that co-sign it.
    #[command(subcommand)]
    Witness(WitnessCommand),
    /// Where records are held: how many copies, by whom, and how much each organisation may store.
    #[command(subcommand)]
    Placement(PlacementCommand),
    /// What decides who may have which keys. It takes a majority of the members to change it.
    #[command(subcommand)]
    AccessPolicy(AccessPolicyCommand),
}

/// A change of the trust policy that is drafted.
#[derive(Clone, Debug, Args)]
pub(crate) struct DraftArguments {
    /// Co-signatures that a published checkpoint carries from then on.
    #[arg(long)]
    pub(crate) quorum: u8,
    /// Where to put the draft; the file must not exist yet.
    #[arg(short, long)]
    pub(crate) output: PathBuf,
}

/// A draft that members have signed, to be submitted.
#[derive(Clone, Debug, Args)]
pub(crate) struct SubmitArguments {
    /// The draft, or several copies with a signature each.
    #[arg(required = true)]
    pub(crate) drafts: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) wait: WaitArguments,
}

/// `medanchor admin member`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// List them, and those that were removed.
    List,
    /// Draft that a member is removed, and sign the draft.
    DraftRemoval {
        /// Its short name.
        name: String,
        #[command(flatten)]
        draft: DraftArguments,
    },
    /// Show a draft, or the request of a newcomer, and sign it in the name of the own organisation.
    Approve {
        /// The file, which is replaced by the signed one.
        draft: PathBuf,
    },
    /// Submit the request of a newcomer that a majority of the members has signed.
    Add(SubmitArguments),
    /// Submit the draft of a removal that a majority of the other members has signed.
    Remove(SubmitArguments),
}

/// `medanchor admin witness`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum WitnessCommand {
    /// List them, and those that were removed.
    List,
    /// Draft that a witness which others run counts from now on, and sign the draft.
    DraftAddition {
        /// Its co-signing key: a C2SP vkey of type 0x04.
        key: String,
        /// Its URL prefix: https://HOST[:PORT][/PATH]; http is for this machine alone.
        #[arg(long)]
        url: WitnessUrl,
        /// The certificate that it shows, or that of the authority that issues those (PEM); for https.
        #[arg(long)]
        certificate: Option<PathBuf>,
        #[command(flatten)]
        draft: DraftArguments,
    },
    /// Draft that a witness counts no longer, and sign the draft.
    DraftRemoval {
        /// Its name, or its whole key.
        witness: String,
        #[command(flatten)]
        draft: DraftArguments,
    },
    /// Show a draft, and sign it in the name of the own organisation.
    Approve {
        /// The file, which is replaced by the signed one.
        draft: PathBuf,
    },
    /// Submit the draft of an addition that a majority of the members has signed.
    Add(SubmitArguments),
    /// Submit the draft of a removal that a majority of the members has signed.
    Remove(SubmitArguments),
}

/// `medanchor admin placement`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PlacementCommand {
    /// Show the rules in force.
    Show,
    /// Draft other rules, and sign the draft.
    Draft {
        /// The rules, all of them: TOML with `[[node]]` (name, weight, zone), `[[rule]]` (classes, copies, only, at_home)
        /// and `[[quota]]` (org, bytes).
        rules: PathBuf,
        /// Where to put the draft; the file must not exist yet.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Show a draft, and sign it in the name of the own organisation.
    Approve {
        /// The file, which is replaced by the signed one.
        draft: PathBuf,
    },
    /// Submit a draft that a majority of the members has signed.
    Set(SubmitArguments),
}

/// `medanchor audit`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Make a recorded release or refusal again, from the log before it alone, and say on what it rests.
    ///
    /// Reads every leaf before it, with the openings that decisions read: for operators and auditors of members. Ends with
    /// 4 when the log gives another decision.
    Explain {
        /// The leaf: its index, or the SHA-256 of its statement.
        #[arg(value_parser = leaf_name)]
        leaf: LeafName,
    },
    /// List exactly the records whose keys somebody was ever given: when, for which purpose, on which grounds.
    ///
    /// Each release is checked against the log, and every node that can be reached is asked whether these are all. For whoever
    /// it is of, their organisation, and operators and auditors of members. Ends with 4 when a release does not verify, or a
    /// node knows of another.
    Exposure {
        /// Their did:key; of an organisation, all that belong to it are meant.
        #[arg(long, value_name = "DID")]
        of: Did,
        /// Only from this leaf on, by its index, or from this time on: `2026-03-01` or `2026-03-01T10:15:00Z`.
        #[arg(long, value_name = "LEAF|TIME")]
        since: Option<Since>,
    },
    /// All that was disclosed under a custody key, complete by proof: who was given the keys of which records, when and why.
    ///
    /// For the controller of the custody key, a patient, or its owner, who state in the log how many disclosures there are and
    /// which; every organisation that co-signs the log vouches for it. Ends with 4 when a disclosure is withheld.
    Account {
        /// The custody key's id.
        #[arg(
            long,
            value_name = "ID",
            required_unless_present = "of",
            conflicts_with = "of"
        )]
        custody: Option<CustodyId>,
        /// Of what this did:key was given instead; of an organisation, all that belong to it. For themselves, their
        /// organisation and every member.
        #[arg(long, value_name = "DID")]
        of: Option<Did>,
        /// Also write it to this file, which `medanchor verify` checks without any server.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// `medanchor admin access-policy`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum AccessPolicyCommand {
    /// Show the policy set in force, by the log's receipt.
    Show {
        /// Also write `policies.cedar` and `schema.cedarschema` into this folder, made if absent.
        #[arg(short, long, value_name = "FOLDER")]
        output: Option<PathBuf>,
    },
    /// Check another policy set, draft it, and sign the draft.
    Draft {
        /// The policies, in Cedar. Absent: the set that this version ships.
        #[arg(long, value_name = "FILE")]
        policies: Option<PathBuf>,
        /// Their schema. Absent: the one that this version ships.
        #[arg(long, value_name = "FILE")]
        schema: Option<PathBuf>,
        /// Where to put the draft; the file must not exist yet.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Show a draft, check its policies, and sign it in the name of the own organisation.
    Approve {
        /// The file, which is replaced by the signed one.
        draft: PathBuf,
    },
    /// Submit a draft that a majority of the members has signed.
    Set(SubmitArguments),
}

/// `medanchor key`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make them, under a passphrase; existing ones are never overwritten.
    New {
        /// Do without: whoever may read the file has the keys.
        #[arg(long)]
        no_passphrase: bool,
    },
    /// Show the public halves.
    Show,
    /// Sign with another key from now on. The user's name stays, and so does all that was said to or by it. Interrupted, the same
    /// again ends it.
    Rotate {
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Put them under another passphrase.
    Passphrase {
        /// A file with the new one; absent, it is asked for at the terminal.
        #[arg(long, value_name = "FILE", conflicts_with = "no_passphrase")]
        new_passphrase_file: Option<PathBuf>,
        /// Do without from now on: whoever may read the file has the keys.
        #[arg(long)]
        no_passphrase: bool,
    },
}

/// `medanchor erase`.
#[derive(Clone, Debug, Args)]
pub(crate) struct EraseArguments {
    /// The custody key of whom is to be forgotten.
    #[arg(long = "subject", value_name = "ID")]
    custody: CustodyId,
    /// It is meant: it cannot be undone.
    #[arg(long)]
    yes: bool,
    /// Where to put the certificate; absent, in `erasures` of the user's folder.
    #[arg(short, long, visible_alias = "out", value_name = "FILE")]
    output: Option<PathBuf>,
    /// How long to wait for the others, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait_for: u64,
}

impl From<&EraseArguments> for EraseOptions {
    fn from(arguments: &EraseArguments) -> Self {
        Self {
            custody: arguments.custody,
            yes: arguments.yes,
            output: arguments.output.clone(),
            wait: Duration::from_secs(arguments.wait_for),
        }
    }
}

/// `medanchor custody`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CustodyCommand {
    /// Make a custody key on the organisation's own node, and keep a copy here.
    New {
        /// Whose or what data it protects.
        #[arg(long, value_enum)]
        kind: KindName,
        /// An organisation besides the owner whose devices may write under it.
        #[arg(long = "writer", value_name = "DID")]
        writers: Vec<Did>,
        /// Who may give and withdraw consent besides the owner: a patient's own key.
        #[arg(long, value_name = "DID")]
        controller: Option<Did>,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// List them.
    List,
    /// Ask the brokers of custody keys whether they hold them now. Ends with 4 when one has lost its key, or a key has
    /// fewer than two holders.
    Check {
        /// Their ids; none: all of the user's organisation.
        #[arg(value_name = "ID")]
        custodies: Vec<CustodyId>,
    },
    /// Put another epoch key in the place of the one in the user's folder, which is destroyed, and seal the copies there to it.
    NewEpoch {
        /// The epoch key that the log has of the user is not here, and lost for good with all that is sealed to it.
        #[arg(long)]
        lost: bool,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Give the copies that are kept here back to the organisation's own node, after it has lost its keys. The same again
    /// changes nothing.
    Restore {
        /// Of this custody key.
        #[arg(
            long,
            value_name = "ID",
            required_unless_present = "all",
            conflicts_with = "all"
        )]
        custody: Option<CustodyId>,
        /// The copy; absent, that in the user's folder.
        #[arg(
            long,
            value_name = "FILE",
            requires = "custody",
            conflicts_with = "all"
        )]
        copy: Option<PathBuf>,
        /// All copies in the user's folder.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Seal copies of custody keys to another member's node, into a file for its operator. Only that node can open them.
    Share {
        /// Of this custody key.
        #[arg(
            long = "custody",
            value_name = "ID",
            required_unless_present = "all",
            conflicts_with = "all"
        )]
        custodies: Vec<CustodyId>,
        /// All of which there is a copy in the user's folder.
        #[arg(long)]
        all: bool,
        /// The member, by its short name.
        #[arg(long, value_name = "NAME")]
        to: String,
        /// Where to put them; the file must not exist yet.
        #[arg(short, long, visible_alias = "out")]
        output: PathBuf,
    },
    /// Have the organisation's own node hold the custody keys that another organisation shares, and write its attestations
    /// for them.
    Hold {
        /// The file that `custody share` wrote.
        file: PathBuf,
        /// Where to put the attestations; the file must not exist yet.
        #[arg(short, long, visible_alias = "out")]
        output: PathBuf,
    },
    /// Say which nodes are brokers of custody keys: they release keys, and must hold them.
    Brokers {
        /// Add the node that wrote these attestations with `custody hold`.
        #[arg(
            long,
            value_name = "FILE",
            required_unless_present = "remove",
            requires = "of"
        )]
        add: Vec<PathBuf>,
        /// The member whose node it is to be, by its short name.
        #[arg(long, value_name = "NAME", requires = "add")]
        of: Option<String>,
        /// Remove the node of this member, by its short name.
        #[arg(long, value_name = "NAME")]
        remove: Vec<String>,
        /// Of these custody keys; absent, of those that the files attest.
        #[arg(long = "custody", value_name = "ID", conflicts_with = "all")]
        custodies: Vec<CustodyId>,
        /// Of all custody keys of the user's organisation.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        wait: WaitArguments,
    },
}

/// Kinds of custody keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindName {
    /// One person's data.
    Person,
    /// A dataset, or what a receiver of firmware is sent.
    Dataset,
    /// For everyone who is enrolled.
    Open,
}

/// `medanchor device`, `person`, `org` and `service`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PrincipalCommand {
    /// Enrol one.
    Enrol(EnrolArguments),
    /// List them.
    List,
    /// Take one's right to act, until it is reinstated.
    Suspend {
        /// Its did:key.
        did: Did,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Give a suspended one its right to act back.
    Reinstate {
        /// Its did:key.
        did: Did,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Give one these roles, and no others.
    Roles {
        /// Its did:key.
        did: Did,
        /// A role it may act in, such as clinician, researcher, device, vendor.
        #[arg(long = "role", value_name = "ROLE", required_unless_present = "none")]
        roles: Vec<String>,
        /// None at all.
        #[arg(long, conflicts_with = "roles")]
        none: bool,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Revoke one for good.
    Revoke {
        /// Its did:key.
        did: Did,
        #[command(flatten)]
        wait: WaitArguments,
    },
}

/// `medanchor device`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    #[command(flatten)]
    Principal(PrincipalCommand),
    /// Look whether a device was enrolled with a serial number.
    Serial {
        /// Its did:key.
        did: Did,
        /// The serial number.
        serial: String,
        /// The salt that `device enrol` printed.
        #[arg(long, value_parser = random_id)]
        salt: [u8; 16],
    },
}

/// `medanchor … enrol`.
#[derive(Clone, Debug, Args)]
pub(crate) struct EnrolArguments {
    /// Its did:key, as its `medanchor key show` prints it.
    pub(crate) did: Did,
    /// A role it may act in, such as clinician, researcher, device, vendor.
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// A short label for lists; never a patient's name.
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// A device's manufacturer.
    #[arg(long)]
    pub(crate) manufacturer: Option<String>,
    /// A device's model.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// The device identifier of a device's UDI (UDI-DI).
    #[arg(long)]
    pub(crate) udi: Option<String>,
    /// The firmware that a device runs.
    #[arg(long)]
    pub(crate) firmware: Option<String>,
    /// A device's serial number: the log has a salted commitment to it alone.
    #[arg(long)]
    pub(crate) serial: Option<String>,
    #[command(flatten)]
    pub(crate) wait: WaitArguments,
}

/// `medanchor consent`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ConsentCommand {
    /// Give consent, or deny it.
    Give {
        /// The custody key.
        custody: CustodyId,
        #[command(flatten)]
        uses: Box<UsesArguments>,
        /// Deny these uses, whatever another consent or the policies permit; what is left out is no condition.
        #[arg(long)]
        deny: bool,
        /// How many days it may be used; absent, until it is withdrawn.
        #[arg(long, conflicts_with = "before")]
        days: Option<u32>,
        /// Uses among them of which the opposite is meant: `class=imaging`, `party=DID,purpose=HRESCH`, and so on.
        #[arg(long, value_name = "CONDITIONS")]
        except: Vec<Uses>,
        /// The consent that this one replaces; absent, it is a new one.
        #[arg(long, value_name = "CONSENT", value_parser = random_id)]
        replace: Option<[u8; 16]>,
        /// The form in which it was given: the log keeps its SHA-256.
        #[arg(long, value_name = "FILE")]
        document: Option<PathBuf>,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Withdraw a consent.
    Withdraw {
        /// The custody key.
        custody: CustodyId,
        /// The consent, as `consent give` printed it.
        #[arg(value_parser = random_id)]
        consent: [u8; 16],
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// List the consents given for a custody key.
    List {
        /// The custody key.
        custody: CustodyId,
    },
    /// Show one consent.
    Show {
        /// The custody key.
        custody: CustodyId,
        /// The consent, as `consent list` prints it.
        #[arg(value_parser = random_id)]
        consent: [u8; 16],
    },
    /// Give the consent that an HL7 FHIR R4 Consent says (IHE PCF), or withdraw it where that is not active any more.
    Import {
        /// The resource, JSON.
        file: PathBuf,
        /// The custody key of its patient, where the resource does not say it.
        #[arg(long, value_name = "CUSTODY")]
        custody: Option<CustodyId>,
        /// Whom a reference or an identifier of the resource means: `Organization/x=did:key:...`, `system|value=did:key:...`.
        #[arg(long, value_name = "REFERENCE=DID", value_parser = consent::who)]
        who: Vec<(String, Did)>,
        /// A base rule `deny` without conditions denies whatever its exceptions do not permit, treatment included.
        #[arg(long)]
        dissent: bool,
        /// A base rule `deny` without conditions says what holds anyhow: what policies permit stays permitted.
        #[arg(long, conflicts_with = "dissent")]
        default: bool,
        /// The server whose ids the resource has, where there are several.
        #[arg(long, value_name = "NAME", default_value = "")]
        server: String,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Write a consent as an HL7 FHIR R4 Consent (IHE PCF).
    Export {
        /// The custody key.
        custody: CustodyId,
        /// The consent, as `consent list` prints it.
        #[arg(value_parser = random_id)]
        consent: [u8; 16],
        /// The file; absent, standard output.
        #[arg(short, long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Uses of data: those that meet every condition.
#[derive(Args, Clone, Debug)]
pub(crate) struct UsesArguments {
    /// An organisation, person, device or service that uses it.
    #[arg(long = "party", value_name = "DID", required_unless_present_any = ["roles", "deny"])]
    parties: Vec<Did>,
    /// The role that it acts in; without `--party`, whoever acts in it, of any organisation.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A purpose of use, such as HRESCH; it covers the narrower ones.
    #[arg(
        long = "purpose",
        value_name = "CODE",
        required_unless_present = "deny"
    )]
    purposes: Vec<String>,
    /// A data class; absent, all.
    #[arg(long = "class", value_name = "CLASS")]
    classes: Vec<Class>,
    /// A device that made the data; absent, all.
    #[arg(long = "device", value_name = "DID")]
    devices: Vec<Did>,
    /// Only data that was captured then or later: 2026-03-01, 2026-03-01T10:15:00Z, or unix ms.
    #[arg(long, value_name = "TIME")]
    captured_from: Option<Moment>,
    /// Only data that was captured before, likewise.
    #[arg(long, value_name = "TIME")]
    captured_before: Option<Moment>,
    /// Only uses then or later, likewise.
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Only uses before, likewise.
    #[arg(long, value_name = "TIME")]
    before: Option<Moment>,
}

impl UsesArguments {
    pub(crate) fn to_uses(&self) -> Uses {
        Uses {
            parties: self.parties.clone(),
            roles: self.roles.clone(),
            purposes: self.purposes.clone(),
            classes: self.classes.clone(),
            devices: self.devices.clone(),
            captured_from: self.captured_from,
            captured_before: self.captured_before,
            from: self.from,
            before: self.before,
        }
    }
}

/// `medanchor factor`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum FactorCommand {
    /// Make a secret for a person's authenticator app on the own organisation's node, and show it once, as a QR code.
    New {
        /// The person, its did:key.
        who: Did,
    },
    /// Enrol a second factor, once the app shows a code.
    Confirm {
        /// The person, its did:key.
        who: Did,
        /// The factor, as `factor new` printed it.
        #[arg(value_parser = random_id)]
        factor: [u8; 16],
        /// What the app shows.
        code: Code,
        /// The node that made it, its did:key, as `factor new` printed it.
        #[arg(long, value_name = "DID")]
        at: Did,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Remove a second factor, as when a phone is lost.
    Remove {
        /// The person, its did:key.
        who: Did,
        /// The factor.
        #[arg(value_parser = random_id)]
        factor: [u8; 16],
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// List a person's second factors.
    List {
        /// The person, its did:key.
        who: Did,
    },
    /// Show the own second factor. Requests go with it for five minutes.
    Verify {
        /// What the app shows.
        code: Code,
        /// The factor, where the user has several.
        #[arg(long, value_name = "ID", value_parser = random_id)]
        factor: Option<[u8; 16]>,
    },
}

/// `medanchor break-glass`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BreakGlassCommand {
    /// Say who of the own organisation may override consent in an emergency, and who reviews that.
    Rule {
        /// A role in which its people may; none: nobody may any more.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// A person of the organisation who reviews, its did:key.
        #[arg(long = "reviewer", value_name = "DID", required = true)]
        reviewers: Vec<Did>,
        /// How long an emergency lasts.
        #[arg(long, value_name = "HOURS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=24))]
        lasts_hours: u64,
        /// How long after its beginning it must have been reviewed.
        #[arg(long, value_name = "HOURS", default_value_t = 72, value_parser = clap::value_parser!(u64).range(1..=336))]
        review_within_hours: u64,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Override consent for a patient's data, and answer for it. Keys are released for purpose BTG from then on.
    Begin {
        /// The patient's custody key.
        custody: CustodyId,
        /// Why: OVRER emergency, OVRPJ professional judgement, OVRPS public safety, OVRTPS safety of a third party.
        #[arg(long, value_name = "CODE")]
        reason: OverrideReason,
        /// The role acted in.
        #[arg(long, default_value = "clinician")]
        role: String,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// List the emergencies that concern the user.
    List {
        /// Only those that nobody has reviewed.
        #[arg(long)]
        to_review: bool,
    },
    /// Close somebody else's emergency.
    Review {
        /// The emergency, as `break-glass list` names it: the leaf with which it began.
        emergency: u64,
        #[command(flatten)]
        finding: FindingArguments,
        #[command(flatten)]
        wait: WaitArguments,
    },
}

/// What a review found.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct FindingArguments {
    /// There was a reason.
    #[arg(long)]
    justified: bool,
    /// There was none: the person is suspended.
    #[arg(long)]
    unjustified: bool,
}

impl FindingArguments {
    /// What it found.
    pub(crate) fn finding(&self) -> Finding {
        match self.unjustified {
            true => Finding::Unjustified,
            false => Finding::Justified,
        }
    }
}

/// `medanchor legal-hold`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LegalHoldCommand {
    /// Have the own organisation's node keep records, and fetch those that it does not have, until the hold is released.
    Place {
        #[command(flatten)]
        held: LegallyHeldArguments,
        /// Why, such as a court's reference; never a patient's name.
        #[arg(long)]
        matter: String,
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// Release a hold of the own organisation.
    Release {
        /// The hold, as `legal-hold place` printed it.
        #[arg(value_parser = random_id)]
        hold: [u8; 16],
        #[command(flatten)]
        wait: WaitArguments,
    },
    /// List those in force, of all organisations.
    List,
}

/// What a legal hold is on.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct LegallyHeldArguments {
    /// This record.
    #[arg(long, value_name = "CID")]
    pub(crate) record: Option<Cid>,
    /// All records of this custody key, those anchored later included.
    #[arg(long, value_name = "ID")]
    pub(crate) custody: Option<CustodyId>,
}

impl LegallyHeldArguments {
    /// One of the two is given.
    pub(crate) fn held(&self) -> Option<LegallyHeld> {
        let record = self.record.map(LegallyHeld::Record);
        record.or_else(|| self.custody.map(LegallyHeld::Custody))
    }
}

/// `medanchor put`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PutArguments {
    /// The payload; `-` is standard input, which cannot be resumed. Several files, or folders with all below them, are
    /// put one record each, with a manifest; the same command again goes on.
    #[arg(required_unless_present = "watch", conflicts_with = "watch")]
    pub(crate) file: Vec<PathBuf>,
    /// Put every file that comes into this folder, until Ctrl-C.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) watch: Option<PathBuf>,
    /// How much of a watched folder may be sealed and not sent yet, in GiB; more stays in the folder.
    #[arg(long, value_name = "GIB", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=512))]
    pub(crate) outbox_limit: u64,
    /// The manifest of several files; absent, one in the user's folder for this custody key and class.
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// The payload is in another format; what is in it is sealed.
    #[arg(long, value_enum, requires = "key", conflicts_with_all = ["watch", "manifest"])]
    pub(crate) format: Option<FormatName>,
    /// The private key to read it with, a file without a passphrase as crypt4gh-keygen --nocrypt writes it.
    #[arg(long, value_name = "KEY", requires = "format")]
    pub(crate) key: Option<PathBuf>,
    /// Send at most this many bytes per second, such as 500k, 20M or 1Gi.
    #[arg(long, value_name = "RATE")]
    pub(crate) limit: Option<Rate>,
    /// The custody key to seal it to.
    #[arg(long)]
    pub(crate) custody: CustodyId,
    /// What kind of data it is, such as waveform.ecg.
    #[arg(long)]
    pub(crate) class: Class,
    /// The cipher.
    #[arg(long, value_enum, default_value_t = SuiteName::Chacha20Poly1305)]
    pub(crate) suite: SuiteName,
    /// A full sealed chunk has 2 to the power of this many bytes.
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u8).range(16..=20))]
    pub(crate) chunk_log2: u8,
    /// When it was captured, unix ms; absent, the file's time, or now.
    #[arg(long, value_name = "UNIX_MS")]
    pub(crate) captured_at: Option<u64>,
    /// A name, sealed beside the payload.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A media type, sealed beside the payload.
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// What to wait for. With `committed`, the sealed payload stays in the outbox until a later `put` has its
    /// receipt.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) wait: Wait,
}

/// Formats of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatName {
    /// GA4GH Crypt4GH, version 1.
    #[value(name = "c4gh")]
    Crypt4gh,
}

/// Of every command that has a statement recorded.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitArguments {
    /// What to wait for.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) wait: Wait,
}

/// Ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SuiteName {
    /// Suite 1.
    #[value(name = "chacha20-poly1305", alias = "1")]
    Chacha20Poly1305,
    /// Suite 2, for those bound to FIPS 140.
    #[value(name = "aes-256-gcm", alias = "2")]
    Aes256Gcm,
}

/// `medanchor request`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RequestArguments {
    /// The record's CID.
    pub(crate) record: Cid,
    /// Purpose of use: an HL7 code such as TREAT or HRESCH.
    #[arg(long)]
    pub(crate) purpose: String,
    /// The role to act in; absent, the first that the user is enrolled with.
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// How strong a receipt of the release to wait for: no key is used without one.
    #[arg(long, value_enum, default_value_t = StrengthName::Witnessed)]
    pub(crate) wait: StrengthName,
}

/// `medanchor get`.
#[derive(Clone, Debug, Args)]
pub(crate) struct GetArguments {
    /// The record's CID; with --into, as many as you like.
    pub(crate) record: Vec<Cid>,
    /// The file to write; `-` is standard output. What an interrupted run had fetched is kept beside it and is not
    /// fetched again.
    #[arg(short, long)]
    pub(crate) output: Option<PathBuf>,
    /// A folder to fetch the records into, each to a file named by its CID, with a manifest. What is there is not
    /// fetched again; without a record, it goes on with what its manifest says is missing.
    #[arg(
        long,
        value_name = "FOLDER",
        required_unless_present = "output",
        conflicts_with = "output"
    )]
    pub(crate) into: Option<PathBuf>,
    /// A file with a record's CID in each line.
    #[arg(long, value_name = "FILE", requires = "into")]
    pub(crate) records: Option<PathBuf>,
    /// Every record of which there is a grant in the user's folder that still stands.
    #[arg(long, requires = "into")]
    pub(crate) granted: bool,
    /// The records of a device's stream: this device.
    #[arg(
        long,
        value_name = "DID",
        requires = "stream",
        conflicts_with = "output"
    )]
    pub(crate) device: Option<Did>,
    /// And this stream.
    #[arg(long, value_name = "ID", requires = "device")]
    pub(crate) stream: Option<StreamId>,
    /// Of these only the records under this custody key. Without a stream, of those that the user may have for the
    /// purpose; an operator's, of the whole log.
    #[arg(long, value_name = "ID", conflicts_with = "output")]
    pub(crate) custody: Option<CustodyId>,
    /// Only the records of this class, likewise.
    #[arg(long, conflicts_with = "output")]
    pub(crate) class: Option<Class>,
    /// Only the records that were captured then or later, likewise: 2026-03-01, 2026-03-01T10:15:00Z, or unix ms.
    #[arg(long, value_name = "TIME", conflicts_with = "output")]
    pub(crate) from: Option<Moment>,
    /// Only the records that were captured before, likewise.
    #[arg(long, value_name = "TIME", conflicts_with = "output")]
    pub(crate) until: Option<Moment>,
    /// Write it in another format, for tools of others, to the reader that --to names.
    #[arg(long, value_enum, requires = "to", conflicts_with = "into")]
    pub(crate) format: Option<FormatName>,
    /// The reader's public key, a file as crypt4gh-keygen writes it.
    #[arg(long, value_name = "KEY", requires = "format")]
    pub(crate) to: Option<PathBuf>,
    /// Of the payload, only these bytes: the first and the last one, counted from 0, or `A-` for all from A on.
    #[arg(long, value_name = "A-B", conflicts_with = "into")]
    pub(crate) range: Option<ByteRange>,
    /// Fetch at most this many bytes per second, such as 500k, 20M or 1Gi.
    #[arg(long, value_name = "RATE")]
    pub(crate) limit: Option<Rate>,
    /// Purpose of use to ask for when there is no grant yet.
    #[arg(long)]
    pub(crate) purpose: Option<String>,
    /// The role to act in; absent, the first that the user is enrolled with.
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// How strong a receipt of the release to wait for: no key is used without one.
    #[arg(long, value_enum, default_value_t = StrengthName::Witnessed)]
    pub(crate) wait: StrengthName,
}

/// `medanchor accuse`.
#[derive(Clone, Debug, Args)]
pub(crate) struct AccuseArguments {
    /// A receipt.
    pub(crate) first: PathBuf,
    /// A receipt of the same index that shows another leaf.
    pub(crate) second: PathBuf,
    /// Where to put the proof; the file must not exist yet.
    #[arg(long, short)]
    pub(crate) output: PathBuf,
    /// The trust policy; absent, that of the user's folder.
    #[arg(long)]
    pub(crate) policy: Option<PathBuf>,
    /// How the policy changed since; absent, as kept in the user's folder.
    #[arg(long)]
    pub(crate) chain: Option<PathBuf>,
}

/// `medanchor verify`.
#[derive(Clone, Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The receipt, or a proof.
    pub(crate) receipt: PathBuf,
    /// The record that the receipt must be of: its CID, a file with its block, or a CAR as `car export` writes it.
    #[arg(value_name = "RECORD|FILE")]
    pub(crate) record: Option<PathBuf>,
    /// The trust policy; absent, that of the user's folder.
    #[arg(long)]
    pub(crate) policy: Option<PathBuf>,
    /// How the policy changed since; absent, as kept in the user's folder.
    #[arg(long)]
    pub(crate) chain: Option<PathBuf>,
    /// How strong the receipt must be.
    #[arg(long, value_enum, default_value_t = StrengthName::Published)]
    pub(crate) strength: StrengthName,
}

/// Strengths of receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrengthName {
    /// Some honest organisation besides the publisher's has seen it.
    Witnessed,
    /// The policy's whole quorum has.
    Published,
}

/// `medanchor log`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Show a leaf, with its receipt verified.
    Show {
        /// The leaf: its index, the record that it anchors, or the SHA-256 of its statement.
        #[arg(value_parser = leaf_name)]
        leaf: LeafName,
    },
    /// List leaves, as a node tells them; it may be behind, and says how many it has.
    List {
        /// The first.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// At most this many.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        limit: u64,
    },
    /// Follow the log: each new leaf and checkpoint, verified, until Ctrl-C.
    Watch {
        /// The first leaf; absent, the next one.
        #[arg(long)]
        from: Option<u64>,
    },
    /// Write the receipt of a leaf, verified: also of what was only committed before.
    Prove {
        /// The leaf: its index, the record that it anchors, or the SHA-256 of its statement.
        #[arg(value_parser = leaf_name)]
        leaf: LeafName,
        /// How strong a receipt to wait for.
        #[arg(long, value_enum, default_value_t = StrengthName::Published)]
        wait: StrengthName,
        /// The file; absent, `leaf-INDEX.tlog-proof`.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
    /// Prove that the log only grew from one checkpoint to another.
    Consistency {
        /// The older: a size, a file with a checkpoint or a receipt, or `kept`, the newest that this user knew.
        old: String,
        /// The newer: likewise, or `newest`, which a node shows now.
        #[arg(default_value = "newest")]
        new: String,
        #[command(flatten)]
        source: LogArguments,
    },
    /// Recompute the whole log from its entries and compare every tile. An interrupted run goes on where it was.
    Fsck {
        #[command(flatten)]
        source: LogArguments,
        /// Begin with the first leaf, whatever an interrupted run had verified.
        #[arg(long)]
        afresh: bool,
    },
    /// Keep watch over the log: whatever a server shows must extend what was shown before.
    Monitor {
        #[command(flatten)]
        source: LogArguments,
        /// Look once.
        #[arg(long)]
        once: bool,
        /// Seconds between looks.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        every: u64,
    },
}

/// Where a log is read from, over HTTPS.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogArguments {
    /// A server, such as https://127.0.0.1:7442; absent, the nodes of `client.toml`.
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// Certificates of that server's authority, PEM; absent, those of the user's folder.
    #[arg(long, requires = "url")]
    pub(crate) ca: Option<PathBuf>,
    /// The trust policy; absent, that of the user's folder.
    #[arg(long)]
    pub(crate) policy: Option<PathBuf>,
    /// How the policy changed since; absent, as kept in the user's folder.
    #[arg(long)]
    pub(crate) chain: Option<PathBuf>,
}

impl From<KindName> for CustodyKind {
    fn from(kind: KindName) -> Self {
        match kind {
            KindName::Person => Self::Person,
            KindName::Dataset => Self::Dataset,
            KindName::Open => Self::Open,
        }
    }
}

impl From<SuiteName> for Suite {
    fn from(suite: SuiteName) -> Self {
        match suite {
            SuiteName::Chacha20Poly1305 => Self::ChaCha20Poly1305,
            SuiteName::Aes256Gcm => Self::Aes256Gcm,
        }
    }
}

impl From<StrengthName> for Strength {
    fn from(strength: StrengthName) -> Self {
        match strength {
            StrengthName::Witnessed => Self::Witnessed,
            StrengthName::Published => Self::Published,
        }
    }
}

fn leaf_name(text: &str) -> Result<LeafName, String> {
    let mut hash = [0; 32];
    if let Ok(index) = text.parse() {
        Ok(LeafName::Index(index))
    } else if let Ok(record) = text.parse() {
        Ok(LeafName::Record(record))
    } else if hex::decode_to_slice(text, &mut hash).is_ok() {
        Ok(LeafName::Statement(Hash::new(hash)))
    } else {
        Err("neither an index, a record's CID nor 64 hexadecimal digits".to_owned())
    }
}

fn random_id(text: &str) -> Result<[u8; 16], String> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id).map_err(|_| "not 32 hexadecimal digits".to_owned())?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    const DID: &str = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";
    const CID: &str = "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua";
    const CUSTODY: &str = "000102030405060708090a0b0c0d0e0f";

    #[test]
    fn arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_manual_is_parsed() {
        for line in [
            "key new".to_owned(),
            "key new --no-passphrase".to_owned(),
            "--passphrase-file one key passphrase --new-passphrase-file two".to_owned(),
            "key passphrase --no-passphrase".to_owned(),
            "key show --json".to_owned(),
            format!("custody new --kind dataset --writer {DID}"),
            "custody list".to_owned(),
            format!("custody check {CUSTODY} {CUSTODY} --json"),
            "custody check".to_owned(),
            format!("custody restore --custody {CUSTODY} --copy copy.toml --wait committed"),
            "custody restore --all".to_owned(),
            format!("custody share --custody {CUSTODY} --custody {CUSTODY} --to hospital-b -o keys"),
            "custody share --all --to hospital-b --out keys".to_owned(),
            "custody hold keys --out held".to_owned(),
            "custody brokers --add held --of hospital-b --wait committed".to_owned(),
            format!("custody brokers --remove hospital-a --custody {CUSTODY}"),
            "custody brokers --remove hospital-a --all".to_owned(),
            format!("device enrol {DID} --role device --label Holter"),
            format!("device enrol {DID} --udi 00844588003288 --firmware 4.2 --serial HX-1 --model H"),
            format!("device serial {DID} HX-1 --salt {CUSTODY}"),
            "device list".to_owned(),
            "person list".to_owned(),
            format!("org revoke {DID}"),
            format!("device suspend {DID}"),
            format!("person reinstate {DID}"),
            format!("service enrol {DID} --role vendor"),
            format!("consent give {CUSTODY} --party {DID} --purpose HRESCH --class waveform.ecg"),
            format!("consent give {CUSTODY} --role nurse --purpose TREAT --except class=imaging"),
            format!("consent give {CUSTODY} --deny --role clinician --captured-before 2026-03-01"),
            format!("consent give {CUSTODY} --deny --replace {CUSTODY} --document form.pdf"),
            format!("consent show {CUSTODY} {CUSTODY}"),
            format!("consent export {CUSTODY} {CUSTODY} -o consent.json"),
            format!("consent import consent.json --custody {CUSTODY} --who Organization/x={DID}"),
            format!("consent withdraw {CUSTODY} {CUSTODY}"),
            format!("consent list {CUSTODY}"),
            format!("legal-hold place --custody {CUSTODY} --matter 7-O-123/26"),
            format!("legal-hold place --record {CID} --matter 7-O-123/26 --wait published"),
            format!("legal-hold release {CUSTODY}"),
            "legal-hold list --json".to_owned(),
            format!("put - --custody {CUSTODY} --class telemetry --suite aes-256-gcm"),
            format!("put ecg.dat --custody {CUSTODY} --class waveform.ecg --chunk-log2 20"),
            format!("put ecg.dat --custody {CUSTODY} --class log --wait committed"),
            format!(
                "put ward7 ward8 --custody {CUSTODY} --class log --manifest m.jsonl --limit 5M"
            ),
            format!("put --watch inbox --custody {CUSTODY} --class log --outbox-limit 2"),
            format!("device enrol {DID} --wait witnessed"),
            format!("consent withdraw {CUSTODY} {CUSTODY} --wait published"),
            format!("request {CID} --purpose TREAT --role clinician"),
            format!("request {CID} --purpose TREAT --wait published"),
            format!("get {CID} -o out --purpose HRESCH"),
            format!("get --device {DID} --stream {CUSTODY} --class log --from 2026-03-01 --into x"),
            format!("get --custody {CUSTODY} --until 2026-03-01T10:15:00Z --into x"),
            format!("get {CID} -o x.c4gh --format c4gh --to reader.pub"),
            format!("put x.c4gh --format c4gh --key own.sec --custody {CUSTODY} --class other"),
            format!("car export {CID} {CID} --out records.car"),
            format!("car export --device {DID} --stream {CUSTODY} -o -"),
            "car import records.car --json".to_owned(),
            "verify receipt.tlog-proof record.cbor --policy policy.txt --chain policy-chain"
                .to_owned(),
            "log list --from 3 --limit 9".to_owned(),
            "log show 7".to_owned(),
            "log watch --from 3 --json".to_owned(),
            "log prove 7 -o leaf.tlog-proof".to_owned(),
            format!("log prove {CID} --wait witnessed"),
            format!("log show {CUSTODY}{CUSTODY}"),
            "log consistency 3 9".to_owned(),
            "log consistency kept".to_owned(),
            "log fsck --url https://127.0.0.1:7442 --ca ca.pem --policy policy.txt".to_owned(),
            "log fsck --afresh".to_owned(),
            "log monitor --policy policy.txt --once".to_owned(),
            "log monitor --every 60".to_owned(),
            "log monitor --policy policy.txt --chain policy-chain".to_owned(),
            "accuse one two -o proof --policy policy.txt --chain policy-chain".to_owned(),
            "policy update".to_owned(),
            "policy update old.tlog-proof".to_owned(),
            "admin member list --json".to_owned(),
            "admin member draft-removal hospital-c --quorum 3 -o removal".to_owned(),
            "admin member approve removal".to_owned(),
            "admin member add request".to_owned(),
            "admin member remove removal copy --wait committed".to_owned(),
            "admin witness list".to_owned(),
            "admin witness draft-addition w.example+0a0b0c0d+BAAA --url https://w.example/w --certificate ca.pem \
             --quorum 4 -o draft"
                .to_owned(),
            "admin witness draft-removal w.example --quorum 3 -o draft".to_owned(),
            "admin witness approve draft".to_owned(),
            "admin witness add draft copy".to_owned(),
            "admin witness remove draft --wait witnessed".to_owned(),
            "admin placement set draft --wait committed".to_owned(),
            "--home /tmp/x --json status".to_owned(),
            "--node hospital-b status".to_owned(),
            format!("status {CID} --read"),
        ] {
            let words = std::iter::once("medanchor").chain(line.split(' '));
            let parsed = Arguments::try_parse_from(words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        for line in [
            "",
            "put x",
            "put x --custody 00 --class waveform.ecg",
            &format!("put x --custody {CUSTODY} --class fun"),
            &format!("put x --custody {CUSTODY} --class log --chunk-log2 21"),
            &format!("put x --watch y --custody {CUSTODY} --class log"),
            &format!("put --custody {CUSTODY} --class log"),
            "custody restore",
            &format!("custody restore --custody {CUSTODY} --all"),
            "custody restore --all --copy copy.toml",
            "custody share --to hospital-b -o keys",
            "custody share --all -o keys",
            "custody hold keys",
            "custody brokers --add held",
            &format!("custody brokers --custody {CUSTODY}"),
            &format!("custody brokers --remove b --custody {CUSTODY} --all"),
            "key passphrase --no-passphrase --new-passphrase-file two",
            "request not-a-cid --purpose TREAT",
            // No key is opened without a receipt.
            &format!("request {CID} --purpose TREAT --wait committed"),
            &format!("get {CID} -o out --purpose TREAT --wait committed"),
            &format!("device enrol {DID} --wait durable"),
            &format!("consent give {CUSTODY} --party {DID}"),
            &format!("consent give {CUSTODY} --purpose HRESCH"),
            &format!("consent give {CUSTODY} --deny --except kind=log"),
            &format!("consent import consent.json --who {DID}"),
            &format!("device serial {DID} HX-1"),
            &format!("person serial {DID} HX-1 --salt {CUSTODY}"),
            "legal-hold place --matter 7-O-123/26",
            &format!("legal-hold place --record {CID} --custody {CUSTODY} --matter x"),
            &format!("legal-hold place --record {CID}"),
            &format!("get {CID} -o x.c4gh --format c4gh"),
            &format!("get {CID} --into x --format c4gh --to reader.pub"),
            &format!("put x --key own.sec --custody {CUSTODY} --class other"),
            &format!("get --stream {CUSTODY} --into x"),
            &format!("get {CID} --class log -o out"),
            "get --from yesterday --into x",
            "car export -o out",
            &format!("car export {CID}"),
            &format!("car export --stream {CUSTODY} -o out"),
            &format!("car export {CID} --device {DID} --stream {CUSTODY} -o out"),
            "device enrol did:web:x",
            "log show -1",
            "log monitor --every 0",
            "log fsck --ca ca.pem",
            "status --read",
            "admin witness draft-addition w.example+0a0b0c0d+BAAA --url http://w.example --quorum 4 -o draft",
        ] {
            let words = std::iter::once("medanchor").chain(line.split_whitespace());
            assert!(Arguments::try_parse_from(words).is_err(), "{line}");
        }
    }
}
