use crate::{CliError, Session};
use anyhow::{Context, Result};
use medanchor_anchor::DeviceDetails;
use medanchor_dag::Did;
use serde::Serialize;
use std::fmt;

/// What a device is, as whoever enrols it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Its manufacturer.
    pub manufacturer: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// The device identifier of its UDI.
    pub udi: Option<String>,
    /// The firmware that it runs.
    pub firmware: Option<String>,
    /// Its serial number, of which the log has a salted commitment alone.
    pub serial: Option<String>,
}

impl DeviceOptions {
    /// As the log has it, with the salt of the serial number.
    pub(crate) fn details(&self) -> Result<(Option<DeviceDetails>, Option<[u8; 16]>)> {
        if *self == Self::default() {
            return Ok((None, None));
        }
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).context("draw a salt")?;
        let serial = self.serial.as_ref();
        let details = DeviceDetails {
            manufacturer: self.manufacturer.clone(),
            model: self.model.clone(),
            udi: self.udi.clone(),
            firmware: self.firmware.clone(),
            serial: serial.map(|serial| DeviceDetails::commit(&salt, serial)),
        };
        Ok((Some(details), serial.map(|_| salt)))
    }
}

/// What a device is, as its enrolment says.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceRow {
    /// Its manufacturer.
    pub manufacturer: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// The device identifier of its UDI.
    pub udi: Option<String>,
    /// The firmware that it ran when it was enrolled.
    pub firmware: Option<String>,
    /// The commitment to its serial number.
    pub serial: Option<String>,
}

impl From<DeviceDetails> for DeviceRow {
    fn from(details: DeviceDetails) -> Self {
        Self {
            manufacturer: details.manufacturer,
            model: details.model,
            udi: details.udi,
            firmware: details.firmware,
            serial: details.serial.map(|serial| serial.to_string()),
        }
    }
}

/// A device was enrolled with this serial number.
#[derive(Clone, Debug, Serialize)]
pub struct SerialMatches {
    /// did:key of the device.
    pub did: String,
    /// The commitment in its enrolment.
    pub serial: String,
}

/// Whether a device was enrolled with a serial number. The node that is asked says what the enrolment is.
///
/// # Errors
///
/// When it was not, or with none; when no node answers.
pub async fn check_serial(
    session: &Session,
    device: Did,
    serial: &str,
    salt: &[u8; 16],
) -> Result<SerialMatches> {
    let listed = session.client.principal(&device).await;
    let listed = listed.context("look up the device")?.value;
    let details = listed.and_then(|listed| listed.device);
    let Some(enrolled) = details.and_then(|details| details.serial) else {
        let problem = format!("the log has no serial number of `{device}`");
        return Err(CliError::Usage(problem).into());
    };
    if enrolled != DeviceDetails::commit(salt, serial) {
        let problem =
            format!("`{device}` was enrolled with another serial number, or another salt");
        return Err(CliError::NotVerified(problem).into());
    }
    Ok(SerialMatches {
        did: device.to_string(),
        serial: enrolled.to_string(),
    })
}

impl fmt::Display for SerialMatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was enrolled with this serial number", self.did)
    }
}
