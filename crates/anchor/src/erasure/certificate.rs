use super::{Destroyed, Erased, ErasedBy, Gone};
use crate::{
    Body, LeafIndex, Outcome, Receipt, ReceiptError, ReceiptFormatError, StatedAccount,
    StatedAccountError, StatedAccountFormatError, Strength, Trust, Verified,
};
use medanchor_dag::{CborError, Did, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// The certificate of an erasure, for whoever has a policy file and no network: the receipt of the tombstone, those of all who
/// said that they have destroyed what it lists, and what was disclosed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedErasure {
    /// The receipt of the tombstone.
    pub erased: Receipt,
    /// The receipts of what was destroyed.
    pub destroyed: Vec<Receipt>,
    /// What was disclosed before the tombstone.
    pub disclosed: StatedAccount,
}

/// What a certificate shows.
#[derive(Clone, Debug)]
pub struct Erasure<'a> {
    /// The tombstone.
    pub erased: &'a Erased,
    /// Who said it: the owner of the custody key at that time.
    pub by: &'a Did,
    /// The tombstone's receipt, verified.
    pub verified: Verified<'a>,
    /// Who has destroyed what, and the leaf that says so.
    pub destroyed: Vec<ErasedBy>,
    /// Who has not said yet that what is listed of theirs is gone.
    pub missing: Vec<(Did, Gone)>,
}

/// Why bytes are no such file.
#[derive(Debug, thiserror::Error)]
pub enum StatedErasureFormatError {
    /// Made by another version, or something else.
    #[error("not a medanchor-erasure@v1 file")]
    Version,
    /// Not canonical, too long, or with unknown fields.
    #[error("the certificate of the erasure is malformed")]
    Cbor(#[source] CborError),
    /// A receipt in it is none.
    #[error(transparent)]
    Receipt(#[from] ReceiptFormatError),
    /// What it has of the disclosures is no account.
    #[error(transparent)]
    Account(#[from] StatedAccountFormatError),
}

/// Why it does not show that anything was erased.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatedErasureError {
    /// A receipt does not verify.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// It is not of an erasure, or of one that the log refused.
    #[error("the receipt is not of an erasure that the log has taken")]
    NotAnErasure,
    /// The receipt of this leaf is not of something that this erasure lists.
    #[error("leaf {0} does not say that something was destroyed which the erasure lists")]
    NotDestroyed(LeafIndex),
    /// What was disclosed does not verify.
    #[error(transparent)]
    Account(#[from] StatedAccountError),
    /// What was disclosed is not what the tombstone says was.
    #[error("the disclosures are not those that the erasure names")]
    OtherAccount,
}

impl StatedErasure {
    /// The most bytes that the file may have.
    pub const MAX_BYTES: usize = StatedAccount::MAX_BYTES + (16 << 20);

    /// Whether a file that begins so says that it is one.
    pub fn claims(begins: &[u8]) -> bool {
        begins.starts_with(HEADER)
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            erased: self.erased.to_string(),
            destroyed: self.destroyed.iter().map(Receipt::to_string).collect(),
            disclosed: self.disclosed.to_bytes().into(),
        };
        [HEADER, &to_canonical(&wire)].concat()
    }

    /// Parses a file. Nothing of it is verified yet.
    ///
    /// # Errors
    ///
    /// [`StatedErasureFormatError`]; such bytes are never a certificate.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatedErasureFormatError> {
        let wire = bytes
            .strip_prefix(HEADER)
            .ok_or(StatedErasureFormatError::Version)?;
        let wire: Wire =
            from_canonical(wire, Self::MAX_BYTES).map_err(StatedErasureFormatError::Cbor)?;
        let destroyed = wire.destroyed.iter().map(|receipt| receipt.parse());
        Ok(Self {
            erased: wire.erased.parse()?,
            destroyed: destroyed.collect::<Result<_, _>>()?,
            disclosed: StatedAccount::from_bytes(&wire.disclosed)?,
        })
    }

    /// Checks that the log has the tombstone, that it has every attestation that is given, each of something which the
    /// tombstone lists, and that the disclosures are all that there were before it. Whoever is listed and has not attested is
    /// in the answer.
    ///
    /// # Errors
    ///
    /// [`StatedErasureError`]
    pub fn verify(
        &self,
        policy: &impl Trust,
        strength: Strength,
    ) -> Result<Erasure<'_>, StatedErasureError> {
        let verified = self.erased.verify(policy, strength)?;
        let (erased, by) = match taken(&verified) {
            Some(Body::Erased(erased)) => (&**erased, author(&verified)),
            _ => return Err(StatedErasureError::NotAnErasure),
        };
        let by = by.ok_or(StatedErasureError::NotAnErasure)?;
        let (tombstone, mut destroyed) = (verified.index, Vec::new());
        for receipt in &self.destroyed {
            let verified = receipt.verify(policy, strength)?;
            let (index, body) = (verified.index, taken(&verified));
            let said = match body {
                Some(Body::Destroyed(said)) => Some(said),
                _ => None,
            };
            let said = said.filter(|said| said.erasure == tombstone && lists(erased, said));
            let said = said.ok_or(StatedErasureError::NotDestroyed(index))?;
            destroyed.push(ErasedBy {
                who: said.by,
                gone: said.gone,
                leaf: index,
            });
        }
        let vouched = self.disclosed.verify(policy, strength)?;
        let is_its =
            vouched.account.of == erased.account() && vouched.account.stated() == erased.disclosed;
        if !is_its || vouched.verified.index >= tombstone {
            return Err(StatedErasureError::OtherAccount);
        }
        Ok(Erasure {
            erased,
            by,
            verified,
            missing: erased.missing(&destroyed).collect(),
            destroyed,
        })
    }
}

/// What a statement says that the log has taken.
fn taken<'a>(verified: &Verified<'a>) -> Option<&'a Body> {
    let signed = &verified.opening?.0.signed;
    (verified.leaf.outcome == Outcome::Ok).then_some(&signed.statement.body)
}

fn author<'a>(verified: &Verified<'a>) -> Option<&'a Did> {
    verified.opening?.0.signed.author()
}

/// Whether it is of something that the erasure lists. That the one whose it was has signed it is a rule of the log.
fn lists(erased: &Erased, said: &Destroyed) -> bool {
    let mut listed = erased.listed();
    let is_listed = listed.any(|(who, gone)| who == said.by && gone == said.gone);
    is_listed && said.custody == erased.custody
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    erased: String,
    destroyed: Vec<String>,
    disclosed: ByteBuf,
}

const HEADER: &[u8] = b"medanchor-erasure@v1\n";
