use crate::{
    BYTES_CODES, Code, Decision, Permit, PolicySets, Verdict, decide, decide::decide_listed,
};
use medanchor_anchor::{
    AccessRequest, Basis, Body, Kind, Leaf, LeafIndex, Log, MemoryTables, Opening, Outcome,
    ReleaseList, ReleasePart, SignedStatement, State, TablesError,
};
use medanchor_dag::{Cid, CustodyId};
use std::collections::BTreeSet;

/// Decides again what a `released` or `refused` statement says was decided, from the leaves before it alone.
///
/// It is given them in order. Of a decision that was made while others were recorded it is not known which leaf was the last
/// that it saw: it is any from the size that the requester had seen on. What it read is known, by its basis.
#[derive(Debug)]
pub struct Replay {
    recorded: Recorded,
    tables: MemoryTables,
    sets: PolicySets,
    /// The decision on what the recorded one rested on; the one that agrees, where the others do not.
    found: Option<Decision>,
    not_taken: Vec<NotTaken>,
    /// The records that were released, or named and refused.
    records: BTreeSet<Cid>,
    /// The custody keys of those records, where they are known before.
    custodies: Option<Vec<CustodyId>>,
}

/// A leaf that a decision may read, and that was not taken.
#[derive(Debug)]
struct NotTaken {
    index: LeafIndex,
    kind: Kind,
    /// The custody key that it says something of, where it is of one and that is known.
    custody: Option<CustodyId>,
}

/// What the log says was decided.
#[derive(Debug)]
struct Recorded {
    signed: SignedStatement,
    request: AccessRequest,
    basis: Basis,
    decided_at: u64,
    answer: RecordedAnswer,
}

#[derive(Debug)]
enum RecordedAnswer {
    Released {
        policies: Vec<String>,
        until: u64,
        list: ReleaseList,
    },
    Refused {
        code: String,
    },
}

/// How a decision that was made again compares with the recorded one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The decision, made again.
    pub decision: Decision,
    /// How it compares.
    pub agrees: Agreement,
    /// Leaves that the decision may read, and whose openings are not to be had or say what could not have taken effect.
    pub missing: Vec<LeafIndex>,
    /// Such leaves that were passed over: they are of custody keys that the decision does not read, as those that were erased.
    pub passed_over: Vec<LeafIndex>,
}

/// Whether a decision that was made again is the recorded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// It is, basis and all.
    Same,
    /// The policies permit what the broker refused for the record's bytes, which are not in the log.
    RefusedForBytes,
    /// The broker could not decide by the policy set that was in force.
    NotDecided,
    /// It is not: the broker decided wrongly, or what it rests on is missing here.
    Differs,
}

impl Replay {
    /// Of a `released` statement with its list, or of a `refused` one. `None` of any other, of a release whose list was
    /// deleted, and when records that were selected were refused: the log does not say which custody keys those were to be
    /// under.
    pub fn of(signed: &SignedStatement, list: Option<ReleaseList>) -> Option<Self> {
        let (request, basis, decided_at, answer) = match &signed.statement.body {
            Body::Released(body) => {
                let answer = RecordedAnswer::Released {
                    policies: body.policies.clone(),
                    until: body.valid_until,
                    list: list.filter(|list| list.head() == body.list)?,
                };
                (&body.request, &body.basis, body.decided_at, answer)
            }
            Body::Refused(body) => {
                let code = body.code.clone();
                let answer = RecordedAnswer::Refused { code };
                (&body.request, &body.basis, body.decided_at, answer)
            }
            _ => return None,
        };
        let Body::AccessRequest(asked) = &request.statement.body else {
            return None;
        };
        let records = match &answer {
            RecordedAnswer::Released { list, .. } => list.rows().map(|row| row.record).collect(),
            RecordedAnswer::Refused { .. } if asked.selection.is_some() => return None,
            RecordedAnswer::Refused { .. } => asked.records.iter().copied().collect(),
        };
        Some(Self {
            records,
            recorded: Recorded {
                signed: request.clone(),
                request: asked.clone(),
                basis: basis.clone(),
                decided_at,
                answer,
            },
            tables: MemoryTables::default(),
            sets: PolicySets::default(),
            found: None,
            not_taken: Vec::new(),
            custodies: None,
        })
    }

    /// The same, with what there is of these custody keys alone: fewer leaves are kept. They must be all of the records
    /// that were asked for.
    pub fn under(mut self, custodies: Vec<CustodyId>) -> Self {
        self.custodies = Some(custodies);
        self
    }

    /// The records that were released, or named and refused.
    pub fn records(&self) -> impl Iterator<Item = &Cid> {
        self.records.iter()
    }

    /// Decides again on a state of the log after the leaf that records the decision. `None` when it cannot be told there
    /// whether the decision was right: what it rested on has changed since, or it comes out another.
    ///
    /// # Errors
    ///
    /// When the storage fails.
    pub fn on(
        &self,
        state: &State<'_>,
        sets: &PolicySets,
    ) -> Result<Option<Agreement>, TablesError> {
        let decision = self.recorded.decide(state, sets)?;
        Ok(Some(self.recorded.agrees(&decision)).filter(|agrees| *agrees != Agreement::Differs))
    }

    /// Takes the next leaf, with the opening of one that it [reads](Replay::reads).
    ///
    /// # Errors
    ///
    /// When the tables in memory fail, which they do not.
    pub fn take(
        &mut self,
        index: LeafIndex,
        leaf: &Leaf,
        opening: Option<&Opening>,
    ) -> Result<(), TablesError> {
        if self.reads(leaf) && opening.is_none_or(|opening| self.concerns(opening)) {
            if index >= self.recorded.request.at {
                self.decide()?;
            }
            let is_taken = match opening {
                Some(opening) => Log::replay(&mut self.tables, index, leaf, &opening.0)?,
                None => false,
            };
            if !is_taken {
                let body = opening.map(|opening| &opening.0.signed.statement.body);
                self.not_taken.push(NotTaken {
                    index,
                    kind: leaf.kind,
                    custody: body.and_then(custody_of),
                });
            }
        }
        Ok(())
    }

    /// Takes the next leaf, whose opening was deleted with the erasure of this custody key.
    pub fn take_erased(&mut self, index: LeafIndex, leaf: &Leaf, custody: CustodyId) {
        if self.reads(leaf) {
            // No erasure deletes what is of everybody.
            let is_of_one = matches!(
                leaf.kind,
                Kind::Custody | Kind::Consented | Kind::Withdrawn | Kind::Anchored
            );
            self.not_taken.push(NotTaken {
                index,
                kind: leaf.kind,
                custody: is_of_one.then_some(custody),
            });
        }
    }

    /// Ends with the leaf before the one that records the decision.
    ///
    /// # Errors
    ///
    /// As [`Replay::take`].
    pub fn finish(mut self) -> Result<Replayed, TablesError> {
        self.decide()?;
        let (missing, passed_over) = self.not_taken()?;
        let decision = match self.found {
            Some(found) => found,
            None => self
                .recorded
                .decide(&State::new(&self.tables), &self.sets)?,
        };
        Ok(Replayed {
            agrees: self.recorded.agrees(&decision),
            decision,
            missing,
            passed_over,
        })
    }

    /// The leaves that were not taken: those that the decision may read, and those that it does not.
    fn not_taken(&self) -> Result<(Vec<LeafIndex>, Vec<LeafIndex>), TablesError> {
        let read = self.custodies_read()?;
        let (mut missing, mut passed_over) = (Vec::new(), Vec::new());
        for leaf in &self.not_taken {
            match leaf.custody {
                Some(custody) if !read.contains(&custody) => passed_over.push(leaf.index),
                _ => missing.push(leaf.index),
            }
        }
        Ok((missing, passed_over))
    }

    /// The custody keys of the decision's records, those of erased records included.
    fn custodies_read(&self) -> Result<BTreeSet<CustodyId>, TablesError> {
        let state = State::new(&self.tables);
        let records = self.not_taken.iter();
        let records = records.filter(|leaf| leaf.kind == Kind::Anchored);
        let mut read = self.recorded.released();
        read.extend(records.filter_map(|leaf| leaf.custody));
        for record in &self.records {
            read.extend(state.record(record)?.map(|entry| entry.anchored.custody));
        }
        Ok(read)
    }

    /// Whether a decision on the request may read what the leaf says.
    pub fn reads(&self, leaf: &Leaf) -> bool {
        if leaf.outcome != Outcome::Ok {
            return false;
        }
        match leaf.kind {
            Kind::Founded
            | Kind::Enrolled
            | Kind::Suspended
            | Kind::Reinstated
            | Kind::Revoked
            | Kind::Rotated
            | Kind::RolesChanged
            | Kind::FactorEnrolled
            | Kind::FactorRemoved
            | Kind::BreakGlassRule
            | Kind::BreakGlass
            | Kind::BreakGlassReviewed
            | Kind::Custody
            | Kind::Erased
            | Kind::Consented
            | Kind::Withdrawn
            | Kind::MemberAdded
            | Kind::MemberRemoved
            | Kind::WitnessAdded
            | Kind::WitnessRemoved
            | Kind::Placed
            | Kind::PolicySet => true,
            Kind::Anchored => leaf
                .record
                .is_some_and(|record| self.records.contains(&record)),
            _ => false,
        }
    }

    fn concerns(&self, opening: &Opening) -> bool {
        let Some(custodies) = &self.custodies else {
            return true;
        };
        custody_of(&opening.0.signed.statement.body)
            .is_none_or(|custody| custodies.contains(&custody))
    }

    /// Decides on the leaves so far, if they are those that the recorded decision rested on and it is not found yet.
    fn decide(&mut self) -> Result<(), TablesError> {
        let is_found = self
            .found
            .as_ref()
            .is_some_and(|found| self.recorded.agrees(found) != Agreement::Differs);
        if is_found || !self.recorded.rests_on(&State::new(&self.tables))? {
            return Ok(());
        }
        let decision = self
            .recorded
            .decide(&State::new(&self.tables), &self.sets)?;
        self.found = Some(decision);
        Ok(())
    }
}

impl Recorded {
    /// The custody keys under which something was released.
    fn released(&self) -> BTreeSet<CustodyId> {
        let list = match &self.answer {
            RecordedAnswer::Released { list, .. } => list.parts.as_slice(),
            RecordedAnswer::Refused { .. } => &[],
        };
        let parts = list.iter().filter(|part| !part.rows.is_empty());
        parts.map(|part| part.custody).collect()
    }

    /// Decides again on what was released, or asked for by name.
    fn decide(&self, state: &State<'_>, sets: &PolicySets) -> Result<Decision, TablesError> {
        let (signed, at) = (&self.signed, self.decided_at);
        match &self.answer {
            RecordedAnswer::Released { list, .. } => decide_listed(state, sets, signed, list, at),
            RecordedAnswer::Refused { .. } => decide(state, sets, signed, &[], at),
        }
    }

    /// Whether all that the decision read is as it was.
    fn rests_on(&self, state: &State<'_>) -> Result<bool, TablesError> {
        let Some(requester) = self.signed.author() else {
            return Ok(true);
        };
        let basis = match self.basis.tells_of_no_record() {
            true => state.requester_basis(requester)?,
            false => state.basis(&self.request, requester)?,
        };
        if basis.unwrap_or_default() != self.basis {
            return Ok(false);
        }
        match &self.answer {
            RecordedAnswer::Released { list, .. } => Ok(state.stale(list)?.is_empty()),
            RecordedAnswer::Refused { .. } => Ok(true),
        }
    }

    fn agrees(&self, decision: &Decision) -> Agreement {
        let mismatch = Code::PolicyMismatch;
        let could_not =
            matches!(&self.answer, RecordedAnswer::Refused { code } if code == mismatch.as_str());
        let cannot = matches!(&decision.verdict, Verdict::Deny { code, .. } if *code == mismatch);
        if could_not && !cannot {
            return Agreement::NotDecided;
        }
        if decision.basis != self.basis {
            return Agreement::Differs;
        }
        let is_same = match (&self.answer, &decision.verdict) {
            (
                RecordedAnswer::Released {
                    policies,
                    until,
                    list,
                },
                Verdict::Permit(permit),
            ) => permit.policies() == *policies && permit.until() == *until && is_of(permit, list),
            (RecordedAnswer::Refused { code }, Verdict::Deny { code: again, .. }) => {
                code == again.as_str()
            }
            (RecordedAnswer::Refused { code }, Verdict::Permit(_)) => {
                return match BYTES_CODES.contains(&code.as_str()) {
                    true => Agreement::RefusedForBytes,
                    false => Agreement::Differs,
                };
            }
            (RecordedAnswer::Released { .. }, Verdict::Deny { .. }) => false,
        };
        match is_same {
            true => Agreement::Same,
            false => Agreement::Differs,
        }
    }
}

/// Whether a permit is of what the list says was released, and on the same ground.
fn is_of(permit: &Permit, list: &ReleaseList) -> bool {
    let wraps = |part: &ReleasePart| part.rows.iter().map(|row| row.wrap).collect::<Vec<_>>();
    let parts = permit.parts.iter().zip(&list.parts);
    permit.parts.len() == list.parts.len()
        && parts.into_iter().all(|(part, listed)| {
            part.rows.len() == listed.rows.len() && part.listed(wraps(listed)) == *listed
        })
}

/// The custody key that a statement says something of, besides records.
fn custody_of(body: &Body) -> Option<CustodyId> {
    match body {
        Body::Custody(body) => Some(body.custody),
        Body::Erased(body) => Some(body.custody),
        Body::Consented(body) => Some(body.custody),
        Body::Withdrawn(body) => Some(body.custody),
        _ => None,
    }
}
