//! Items as copies of others: with the marks and the CAS value of their originals, which another shard, maybe of another
//! machine, has decided on.

use crate::config::CasSeries;
use crate::expiry::{Expiry, Seconds};
use crate::header::Extension;
use crate::shard::Shard;
use crate::write::Draft;

/// All that is known of an item, but for how often and when it was read last.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// 1 to [`KEY_SIZE_MAX`](crate::KEY_SIZE_MAX) bytes of any kind.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Opaque to the engine.
    pub client_flags: u32,
    /// When it is dead.
    pub expiry: Expiry,
    /// Its CAS value: costs twelve bytes of the item.
    pub cas: u64,
    /// It was invalidated and not stored since.
    pub stale: bool,
    /// Somebody has won the right to recache it.
    pub token_sent: bool,
    /// The client sent the key encoded.
    pub binary_key: bool,
    /// A get has hit it.
    pub fetched: bool,
}

impl Shard {
    /// Makes the key's item this one, whatever it was. False: too large, or no room; then the key has none.
    pub fn put_image(&mut self, now: Seconds, image: &Image<'_>) -> bool {
        self.begin(now, image.key);
        let hash = self.hash(image.key);
        self.warm_ghost(hash);
        let old = self.find_live(now, hash, image.key);
        let Image { key, value, client_flags, expiry, cas, stale, token_sent, binary_key, fetched } = *image;
        let extension = Extension { stale, token_sent, binary_key, explicit_cas: Some(cas), chain: None };
        let fits = value.len() <= self.item_size_max;
        let is_stored = fits && {
            let mut header = self.new_header(now, key, expiry);
            header.set_fetched(fetched);
            let draft =
                Draft { header, client_flags, extension, key, before: value, keep_value: false, after: &[] };
            self.put(now, hash, old, &draft).is_ok()
        };
        if is_stored {
            self.counters.total_items += 1;
        } else if let Some(location) = self.find(hash, key) {
            self.unlink(hash, location);
            self.show_removal(hash);
        }
        self.step_aside(now);
        is_stored
    }

    /// Gives every item without a CAS value of its own this one from here on, those that are stored included: for who evaluates
    /// one operation at a time on a shard that serves nothing else.
    pub fn fix_cas(&mut self, cas: u64) {
        self.cas = Some(CasSeries { offset: cas, step: 0 });
    }

    pub(crate) fn fixed_cas(&self) -> Option<u64> {
        self.cas.filter(|series| series.step == 0).map(|series| series.offset)
    }
}
