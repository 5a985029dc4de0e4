//! Who may come in: the password file, and what a client shows. The parser lets nothing else through before. Part of dispatch:
//! no system calls but the reading of the file, at the start and on a reload.

use slabring_protocol::reply::Outcome;
use slabring_protocol::{AUTH_ENTRY_SIZE_MAX, SASL_USERS_MAX};
use slabring_protocol::{Command, ErrorReply, Request, Users, UsersError, UsersFormat, parse_sasl_plain};

use crate::connection::Connection;
use crate::dispatch::Dispatcher;
use crate::options::Authentication;
use crate::unkeyed::tell;

/// The only mechanism of SASL there is.
const PLAIN: &[u8] = b"PLAIN";

/// Reads the password file. The error is one line that names it, and the line in it.
pub fn read_users(settings: &Authentication) -> Result<Users, String> {
    let path = settings.file.display();
    let file = std::fs::read(&settings.file)
        .map_err(|error| format!("{path}: cannot read the passwords: {error}"))?;
    let format = if settings.sasl { UsersFormat::SaslDatabase } else { UsersFormat::AuthFile };
    Users::parse(&file, format).map_err(|error| match error {
        UsersError::Empty => format!("{path}: nobody could come in; it must hold lines user:password"),
        UsersError::MalformedLine(line) => {
            format!("{path}:{line}: must be user:password, without a NUL and in at most {AUTH_ENTRY_SIZE_MAX} bytes")
        }
        UsersError::TooMany => format!("{path}: more than {SASL_USERS_MAX} users"),
    })
}

impl Dispatcher {
    /// Lets a client in, or not. What it sends next is read accordingly.
    pub fn authenticate(&mut self, client: &mut Connection, request: &Request<'_>) {
        let shown = match request.command {
            Command::Authenticate => Some((request.key, request.value)),
            Command::SaslStart if request.key == PLAIN => parse_sasl_plain(request.value),
            // No mechanism has a second step.
            _ => None,
        };
        let live = self.node.users.as_ref().expect("nobody else is asked who they are");
        let users = self.users.get(live);
        let is_known = shown.is_some_and(|(user, password)| users.allow(user, password));
        client.parser.set_authenticated(is_known);
        let traffic = &mut self.executor.traffic;
        traffic.auth_cmds += 1;
        traffic.auth_errors += u64::from(!is_known);
        let outcome = match request.command {
            _ if !is_known => Outcome::Refused(ErrorReply::AuthenticationFailure),
            Command::Authenticate => Outcome::Stored { cas: 0 },
            _ => Outcome::Done,
        };
        tell(client, request, outcome);
    }
}
