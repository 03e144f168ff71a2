//! Who is at the other end of a connection, by the certificate that was shown.

use crate::{certificates::Holder, membership::Membership, tls::Organisation};
use anyhow::{Context, Result};
use medanchor_dag::Hash;
use rustls::{pki_types::UnixTime, server::danger::ClientCertVerifier};
use rustls_pki_types::CertificateDer;
use std::{sync::Arc, time::Duration};
use tonic::{
    Extensions,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Who calls. Authority over data comes from signatures inside messages alone; this decides only what
/// is between nodes, or between an operator and their own node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The node of a member, by its node id.
    Member(u64),
    /// The operator of this node's own organisation.
    Operator,
    /// Anybody else whom a member lets in.
    Guest,
}

/// Tells callers apart.
#[derive(Clone)]
pub(crate) struct Callers {
    members: NodeIds,
    own_clients: Arc<dyn ClientCertVerifier>,
}

/// The node id of the member whose node shows the certificate with this hash.
type NodeIds = Arc<dyn Fn(&Hash) -> Option<u64> + Send + Sync>;

impl Callers {
    /// Knows the members by the certificates that the log names, and its own organisation by its certificate
    /// authority.
    pub(crate) fn new(membership: &Arc<Membership>, own_ca_pem: &str) -> Result<Self> {
        let membership = Arc::clone(membership);
        let members = move |certificate: &Hash| membership.now().node_id(certificate);
        Self::with(Arc::new(members), own_ca_pem)
    }

    fn with(members: NodeIds, own_ca_pem: &str) -> Result<Self> {
        Ok(Self {
            members,
            own_clients: crate::tls::client_verifier(own_ca_pem)
                .context("use the organisation's own certificate authority")?,
        })
    }

    /// Who sent the request with these extensions.
    pub(crate) fn of(&self, extensions: &Extensions) -> Caller {
        let certificates = certificates(extensions);
        let first = certificates.as_deref().and_then(|chain| chain.first());
        first.map_or(Caller::Guest, |certificate| self.holder(certificate))
    }

    /// Whether the caller may read the whole log: a member's node, or the operator or an auditor of any
    /// organisation of the network. That one of these issued the certificate was checked when the connection
    /// was made.
    pub(crate) fn is_auditor(extensions: &Extensions) -> bool {
        let certificates = certificates(extensions);
        let first = certificates.as_deref().and_then(|chain| chain.first());
        first.is_some_and(is_auditors)
    }

    /// The member's node id, where the caller is one.
    pub(crate) fn member(&self, extensions: &Extensions) -> Option<u64> {
        match self.of(extensions) {
            Caller::Member(node_id) => Some(node_id),
            Caller::Operator | Caller::Guest => None,
        }
    }

    fn holder(&self, certificate: &CertificateDer<'_>) -> Caller {
        if let Some(node_id) = (self.members)(&Hash::of(certificate)) {
            return Caller::Member(node_id);
        }
        if is_issued(&*self.own_clients, certificate) && is_operator(certificate) {
            Caller::Operator
        } else {
            Caller::Guest
        }
    }
}

/// The SHA-256 of the certificate that was shown, where one was.
pub(crate) fn certificate(extensions: &Extensions) -> Option<Hash> {
    let certificates = certificates(extensions);
    let first = certificates.as_deref().and_then(|chain| chain.first());
    first.map(|certificate| Hash::of(certificate))
}

/// The organisation of whoever calls, by its id: the one that issued the certificate that was shown.
pub(crate) fn organisation(all: &[Organisation], extensions: &Extensions) -> Option<Hash> {
    let certificates = certificates(extensions)?;
    issuer(all, certificates.first()?)
}

fn issuer(all: &[Organisation], certificate: &CertificateDer<'_>) -> Option<Hash> {
    let mut all = all.iter();
    let issuer = all.find(|organisation| is_issued(&*organisation.clients, certificate));
    issuer.map(|organisation| organisation.id)
}

fn is_issued(by: &dyn ClientCertVerifier, certificate: &CertificateDer<'_>) -> bool {
    let now = UnixTime::since_unix_epoch(Duration::from_millis(crate::clock::unix_ms()));
    by.verify_client_cert(certificate, &[], now).is_ok()
}

fn certificates(extensions: &Extensions) -> Option<Arc<Vec<CertificateDer<'static>>>> {
    extensions
        .get::<TlsConnectInfo<TcpConnectInfo>>()
        .and_then(TlsConnectInfo::peer_certs)
}

fn is_operator(certificate: &CertificateDer<'_>) -> bool {
    is_one_of(certificate, &[Holder::Operator])
}

fn is_auditors(certificate: &CertificateDer<'_>) -> bool {
    let readers = [Holder::Node, Holder::Operator, Holder::Auditor];
    is_one_of(certificate, &readers)
}

/// Whether the subject's organisational unit is one of these. Only meaningful once the issuer is known.
fn is_one_of(certificate: &CertificateDer<'_>, holders: &[Holder]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let is_one = |unit: &str| holders.iter().any(|holder| holder.as_str() == unit);
    let mut units = certificate.subject().iter_organizational_unit();
    units.any(|unit| unit.as_str().is_ok_and(is_one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::Authority;

    fn callers(authority_pem: &str) -> Callers {
        Callers::with(Arc::new(|_| None), authority_pem).unwrap()
    }

    #[test]
    fn operator_of_the_own_organisation_is_known() {
        let (authority, own) = Authority::create("hospital-a").unwrap();
        let operator = authority.issue(Holder::Operator, "o", &[]).unwrap();
        let guest = authority.issue(Holder::Guest, "g", &[]).unwrap();
        let callers = callers(&own.certificate_pem);
        assert_eq!(callers.holder(&operator.certificate), Caller::Operator);
        assert_eq!(callers.holder(&guest.certificate), Caller::Guest);
    }

    #[test]
    fn operator_of_another_organisation_is_a_guest() {
        let (_, own) = Authority::create("hospital-a").unwrap();
        // Even one that claims the same name.
        let (other, _) = Authority::create("hospital-a").unwrap();
        let operator = other.issue(Holder::Operator, "o", &[]).unwrap();
        let callers = callers(&own.certificate_pem);
        assert_eq!(callers.holder(&operator.certificate), Caller::Guest);
    }

    #[test]
    fn organisation_is_the_one_that_issued_the_certificate() {
        // Even where another claims the same name.
        let issuers = ["hospital-a", "hospital-a", "hospital-b"].map(|name| {
            let (authority, own) = Authority::create(name).unwrap();
            let clients = crate::tls::client_verifier(&own.certificate_pem).unwrap();
            let id = Hash::of(&own.certificate);
            (authority, Organisation { id, clients })
        });
        let (authorities, mut all): (Vec<_>, Vec<_>) = issuers.into_iter().unzip();
        for (authority, organisation) in authorities.iter().zip(&all) {
            let guest = authority.issue(Holder::Guest, "g", &[]).unwrap();
            assert_eq!(issuer(&all, &guest.certificate), Some(organisation.id));
        }
        let guest = authorities[2].issue(Holder::Guest, "g", &[]).unwrap();
        all.pop();
        assert_eq!(issuer(&all, &guest.certificate), None);
    }

    #[test]
    fn changed_certificate_is_never_the_operators() {
        let (authority, own) = Authority::create("hospital-a").unwrap();
        let operator = authority.issue(Holder::Operator, "o", &[]).unwrap();
        let callers = callers(&own.certificate_pem);
        for at in 0..operator.certificate.len() {
            let mut changed = operator.certificate.to_vec();
            changed[at] ^= 1;
            assert_eq!(callers.holder(&changed.into()), Caller::Guest, "byte {at}");
        }
    }

    #[test]
    fn auditors_operators_and_nodes_are_told_from_guests() {
        let (authority, own) = Authority::create("hospital-a").unwrap();
        for (holder, reads) in [
            (Holder::Node, true),
            (Holder::Operator, true),
            (Holder::Auditor, true),
            (Holder::Guest, false),
        ] {
            let issued = authority.issue(holder, "auditor", &[]).unwrap();
            assert_eq!(is_auditors(&issued.certificate), reads, "{holder:?}");
        }
        assert!(!is_auditors(&own.certificate));
        assert!(!is_auditors(&CertificateDer::from(vec![0x30, 0])));
    }

    proptest::proptest! {
        #[test]
        fn bytes_that_are_no_certificate_are_a_guests(bytes: Vec<u8>) {
            let (_, own) = Authority::create("hospital-a").unwrap();
            let holder = callers(&own.certificate_pem).holder(&bytes.into());
            proptest::prop_assert_eq!(holder, Caller::Guest);
        }
    }
}
