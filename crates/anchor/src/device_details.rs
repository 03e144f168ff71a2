use medanchor_dag::{Hash, sha256};
use serde::{Deserialize, Serialize};

/// What a device is, as whoever enrols it says. Kept in the opening only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceDetails {
    /// Its manufacturer, at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// Its model, at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The device identifier of its UDI (UDI-DI), which names manufacturer and model: at most 64 printable ASCII characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udi: Option<String>,
    /// The firmware that it runs when it is enrolled, at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// [`DeviceDetails::commit`] of its serial number, which may lead to a patient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Hash>,
}

impl DeviceDetails {
    /// A commitment to a serial number, which nobody can find by trying all of them who has not the salt: SHA-256 of
    /// `medanchor/v1/serial`, a zero byte, the salt and the serial number.
    pub fn commit(salt: &[u8; 16], serial: &str) -> Hash {
        let parts = [DOMAIN, salt.as_slice(), serial.as_bytes()];
        Hash::new(sha256(&parts.concat()))
    }
}

const DOMAIN: &[u8] = b"medanchor/v1/serial\0";
