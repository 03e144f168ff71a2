use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What kind of data a record carries: a closed list, because consent and policy name these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// An electrocardiogram.
    #[serde(rename = "waveform.ecg")]
    Ecg,
    /// A photoplethysmogram.
    #[serde(rename = "waveform.ppg")]
    Ppg,
    /// An electroencephalogram.
    #[serde(rename = "waveform.eeg")]
    Eeg,
    /// Any other waveform.
    #[serde(rename = "waveform.other")]
    Waveform,
    /// Images and series of them.
    #[serde(rename = "imaging")]
    Imaging,
    /// Single measurements and a device's own state.
    #[serde(rename = "telemetry")]
    Telemetry,
    /// Reports and other documents.
    #[serde(rename = "document")]
    Document,
    /// A device's log files.
    #[serde(rename = "log")]
    Log,
    /// A firmware image.
    #[serde(rename = "firmware")]
    Firmware,
    /// Whatever fits nowhere else.
    #[serde(rename = "other")]
    Other,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 10] = [
        Self::Ecg,
        Self::Ppg,
        Self::Eeg,
        Self::Waveform,
        Self::Imaging,
        Self::Telemetry,
        Self::Document,
        Self::Log,
        Self::Firmware,
        Self::Other,
    ];

    /// The name that is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ecg => "waveform.ecg",
            Self::Ppg => "waveform.ppg",
            Self::Eeg => "waveform.eeg",
            Self::Waveform => "waveform.other",
            Self::Imaging => "imaging",
            Self::Telemetry => "telemetry",
            Self::Document => "document",
            Self::Log => "log",
            Self::Firmware => "firmware",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why text is not a class.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a data class")]
pub struct ClassError(String);

impl FromStr for Class {
    type Err = ClassError;

    fn from_str(text: &str) -> Result<Self, ClassError> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == text)
            .ok_or_else(|| ClassError(text.chars().take(80).collect()))
    }
}
