//! TLS for connections over TCP. Trusts nobody that it was not told to.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// How TLS is spoken: whom to trust, with what certificate, and what name a server must prove.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Trust, and a certificate of the client if servers ask for one.
    pub config: Arc<ClientConfig>,
    /// The name that every server proves; `None`: the one in its address.
    pub server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// Makes a session with who answers on `stream`, whose timeouts bound it.
    pub(crate) fn connect(&self, mut stream: TcpStream, host: &str) -> io::Result<TlsStream> {
        let name = self.name_of(host)?;
        let mut session = ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(session, stream))
    }

    pub(crate) fn name_of(&self, host: &str) -> io::Result<ServerName<'static>> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => ServerName::try_from(host.to_owned()).map_err(io::Error::other),
        }
    }
}
