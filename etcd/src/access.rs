//! What an etcd asks of who calls it: files of certificates, and one of a name and a password. Read anew for each call or login, so
//! that new files are good at once. Knows nothing of what is called.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use slabring_cluster::coordinator::etcd::Login;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// The files, as far as they are wanted.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct EtcdAccess {
    /// Who signs the certificates of its members: the calls are made with TLS.
    pub authorities: Option<PathBuf>,
    /// This node's certificates and key, where etcd asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `NAME:PASSWORD`.
    pub login: Option<PathBuf>,
}

impl EtcdAccess {
    /// How to speak TLS, if that is spoken.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn tls(&self) -> Result<Option<TlsConfig>, String> {
        let Some(authorities) = &self.authorities else { return Ok(None) };
        let identity = match &self.identity {
            Some((chain, key)) => Some(ClientCert::new_with_certs(&certificates(chain)?, private_key(key)?)),
            None => None,
        };
        let config = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&certificates(authorities)?))
            .client_cert(identity);
        Ok(Some(config.build()))
    }

    /// Who this node is, if etcd asks.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn login(&self) -> Result<Option<Login>, String> {
        let Some(path) = &self.login else { return Ok(None) };
        let text = String::from_utf8(read(path)?).map_err(|error| told(path, &error))?;
        let parts = text.trim_end_matches(['\r', '\n']).split_once(':');
        let Some((name, password)) = parts.filter(|(name, _)| !name.is_empty()) else {
            return Err(format!("{}: it must be NAME:PASSWORD", path.display()));
        };
        Ok(Some(Login { name: name.to_owned(), password: password.to_owned() }))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| told(path, &error))
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let pem = read(path)?;
    let items: Vec<_> = parse_pem(&pem).collect::<Result<_, _>>().map_err(|error| told(path, &error))?;
    let certificate = |item| if let PemItem::Certificate(found) = item { Some(found) } else { None };
    let found: Vec<_> = items.into_iter().filter_map(certificate).collect();
    if found.is_empty() { Err(format!("{}: no certificate in it", path.display())) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKey<'static>, String> {
    PrivateKey::from_pem(&read(path)?).map_err(|error| told(path, &error))
}

fn told(path: &Path, error: &impl std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
