//! HTTP for registries: one client with limits, the host's certificates, and names looked up by
//! getent(1), because a statically linked program cannot ask the C library.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector,
    TcpConnector, Transport,
};
use ureq::{Agent, Error};

use super::dirfd::read_limited;
use crate::kernel::interrupt;

/// Where distributions keep the certificates they trust.
const BUNDLES: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];
/// Most bytes of a bundle.
const BUNDLE_MOST: u64 = 8 << 20;
/// A connection, an answer, and each piece of one has this long.
const CONNECT: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(60);
/// All of a document has this long.
pub(super) const DOCUMENT: Duration = Duration::from_secs(600);

/// How a registry is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Plain HTTP where the registry is not this machine itself: nobody vouches for what comes.
    pub insecure: bool,
    /// Certificates to trust instead of the host's.
    pub authority: Option<PathBuf>,
    /// Docker's `config.json` with the registry's user and password.
    pub credentials: Option<PathBuf>,
    /// OpenPGP keys of which one must have signed what an image server says.
    pub keyring: Option<PathBuf>,
}

/// A client; `here` is one that speaks to this machine itself, which no proxy is asked for.
///
/// # Errors
/// The file of certificates cannot be used; as a sentence.
pub(super) fn agent(trust: &Trust, plain: bool, here: bool) -> Result<Agent, String> {
    let tls = TlsConfig::builder()
        .root_certs(certificates(trust)?)
        .build();
    let config = Config::builder();
    let config = match here {
        true => config.proxy(None),
        false => config,
    };
    let config = config
        .tls_config(tls)
        .https_only(!plain)
        .http_status_as_error(false)
        .max_redirects(5)
        .user_agent(concat!("bulkhead/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(ANSWER))
        .timeout_per_read(Some(ANSWER))
        .build();
    // Below TLS, where whoever sends a byte now and then is heard of as well.
    let connector = ().chain(ConnectProxyConnector::default());
    let connector = connector.chain(TcpConnector::default()).chain(Heed);
    let connector = connector.chain(RustlsConnector::default());
    Ok(Agent::with_parts(config, connector, Getent))
}

/// Makes connections that are given up when a signal asks this program to end.
#[derive(Debug)]
struct Heed;

impl<In: Transport> Connector<In> for Heed {
    type Out = Heeding<In>;

    fn connect(
        &self,
        _details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(Heeding))
    }
}

#[derive(Debug)]
struct Heeding<T>(T);

fn heed() -> Result<(), Error> {
    match interrupt::caught() {
        Some(_) => Err(std::io::Error::other("interrupted by a signal").into()),
        None => Ok(()),
    }
}

impl<T: Transport> Transport for Heeding<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        heed()?;
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        heed()?;
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

fn certificates(trust: &Trust) -> Result<RootCerts, String> {
    let usual = || BUNDLES.iter().map(Path::new).find(|path| path.exists());
    let Some(path) = trust.authority.as_deref().or_else(usual) else {
        return Ok(RootCerts::WebPki);
    };
    let failed = |why: String| format!("certificates in {}: {why}", path.display());
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let text = read_limited(file, BUNDLE_MOST).map_err(|e| failed(e.to_string()))?;
    let found: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(one)) => Some(one),
            _ => None,
        })
        .collect();
    match found.is_empty() {
        true => Err(failed("there are none in it".into())),
        false => Ok(RootCerts::new_with_certs(&found)),
    }
}

/// Whether a host, with a port or without, is this machine itself.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Looks names up as the host's other programs do.
#[derive(Debug)]
struct Getent;

impl Resolver for Getent {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let usual = if uri.scheme_str() == Some("http") {
            80
        } else {
            443
        };
        let port = uri.port_u16().unwrap_or(usual);
        let mut found = self.empty();
        for ip in addresses(host.trim_matches(['[', ']']))?
            .into_iter()
            .take(8)
        {
            found.push(SocketAddr::new(ip, port));
        }
        match found.is_empty() {
            true => Err(Error::HostNotFound),
            false => Ok(found),
        }
    }
}

fn addresses(host: &str) -> Result<Vec<IpAddr>, Error> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![ip]);
    }
    if host == "localhost" {
        return Ok(vec![IpAddr::from([127, 0, 0, 1])]);
    }
    let done = Command::new("getent")
        .args(["ahosts", "--", host])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let mut found: Vec<IpAddr> = Vec::new();
    for line in String::from_utf8_lossy(&done.stdout).lines() {
        let ip = line.split_whitespace().next().and_then(|w| w.parse().ok());
        found.extend(ip.filter(|ip| !found.contains(ip)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known() {
        for (host, is) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.8.8.8", true),
            ("r.example", false),
            ("localhost.example", false),
            ("10.0.0.1:80", false),
        ] {
            assert_eq!(is_loopback(host), is, "{host}");
        }
    }
}
