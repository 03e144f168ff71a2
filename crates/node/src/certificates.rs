//! Certificates: every organisation has a certificate authority of its own, every node trusts them all.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls_pki_types::CertificateDer;

/// What the holder of a certificate is to the organisation that issued it. It stands in the subject as
/// the organisational unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Its node: serves and connects.
    Node,
    /// Its operator: connects, may make custody keys and read openings.
    Operator,
    /// Checks the log in its name or for a regulator: connects, may read the log's entries.
    Auditor,
    /// Anybody else it lets in: a device, a person, a partner. Connects.
    Guest,
}

impl Holder {
    /// The organisational unit in the certificate's subject.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Guest => "guest",
        }
    }
}

/// A certificate with its private key, both PEM.
pub(crate) struct Issued {
    pub(crate) certificate_pem: String,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key_pem: zeroize::Zeroizing<String>,
}

/// An organisation's certificate authority.
pub(crate) struct Authority {
    org: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority, and its own certificate.
    pub(crate) fn create(org: &str) -> Result<(Self, Issued)> {
        let key = new_key()?;
        let params = authority_params(org)?;
        let certificate = params
            .self_signed(&key)
            .context("sign the authority's certificate")?;
        let issued = Issued {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            key_pem: key.serialize_pem().into(),
        };
        Ok((Self::with_key(org, key)?, issued))
    }

    /// The authority whose private key is `key_pem`.
    pub(crate) fn open(org: &str, key_pem: &str) -> Result<Self> {
        let key = KeyPair::from_pem(key_pem).context("parse the authority's key")?;
        Self::with_key(org, key)
    }

    /// Issues a certificate for two years. A node's is valid for its name, `localhost` and 127.0.0.1.
    pub(crate) fn issue(&self, holder: Holder, name: &str, hosts: &[String]) -> Result<Issued> {
        let mut params = CertificateParams::new(hosts).context("name the hosts")?;
        params.distinguished_name = subject(&self.org, Some(holder), name);
        // From last year on, so that a clock that is a little behind accepts it.
        params.not_before = date_time_ymd(this_year() - 1, 1, 1);
        params.not_after = date_time_ymd(this_year() + 2, 12, 31);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        if holder == Holder::Node {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = new_key()?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .context("sign the certificate")?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            key_pem: key.serialize_pem().into(),
        })
    }

    fn with_key(org: &str, key: KeyPair) -> Result<Self> {
        Ok(Self {
            org: org.to_owned(),
            issuer: Issuer::new(authority_params(org)?, key),
        })
    }
}

fn authority_params(org: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(org, None, &format!("{org} certificate authority"));
    params.not_before = date_time_ymd(this_year() - 1, 1, 1);
    params.not_after = date_time_ymd(this_year() + 10, 12, 31);
    // No further authority below it: an intermediate could claim another organisation's name.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn subject(org: &str, holder: Option<Holder>, name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, org);
    if let Some(holder) = holder {
        subject.push(DnType::OrganizationalUnitName, holder.as_str());
    }
    subject.push(DnType::CommonName, name);
    subject
}

/// The calendar year, exact but for a few hours around its turn.
fn this_year() -> i32 {
    const AVERAGE_YEAR_MS: u64 = 31_556_952_000;
    i32::try_from(crate::clock::unix_ms() / AVERAGE_YEAR_MS).map_or(i32::MAX, |years| 1970 + years)
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a TLS key")
}
