//! Whom connections are made with, as it changes with the members: no restart is needed, and connections of those
//! who are no longer let in are closed.

use crate::tls;
use anyhow::{Context, Result};
use medanchor_dag::Hash;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::CertificateDer;
use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::watch;

/// Checks the certificates that clients show, by what is in force now.
pub(crate) struct ClientTrust {
    now: Arc<RwLock<Trusted>>,
    changed: watch::Sender<()>,
    mandatory: bool,
}

struct Trusted {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Certificates of nodes that were removed.
    refused: BTreeSet<Hash>,
}

impl ClientTrust {
    /// Every client must show a certificate that `verifier` accepts and that is not in `refused`.
    pub(crate) fn new(verifier: Arc<dyn ClientCertVerifier>, refused: BTreeSet<Hash>) -> Arc<Self> {
        Arc::new(Self {
            now: Arc::new(RwLock::new(Trusted { verifier, refused })),
            changed: watch::Sender::default(),
            mandatory: true,
        })
    }

    /// The same, for a port where nobody needs a certificate: whoever shows one must show a good one.
    pub(crate) fn optional(&self) -> Arc<Self> {
        Arc::new(Self {
            now: Arc::clone(&self.now),
            changed: self.changed.clone(),
            mandatory: false,
        })
    }

    /// From now on others are let in.
    pub(crate) fn replace(&self, verifier: Arc<dyn ClientCertVerifier>, refused: BTreeSet<Hash>) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Trusted { verifier, refused };
        self.changed.send_replace(());
    }

    /// Whether a client with this chain is let in now. Without a certificate, where none is needed.
    pub(crate) fn accepts(&self, chain: &[CertificateDer<'_>]) -> bool {
        match chain.split_first() {
            Some((own, others)) => self.verify(own, others, now()).is_ok(),
            None => !self.mandatory,
        }
    }

    /// Resolves when a client with this chain is no longer let in.
    pub(crate) async fn refuses(&self, chain: &[CertificateDer<'_>]) {
        let mut changed = self.changed.subscribe();
        while self.accepts(chain) {
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn verify(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let trusted = self.now.read().unwrap_or_else(PoisonError::into_inner);
        if trusted.refused.contains(&Hash::of(own)) {
            return Err(CertificateError::Revoked.into());
        }
        trusted.verifier.verify_client_cert(own, others, now)
    }

    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        let trusted = self.now.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&trusted.verifier)
    }
}

impl ClientCertVerifier for ClientTrust {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    // None: authorities come and go, and nobody chooses a certificate by them.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier().supported_verify_schemes()
    }
}

impl fmt::Debug for ClientTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTrust")
            .field("mandatory", &self.mandatory)
            .finish_non_exhaustive()
    }
}

/// Accepts one certificate, which must be good otherwise too: no other member can issue one in its name.
#[derive(Debug)]
pub(crate) struct Pinned {
    chain: Arc<WebPkiServerVerifier>,
    certificate: Hash,
}

impl Pinned {
    pub(crate) fn new(chain: Arc<WebPkiServerVerifier>, certificate: Hash) -> Self {
        Self { chain, certificate }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if Hash::of(end_entity) != self.certificate {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        self.chain
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Accepts one certificate, whatever it says, or those that it issued for the name that is asked for.
#[derive(Debug)]
pub(crate) struct ItselfOrIssued {
    certificate: CertificateDer<'static>,
    /// Absent where it cannot issue any.
    issued: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ItselfOrIssued {
    pub(crate) fn new(certificate: CertificateDer<'static>) -> Result<Self> {
        let provider = tls::provider();
        let algorithms = provider.signature_verification_algorithms;
        let mut roots = RootCertStore::empty();
        let issued = match roots.add(certificate.clone()) {
            Ok(()) => {
                let issued = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
                Some(issued.build().context("use the certificate")?)
            }
            Err(_) => None,
        };
        Ok(Self {
            certificate,
            issued,
            algorithms,
        })
    }
}

impl ServerCertVerifier for ItselfOrIssued {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.issued {
            Some(issued) => issued.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(crate::clock::unix_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        certificates::{Authority, Holder, Issued},
        tls::{client_verifier, provider},
    };

    fn node(authority: &Authority, name: &str) -> Issued {
        authority
            .issue(Holder::Node, name, &[name.to_owned()])
            .unwrap()
    }

    #[tokio::test]
    async fn clients_are_refused_from_the_moment_they_are_no_longer_let_in() {
        let (a, a_ca) = Authority::create("hospital-a").unwrap();
        let (b, b_ca) = Authority::create("hospital-b").unwrap();
        let both = client_verifier(&format!("{}{}", a_ca.certificate_pem, b_ca.certificate_pem));
        let only_a = client_verifier(&a_ca.certificate_pem).unwrap();
        let [a_node, b_node] = [(&a, "hospital-a"), (&b, "hospital-b")].map(|(by, n)| node(by, n));
        let [a_chain, b_chain] = [&a_node, &b_node].map(|node| [node.certificate.clone()]);
        let trust = ClientTrust::new(both.unwrap(), BTreeSet::new());
        let anybody = trust.optional();
        assert!(trust.accepts(&a_chain) && trust.accepts(&b_chain));
        assert!(!trust.accepts(&[]) && anybody.accepts(&[]));

        let removed = async { trust.replace(Arc::clone(&only_a), BTreeSet::new()) };
        tokio::join!(trust.refuses(&b_chain), removed);
        assert!(trust.accepts(&a_chain) && anybody.accepts(&a_chain));
        assert!(!trust.accepts(&b_chain) && !anybody.accepts(&b_chain));
        // A node's own certificate is refused even if its authority is not.
        trust.replace(only_a, BTreeSet::from([Hash::of(&a_node.certificate)]));
        assert!(!trust.accepts(&a_chain) && !anybody.accepts(&a_chain));
    }

    #[test]
    fn server_must_show_the_very_certificate_that_the_log_names() {
        let (authority, ca) = Authority::create("hospital-a").unwrap();
        let (true_node, other_node) = (
            node(&authority, "hospital-a"),
            node(&authority, "hospital-a"),
        );
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate.clone()).unwrap();
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        let pinned = Pinned::new(chain.build().unwrap(), Hash::of(&true_node.certificate));
        let accepts = |shown: &Issued, name: &'static str| {
            let name = ServerName::try_from(name).unwrap();
            pinned
                .verify_server_cert(&shown.certificate, &[], &name, &[], now())
                .is_ok()
        };
        assert!(accepts(&true_node, "hospital-a"));
        assert!(!accepts(&true_node, "hospital-b"));
        assert!(!accepts(&other_node, "hospital-a"));
    }

    #[test]
    fn foreign_witness_must_show_the_given_certificate_or_one_that_it_issued() {
        let (authority, ca) = Authority::create("witness").unwrap();
        let (stranger, _) = Authority::create("witness").unwrap();
        let (own, other) = (
            node(&authority, "witness.example"),
            node(&stranger, "witness.example"),
        );
        let accepts = |given: &Issued, shown: &Issued, name: &'static str| {
            let trust = ItselfOrIssued::new(given.certificate.clone()).unwrap();
            let name = ServerName::try_from(name).unwrap();
            trust
                .verify_server_cert(&shown.certificate, &[], &name, &[], now())
                .is_ok()
        };
        assert!(accepts(&ca, &own, "witness.example"));
        assert!(!accepts(&ca, &own, "other.example"));
        assert!(!accepts(&ca, &other, "witness.example"));
        // A certificate that is given itself is good under every name.
        assert!(accepts(&own, &own, "other.example"));
        assert!(!accepts(&own, &other, "witness.example"));
    }
}
