//! Why the command line has no result, in words that say what to do, and the exit status for each.

use std::path::PathBuf;

use slabring_client::{Error, NotAnEndpoint};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A server failed or refused.
    #[error("{error}{}", remedy(error))]
    Cache {
        /// What it says.
        #[from]
        error: Error,
    },
    /// A list of servers that is none.
    #[error("--servers: {0}")]
    Servers(#[from] NotAnEndpoint),
    /// A file that is no ring.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A ring that does not hold together, from the cluster itself.
    #[error("the cluster's ring cannot be used: {0}")]
    Ring(String),
    /// Standard input or output.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Servers that have no ring.
    #[error("{0} is not a node of a cluster: it has no ring to tell")]
    NoCluster(String),
    /// `flush` without `--yes` where nobody can be asked.
    #[error("this empties {0}: say --yes")]
    NotConfirmed(String),
    /// Something else of weight without `--yes`, or somebody said no.
    #[error("nothing was changed: say --yes")]
    NotWanted,
    /// An address of etcd that is none.
    #[error("--etcd: {0:?} is neither http://HOST:PORT nor https://HOST:PORT")]
    NotAnEtcd(String),
    /// A verb for a ring that nobody keeps.
    #[error(
        "say --etcd=URLS: {0} is a wish that is written there. Nodes that were given a list (--peers) or a file (--cluster) follow that \
         alone: give them another (`cluster plan` shows what would move)"
    )]
    NoKeeper(&'static str),
    /// etcd, or the way to it.
    #[error("{0}")]
    Keeper(#[from] slabring_etcd::Failure),
    /// An etcd without a ring of that name.
    #[error("etcd has no ring of this cluster: is --cluster-id right, and have nodes been started?")]
    NoRing,
    /// A node that nobody knows.
    #[error("there is no node {given}; there are {there}")]
    NoNode {
        /// What was given.
        given: String,
        /// Who is there.
        there: String,
    },
    /// What the cluster cannot do, and why.
    #[error("{0}")]
    Impossible(String),
    /// A wish that stands no more, so that waiting for it would never end.
    #[error("not waited for any longer: what is wished for {node} now is {now}")]
    Overruled {
        /// Whose.
        node: String,
        /// What somebody else wished meanwhile.
        now: String,
    },
    /// The same, with nothing in its place.
    #[error(
        "the wish for {0} was deleted, or etcd lost it, before it was fulfilled: the same command makes it again"
    )]
    Forgotten(String),
    /// Ctrl-C while a change was under way.
    #[error(
        "not waited for any longer; the cluster goes on by itself, and the same command shows how far it is"
    )]
    Interrupted,
}

impl Failure {
    /// The exit status. 1 is not among them: it says that an item is not there.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Servers(_)
            | Self::File { .. }
            | Self::NotConfirmed(_)
            | Self::NotWanted
            | Self::NotAnEtcd(_)
            | Self::NoKeeper(_)
            | Self::NoNode { .. }
            | Self::NoRing
            | Self::Impossible(_)
            | Self::Keeper(slabring_etcd::Failure::Access(_))
            | Self::Cache { error: Error::Key(_) } => 2,
            Self::Cache { .. }
            | Self::Ring(_)
            | Self::Io(_)
            | Self::NoCluster(_)
            | Self::Keeper(_)
            | Self::Overruled { .. }
            | Self::Forgotten(_) => 3,
            Self::Interrupted => 130,
        }
    }
}

fn remedy(error: &Error) -> &'static str {
    match error {
        Error::Key(_) => "; --meta takes any bytes",
        Error::Unreachable { .. } => "; is it running, and is -s right?",
        Error::Late { .. } | Error::Busy { .. } => "; --timeout gives it longer",
        Error::Rubbish { .. } => "; is this a memcached server?",
        Error::Down { .. } | Error::Lost { .. } | Error::Refused { .. } | Error::NoVersions => "",
    }
}
