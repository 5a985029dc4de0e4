//! A client for memcached servers and Slabring clusters.
//!
//! [`Client`] is for threads; `AsyncClient`, with the feature `tokio`, for tasks. Both drive the same core, which has no
//! socket and no clock. Needs no io_uring and nothing of the server, so it runs inside any application.
//!
//! * **Where a key lives**: over a plain list the same server as other clients choose ([`Distribution`]); in a cluster
//!   its owner, by the ring that the nodes tell, found and followed without being asked ([`Servers::Ring`]).
//! * **Every call ends** within [`Options::timeout`]. Servers that fail are answered for at once and probed by one caller
//!   at a time.
//! * **A command is sent again** only if it was certainly not executed, or changes nothing. Each [`Error`] says which of
//!   the two it was: [`Error::executed`].
//! * **A connection whose position is in doubt is closed**: replies are never mixed up.
//!
//! | module | is |
//! |---|---|
//! | `command`, `meta`, `lease`, `lock`, `key`, `ttl` | what can be asked, and what can be told |
//! | `encode`, `decode`, `refusal`, `exchange` | commands and their replies on one connection |
//! | `near` | copies of values in the client, and what keeps them fresh |
//! | `distribution`, `router` | which server is asked |
//! | `call` | one call: servers, tries, deadline |
//! | `pool`, `shared` | connections, and servers that are left alone |
//! | `stream`, `blocking` | sockets and threads |
//! | `async_stream`, `asynchronous` | sockets and tasks |

#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
mod async_stream;
#[cfg(feature = "tokio")]
mod asynchronous;
mod blocking;
mod call;
mod command;
mod decode;
mod distribution;
mod dump;
mod encode;
mod endpoint;
mod error;
mod exchange;
mod greeting;
mod key;
mod lease;
mod lock;
mod meta;
mod near;
mod options;
mod pool;
mod refusal;
mod router;
mod shared;
mod stream;
#[cfg(feature = "tls")]
mod tls;
mod ttl;

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncClient;
pub use blocking::{Client, NearClient};
pub use command::{Answer, CasToken, Command, Direction, Item, StoreMode, StoreOptions, Stored};
pub use distribution::{Distribution, Placement};
pub use dump::KeyEntry;
pub use endpoint::{Endpoint, NotAnEndpoint, PORT_DEFAULT};
pub use error::{Error, Executed};
pub use key::{Key, NotAKey};
pub use lease::{FillError, Lease, LeaseOptions, Lookup};
pub use lock::{Fenced, Lock, LockKind, LockOptions};
pub use meta::{MetaReply, MetaRequest, MetaStatus, MetaVerb};
pub use near::{NearCounts, NearOptions};
pub use options::{Credentials, Options, Servers, Wire};
pub use slabring_cluster as cluster;
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use ttl::Ttl;

#[cfg(test)]
#[path = "../tests/fake/mod.rs"]
#[expect(unreachable_pub, reason = "tests of other crates and examples include it too")]
mod fake;
