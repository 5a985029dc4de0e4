//! What an etcd asks of who calls it: files of certificates, and one of a name and a password. Read anew for each call or login, so
//! that new files are good at once. Knows nothing of what is called.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use slabring_cluster::coordinator::etcd::Login;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// How a URL begins behind which TLS is spoken.
const HTTPS: &str = "https://";

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
    /// How to speak to a member with that URL.
    ///
    /// # Errors
    /// One line that names the file: one that cannot be read or is no certificate, or a key that is not the certificate's, as while
    /// the two are being replaced.
    pub fn tls(&self, url: &str) -> Result<TlsConfig, String> {
        let is_https = url.get(..HTTPS.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(HTTPS));
        if !is_https {
            return Ok(TlsConfig::default());
        }
        let Some(authorities) = &self.authorities else {
            return Err(format!(
                "{url}: {HTTPS} needs --etcd-cacert FILE, the certificate of who signs etcd's"
            ));
        };
        let identity = match &self.identity {
            Some((chain, key)) => Some(identity(chain, key)?),
            None => None,
        };
        let config = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&certificates(authorities)?))
            .client_cert(identity);
        Ok(config.build())
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

/// Certificates and their key. A connection panics at two that do not fit: it must not be the first to try.
fn identity(chain_path: &Path, key_path: &Path) -> Result<ClientCert, String> {
    let (chain, key) = (certificates(chain_path)?, private_key(key_path)?);
    let ders = chain.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    let key_der = PrivateKeyDer::try_from(key.der().to_vec()).map_err(|error| told(key_path, &error))?;
    CertifiedKey::from_der(ders, key_der, &ring::default_provider())
        .map_err(|error| format!("{} and {}: {error}", chain_path.display(), key_path.display()))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn private_key(path: &Path) -> Result<PrivateKey<'static>, String> {
    PrivateKey::from_pem(&read(path)?).map_err(|error| told(path, &error))
}

fn told(path: &Path, error: &impl std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    /// A folder with two certificates and their keys: `a.pem`, `a.key`, `b.pem`, `b.key`.
    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("slabring-etcd-access-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["a", "b"] {
            let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
            std::fs::write(folder.join(name).with_extension("pem"), cert.pem()).unwrap();
            std::fs::write(folder.join(name).with_extension("key"), signing_key.serialize_pem()).unwrap();
        }
        folder
    }

    #[test]
    fn files_that_do_not_fit_are_told_before_they_are_used() {
        let folder = folder();
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(folder.join("junk.pem"), junk).unwrap();
        let tls = |authorities: Option<&str>, identity: Option<(&str, &str)>, url: &str| {
            let path = |name: &str| folder.join(name);
            let identity = identity.map(|(chain, key)| (path(chain), path(key)));
            EtcdAccess { authorities: authorities.map(path), identity, login: None }.tls(url).map(drop)
        };
        assert_eq!(tls(Some("a.pem"), Some(("b.pem", "b.key")), "https://x"), Ok(()));
        assert_eq!(tls(None, None, "http://x"), Ok(()));
        let check = |found: Result<(), String>, words: &str| {
            assert!(found.as_ref().is_err_and(|error| error.contains(words)), "{words}: {found:?}");
        };
        check(tls(None, None, "https://x"), "needs --etcd-cacert");
        check(tls(None, None, "HTTPS://x"), "needs --etcd-cacert");
        check(tls(Some("a.pem"), Some(("a.pem", "b.key")), "https://x"), "b.key: ");
        check(tls(Some("a.pem"), Some(("junk.pem", "a.key")), "https://x"), "junk.pem");
        check(tls(Some("a.pem"), Some(("a.key", "a.key")), "https://x"), "no certificate");
        check(tls(Some("a.pem"), Some(("a.pem", "a.pem")), "https://x"), "a.pem: ");
        check(tls(Some("none.pem"), None, "https://x"), "none.pem: No such file");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
