//! TLS 1.3 with client certificates, on both ends.

use crate::{
    config::Folder,
    files, http,
    tls_trust::{ClientTrust, ItselfOrIssued, Pinned},
};
use anyhow::{Context, Result};
use medanchor_anchor::MemberEntry;
use medanchor_dag::Hash;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::WebPkiServerVerifier,
    crypto::{CryptoProvider, ring},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{path::Path, sync::Arc};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// An organisation, by whom it lets in.
pub(crate) struct Organisation {
    /// Hash of its authority's certificate.
    pub(crate) id: Hash,
    /// Accepts the certificates that its authority issued.
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
}

/// A node's certificate, and whom it trusts.
pub(crate) struct Tls {
    ca_pem: String,
    certificate_pem: String,
    key_pem: Zeroizing<String>,
}

impl Tls {
    /// Reads `ca.pem`, `cert.pem` and `key.pem`.
    pub(crate) fn open(folder: &Folder) -> Result<Self> {
        let read = |name: &str| files::read_text(&folder.tls().join(name), MAX_PEM_BYTES);
        Ok(Self {
            ca_pem: read("ca.pem")?,
            certificate_pem: read("cert.pem")?,
            key_pem: Zeroizing::new(read("key.pem")?),
        })
    }

    /// For a port that this node serves: TLS 1.3, with certificates as `clients` demands.
    pub(crate) fn server(&self, clients: Arc<ClientTrust>) -> Result<Arc<ServerConfig>> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .context("set TLS 1.3")?
            .with_client_cert_verifier(clients)
            .with_single_cert(certificates(&self.certificate_pem)?, self.key()?)
            .context("use the node's certificate")?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// For HTTPS requests to outside witnesses, by the authorities in `ca.pem`.
    pub(crate) fn client(&self) -> Result<http::Client> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .context("set TLS 1.3")?
            .with_root_certificates(roots(certificates(&self.ca_pem)?)?)
            .with_client_auth_cert(certificates(&self.certificate_pem)?, self.key()?)
            .context("use the node's certificate")?;
        Ok(http::Client::new(Some(config)))
    }

    /// For connections to a member's node: it must show the very certificate that the log names. `alpn` are the
    /// protocols to offer.
    pub(crate) fn member(&self, entry: &MemberEntry, alpn: &[&[u8]]) -> Result<ClientConfig> {
        let mut authorities = certificates(&self.ca_pem)?;
        authorities.extend(authority(entry));
        let roots = Arc::new(roots(authorities)?);
        let chain = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .context("use the certificate authorities")?;
        let verifier = Pinned::new(chain, entry.member.certificate);
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .context("set TLS 1.3")?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(certificates(&self.certificate_pem)?, self.key()?)
            .context("use the node's certificate")?;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    }

    /// Accepts the certificates of everybody whom a member lets in now: the authorities in `ca.pem` without those
    /// of founders that were removed, and those of members that joined later.
    pub(crate) fn clients(&self, members: &[MemberEntry]) -> Result<Arc<dyn ClientCertVerifier>> {
        verifier(self.authorities(members)?)
    }

    /// The same, each authority alone, by the hash of its certificate.
    pub(crate) fn organisations(&self, members: &[MemberEntry]) -> Result<Vec<Organisation>> {
        let authorities = self.authorities(members)?.into_iter();
        let organisations = authorities.map(|authority| {
            Ok(Organisation {
                id: Hash::of(&authority),
                clients: verifier(vec![authority])?,
            })
        });
        organisations.collect()
    }

    fn authorities(&self, members: &[MemberEntry]) -> Result<Vec<CertificateDer<'static>>> {
        let removed: Vec<&str> = members
            .iter()
            .filter(|entry| !entry.is_active() && entry.contact.is_none())
            .map(|entry| entry.member.name.as_str())
            .collect();
        let mut authorities = certificates(&self.ca_pem)?;
        authorities.retain(|authority| !is_of(authority, &removed));
        let joined = members.iter().filter(|entry| entry.is_active());
        authorities.extend(joined.filter_map(authority));
        Ok(authorities)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).context("parse the TLS key")
    }
}

/// Accepts the certificates that the authorities in `ca` issued.
pub(crate) fn client_verifier(ca_pem: &str) -> Result<Arc<dyn ClientCertVerifier>> {
    verifier(certificates(ca_pem)?)
}

/// Reads the certificate of the organisation's own authority.
pub(crate) fn own_authority(folder: &Path) -> Result<String> {
    files::read_text(&folder.join("own-ca.pem"), MAX_PEM_BYTES)
}

fn verifier(authorities: Vec<CertificateDer<'_>>) -> Result<Arc<dyn ClientCertVerifier>> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authorities)?), provider())
        .build()
        .context("use the certificate authorities")
}

/// The authority that the log says a member has; founders' are in `ca.pem`. The log takes any bytes: those that
/// are no certificate let nobody in.
fn authority(entry: &MemberEntry) -> Option<CertificateDer<'static>> {
    let contact = entry.contact.as_ref()?;
    let authority = CertificateDer::from(contact.authority.clone());
    match RootCertStore::empty().add(authority.clone()) {
        Ok(()) => Some(authority),
        Err(error) => {
            let name = &entry.member.name;
            tracing::warn!("the authority of member `{name}` cannot be used: {error}");
            None
        }
    }
}

/// Whether an authority is that of one of these organisations, by its subject.
fn is_of(authority: &CertificateDer<'_>, organisations: &[&str]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(authority) else {
        return false;
    };
    let mut names = certificate.subject().iter_organization();
    names.any(|name| {
        name.as_str()
            .is_ok_and(|name| organisations.contains(&name))
    })
}

fn roots(authorities: Vec<CertificateDer<'_>>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots
            .add(certificate)
            .context("use a certificate authority")?;
    }
    Ok(roots)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("parse certificates")?;
    anyhow::ensure!(!certificates.is_empty(), "there is no certificate");
    Ok(certificates)
}

/// For HTTPS requests to a witness that others run: it must show `certificate` itself, or one that this issued for
/// its host. It is not told who asks.
pub(crate) fn foreign(certificate: CertificateDer<'static>) -> Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("set TLS versions")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ItselfOrIssued::new(certificate)?))
        .with_no_client_auth();
    Ok(config)
}

/// The one certificate in a PEM text.
pub(crate) fn certificate(pem: &str) -> Result<CertificateDer<'static>> {
    let mut certificates = certificates(pem)?;
    let certificate = certificates.pop().context("there is no certificate")?;
    anyhow::ensure!(
        certificates.is_empty(),
        "there is more than one certificate"
    );
    X509Certificate::from_der(&certificate).context("parse the certificate")?;
    Ok(certificate)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

const MAX_PEM_BYTES: u64 = 1024 * 1024;
