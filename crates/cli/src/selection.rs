use crate::{
    Asking, CliError, Exit, OwnKeys, Session,
    bulk::Place,
    chain::{Chain, Link},
    clock,
    consent::check_purpose,
    request::first_role,
    session::patiently,
};
use anyhow::{Context, Result};
use futures::TryStreamExt;
use medanchor_anchor::{Body, Outcome};
use medanchor_api::{NodesSource, RecordQuery};
use medanchor_dag::{Class, CustodyId, Did, StreamId};
use std::{pin::pin, str::FromStr};

/// Which records are meant, where they are not named one by one.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Those of this device's stream; absent, of the whole log for an operator, for others of all that they may have.
    pub stream: Option<(Did, StreamId)>,
    /// Those under this custody key.
    pub custody: Option<CustodyId>,
    /// Those of this class.
    pub class: Option<Class>,
    /// Those that were captured then or later, by the device's clock.
    pub from: Option<Moment>,
    /// Those that were captured before.
    pub until: Option<Moment>,
}

/// A time: `2026-03-01`, `2026-03-01T10:15:00Z`, or milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// Why text is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a time is `2026`, `2026-03`, `2026-03-01`, `2026-03-01T10:15:00Z`, or milliseconds since 1970"
)]
pub struct MomentError;

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        // Four digits are a year.
        match (clock::span(text), text.parse()) {
            (Some((first, _)), _) => Ok(Self(first)),
            (None, Ok(unix_ms)) => Ok(Self(unix_ms)),
            (None, Err(_)) => Err(MomentError),
        }
    }
}

impl Moment {
    /// Unix ms.
    pub(crate) fn unix_ms(self) -> u64 {
        self.0
    }
}

impl Selection {
    /// Whether nothing is selected by it: it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.stream.is_none()
            && self.custody.is_none()
            && self.class.is_none()
            && self.from.is_none()
            && self.until.is_none()
    }

    /// The records, as a chain where they are of a stream. Who may read what is for whoever releases their keys to say.
    pub(crate) async fn records(
        &self,
        session: &Session,
        keys: &OwnKeys,
        asking: &Asking,
    ) -> Result<Chain> {
        match &self.stream {
            Some((device, stream)) => {
                let source = NodesSource::new(session.client.clone());
                let wanted = |link: &Link| self.has(&link.custody, link.class, link.captured_at);
                Chain::of(session, &source, device, stream, wanted).await
            }
            None => {
                let places = match self.of_the_log(session).await? {
                    Some(places) => places,
                    None => self.of_the_user(session, keys, asking).await?,
                };
                Ok(Chain {
                    records: places.iter().map(|place| place.record).collect(),
                    places,
                    ..Chain::default()
                })
            }
        }
    }

    /// Of all records; `None` for a user who may not list the log.
    async fn of_the_log(&self, session: &Session) -> Result<Option<Vec<Place>>> {
        let mut leaves = pin!(session.client.leaves(0, None));
        let mut places = Vec::new();
        loop {
            let entry = match leaves.try_next().await {
                Ok(Some(entry)) => entry,
                Ok(None) => return Ok(Some(places)),
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    return match Exit::of(&error) {
                        Exit::Denied => Ok(None),
                        _ => Err(error.context("list the log")),
                    };
                }
            };
            let Some(opening) = entry.opening.filter(|_| entry.leaf.outcome == Outcome::Ok) else {
                continue;
            };
            if let Body::Anchored(anchored) = &opening.0.signed.statement.body
                && self.has(&anchored.custody, anchored.class, anchored.captured_at)
            {
                places.push(Place {
                    record: anchored.record,
                    custody: anchored.custody,
                    index: Some(entry.index),
                });
            }
        }
    }

    /// Of the records that the user may have for the purpose, as a node says.
    async fn of_the_user(
        &self,
        session: &Session,
        keys: &OwnKeys,
        asking: &Asking,
    ) -> Result<Vec<Place>> {
        let Some(purpose) = &asking.purpose else {
            let problem = "say what it is for with --purpose: of the records that you may have for it some are chosen";
            return Err(CliError::Usage(problem.to_owned()).into());
        };
        check_purpose(purpose)?;
        let role = match &asking.role {
            Some(role) => role.clone(),
            None => first_role(session, keys).await?,
        };
        let (mut places, mut after) = (Vec::new(), None);
        loop {
            let query = RecordQuery {
                v: 1,
                origin: session.origin.clone(),
                who: keys.key(),
                role: role.clone(),
                purpose: purpose.clone(),
                at: clock::unix_ms(),
                custody: self.custody,
                class: self.class,
                from: self.from.map(|from| from.0),
                until: self.until.map(|until| until.0),
            };
            let page = async || {
                let page = session
                    .client
                    .records(&query, &keys.signing, after.as_ref());
                page.await
            };
            let page = patiently(page).await.context("list the records")?.value;
            places.extend(page.records.iter().map(|listed| Place {
                record: listed.record,
                custody: listed.custody,
                index: Some(listed.index),
            }));
            match page.next {
                // A node that goes back would never end.
                Some(next) if Some(next) > after => after = Some(next),
                Some(_) => {
                    let problem = "a node lists the same records again".to_owned();
                    return Err(CliError::NotVerified(problem).into());
                }
                None => return Ok(places),
            }
        }
    }

    fn has(&self, custody: &CustodyId, class: Class, captured_at: u64) -> bool {
        self.custody.is_none_or(|wanted| wanted == *custody)
            && self.class.is_none_or(|wanted| wanted == class)
            && self.from.is_none_or(|from| captured_at >= from.0)
            && self.until.is_none_or(|until| captured_at < until.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_a_day_a_second_or_milliseconds() {
        for (text, unix_ms) in [
            ("1970-01-02", 86_400_000),
            ("2026-03-01", 1_772_323_200_000),
            ("2026-03-01T10:15:00Z", 1_772_360_100_000),
            ("2026-03-01T10:15:00.007Z", 1_772_360_100_007),
            ("2024-02-29T23:59:59Z", 1_709_251_199_000),
            ("2026-03-01T10:15:00+01:00", 1_772_356_500_000),
            ("2026-03", 1_772_323_200_000),
            ("2026", 1_767_225_600_000),
            ("1772360100007", 1_772_360_100_007),
        ] {
            assert_eq!(text.parse(), Ok(Moment(unix_ms)), "{text}");
        }
        for text in [
            "",
            "now",
            "2026-03-01T",
            "2026-13-01",
            "2026-02-30",
            "2025-02-29",
            "2026-03-01T24:00:00Z",
            "2026-03-01T10:15:00",
            "+2026-03-01",
            "1960-01-01",
            "ä026-03-01",
        ] {
            assert_eq!(text.parse::<Moment>(), Err(MomentError), "{text}");
        }
    }

    #[test]
    fn selection_has_what_is_of_all_its_parts() {
        let custody = CustodyId::new([1; 16]);
        let all = Selection::default();
        assert!(all.is_empty() && all.has(&custody, Class::Ecg, 5));
        let some = Selection {
            custody: Some(custody),
            class: Some(Class::Ecg),
            from: Some(Moment(5)),
            until: Some(Moment(7)),
            stream: None,
        };
        assert!(!some.is_empty());
        for (id, class, captured_at, has) in [
            (1, Class::Ecg, 5, true),
            (1, Class::Ecg, 6, true),
            (1, Class::Ecg, 4, false),
            (1, Class::Ecg, 7, false),
            (1, Class::Log, 5, false),
            (2, Class::Ecg, 5, false),
        ] {
            let custody = CustodyId::new([id; 16]);
            assert_eq!(some.has(&custody, class, captured_at), has);
        }
    }
}
