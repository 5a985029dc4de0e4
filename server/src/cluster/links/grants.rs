//! Messages about copies of hot keys on the links. What they mean is `front.rs`'s to know.

use slabring_cluster::peers::LinkId;
use slabring_cluster::placement::hash_key;

use super::Links;
use crate::dispatch::Dispatcher;
use crate::execute::Executor;

impl Links {
    /// Whether there is a later ring than the one that this node follows.
    pub fn is_behind(&self) -> bool {
        self.peers.is_behind()
    }

    pub(super) fn take_grants(&mut self, link: LinkId, dispatcher: &mut Dispatcher) {
        let now = dispatcher.now;
        let executor = &mut dispatcher.executor;
        let Some(mut front) = executor.front.take() else { return };
        let is_mine = |key: &[u8]| {
            let hash = hash_key(key);
            self.peers.owns(hash) && self.shards.owner_by(hash) == self.shards.me
        };
        let outcome = front.received(executor, now, link, self.peers.body(), is_mine);
        executor.front = Some(front);
        if outcome.is_err() {
            self.peers.refuse_message(link);
        }
    }

    /// Sends what there is to say of hot keys.
    pub fn send_grants(&mut self, executor: &mut Executor) {
        let Some(front) = &mut executor.front else { return };
        for (link, message) in front.take_sends() {
            self.peers.send_grants(link, &message);
            self.has_news = true;
        }
    }
}
