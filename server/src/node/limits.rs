//! What the system limits, raised as far as a node needs it.

use anyhow::{Result, bail};
use slabring_reactor::thread::{Limit, raise_limit};

use crate::options::Settings;

/// Descriptors that a node of any size has: logs, the control thread's rings, and some that an accept may take before it is refused.
const DESCRIPTORS_RESERVED: usize = 48;
/// Those of a shard: its ring or epoll, its bell, and one that is on its way from another.
const DESCRIPTORS_PER_SHARD: usize = 4;
/// Those of links to other nodes: enough for 32 nodes of 8 shards each.
const DESCRIPTORS_FOR_LINKS: usize = 4_096;

/// Raises what the system limits, before the process gives up the right to. Says what is not enough.
pub fn raise_limits(settings: &Settings) -> Result<()> {
    raise_files(settings)?;
    raise_limit(Limit::LockedMemory, u64::MAX)?;
    if settings.core_dumps && raise_limit(Limit::CoreDump, u64::MAX)? == 0 {
        bail!("-r: the system allows no core dumps (ulimit -Hc)");
    }
    Ok(())
}

/// Allows the process as many files as its clients and shards need.
pub fn raise_files(settings: &Settings) -> Result<()> {
    let wanted = descriptors(settings) as u64;
    let files = raise_limit(Limit::OpenFiles, wanted)?;
    if files < wanted {
        bail!(
            "-c {} and -t {} need {wanted} open files and the limit is {files}: raise it (ulimit -n {wanted}, \
             LimitNOFILE={wanted}) or lower -c",
            settings.max_connections,
            settings.threads
        );
    }
    Ok(())
}

/// Files that are open when there are as many clients as there may be.
fn descriptors(settings: &Settings) -> usize {
    let (tcp, udp) = (settings.listen.len(), settings.udp.len());
    let listeners = tcp + udp + settings.shard_ports.map_or(0, |_| tcp);
    let shards = usize::from(settings.threads) * (DESCRIPTORS_PER_SHARD + listeners);
    let links = settings.cluster.as_ref().map_or(0, |_| DESCRIPTORS_FOR_LINKS);
    (DESCRIPTORS_RESERVED + links).saturating_add(shards).saturating_add(settings.max_connections)
}
