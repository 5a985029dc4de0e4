//! What the command line says about getting into a server: certificates and passwords. Reads files, opens no socket.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::args::Args;
use crate::failure::Failure;
use crate::target::{Access, Login, Tls};

/// Where distributions keep the certificates that they trust.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// What every connection of a run needs.
pub(crate) fn of(args: &Args) -> Result<Access, Failure> {
    let login = args.auth.as_ref().and_then(|auth| auth.split_once(':'));
    let login = login.map(|(user, password)| Login { user: user.into(), password: password.into() });
    let tls = if args.tls {
        let config = Arc::new(config(args).map_err(Failure::File)?);
        Some(Tls { config, name: args.tls_name.clone() })
    } else {
        None
    };
    Ok(Access { protocol: args.protocol, tls, login })
}

fn config(args: &Args) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = if args.tls_insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(BelieveAll(provider)))
    } else {
        builder.with_root_certificates(roots(args.tls_ca.as_deref())?)
    };
    let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) else {
        return Ok(builder.with_no_client_auth());
    };
    let key_der =
        PrivateKeyDer::from_pem_file(key).with_context(|| format!("no key in {}", key.display()))?;
    Ok(builder.with_client_auth_cert(certificates(cert)?, key_der)?)
}

fn roots(path: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let system = || SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.is_file());
    let path = path.or_else(system).context("no trusted certificates on this machine; give --tls-ca")?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    anyhow::ensure!(added > 0, "no certificate that can be trusted in {}", path.display());
    Ok(roots)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().with_context(|| format!("no certificates in {}", path.display()))?;
    if found.is_empty() {
        return Err(io::Error::from(io::ErrorKind::InvalidData))
            .with_context(|| format!("no certificates in {}", path.display()));
    }
    Ok(found)
}

/// `--tls-insecure`: signatures are checked, names and issuers are not.
#[derive(Debug)]
struct BelieveAll(Arc<CryptoProvider>);

impl ServerCertVerifier for BelieveAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
