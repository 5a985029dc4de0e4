//! Copies of values in the client's own memory, and what keeps them fresh: every server tells which keys change, and when it says
//! nothing for a while its copies are not used. No sockets; the time is an argument.
//!
//! A read leaves a placeholder before it asks. What is told between asking and answer takes the placeholder away, and then the answer
//! is not kept: it may be older than the change. `docs/near-cache.md` has the promise and what it rests on.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::command::Item;
use crate::endpoint::Endpoint;
use crate::key::Key;
use crate::options::after;

/// How copies are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearOptions {
    /// No copy is used for longer, whatever its server says.
    pub ttl_max: Duration,
    /// Copies of a server are not used when it has said nothing for this time. It says something every second.
    pub silence_max: Duration,
    /// Copies at a time; the oldest goes.
    pub items_max: usize,
    /// Values with more bytes are not kept.
    pub value_size_max: usize,
}

impl Default for NearOptions {
    fn default() -> Self {
        Self {
            ttl_max: Duration::from_secs(60),
            silence_max: Duration::from_secs(3),
            items_max: 10_000,
            value_size_max: 64 << 10,
        }
    }
}

/// What became of reads and copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NearCounts {
    /// Reads that a copy answered.
    pub hits: u64,
    /// Reads that went to a server.
    pub misses: u64,
    /// Copies dropped because their keys changed.
    pub changes: u64,
    /// Times that all copies of a server were dropped: it said so, or could not be heard.
    pub flushes: u64,
}

/// What a server says to who tracks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Tracking { id: u64, epoch: u64 },
    Changed { epoch: u64, number: u64, key: Vec<u8> },
    AllChanged { epoch: u64 },
    Ping { epoch: u64, number: u64, milliseconds: u64 },
}

/// A server as far as it has been heard.
#[derive(Debug)]
struct Link {
    /// The number to mark reads with, and the copies of this life of the link.
    id: u64,
    epoch: u64,
    number: u64,
    /// When the server's count of milliseconds began, by the message that was least late.
    began_at: Instant,
    /// Whatever changed before this moment has been told.
    heard_until: Instant,
}

#[derive(Debug)]
struct Copy {
    token: u64,
    link: u64,
    /// None: it has been asked for.
    held: Option<(Item, Instant)>,
}

/// How a read goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Hit(Item),
    /// Ask the server, marking the read with `id`; then [`Near::fill`].
    Ask {
        id: u64,
        token: u64,
    },
    /// Ask as without copies: the server cannot be heard.
    Bypass,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Near {
    options: NearOptions,
    copies: HashMap<Key, Copy>,
    /// In the order in which they were asked for; some are gone.
    order: VecDeque<(Key, u64)>,
    links: HashMap<Endpoint, Link>,
    next_token: u64,
    pub(crate) counts: NearCounts,
}

impl Line {
    /// Reads a line without its end.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let mut words = text.split(' ');
        let verb = words.next()?;
        let mut number = || words.next()?.parse().ok();
        Some(match verb {
            "TRACKING" => Self::Tracking { id: number()?, epoch: number()? },
            "IF" => Self::AllChanged { epoch: number()? },
            "PING" => Self::Ping { epoch: number()?, number: number()?, milliseconds: number()? },
            "IV" => {
                let (epoch, number) = (number()?, number()?);
                let word = words.next()?;
                let key = match words.next() {
                    Some("b") => STANDARD.decode(word).ok()?,
                    _ => word.as_bytes().to_vec(),
                };
                Self::Changed { epoch, number, key }
            }
            _ => return None,
        })
    }
}

impl Near {
    pub(crate) fn new(options: NearOptions) -> Self {
        Self {
            options,
            copies: HashMap::new(),
            order: VecDeque::new(),
            links: HashMap::new(),
            next_token: 0,
            counts: NearCounts::default(),
        }
    }

    /// A copy, if there is one that may be used; otherwise leaves a placeholder.
    pub(crate) fn look(&mut self, key: &Key, server: &Endpoint, now: Instant) -> Look {
        let silence_max = self.options.silence_max;
        let is_heard = |link: &&Link| now.saturating_duration_since(link.heard_until) <= silence_max;
        let Some(id) = self.links.get(server).filter(is_heard).map(|link| link.id) else {
            self.counts.misses += 1;
            return Look::Bypass;
        };
        if let Some(Copy { link, held: Some((item, until)), .. }) = self.copies.get(key)
            && *link == id
            && now < *until
        {
            self.counts.hits += 1;
            return Look::Hit(item.clone());
        }
        self.counts.misses += 1;
        self.next_token += 1;
        let token = self.next_token;
        self.copies.insert(key.clone(), Copy { token, link: id, held: None });
        self.order.push_back((key.clone(), token));
        self.make_room();
        Look::Ask { id, token }
    }

    /// Keeps what a server answered, unless something was told since it was asked. `ttl`: how long the item lives.
    pub(crate) fn fill(&mut self, key: &Key, token: u64, item: &Item, ttl: Option<Duration>, now: Instant) {
        let Some(copy) = self.copies.get_mut(key).filter(|copy| copy.token == token) else { return };
        if item.value.len() > self.options.value_size_max {
            self.copies.remove(key);
            return;
        }
        let ttl = ttl.unwrap_or(Duration::MAX).min(self.options.ttl_max);
        copy.held = Some((item.clone(), after(now, ttl)));
    }

    /// There is nothing to keep: a miss, an error, or a server that will not tell when it changes.
    pub(crate) fn give_up(&mut self, key: &Key, token: u64) {
        if self.copies.get(key).is_some_and(|copy| copy.token == token) {
            self.copies.remove(key);
        }
    }

    /// Drops the copy of a key, also one that is under way.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.copies.remove(key);
    }

    /// Takes note of what a server says. `asked_at`: when it was asked to track. False: that made no sense here, and it must be asked
    /// anew.
    pub(crate) fn heard(&mut self, server: &Endpoint, line: Line, asked_at: Instant, now: Instant) -> bool {
        match line {
            Line::Tracking { id, epoch } => {
                self.lost(server);
                let link = Link { id, epoch, number: 0, began_at: now, heard_until: asked_at };
                self.links.insert(server.clone(), link);
                true
            }
            Line::Changed { epoch, number, key } => {
                let Some(link) = self.links.get_mut(server) else { return false };
                let is_next = (epoch, number) == (link.epoch, link.number + 1);
                link.number = number;
                if let Some(key) = Key::of_line(&key)
                    && self.copies.remove(&key).is_some()
                {
                    self.counts.changes += 1;
                }
                is_next
            }
            Line::AllChanged { epoch } => {
                let Some(link) = self.links.get_mut(server) else { return false };
                let is_next = epoch == link.epoch + 1;
                (link.epoch, link.number) = (epoch, 0);
                let id = link.id;
                self.drop_copies_of(id);
                is_next
            }
            Line::Ping { epoch, number, milliseconds } => {
                let Some(link) = self.links.get_mut(server) else { return false };
                let since = Duration::from_millis(milliseconds);
                // The message that was least late says when the count began; what is later than that was under way.
                link.began_at = now.checked_sub(since).map_or(link.began_at, |at| at.min(link.began_at));
                link.heard_until = link.heard_until.max(after(link.began_at, since));
                (epoch, number) == (link.epoch, link.number)
            }
        }
    }

    /// A server cannot be heard any more: its copies go.
    pub(crate) fn lost(&mut self, server: &Endpoint) {
        if let Some(link) = self.links.remove(server) {
            self.drop_copies_of(link.id);
        }
    }

    fn drop_copies_of(&mut self, id: u64) {
        self.copies.retain(|_, copy| copy.link != id);
        self.counts.flushes += 1;
    }

    fn make_room(&mut self) {
        let is_there = |copies: &HashMap<Key, Copy>, (key, token): &(Key, u64)| {
            copies.get(key).is_some_and(|copy| copy.token == *token)
        };
        while self.copies.len() > self.options.items_max
            && let Some(oldest) = self.order.pop_front()
        {
            if is_there(&self.copies, &oldest) {
                self.copies.remove(&oldest.0);
            }
        }
        // What is gone from the middle is cleared away when it is the most.
        if self.order.len() > 2 * self.options.items_max.max(16) {
            let copies = &self.copies;
            self.order.retain(|entry| is_there(copies, entry));
        }
    }
}

#[cfg(test)]
mod tests;
