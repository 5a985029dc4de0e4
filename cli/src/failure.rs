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
    #[error("this empties {0} server(s): say --yes")]
    NotConfirmed(usize),
}

impl Failure {
    /// The exit status. 1 is not among them: it says that an item is not there.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Servers(_)
            | Self::File { .. }
            | Self::NotConfirmed(_)
            | Self::Cache { error: Error::Key(_) } => 2,
            Self::Cache { .. } | Self::Ring(_) | Self::Io(_) | Self::NoCluster(_) => 3,
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
