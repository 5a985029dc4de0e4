//! Who a connection is: a `set` of user and password, or SASL PLAIN. Until it has said so, the parser lets nothing else through.

use slabring_protocol::reply::{self, Outcome};
use slabring_protocol::{
    Auth, Command, ErrorReply, Parser, Protocol, Request, SASL_MECHANISMS, parse_sasl_plain,
};

use crate::connection::Connection;
use crate::dispatch::Dispatcher;
use crate::options::Binding;
use crate::unkeyed::tell;

impl Dispatcher {
    /// What a connection begins with that speaks this.
    pub fn parser_for(&self, binding: Binding) -> Parser {
        let protocol = match binding {
            Binding::Auto => Protocol::Auto,
            Binding::Ascii => Protocol::Text,
            Binding::Binary => Protocol::Binary,
        };
        Parser::new(protocol, if self.node.users.is_some() { Auth::Required } else { Auth::Open })
    }

    /// Carries out a request about who the client is.
    pub fn authenticate(&mut self, client: &mut Connection, request: &Request<'_>) {
        match request.command {
            Command::SaslMechanisms => {
                client.outbox.local(|out| reply::sasl_mechanisms(out, request, SASL_MECHANISMS));
            }
            Command::Authenticate => {
                let outcome = Outcome::Stored { cas: 0 };
                self.admit(client, request, Some((request.key, request.value)), outcome);
            }
            Command::SaslStart if request.key == SASL_MECHANISMS.as_bytes() => {
                self.admit(client, request, parse_sasl_plain(request.value), Outcome::Done);
            }
            // No mechanism here has a second step.
            _ => self.admit(client, request, None, Outcome::Done),
        }
    }

    fn admit(
        &mut self,
        client: &mut Connection,
        request: &Request<'_>,
        claim: Option<(&[u8], &[u8])>,
        welcome: Outcome,
    ) {
        let users = self.node.users.as_ref().expect("only a node with users asks who comes");
        let users = self.users.get(users);
        let admitted = claim.is_some_and(|(user, password)| users.allow(user, password));
        self.executor.traffic.auth_cmds += 1;
        self.executor.traffic.auth_errors += u64::from(!admitted);
        client.parser.set_authenticated(admitted);
        let refused = Outcome::Refused(ErrorReply::AuthenticationFailure);
        tell(client, request, if admitted { welcome } else { refused });
    }
}
