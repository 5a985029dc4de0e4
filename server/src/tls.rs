//! TLS as the settings want it: certificates and keys from files to what new connections begin with. Holds no connection.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use crate::options::{TlsSettings, TlsUse, Verify};

const ONLY_1_3: [&SupportedProtocolVersion; 1] = [&version::TLS13];
const FROM_1_2: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

/// What new connections begin with, by what is asked of them.
#[derive(Debug)]
pub struct TlsConfigs {
    as_settings: Arc<ServerConfig>,
    basic: Arc<ServerConfig>,
    /// There only if it is known who signs clients' certificates.
    mutual: Option<Arc<ServerConfig>>,
}

impl TlsConfigs {
    /// Reads the files. The error is one line that names the file, with memcached's words.
    pub fn load(settings: &TlsSettings) -> Result<Self, String> {
        let identity = Identity::load(settings)?;
        let basic = identity.config(settings, None)?;
        let mutual = match &settings.authorities {
            Some(path) => Some(identity.config(settings, Some(verifier(path, false)?))?),
            None => None,
        };
        let as_settings = match (settings.verify, &settings.authorities, &mutual) {
            (Verify::Required, _, Some(mutual)) => Arc::clone(mutual),
            (Verify::Optional, Some(path), _) => identity.config(settings, Some(verifier(path, true)?))?,
            _ => Arc::clone(&basic),
        };
        Ok(Self { as_settings, basic, mutual })
    }

    /// What connections of such a listener begin with; nothing if they are plain.
    pub fn for_use(&self, tls: TlsUse) -> Option<&Arc<ServerConfig>> {
        match tls {
            TlsUse::Never => None,
            TlsUse::AsElsewhere => Some(&self.as_settings),
            TlsUse::Basic => Some(&self.basic),
            TlsUse::Mutual => Some(self.mutual.as_ref().expect("mtls: is refused without ssl_ca_cert")),
        }
    }
}

/// Who the server is.
struct Identity {
    provider: Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn load(settings: &TlsSettings) -> Result<Self, String> {
        let chain = certificates(&settings.chain, "certificate chain")?;
        let key = PrivateKeyDer::from_pem_file(&settings.key)
            .map_err(|error| format!("Error loading the key: {}: {error}", settings.key.display()))?;
        Ok(Self { provider: Arc::new(ring::default_provider()), chain, key })
    }

    fn config(
        &self,
        settings: &TlsSettings,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Arc<ServerConfig>, String> {
        let versions: &[_] = if settings.only_1_3 { &ONLY_1_3 } else { &FROM_1_2 };
        let cannot = |error: rustls::Error| {
            format!(
                "Error loading the key: {} with {}: {error}",
                settings.key.display(),
                settings.chain.display()
            )
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(cannot)?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config =
            builder.with_single_cert(self.chain.clone(), self.key.clone_key()).map_err(cannot)?;
        // Tickets keep sessions with the clients: no memory and no lock here. They are no way around a certificate, as each
        // configuration has its own key. One is sent at least: it carries the acknowledgement of the handshake, for which a client
        // that delays small packets would wait 40 ms before its first request.
        config.ticketer = ring::Ticketer::new().map_err(cannot)?;
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("Error loading the {what}: {}: {why}", path.display());
    let read = CertificateDer::pem_file_iter(path).map_err(|error| cannot(&error))?;
    let found = read.collect::<Result<Vec<_>, _>>().map_err(|error| cannot(&error))?;
    if found.is_empty() { Err(cannot(&"it holds no certificate in PEM")) } else { Ok(found) }
}

/// Checks clients' certificates.
fn verifier(authorities: &Path, optional: bool) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let cannot = |why: &dyn std::fmt::Display| {
        format!("Error loading the CA certificates: {}: {why}", authorities.display())
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities, "CA certificates")? {
        roots.add(certificate).map_err(|error| cannot(&error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| cannot(&error))
}
