use super::damaged;
use crate::error::StoreError;
use medanchor_anchor::TablesError;

/// A row as a page has it.
pub(super) struct Row<'a> {
    pub(super) key: &'a [u8],
    /// None: it was removed.
    pub(super) value: Option<&'a [u8]>,
    /// All of it.
    pub(super) bytes: &'a [u8],
}

impl<'a> Row<'a> {
    /// The first row, and what follows it.
    pub(super) fn split(page: &'a [u8]) -> Result<(Self, &'a [u8]), TablesError> {
        Self::parse(page).ok_or_else(|| TablesError("a page of a run is damaged".into()))
    }

    pub(super) fn parse(page: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (key_bytes, rest) = page.split_first_chunk()?;
        let (value_bytes, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u16::from_be_bytes(*key_bytes).into())?;
        let (value, rest) = match u32::from_be_bytes(*value_bytes) {
            REMOVED => (None, rest),
            length => {
                let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (Some(value), rest)
            }
        };
        let (bytes, _) = page.split_at_checked(page.len().checked_sub(rest.len())?)?;
        Some((Self { key, value, bytes }, rest))
    }

    pub(super) fn write(
        key: &[u8],
        value: Option<&[u8]>,
        page: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let key_bytes = u16::try_from(key.len());
        let key_bytes = key_bytes.map_err(|_| damaged("a key is too long"))?;
        let value_bytes = value.map_or(Ok(REMOVED), |value| u32::try_from(value.len()));
        let value_bytes = value_bytes.map_err(|_| damaged("a value is too long"))?;
        page.extend_from_slice(&key_bytes.to_be_bytes());
        page.extend_from_slice(&value_bytes.to_be_bytes());
        page.extend_from_slice(key);
        page.extend_from_slice(value.unwrap_or_default());
        Ok(())
    }
}

const REMOVED: u32 = u32::MAX;
