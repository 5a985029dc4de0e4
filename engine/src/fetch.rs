//! The meta get: a read that may also touch, create and hand out the right to recache.

use crate::arena::Location;
use crate::expiry::{Expiry, Seconds};
use crate::header::{Extension, Head, Header};
use crate::item::Item;
use crate::shard::Shard;
use crate::write::{Draft, NoRoom};

/// What a meta get asks for besides the item.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    /// Count the access. `false` (meta `u`) leaves no trace of the read.
    pub bump: bool,
    /// New expiry of an item that is hit (meta `T`).
    pub touch: Option<Expiry>,
    /// On a miss create an empty item with this expiry (meta `N`); the caller wins the right to fill it.
    pub vivify: Option<Expiry>,
    /// Win the right to recache if fewer seconds than this are left and nobody has won yet (meta `R`).
    pub recache_below: Option<u32>,
    /// What `touch` leaves is compared with `recache_below`, not what was left before it (a meta `R` behind the `T`).
    pub recache_after_touch: bool,
    /// The CAS value of an item created by `vivify` (meta `E`).
    pub explicit_cas: Option<u64>,
    /// Remember that the client sent the key of an item created by `vivify` encoded (meta `b`).
    pub binary_key: bool,
}

impl Default for Fetch {
    /// A plain read that counts as an access.
    fn default() -> Fetch {
        Fetch {
            bump: true,
            touch: None,
            vivify: None,
            recache_below: None,
            recache_after_touch: false,
            explicit_cas: None,
            binary_key: false,
        }
    }
}

/// The answer to a [`Fetch`].
#[derive(Debug)]
pub enum Fetched<'a> {
    /// No live item, and none was asked to be created.
    Miss,
    /// No live item, and no room to create one.
    NoMemory,
    /// A live item, or the one just created.
    Hit {
        /// The item after this fetch; its `fetched` and `idle_seconds` tell the state before.
        item: Item<'a>,
        /// The expiry before `touch` was applied.
        expiry_before: Expiry,
        /// This caller, and nobody else, is now expected to recache the item (meta `W`).
        won: bool,
        /// The item was invalidated and not stored since (meta `X`).
        stale: bool,
        /// Somebody else already won the right to recache (meta `Z`).
        token_sent: bool,
        /// The item did not exist; `vivify` created it.
        created: bool,
    },
}

impl Shard {
    /// Reads an item and, in the same step, settles who is to recache it.
    pub fn fetch(&mut self, now: Seconds, key: &[u8], request: &Fetch) -> Fetched<'_> {
        self.begin(now, key);
        let hash = self.hash(key);
        if request.bump {
            self.count_request(hash);
        }
        let found = self.find_gettable(now, hash, key);
        if request.bump {
            self.show_get(hash, found);
        }
        match (found, request.vivify) {
            (Some((location, before)), _) => self.fetch_hit(now, hash, key, location, before, request),
            (None, Some(expiry)) => self.fetch_created(now, hash, key, expiry, request),
            (None, None) => Fetched::Miss,
        }
    }

    fn fetch_hit(
        &mut self,
        now: Seconds,
        hash: u64,
        key: &[u8],
        location: Location,
        before: Header,
        request: &Fetch,
    ) -> Fetched<'_> {
        let old = self.arena.head(location);
        let Extension { stale, token_sent, .. } = old.extension;
        let expiry_before = before.expiry();
        let mut head = Head { header: fetched_header(before, now, request), ..old };
        let compared = if request.recache_after_touch { head.header.expiry() } else { expiry_before };
        let won = !token_sent && (stale || is_nearly_dead(compared, now, request.recache_below));
        self.update_header(location, before, head.header);
        if request.bump {
            self.note_use(location);
        }
        head.extension.token_sent |= won;
        // Without room for the mark somebody else may win too, which costs a recache and no more.
        let marked = if won { self.put_head(now, hash, location, key, head).ok() } else { None };
        let item = Item::new(self, marked.unwrap_or(location), before, now);
        Fetched::Hit { item, expiry_before, won, stale, token_sent, created: false }
    }

    fn fetch_created(
        &mut self,
        now: Seconds,
        hash: u64,
        key: &[u8],
        expiry: Expiry,
        request: &Fetch,
    ) -> Fetched<'_> {
        let Fetch { binary_key, explicit_cas, .. } = *request;
        let before = self.new_header(now, key, expiry);
        let mut header = before;
        // As in memcached: this fetch is the first hit of the item that it creates.
        header.set_fetched(request.bump);
        let extension = Extension { token_sent: true, binary_key, explicit_cas, ..Extension::default() };
        let draft =
            Draft { header, client_flags: 0, extension, key, before: &[], keep_value: false, after: &[] };
        match self.put(now, hash, None, &draft) {
            Err(NoRoom) => Fetched::NoMemory,
            Ok(location) => {
                self.counters.total_items += 1;
                let item = Item::new(self, location, before, now);
                Fetched::Hit {
                    item,
                    expiry_before: Expiry::Never,
                    won: true,
                    stale: false,
                    token_sent: false,
                    created: true,
                }
            }
        }
    }
}

fn fetched_header(before: Header, now: Seconds, request: &Fetch) -> Header {
    let mut header = if request.bump { before.after_hit(now) } else { before };
    if let Some(expiry) = request.touch {
        header.set_expiry(expiry);
    }
    header
}

fn is_nearly_dead(expiry: Expiry, now: Seconds, recache_below: Option<u32>) -> bool {
    match (expiry, recache_below) {
        (Expiry::At(second), Some(seconds)) => second.0.saturating_sub(now.0) < seconds,
        _ => false,
    }
}
