//! Delete, and the two softer forms of it: invalidate and drop the value.

use crate::arena::Location;
use crate::expiry::{Expiry, Seconds};
use crate::header::{Extension, Head};
use crate::shard::Shard;
use crate::write::{Draft, NoRoom};

/// What is left of the item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeleteMode {
    /// Nothing.
    Remove,
    /// Everything, marked stale with a new CAS value, so that the next reader wins the right to recache.
    Invalidate {
        /// New expiry.
        touch: Option<Expiry>,
    },
    /// The key with an empty value and no client flags, which nobody has fetched yet. The CAS value stays unless `invalidate` or an
    /// explicit one says otherwise.
    DropValue {
        /// Also mark it stale with a new CAS value.
        invalidate: bool,
        /// New expiry; never, if not given.
        touch: Option<Expiry>,
    },
}

/// One delete.
#[derive(Clone, Copy, Debug)]
pub struct Delete<'a> {
    /// 1 to [`KEY_SIZE_MAX`](crate::KEY_SIZE_MAX) bytes of any kind.
    pub key: &'a [u8],
    /// Delete only if the item has this CAS value. `Some(0)` matches no item.
    pub compare: Option<u64>,
    /// How much of the item goes.
    pub mode: DeleteMode,
    /// CAS value of what is left, instead of the next of the shard's series.
    pub explicit_cas: Option<u64>,
}

/// The answer to a [`Delete`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeleteOutcome {
    /// Done.
    Deleted,
    /// No live item.
    NotFound,
    /// The present item has another CAS value and is unchanged.
    Exists,
}

impl Shard {
    /// Deletes an item, or as much of it as the mode says. What finds no room to be marked is removed altogether.
    pub fn delete(&mut self, now: Seconds, request: &Delete<'_>) -> DeleteOutcome {
        self.begin(now, request.key);
        let hash = self.hash(request.key);
        let Some(location) = self.find_live(now, hash, request.key) else { return DeleteOutcome::NotFound };
        let head = self.arena.head(location);
        if request.compare.is_some_and(|compare| compare != self.cas_of(&head)) {
            return DeleteOutcome::Exists;
        }
        self.last_class = self.slabs.class_of(location);
        let marked = match request.mode {
            DeleteMode::Remove => Err(NoRoom),
            DeleteMode::Invalidate { touch } => self.invalidate(now, hash, location, head, touch, request),
            DeleteMode::DropValue { invalidate, touch } => {
                self.drop_value(now, hash, location, head, invalidate, touch, request)
            }
        };
        if marked.is_err() {
            self.unlink(hash, location);
            self.show_removal(hash);
        }
        DeleteOutcome::Deleted
    }

    fn invalidate(
        &mut self,
        now: Seconds,
        hash: u64,
        location: Location,
        mut head: Head,
        touch: Option<Expiry>,
        request: &Delete<'_>,
    ) -> Result<Location, NoRoom> {
        head.header.set_version(self.next_version());
        head.extension.stale = true;
        head.extension.token_sent = false;
        head.extension.explicit_cas = request.explicit_cas;
        if let Some(expiry) = touch {
            head.header.set_expiry(expiry);
        }
        self.put_head(now, hash, location, request.key, head)
    }

    #[expect(clippy::too_many_arguments, reason = "one request and where it applies")]
    fn drop_value(
        &mut self,
        now: Seconds,
        hash: u64,
        location: Location,
        mut head: Head,
        invalidate: bool,
        touch: Option<Expiry>,
        request: &Delete<'_>,
    ) -> Result<Location, NoRoom> {
        let Extension { binary_key, explicit_cas: old_cas, .. } = head.extension;
        let kept_cas = if invalidate { None } else { old_cas };
        let explicit_cas = request.explicit_cas.or(kept_cas);
        head.extension = Extension { stale: invalidate, binary_key, explicit_cas, ..Extension::default() };
        head.client_flags = 0;
        head.header.set_fetched(false);
        head.header.set_access(now);
        head.header.set_expiry(touch.unwrap_or(Expiry::Never));
        if invalidate {
            head.header.set_version(self.next_version());
        }
        let draft = Draft { keep_value: false, ..Draft::with_head(head, request.key) };
        self.put(now, hash, Some(location), &draft)
    }
}
