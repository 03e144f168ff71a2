use crate::{
    Account, AccountError, Body, DisclosedIn, Disclosure, Outcome, Receipt, ReceiptError,
    ReceiptFormatError, Strength, Trust, Verified,
};
use medanchor_dag::{CborError, Did, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};

/// All that was disclosed, for whoever has a policy file and no network: the receipt of the `account` leaf that says how much
/// that is, and every disclosure with its place in the tree of the receipt's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedAccount {
    /// The receipt of the statement.
    pub receipt: Receipt,
    /// The disclosures, in order.
    pub disclosures: Vec<Disclosure>,
}

/// What the log vouches for.
#[derive(Clone, Debug)]
pub struct Vouched<'a> {
    /// What was stated.
    pub account: &'a Account,
    /// Who stated it.
    pub by: &'a Did,
    /// The receipt of the statement, verified.
    pub verified: Verified<'a>,
}

/// Why bytes are no such file.
#[derive(Debug, thiserror::Error)]
pub enum StatedAccountFormatError {
    /// Made by another version, or something else.
    #[error("not a medanchor-account@v1 file")]
    Version,
    /// Not canonical, too long, or with unknown fields.
    #[error("the account file is malformed")]
    Cbor(#[source] CborError),
    /// The receipt in it is none.
    #[error(transparent)]
    Receipt(#[from] ReceiptFormatError),
}

/// Why it does not show all that was disclosed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatedAccountError {
    /// The receipt does not verify.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// It is not of an account, or of one that the log refused.
    #[error("the receipt is not of an account that the log has taken")]
    NotAnAccount,
    /// The disclosures are not those of the account.
    #[error(transparent)]
    Account(#[from] AccountError),
}

impl StatedAccount {
    /// The most bytes that the file may have.
    pub const MAX_BYTES: usize = 256 << 20;

    /// Whether a file that begins so says that it is one.
    pub fn claims(begins: &[u8]) -> bool {
        begins.starts_with(HEADER)
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            receipt: self.receipt.to_string(),
            disclosures: &self.disclosures,
        };
        [HEADER, &to_canonical(&wire)].concat()
    }

    /// Parses a file. Nothing of it is verified yet.
    ///
    /// # Errors
    ///
    /// [`StatedAccountFormatError`]; such bytes are never an account.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatedAccountFormatError> {
        let wire = bytes
            .strip_prefix(HEADER)
            .ok_or(StatedAccountFormatError::Version)?;
        let wire: Wire<Vec<Disclosure>> =
            from_canonical(wire, Self::MAX_BYTES).map_err(StatedAccountFormatError::Cbor)?;
        Ok(Self {
            receipt: wire.receipt.parse()?,
            disclosures: wire.disclosures,
        })
    }

    /// Checks that the log vouches for the account by a receipt of that strength, and that these are its disclosures, all of
    /// them and no others, each in the log and with the content that the log has of it.
    ///
    /// # Errors
    ///
    /// [`StatedAccountError`]
    pub fn verify(
        &self,
        policy: &impl Trust,
        strength: Strength,
    ) -> Result<Vouched<'_>, StatedAccountError> {
        let verified = self.receipt.verify(policy, strength)?;
        let signed = verified.opening.map(|opening| &opening.0.signed);
        let by = signed.and_then(|signed| signed.author());
        let account = match signed.map(|signed| &signed.statement.body) {
            Some(Body::Account(account)) if verified.leaf.outcome == Outcome::Ok => account,
            _ => return Err(StatedAccountError::NotAnAccount),
        };
        let by = by.ok_or(StatedAccountError::NotAnAccount)?;
        if let Some(late) = self.disclosures.last()
            && late.index >= verified.index
        {
            return Err(AccountError::Order(late.index).into());
        }
        let checkpoint = &verified.checkpoint.checkpoint;
        let tree = DisclosedIn {
            origin: &checkpoint.origin,
            size: checkpoint.size,
            root: &checkpoint.root,
        };
        let stated = account.stated();
        stated.verify(&account.of, &self.disclosures, &tree)?;
        Ok(Vouched {
            account,
            by,
            verified,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<D> {
    receipt: String,
    disclosures: D,
}

const HEADER: &[u8] = b"medanchor-account@v1\n";
