use crate::{
    BatchConflictKind, BatchHeadError, Body, Epochs, Receipt, ReceiptError, ReceiptFormatError,
    SignedBatchHead, Strength,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use medanchor_dag::Did;
use std::{fmt, str::FromStr};

/// Two heads that one leader signed and that cannot both be honest, and the receipt of the leaf that says
/// whose node it is: anybody with a trust policy can check it, and nobody but the leader could make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchConflict {
    first: SignedBatchHead,
    second: SignedBatchHead,
    receipt: Receipt,
}

/// A conflict that was checked, and whom it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liar<'c> {
    /// The organisation whose node signed both.
    pub org: Did,
    /// Its short name.
    pub name: &'c str,
    /// What it said twice.
    pub conflict: BatchConflictKind,
    /// The network's name.
    pub origin: &'c str,
}

/// Why text is not the proof of a conflict.
#[derive(Debug, thiserror::Error)]
pub enum BatchConflictFormatError {
    /// Another kind of file.
    #[error("not a `{MAGIC}` file")]
    Magic,
    /// The two heads and the receipt are not there, or not in their one form.
    #[error("proof of a conflict is malformed")]
    Malformed,
    /// A head does not verify.
    #[error(transparent)]
    Head(#[from] BatchHeadError),
    /// The receipt is not one.
    #[error("receipt of the proof is malformed")]
    Receipt(#[from] ReceiptFormatError),
}

/// Why a proof accuses nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchConflictError {
    /// One honest leader may have signed both heads.
    #[error("the two heads do not contradict each other")]
    NoConflict,
    /// The receipt shows nothing.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// The receipt is of another log, or its leaf names no member with the node key that signed.
    #[error("the receipt does not say whose node signed the two heads")]
    Nobody,
}

impl BatchConflict {
    /// The most bytes that its text may have.
    pub const MAX_BYTES: usize = Receipt::MAX_BYTES + 4 * SignedBatchHead::MAX_BYTES;

    /// The proof of two heads' conflict, in their one order.
    pub fn new(one: SignedBatchHead, two: SignedBatchHead, receipt: Receipt) -> Self {
        let (first, second) = if one.to_bytes() <= two.to_bytes() {
            (one, two)
        } else {
            (two, one)
        };
        Self {
            first,
            second,
            receipt,
        }
    }

    /// Whether a text says that it is one.
    pub fn claims(text: &str) -> bool {
        text.lines().next() == Some(MAGIC)
    }

    /// The text of a proof up to its receipt, for when there is none yet: it may be added later.
    pub fn without_receipt(one: &SignedBatchHead, two: &SignedBatchHead) -> String {
        let mut heads = [one, two].map(SignedBatchHead::to_bytes);
        heads.sort();
        let [first, second] = heads.map(|head| STANDARD.encode(head));
        format!("{MAGIC}\n{first}\n{second}\n\n")
    }

    /// The two heads of such a text.
    pub fn heads_without_receipt(text: &str) -> Option<[SignedBatchHead; 2]> {
        let ([first, second], _) = heads_of(text).ok()?;
        (Self::without_receipt(&first, &second) == text).then_some([first, second])
    }

    /// Checks that the heads contradict each other, and by the receipt which member's node signed them.
    ///
    /// # Errors
    ///
    /// [`BatchConflictError`].
    pub fn verify(
        &self,
        epochs: &Epochs,
        strength: Strength,
    ) -> Result<Liar<'_>, BatchConflictError> {
        let conflict = self.first.conflict(&self.second);
        let conflict = conflict.ok_or(BatchConflictError::NoConflict)?;
        let verified = self.receipt.verify(epochs, strength)?;
        let head = &self.first.head;
        let opening = verified
            .opening
            .filter(|_| head.origin == verified.checkpoint.checkpoint.origin)
            .filter(|_| verified.leaf.outcome == crate::Outcome::Ok);
        let body = opening.map(|opening| &opening.0.signed.statement.body);
        let member = body.and_then(|body| member_of(body, &head.node));
        let (org, name) = member.ok_or(BatchConflictError::Nobody)?;
        Ok(Liar {
            org,
            name,
            conflict,
            origin: &head.origin,
        })
    }
}

/// The organisation that a statement makes a member with this node.
fn member_of<'b>(body: &'b Body, node: &Did) -> Option<(Did, &'b str)> {
    match body {
        Body::Founded(founded) => {
            let member = founded.members.iter().find(|member| member.node == *node)?;
            Some((member.org, &member.name))
        }
        Body::MemberAdded(added) if added.node == *node => Some((added.org, &added.name)),
        _ => None,
    }
}

impl fmt::Display for BatchConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = Self::without_receipt(&self.first, &self.second);
        write!(f, "{heads}{}", self.receipt)
    }
}

impl FromStr for BatchConflict {
    type Err = BatchConflictFormatError;

    fn from_str(text: &str) -> Result<Self, BatchConflictFormatError> {
        let ([first, second], receipt) = heads_of(text)?;
        let proof = Self::new(first, second, receipt.parse()?);
        if proof.to_string() == text {
            Ok(proof)
        } else {
            Err(BatchConflictFormatError::Malformed)
        }
    }
}

/// The two heads, and what follows them.
fn heads_of(text: &str) -> Result<([SignedBatchHead; 2], &str), BatchConflictFormatError> {
    use BatchConflictFormatError::{Magic, Malformed};
    let rest = text.strip_prefix(MAGIC).ok_or(Magic)?;
    let rest = rest.strip_prefix('\n').ok_or(Magic)?;
    if text.len() > BatchConflict::MAX_BYTES {
        return Err(Malformed);
    }
    let (heads, receipt) = rest.split_once("\n\n").ok_or(Malformed)?;
    let (first, second) = heads.split_once('\n').ok_or(Malformed)?;
    let head = |line: &str| {
        let bytes = STANDARD.decode(line).map_err(|_| Malformed)?;
        Ok::<_, BatchConflictFormatError>(SignedBatchHead::verify(&bytes)?)
    };
    Ok(([head(first)?, head(second)?], receipt))
}

const MAGIC: &str = "medanchor/v1/batch-conflict";
