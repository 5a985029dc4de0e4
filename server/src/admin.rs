//! Commands about the server. What memcached does with its own machinery is done to what serves the same end here, or only kept
//! to be read back: `docs/compatibility.md` has the list.

use std::sync::atomic::Ordering;

use slabring_engine::{Automove, ClassId};
use slabring_protocol::reply::{self, Outcome};
use slabring_protocol::{Admin, Classes, ErrorReply, Request, ShutdownMode};
use tracing::info;

use crate::cluster::View;
use crate::connection::{Connection, Ending};
use crate::discovery::Discovery;
use crate::dispatch::Dispatcher;
use crate::dump::{self, Shows, Walk};
use crate::report::Question;
use crate::unkeyed::{refuse, tell};

const ANY_CLASS: i32 = -1;
const POOL: i32 = 0;
/// What texts about certificates begin with, which the reply brings itself.
const CERTIFICATES_ERROR: &str = "Error ";

impl Dispatcher {
    /// Carries out a command about the server.
    pub fn administer(&mut self, client: &mut Connection, request: &Request<'_>, admin: Admin) {
        let tuning = &self.node.tuning;
        match admin {
            Admin::LruTune { .. }
            | Admin::LruMode { .. }
            | Admin::LruTemporaryTtl { .. }
            | Admin::CrawlerSleep { .. }
            | Admin::CrawlerToCrawl { .. }
            | Admin::SlabsAutomoveRatio(_)
            | Admin::SlabsAutomoveFreeRatio(_)
            | Admin::SlabsAutomoveWindow { .. } => {
                tuning.set(admin);
                tell(client, request, Outcome::Done);
            }
            Admin::Extstore => tell(client, request, Outcome::Done),
            Admin::Crawler { enabled } => {
                let was_enabled = tuning.crawler.swap(enabled, Ordering::Relaxed);
                let outcome = match enabled && was_enabled {
                    true => Outcome::Refused(ErrorReply::CrawlerStart),
                    false => Outcome::Done,
                };
                tell(client, request, outcome);
            }
            Admin::Crawl(classes) => self.crawl(client, request, classes),
            Admin::Metadump(classes) => self.dump(client, request, Shows::Metadump, classes),
            Admin::Mgdump(classes) => self.dump(client, request, Shows::Mgdump, classes),
            Admin::SlabsReassign { from, to } => self.reassign(client, request, from, to),
            Admin::SlabsAutomove { level } => {
                tuning.automove.store(level, Ordering::Relaxed);
                let automove = match level {
                    0 => Automove::Off,
                    1 => Automove::Conservative,
                    _ => Automove::Aggressive,
                };
                self.ask_all(client, request, Question::Automove(automove));
            }
            Admin::MemoryLimit { megabytes } => self.limit_memory(client, request, megabytes),
            Admin::Watch(topics) => self.begin_watch(client, request, topics),
            Admin::Shutdown(mode) => self.shut_down(client, request, mode),
            Admin::RefreshCertificates => self.refresh_certificates(client, request),
            Admin::ClusterConfig => match self.discovery().answer() {
                [] => refuse(client, request, ErrorReply::Error),
                answer => client.outbox.local(|out| out.extend_from_slice(answer)),
            },
            Admin::Redirect(_) if self.cluster.is_none() => refuse(client, request, ErrorReply::Error),
            Admin::Redirect(wanted) => {
                client.lines.redirects = wanted;
                tell(client, request, Outcome::Done);
            }
            Admin::RingConfig => match self.view() {
                None => refuse(client, request, ErrorReply::Error),
                Some(view) => client.outbox.local(|out| reply::ring_config(out, view.ring.json())),
            },
        }
    }

    fn view(&self) -> Option<&View> {
        self.cluster.as_ref().and_then(|links| links.view())
    }

    /// What clients are told who look for the nodes.
    fn discovery(&self) -> &Discovery {
        self.view().map_or(&self.node.discovery, |view| &view.discovery)
    }

    fn crawl(&mut self, client: &mut Connection, request: &Request<'_>, classes: Classes) {
        if !self.node.tuning.crawler.load(Ordering::Relaxed) {
            return refuse(client, request, ErrorReply::CrawlerDisabled);
        }
        if classes == Classes::Some(0) {
            return refuse(client, request, ErrorReply::CrawlerNotStarted);
        }
        self.executor.traffic.crawls += 1;
        // The sweeper knows no classes: it goes through all of them.
        self.ask_all(client, request, Question::Sweep);
    }

    fn dump(&mut self, client: &mut Connection, request: &Request<'_>, shows: Shows, classes: Classes) {
        let not_allowed = if shows == Shows::Mgdump {
            ErrorReply::MgdumpNotAllowed
        } else {
            ErrorReply::MetadumpNotAllowed
        };
        let refusal = match () {
            () if !self.node.tuning.crawler.load(Ordering::Relaxed) => Some(ErrorReply::CrawlerDisabled),
            () if !self.node.settings.dump_enabled => Some(not_allowed),
            () if classes == Classes::Some(0) => Some(ErrorReply::CrawlerNotStarted),
            () => dump::refusal(client, shows),
        };
        match refusal {
            Some(error) => refuse(client, request, error),
            None => self.begin_dump(client, request, Walk::new(shows, classes, 0)),
        }
    }

    /// Every shard that can moves a page. There is no pool that pages of all classes could go to.
    fn reassign(&mut self, client: &mut Connection, request: &Request<'_>, from: i32, to: i32) {
        match (class_of(from), class_of(to)) {
            _ if from == to => refuse(client, request, ErrorReply::ReassignSame),
            (_, None) if to == POOL => refuse(client, request, ErrorReply::ReassignNoSpare),
            (None, _) if from != ANY_CLASS => refuse(client, request, ErrorReply::ReassignBadClass),
            (_, None) => refuse(client, request, ErrorReply::ReassignBadClass),
            (from, Some(to)) => self.ask_all(client, request, Question::MovePage { from, to }),
        }
    }

    /// The shards' memory was reserved at the start and can only be used less.
    fn limit_memory(&mut self, client: &mut Connection, request: &Request<'_>, megabytes: u32) {
        let bytes = usize::try_from(megabytes).ok().and_then(|megabytes| megabytes.checked_mul(1 << 20));
        match bytes.filter(|&bytes| bytes <= self.node.settings.memory_bytes) {
            Some(bytes) => {
                self.node.memory_limit_bytes.store(bytes, Ordering::Relaxed);
                self.ask_all(client, request, Question::LimitMemory(bytes / usize::from(self.shards.count)));
            }
            None => refuse(client, request, ErrorReply::MemoryLimitFailed),
        }
    }

    fn shut_down(&mut self, client: &mut Connection, request: &Request<'_>, mode: ShutdownMode) {
        if !self.node.settings.shutdown_enabled {
            return refuse(client, request, ErrorReply::ShutdownNotEnabled);
        }
        if mode == ShutdownMode::Unknown {
            return refuse(client, request, ErrorReply::InvalidShutdownMode);
        }
        info!("a client asks to shut down: finishing what was received");
        client.ending = Ending::AfterOutput;
        if mode == ShutdownMode::Graceful { self.node.stop_gracefully() } else { self.node.stop() }
    }

    fn refresh_certificates(&self, client: &mut Connection, request: &Request<'_>) {
        if self.node.tls.is_none() {
            return refuse(client, request, ErrorReply::TlsNotEnabled);
        }
        match self.node.refresh_certificates() {
            Ok(()) => tell(client, request, Outcome::Done),
            Err(error) => {
                let reason =
                    error.strip_prefix(CERTIFICATES_ERROR).unwrap_or(&error).replace(['\r', '\n'], " ");
                client.outbox.local(|out| reply::certificates_error(out, &reason));
            }
        }
    }
}

/// A class by the number that clients know it by.
fn class_of(number: i32) -> Option<ClassId> {
    number.checked_sub(1).and_then(|index| index.try_into().ok()).map(ClassId)
}
