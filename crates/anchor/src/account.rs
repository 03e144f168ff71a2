use crate::{
    Appended, ReleaseList, SignedStatement, State, Table, Tables, TablesError,
    entry::{Write, account_key, disclosure_key},
    tree::leaf_hash,
};
use medanchor_dag::{CustodyId, Did, Hash, sha256};
use serde::{Deserialize, Serialize};

/// What an account is of: the `released` leaves that took effect, and of which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountOf {
    /// Those of records under a custody key: to whom its keys were disclosed.
    Custody(CustodyId),
    /// Those to a principal, and of an organisation those to all that belong to it: what they were exposed to.
    Principal(Did),
}

/// What somebody who speaks for an account says that it has. `apply` compares it with the state, so that every organisation
/// that co-signs the log vouches for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Which account.
    pub of: AccountOf,
    /// How many disclosures it has.
    pub count: u64,
    /// The head of the hash chain over their leaves.
    pub head: Hash,
}

impl Account {
    /// An account as it is.
    pub fn new(of: AccountOf, AccountHead { count, head }: AccountHead) -> Self {
        Self { of, count, head }
    }

    /// What it says.
    pub fn stated(&self) -> AccountHead {
        AccountHead {
            count: self.count,
            head: self.head,
        }
    }
}

/// How many disclosures an account has, and the head of the hash chain over their leaves. Two accounts with the same head
/// have the same leaves in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountHead {
    /// How many there are.
    pub count: u64,
    /// The head: 32 zero bytes when there is none.
    pub head: Hash,
}

impl AccountHead {
    /// After one more disclosure: `H("medanchor/v1/account\0" || head || leaf hash)`, the leaf hash as in the tree.
    #[must_use]
    pub fn then(&self, leaf_hash: &Hash) -> Self {
        let link = [LABEL, self.head.as_bytes(), leaf_hash.as_bytes()].concat();
        Self {
            count: self.count.saturating_add(1),
            head: Hash::new(sha256(&link)),
        }
    }
}

/// Of an account without any disclosure.
impl Default for AccountHead {
    fn default() -> Self {
        Self {
            count: 0,
            head: Hash::new([0; 32]),
        }
    }
}

impl AccountOf {
    /// The table that has such accounts.
    pub(crate) fn table(&self) -> Table {
        match self {
            Self::Custody(_) => Table::Disclosures,
            Self::Principal(_) => Table::Exposures,
        }
    }
}

/// Enters a release that took effect into every account that it belongs to.
pub(crate) fn enter(
    tables: &mut dyn Tables,
    request: &SignedStatement,
    list: &ReleaseList,
    released: &Appended,
) -> Result<(), TablesError> {
    let mut accounts: Vec<AccountOf> = list.custodies().map(AccountOf::Custody).collect();
    let state = State::new(&*tables);
    let requester = request
        .author()
        .map(|key| state.identity(key))
        .transpose()?;
    if let Some((requester, entry)) = requester.flatten() {
        accounts.push(AccountOf::Principal(requester));
        let org = Some(entry.org).filter(|org| *org != requester);
        accounts.extend(org.map(AccountOf::Principal));
    }
    let leaf_hash = leaf_hash(&released.leaf.to_bytes());
    for of in accounts {
        let account = State::new(&*tables).account(&of)?;
        let number = disclosure_key(&of, account.count);
        Write::number(of.table(), number, released.index).apply(tables)?;
        Write::entry(of.table(), account_key(&of), &account.then(&leaf_hash)).apply(tables)?;
    }
    Ok(())
}

const LABEL: &[u8] = b"medanchor/v1/account\0";
