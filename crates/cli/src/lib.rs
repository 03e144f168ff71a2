//! Every user's tool: seal, put, request, get, verify, administer.
//!
//! Scope: the command line ([`main`], [`run`]), the user's home folder ([`Home`]), and each command as a
//! function that returns what it prints. A [`Session`] is a home with its keys, trust policy and nodes.
//! Nothing that a node says is believed without a receipt or a hash where one exists.
//!
//! Out of scope: formats and checks (`medanchor-anchor`, `medanchor-dag`, `medanchor-envelope`) and the
//! wire (`medanchor-api`).

mod access_policy;
mod anchored;
mod arguments;
mod audit_account;
mod audit_explain;
mod audit_exposure;
mod break_glass;
mod bulk;
mod byte_range;
mod c4gh;
mod c4gh_file;
mod car_export;
mod car_import;
mod chain;
mod clock;
mod commands;
mod conflict;
mod consent;
mod custody;
mod custody_brokers;
mod custody_check;
mod custody_copy;
mod custody_held;
mod custody_node;
mod custody_restore;
mod custody_share;
mod device;
mod device_stream;
mod disclosures;
mod epoch_key;
mod equivocation;
mod erasure;
mod error;
mod exit;
mod file_list;
mod file_sealer;
mod files;
mod fsck_state;
mod get;
mod get_many;
mod grant;
mod home;
mod key;
mod key_rotation;
mod known;
mod lasting;
mod legal_hold;
mod lines;
mod log;
mod log_access;
mod log_consistency;
mod log_fsck;
mod log_monitor;
mod log_watch;
mod manifest;
mod member;
mod outbox;
mod own_keys;
mod passphrases;
mod patient;
mod payload;
mod placement;
mod policy;
mod policy_change;
mod principal;
mod progress;
mod put;
mod put_manifest;
mod put_many;
mod put_watch;
mod report;
mod request;
mod seal;
mod second_factor;
mod secret_file;
mod selection;
mod send;
mod session;
mod signals;
mod status;
mod status_record;
mod throttle;
mod verify;
mod wait;
mod witness;

pub use access_policy::ShownAccessPolicy;
pub use audit_account::AccountShown;
pub use audit_explain::{BasisRow, Explained};
pub use audit_exposure::{Exposure, SilentNode, Since, SinceError};
pub use break_glass::{
    BreakGlassOptions, BreakGlassRuleSet, EmergencyBegun, EmergencyList, EmergencyReviewed,
    EmergencyRow,
};
pub use bulk::ReleasedTogether;
pub use byte_range::{ByteRange, ByteRangeError};
pub use car_export::{CarContent, CarExportOptions, CarExported, CarRecord};
pub use car_import::{CarImported, CarRoot, RootKind};
pub use commands::{main, run};
pub use conflict::ProvenConflict;
pub use consent::{
    BaseRule, ConsentExported, ConsentGiven, ConsentImported, ConsentList, ConsentOptions,
    ConsentRow, ConsentWithdrawn, ImportOptions, ProvisionRow, Uses, UsesError,
};
pub use custody::{CustodyList, CustodyMade, CustodyOptions, CustodyRow, FailedCustody};
pub use custody_brokers::{BrokersChanged, BrokersOptions, BrokersRow};
pub use custody_check::{CheckedBroker, CheckedCustody, CustodyChecked};
pub use custody_held::{CustodyTaken, TakenKey};
pub use custody_restore::{CustodyRestored, RestoreOptions, RestoredKey};
pub use custody_share::{CustodyShared, ShareOptions};
pub use device::{DeviceOptions, DeviceRow, SerialMatches};
pub use disclosures::{DisclosureContent, DisclosureRow, PartRow};
pub use epoch_key::EpochKeyReplaced;
pub use equivocation::{EquivocationShown, SignedSize};
pub use erasure::{DestroyedRow, EraseOptions, ErasureShown, MissingRow};
pub use error::CliError;
pub use exit::Exit;
pub use get::{Asking, GetOptions, Got, NotedNode};
pub use get_many::{FailedRecord, GetManyOptions, GotMany};
pub use home::Home;
pub use key::{KeyShown, NewPassphrase};
pub use key_rotation::KeyRotated;
pub use legal_hold::{LegalHoldChanged, LegalHoldList, LegalHoldRow, LegallyHeld};
pub use log::{LeafProved, LeafRow, LeafShown, LogList};
pub use log_access::LogSource;
pub use log_consistency::Consistent;
pub use log_fsck::{Checked, Finding};
pub use log_monitor::{Monitored, ServerRow};
pub use log_watch::{CheckpointRow, Watched};
pub use member::{MemberList, MemberRow};
pub use own_keys::OwnKeys;
pub use placement::{ClassRules, NodeRules, QuotaRules, RulesFile, ShownPlacement};
pub use policy::PolicyUpdated;
pub use policy_change::{PolicyChanged, PolicyDraft};
pub use principal::{Changed, EnrolOptions, PrincipalList, PrincipalRow};
pub use put::{Input, PutOptions};
pub use put_many::{FailedFile, PutMany, PutManyOptions};
pub use report::Report;
pub use request::Granted;
pub use second_factor::{FactorChanged, FactorList, FactorMade, FactorRow, FactorShown};
pub use selection::{Moment, MomentError, Selection};
pub use send::Stored;
pub use session::{Said, Session};
pub use status::{
    AlarmRow, CollectionRow, NodeRow, NodeState, RecordsRow, ReplicationRow, ScrubRow, StatusReport,
};
pub use status_record::{Doing, RecordCopy, RecordStatus};
pub use throttle::{Rate, RateError};
pub use verify::Verified;
pub use wait::{Recorded, Wait};
pub use witness::{WitnessList, WitnessRow};

/// The commands as functions.
pub mod operations {
    pub use crate::{
        access_policy::{access_policy, show_access_policy},
        audit_account::{audit_account, is_account, verify_account},
        audit_explain::explain,
        audit_exposure::exposure,
        break_glass::{begin_emergency, list_emergencies, review_emergency, set_break_glass_rule},
        car_export::export_car,
        car_import::import_car,
        conflict::{is_conflict, verify_conflict},
        consent::{
            export_consent, give_consent, import_consent, list_consents, show_consent,
            withdraw_consent,
        },
        custody::{list_custodies, new_custody},
        custody_brokers::change_brokers,
        custody_check::check_custodies,
        custody_held::hold_custodies,
        custody_restore::restore_custodies,
        custody_share::share_custodies,
        device::check_serial,
        epoch_key::replace_epoch_key,
        equivocation::{accuse, verify_equivocation},
        erasure::{erase, is_erasure, verify_erasure},
        get::get,
        get_many::get_many,
        key::{change_passphrase, new_key, show_key},
        key_rotation::rotate_key,
        legal_hold::{list_legal_holds, place_legal_hold, release_legal_hold},
        log::{list_leaves, prove_leaf, show_leaf},
        log_consistency::consistency,
        member::{list_members, member_removal},
        placement::{placement, show_placement},
        policy::update_policy,
        policy_change::{approve, draft_change, submit_change},
        principal::{change_roles, enrol, list_principals, reinstate, revoke, suspend},
        put::put,
        put_many::put_many,
        put_watch::put_watch,
        request::request,
        second_factor::{confirm_factor, list_factors, new_factor, remove_factor, show_factor},
        status::status,
        status_record::status_of_record,
        verify::verify,
        witness::{list_witnesses, witness_addition, witness_removal},
    };
}
