//! Where etcd is, and how it lets us in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// Why etcd cannot be asked.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// No endpoint.
    #[error("{0:?} is no endpoint; write http://HOST:PORT or https://HOST:PORT")]
    Endpoint(String),
    /// A host that no certificate can name.
    #[error(
        "{0:?} has a host that no certificate can be for; write an address, or a name of letters, digits, '-' and '.'"
    )]
    Host(String),
    /// Endpoints are missing.
    #[error("there are no endpoints; name one or more")]
    Nowhere,
    /// TLS where none is set up.
    #[error("{0} needs TLS; name the file of its authority's certificates")]
    Insecure(String),
    /// A file of certificates or keys.
    #[error("cannot read {path}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The file of the password.
    #[error("cannot read the password in {path}; give netd the right to read it")]
    Password {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in them.
    #[error("cannot use the certificates")]
    Tls(#[from] rustls::Error),
}

/// How etcd is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// Members, as URLs. One is used at a time.
    pub endpoints: Vec<String>,
    /// Under this lies all that is the fleet's.
    pub prefix: String,
    /// For endpoints with `https`.
    pub tls: Option<TlsFiles>,
    /// Name, and the file of the password, which may end in a line's end.
    pub user: Option<(String, PathBuf)>,
    /// A node that is silent for so long is no peer any more. Its blocks stay its own.
    pub lease: Duration,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who certifies etcd.
    pub authority: PathBuf,
    /// This node's certificate and key, where etcd wants one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: String,
    /// Whom its certificate must be for; none without TLS.
    name: Option<ServerName<'static>>,
}

/// How a member lets us in, as the files say now: certificates and passwords are renewed.
pub(super) struct Access {
    tls: Option<TlsConnector>,
    pub(super) user: Option<User>,
}

/// Who asks.
#[derive(Clone)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: String,
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, SettingsError> {
        let wrong = || SettingsError::Endpoint(text.to_owned());
        let (is_secure, address) = match text.split_once("://").ok_or_else(wrong)? {
            ("http", address) => (false, address),
            ("https", address) => (true, address),
            _ => return Err(wrong()),
        };
        let address = address.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        port.parse::<u16>().map_err(|_| wrong())?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || address.contains('/') {
            return Err(wrong());
        }
        let named = || ServerName::try_from(host).map_err(|_| SettingsError::Host(text.to_owned()));
        Ok(Self { address: address.to_owned(), name: is_secure.then(named).transpose()? })
    }

    pub(super) fn base(&self) -> String {
        format!("{}://{}", if self.name.is_some() { "https" } else { "http" }, self.address)
    }
}

impl EtcdSettings {
    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>, SettingsError> {
        let endpoints: Vec<Endpoint> =
            self.endpoints.iter().map(|one| Endpoint::parse(one)).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(SettingsError::Nowhere);
        }
        match endpoints.iter().find(|one| one.name.is_some() && self.tls.is_none()) {
            Some(endpoint) => Err(SettingsError::Insecure(endpoint.base())),
            None => Ok(endpoints),
        }
    }

    pub(super) fn access(&self) -> Result<Access, SettingsError> {
        let tls = self.tls.as_ref().map(connector).transpose()?;
        let user = match &self.user {
            Some((name, path)) => Some(User { name: name.clone(), password: password(path)? }),
            None => None,
        };
        Ok(Access { tls, user })
    }
}

impl Access {
    /// Nothing where the endpoint has no TLS.
    ///
    /// # Errors
    /// It has, and there are no certificates: it is not asked without.
    pub(super) fn tls_for(
        &self,
        endpoint: &Endpoint,
    ) -> Result<Option<(TlsConnector, ServerName<'static>)>, SettingsError> {
        let with = |name: &ServerName<'static>| {
            let connector = self.tls.clone().ok_or_else(|| SettingsError::Insecure(endpoint.base()))?;
            Ok((connector, name.clone()))
        };
        endpoint.name.as_ref().map(with).transpose()
    }
}

fn connector(files: &TlsFiles) -> Result<TlsConnector, SettingsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.authority)? {
        roots.add(certificate)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match &files.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?)?,
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn password(path: &Path) -> Result<String, SettingsError> {
    let text = fs::read_to_string(path).map_err(|source| SettingsError::Password { path: path.to_owned(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let text = read(path)?;
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|source| unreadable(path, source))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, SettingsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|source| unreadable(path, source))
}

fn read(path: &Path) -> Result<Vec<u8>, SettingsError> {
    fs::read(path).map_err(|error| unreadable(path, pem::Error::Io(error)))
}

fn unreadable(path: &Path, source: pem::Error) -> SettingsError {
    SettingsError::Pem { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn endpoints_are_urls_with_a_port() {
        let base = |text: &str| {
            let name = |one: &Endpoint| one.name.as_ref().map(|name| name.to_str().into_owned());
            Endpoint::parse(text).map(|one| (one.base(), name(&one))).ok()
        };
        let some = |base: &str, host: Option<&str>| Some((base.to_owned(), host.map(ToOwned::to_owned)));
        assert_eq!(base("http://a:2379/"), some("http://a:2379", None));
        assert_eq!(base("https://etcd-1.example:2379"), some("https://etcd-1.example:2379", Some("etcd-1.example")));
        assert_eq!(base("https://[fd00::1]:2379"), some("https://[fd00::1]:2379", Some("fd00::1")));
        for bad in ["a:2379", "http://a", "ftp://a:1", "http://:1", "http://a:b", "http://a:1/x"] {
            assert_eq!(base(bad), None, "{bad}");
        }
        // Not by plain TCP instead.
        for unnamable in ["https://etcd 1:2379", "https://-a:2379", "https://a..b:2379", "https://ä:2379"] {
            let error = Endpoint::parse(unnamable).map(|one| one.base()).unwrap_err().to_string();
            assert!(error.contains("certificate"), "{error}");
        }
    }
}
