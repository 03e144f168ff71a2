//! TLS 1.3 with client certificates, on both ends.

use crate::{config::Folder, files, http};
use anyhow::{Context, Result};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{path::Path, sync::Arc};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use zeroize::Zeroizing;

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

    /// For the port of a node's services: TLS 1.3, and every client shows a certificate.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>> {
        self.serve(client_verifier(&self.ca_pem)?)
    }

    /// For the port that everybody may read the log on: TLS 1.3, and whoever shows a certificate must show a
    /// good one.
    pub(crate) fn log_server(&self) -> Result<Arc<ServerConfig>> {
        let roots = Arc::new(roots(&self.ca_pem)?);
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .allow_unauthenticated()
            .build()
            .context("use the certificate authorities")?;
        self.serve(clients)
    }

    fn serve(&self, clients: Arc<dyn ClientCertVerifier>) -> Result<Arc<ServerConfig>> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .context("set TLS 1.3")?
            .with_client_cert_verifier(clients)
            .with_single_cert(certificates(&self.certificate_pem)?, self.key()?)
            .context("use the node's certificate")?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// For HTTPS requests to other nodes and witnesses.
    pub(crate) fn client(&self) -> Result<http::Client> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .context("set TLS 1.3")?
            .with_root_certificates(roots(&self.ca_pem)?)
            .with_client_auth_cert(certificates(&self.certificate_pem)?, self.key()?)
            .context("use the node's certificate")?;
        Ok(http::Client::new(config))
    }

    /// For gRPC requests to the node that is named `name` in its certificate.
    pub(crate) fn channel(&self, name: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca_pem))
            .identity(Identity::from_pem(
                &self.certificate_pem,
                self.key_pem.as_str(),
            ))
            .domain_name(name)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).context("parse the TLS key")
    }
}

/// Accepts the certificates that the authorities in `ca` issued.
pub(crate) fn client_verifier(ca_pem: &str) -> Result<Arc<dyn ClientCertVerifier>> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)?), provider())
        .build()
        .context("use the certificate authorities")
}

/// Reads the certificate of the organisation's own authority.
pub(crate) fn own_authority(folder: &Path) -> Result<String> {
    files::read_text(&folder.join("own-ca.pem"), MAX_PEM_BYTES)
}

fn roots(ca_pem: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_pem)? {
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

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

const MAX_PEM_BYTES: u64 = 1024 * 1024;
