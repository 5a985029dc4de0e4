//! The bytes at the start of every chunk: what they say about an item, or that there is none. Never looks at a
//! value.

use bytemuck::{Pod, Zeroable};

use crate::arena::{Arena, Location};
use crate::expiry::{Expiry, Seconds};

/// Bytes every chunk of a shard begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HeaderSize {
    /// With 16 bits of version: not enough to tell stores apart, but to tell what was stored before a flush.
    Compact = 12,
    /// With 48 bits of version.
    Full = 16,
}

/// Highest version of a full header: nine years at a million stores a second.
pub(crate) const VERSION_MAX: u64 = (1 << VERSION_BITS) - 1;
/// Highest version of a compact one.
pub(crate) const VERSION_COMPACT_MAX: u64 = (1 << VERSION_LOW_BITS) - 1;
/// Most an item can have been hit since the hand passed.
pub(crate) const FREQUENCY_MAX: u32 = 7;
/// An item idle for longer reads as idle for exactly this long, if the sweeper comes round in time.
pub(crate) const IDLE_SECONDS_MAX: u32 = ACCESS_MODULUS / 4 * 3;

const VERSION_LOW_BITS: u32 = 16;
const VERSION_BITS: u32 = VERSION_LOW_BITS + u32::BITS;
const ACCESS_MODULUS: u32 = 1 << 14;

const KEY_LEN_MASK: u32 = 0xff;
const VALUE_LEN_SHIFT: u32 = 8;
const VALUE_LEN_MASK: u32 = 0x7_ffff;
const FREQUENCY_SHIFT: u32 = 27;
const WINDOW: u32 = 1 << 30;
const EXTENDED: u32 = 1 << 31;

const HAS_CLIENT_FLAGS: u32 = 1;
const FETCHED: u32 = 1 << 1;
const ACCESS_SHIFT: u32 = 2;
const ACCESS_MASK: u32 = ACCESS_MODULUS - 1;
const VERSION_LOW_SHIFT: u32 = 16;

const KIND_FREE: u32 = 0;
const KIND_RESERVED: u32 = 1;
const KIND_CONTINUATION: u32 = 2;

const _: () = assert!(size_of::<Header>() == HeaderSize::Full.bytes());
const _: () = assert!(crate::KEY_SIZE_MAX <= KEY_LEN_MASK as usize);
const _: () = assert!(crate::slab::CHUNK_SIZE_MAX <= VALUE_LEN_MASK as usize + 1);
const _: () = assert!(FREQUENCY_MAX << FREQUENCY_SHIFT == WINDOW - (1 << FREQUENCY_SHIFT));
const _: () = assert!(ACCESS_SHIFT + ACCESS_MODULUS.ilog2() == VERSION_LOW_SHIFT);
const _: () = assert!(VERSION_LOW_SHIFT + VERSION_LOW_BITS == u32::BITS);

/// The first 16 bytes of a chunk, or the first 12 in a shard of [`HeaderSize::Compact`].
///
/// | bytes | bits | an item | any other chunk (`key_len` is 0) |
/// |-------|------|---------|-----------------------------------|
/// | 0..4  |      | second from which it is dead, 0 is never | next chunk of its list |
/// | 4..8  | 0..8 | key length, at least 1 | 0 |
/// |       | 8..27 | value bytes in this chunk | what kind of chunk |
/// |       | 27..30 | frequency | |
/// |       | 30   | in the admission window | |
/// |       | 31   | an extension follows | |
/// | 8..12 | 0    | client flags follow | head of its item (all bits) |
/// |       | 1    | a get has hit it | |
/// |       | 2..16 | second of the last access, modulo 2^14 | |
/// |       | 16..32 | version, low bits | |
/// | 12..16 |     | version, high bits | |
///
/// What follows an item's header, each part only where it is needed:
/// client flags (4), extension word (4), chain (8), explicit CAS (8), key, value.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub(crate) struct Header {
    expiry_or_next: u32,
    packed: u32,
    marks: u32,
    /// Not stored in a compact header; reads as 0.
    version_high: u32,
}

impl HeaderSize {
    #[inline]
    pub(crate) const fn bytes(self) -> usize {
        self as usize
    }
}

/// What a chunk is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Chunk {
    /// The head of an item, or all of it.
    Item(Header),
    /// In no item; `next` links the free chunks of the page.
    Free { next: Location },
    /// Taken for an item that is not complete yet; `next` links its chunks.
    Reserved { next: Location },
    /// A later part of the value whose item begins at `head`.
    Continuation { next: Location, head: Location },
}

impl Header {
    #[inline]
    pub(crate) fn new(key_len: usize, version: u64) -> Header {
        debug_assert!(key_len > 0 && version <= VERSION_MAX);
        let key_len = u32::try_from(key_len).expect("the caller checked the key");
        assert!(key_len <= KEY_LEN_MASK);
        let mut header = Header { packed: key_len, ..Header::zeroed() };
        header.set_version(version);
        header
    }

    #[inline]
    pub(crate) fn chunk(self) -> Chunk {
        if self.packed & KEY_LEN_MASK != 0 {
            return Chunk::Item(self);
        }
        let next = Location(self.expiry_or_next);
        match (self.packed >> VALUE_LEN_SHIFT) & VALUE_LEN_MASK {
            KIND_FREE => Chunk::Free { next },
            KIND_RESERVED => Chunk::Reserved { next },
            kind => {
                assert!(kind == KIND_CONTINUATION);
                Chunk::Continuation { next, head: Location(self.marks) }
            }
        }
    }

    pub(crate) fn free(next: Location) -> Header {
        Header { expiry_or_next: next.0, packed: KIND_FREE << VALUE_LEN_SHIFT, ..Header::zeroed() }
    }

    pub(crate) fn reserved(next: Location) -> Header {
        Header { expiry_or_next: next.0, packed: KIND_RESERVED << VALUE_LEN_SHIFT, ..Header::zeroed() }
    }

    pub(crate) fn continuation(next: Location, head: Location) -> Header {
        let packed = KIND_CONTINUATION << VALUE_LEN_SHIFT;
        Header { expiry_or_next: next.0, packed, marks: head.0, version_high: 0 }
    }

    #[inline]
    pub(crate) fn key_len(self) -> usize {
        (self.packed & KEY_LEN_MASK) as usize
    }

    #[inline]
    pub(crate) fn value_len(self) -> usize {
        ((self.packed >> VALUE_LEN_SHIFT) & VALUE_LEN_MASK) as usize
    }

    #[inline]
    pub(crate) fn set_value_len(&mut self, value_len: usize) {
        let value_len = u32::try_from(value_len).expect("a chunk is smaller than 4 GiB");
        assert!(value_len <= VALUE_LEN_MASK);
        self.packed = self.packed & !(VALUE_LEN_MASK << VALUE_LEN_SHIFT) | value_len << VALUE_LEN_SHIFT;
    }

    #[inline]
    pub(crate) fn expiry(self) -> Expiry {
        Expiry::decode(self.expiry_or_next)
    }

    #[inline]
    pub(crate) fn set_expiry(&mut self, expiry: Expiry) {
        self.expiry_or_next = expiry.encode();
    }

    #[inline]
    pub(crate) fn frequency(self) -> u32 {
        self.packed >> FREQUENCY_SHIFT & FREQUENCY_MAX
    }

    #[inline]
    pub(crate) fn set_frequency(&mut self, frequency: u32) {
        debug_assert!(frequency <= FREQUENCY_MAX);
        self.packed = self.packed & !(FREQUENCY_MAX << FREQUENCY_SHIFT) | frequency << FREQUENCY_SHIFT;
    }

    #[inline]
    pub(crate) fn in_window(self) -> bool {
        self.packed & WINDOW != 0
    }

    #[inline]
    pub(crate) fn set_in_window(&mut self, in_window: bool) {
        self.packed = self.packed & !WINDOW | if in_window { WINDOW } else { 0 };
    }

    #[inline]
    pub(crate) fn is_extended(self) -> bool {
        self.packed & EXTENDED != 0
    }

    fn set_extended(&mut self, extended: bool) {
        self.packed = self.packed & !EXTENDED | if extended { EXTENDED } else { 0 };
    }

    #[inline]
    pub(crate) fn has_client_flags(self) -> bool {
        self.marks & HAS_CLIENT_FLAGS != 0
    }

    #[inline]
    fn set_has_client_flags(&mut self, has_client_flags: bool) {
        self.marks = self.marks & !HAS_CLIENT_FLAGS | if has_client_flags { HAS_CLIENT_FLAGS } else { 0 };
    }

    #[inline]
    pub(crate) fn version(self) -> u64 {
        u64::from(self.marks >> VERSION_LOW_SHIFT) | u64::from(self.version_high) << VERSION_LOW_BITS
    }

    #[inline]
    pub(crate) fn set_version(&mut self, version: u64) {
        debug_assert!(version <= VERSION_MAX);
        let low = low_half(version & VERSION_COMPACT_MAX);
        self.marks = self.marks & ((1 << VERSION_LOW_SHIFT) - 1) | low << VERSION_LOW_SHIFT;
        self.version_high = low_half(version >> VERSION_LOW_BITS);
    }

    #[inline]
    pub(crate) fn is_fetched(self) -> bool {
        self.marks & FETCHED != 0
    }

    pub(crate) fn set_fetched(&mut self, fetched: bool) {
        self.marks = self.marks & !FETCHED | if fetched { FETCHED } else { 0 };
    }

    #[inline]
    pub(crate) fn set_access(&mut self, now: Seconds) {
        let access = now.0 & ACCESS_MASK;
        self.marks = self.marks & !(ACCESS_MASK << ACCESS_SHIFT) | access << ACCESS_SHIFT;
    }

    /// Seconds since the last access, at most [`IDLE_SECONDS_MAX`].
    pub(crate) fn idle_seconds(self, now: Seconds) -> u32 {
        self.age(now).min(IDLE_SECONDS_MAX)
    }

    /// The header that will not read as freshly used when the access second comes round again, if it soon would.
    pub(crate) fn with_age_kept(mut self, now: Seconds) -> Option<Header> {
        if self.age(now) <= IDLE_SECONDS_MAX {
            return None;
        }
        self.set_access(Seconds(now.0.wrapping_sub(IDLE_SECONDS_MAX)));
        Some(self)
    }

    /// The header after one more hit at `now`.
    #[inline]
    pub(crate) fn after_hit(mut self, now: Seconds) -> Header {
        let frequency_max = if self.in_window() { 1 } else { FREQUENCY_MAX };
        if self.frequency() < frequency_max {
            self.packed += 1 << FREQUENCY_SHIFT;
        }
        self.marks |= FETCHED;
        self.set_access(now);
        self
    }

    fn age(self, now: Seconds) -> u32 {
        let access = self.marks >> ACCESS_SHIFT & ACCESS_MASK;
        now.0.wrapping_sub(access) & ACCESS_MASK
    }
}

/// What few items need to say about themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Extension {
    /// Invalidated and not stored since.
    pub(crate) stale: bool,
    /// Somebody won the right to recache it.
    pub(crate) token_sent: bool,
    /// The client sent the key encoded.
    pub(crate) binary_key: bool,
    /// Length of the whole value and its first continuation, if it does not fit one chunk.
    pub(crate) chain: Option<Chain>,
    /// Replaces the CAS value that the version stands for.
    pub(crate) explicit_cas: Option<u64>,
}

const STALE: u32 = 1;
const TOKEN_SENT: u32 = 1 << 1;
const BINARY_KEY: u32 = 1 << 2;
const CHAINED: u32 = 1 << 3;
const EXPLICIT_CAS: u32 = 1 << 4;

const CLIENT_FLAGS_SIZE: usize = 4;
const EXTENSION_SIZE: usize = 4;
const CHAIN_SIZE: usize = 8;
const EXPLICIT_CAS_SIZE: usize = 8;

/// The rest of a value that does not fit its head chunk.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub(crate) struct Chain {
    /// Bytes of the whole value, those in the head included.
    pub(crate) value_len: u32,
    /// Location of the first continuation.
    pub(crate) first: u32,
}

impl Extension {
    /// Whether an item needs no extension at all.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Extension::default()
    }

    /// Bytes between the header and the key, client flags included.
    pub(crate) fn prefix_size(&self, client_flags: u32) -> usize {
        let flags = if client_flags == 0 { 0 } else { CLIENT_FLAGS_SIZE };
        if self.is_empty() {
            return flags;
        }
        let chain = if self.chain.is_some() { CHAIN_SIZE } else { 0 };
        let cas = if self.explicit_cas.is_some() { EXPLICIT_CAS_SIZE } else { 0 };
        flags + EXTENSION_SIZE + chain + cas
    }

    fn word(&self) -> u32 {
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        bit(self.stale, STALE)
            | bit(self.token_sent, TOKEN_SENT)
            | bit(self.binary_key, BINARY_KEY)
            | bit(self.chain.is_some(), CHAINED)
            | bit(self.explicit_cas.is_some(), EXPLICIT_CAS)
    }
}

/// An item's header and what follows it up to the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) header_size: HeaderSize,
    pub(crate) header: Header,
    pub(crate) client_flags: u32,
    pub(crate) extension: Extension,
}

impl Head {
    /// Bytes from the start of the chunk to the key.
    #[inline]
    pub(crate) fn key_offset(&self) -> usize {
        self.header_size.bytes() + self.extension.prefix_size(self.client_flags)
    }

    /// Bytes from the start of the chunk to the value.
    #[inline]
    pub(crate) fn value_offset(&self) -> usize {
        self.key_offset() + self.header.key_len()
    }

    /// Bytes of the whole value.
    pub(crate) fn value_len(&self) -> usize {
        self.extension.chain.map_or(self.header.value_len(), |chain| chain.value_len as usize)
    }

    /// Notes where the chain begins, if there is one.
    pub(crate) fn chain_to(&mut self, first: Location) {
        if let Some(chain) = &mut self.extension.chain {
            chain.first = first.0;
        }
    }

    /// Bytes of headers, key and value, continuations' headers left out.
    pub(crate) fn footprint(&self) -> usize {
        self.value_offset() + self.value_len()
    }
}

impl Arena {
    /// What the chunk at `location` is for.
    #[inline]
    pub(crate) fn chunk(&self, location: Location) -> Chunk {
        self.raw_header(location).chunk()
    }

    /// What a chunk of unknown content is for, if it can be said.
    pub(crate) fn checked_chunk(&self, location: Location) -> Option<Chunk> {
        let header = self.raw_header(location);
        let kind = header.packed >> VALUE_LEN_SHIFT & VALUE_LEN_MASK;
        let is_known = match header.key_len() {
            0 => matches!(kind, KIND_FREE | KIND_RESERVED | KIND_CONTINUATION),
            key_len => key_len <= crate::KEY_SIZE_MAX,
        };
        is_known.then(|| header.chunk())
    }

    /// The head of an item of unknown content, if all it announces fits its chunk and makes sense by itself.
    pub(crate) fn checked_head(&self, location: Location, chunk_size: usize) -> Option<Head> {
        let header = self.raw_header(location);
        let flags_size = if header.has_client_flags() { CLIENT_FLAGS_SIZE } else { 0 };
        let extension_at = self.header_size.bytes() + flags_size;
        let mut prefix = extension_at;
        if header.is_extended() {
            prefix += EXTENSION_SIZE;
            if prefix > chunk_size {
                return None;
            }
            let word: u32 = self.read(location.offset() + extension_at);
            prefix += extension_size(word) - EXTENSION_SIZE;
            if word == 0 || word >= EXPLICIT_CAS << 1 {
                return None;
            }
        }
        if prefix + header.key_len() + header.value_len() > chunk_size {
            return None;
        }
        let head = self.head(location);
        let has_flags = head.client_flags != 0;
        let value_fits = head.value_len() >= head.header.value_len();
        (has_flags == header.has_client_flags() && value_fits).then_some(head)
    }

    #[inline]
    pub(crate) fn set_header(&mut self, location: Location, header: Header) {
        match self.header_size {
            HeaderSize::Full => self.write(location.offset(), header),
            HeaderSize::Compact => {
                let Header { expiry_or_next, packed, marks, .. } = header;
                self.write(location.offset(), [expiry_or_next, packed, marks]);
            }
        }
    }

    /// The header of an item; there must be one.
    #[inline]
    pub(crate) fn header(&self, location: Location) -> Header {
        let header = self.raw_header(location);
        debug_assert!(header.key_len() > 0);
        header
    }

    /// Of any chunk: even the smallest has as many bytes as a full header.
    #[inline]
    fn raw_header(&self, location: Location) -> Header {
        let mut header: Header = self.read(location.offset());
        if self.header_size == HeaderSize::Compact {
            header.version_high = 0;
        }
        header
    }

    /// Header, client flags and extension of the item at `location`.
    #[inline]
    pub(crate) fn head(&self, location: Location) -> Head {
        let header = self.header(location);
        let header_size = self.header_size;
        let mut head = Head { header_size, header, client_flags: 0, extension: Extension::default() };
        let mut offset = location.offset() + header_size.bytes();
        if header.has_client_flags() {
            head.client_flags = self.read(offset);
            offset += CLIENT_FLAGS_SIZE;
        }
        if header.is_extended() {
            head.extension = self.extension(offset);
        }
        head
    }

    /// Writes header, client flags and extension; sets the header's bits that announce the latter two.
    pub(crate) fn set_head(&mut self, location: Location, mut head: Head) {
        head.header.set_has_client_flags(head.client_flags != 0);
        head.header.set_extended(!head.extension.is_empty());
        self.set_head_behind_header(location, &head);
        self.set_header(location, head.header);
    }

    /// Bytes from the start of an item's chunk to its key.
    #[inline]
    pub(crate) fn key_offset(&self, location: Location, header: Header) -> usize {
        self.key_start(location, header) - location.offset()
    }

    /// As [`Arena::set_head`], for an item without an extension.
    #[inline]
    pub(crate) fn set_bare_head(&mut self, location: Location, mut header: Header, client_flags: u32) {
        header.set_has_client_flags(client_flags != 0);
        if client_flags != 0 {
            self.write(location.offset() + self.header_size.bytes(), client_flags);
        }
        self.set_header(location, header);
    }

    /// Writes client flags and extension only.
    pub(crate) fn set_head_behind_header(&mut self, location: Location, head: &Head) {
        let mut offset = location.offset() + self.header_size.bytes();
        if head.client_flags != 0 {
            self.write(offset, head.client_flags);
            offset += CLIENT_FLAGS_SIZE;
        }
        if !head.extension.is_empty() {
            self.set_extension(offset, &head.extension);
        }
    }

    /// The key of the item at `location`.
    #[inline]
    pub(crate) fn key(&self, location: Location) -> &[u8] {
        let header = self.header(location);
        let start = self.key_start(location, header);
        self.bytes(start..start + header.key_len())
    }

    /// Whether this is the key of the item at `location`.
    #[inline]
    pub(crate) fn has_key(&self, location: Location, key: &[u8]) -> bool {
        let header = self.header(location);
        if header.key_len() != key.len() {
            return false;
        }
        let start = self.key_start(location, header);
        is_same(self.bytes(start..start + key.len()), key)
    }

    #[inline]
    fn key_start(&self, location: Location, header: Header) -> usize {
        let mut start = location.offset() + self.header_size.bytes();
        if header.has_client_flags() {
            start += CLIENT_FLAGS_SIZE;
        }
        if header.is_extended() {
            let word: u32 = self.read(start);
            start += extension_size(word);
        }
        start
    }

    #[cold]
    fn extension(&self, mut offset: usize) -> Extension {
        let word: u32 = self.read(offset);
        offset += EXTENSION_SIZE;
        let chain = (word & CHAINED != 0).then(|| self.read::<Chain>(offset));
        offset += if chain.is_some() { CHAIN_SIZE } else { 0 };
        Extension {
            stale: word & STALE != 0,
            token_sent: word & TOKEN_SENT != 0,
            binary_key: word & BINARY_KEY != 0,
            chain,
            explicit_cas: (word & EXPLICIT_CAS != 0).then(|| self.read(offset)),
        }
    }

    fn set_extension(&mut self, mut offset: usize, extension: &Extension) {
        self.write(offset, extension.word());
        offset += EXTENSION_SIZE;
        if let Some(chain) = extension.chain {
            self.write(offset, chain);
            offset += CHAIN_SIZE;
        }
        if let Some(cas) = extension.explicit_cas {
            self.write(offset, cas);
        }
    }
}

/// Whether two keys of the same length are the same, by words: a call that compares costs more than most keys have to give.
#[inline]
fn is_same(a: &[u8], b: &[u8]) -> bool {
    const WORD: usize = size_of::<u64>();
    let word = |bytes: &[u8; WORD]| u64::from_ne_bytes(*bytes);
    debug_assert!(a.len() == b.len());
    let (Some(last_a), Some(last_b)) = (a.last_chunk(), b.last_chunk()) else {
        return a.iter().zip(b).all(|(a, b)| a == b);
    };
    // The last word lies over the one before it.
    let mut words = a.as_chunks().0.iter().zip(b.as_chunks().0);
    word(last_a) == word(last_b) && words.all(|(a, b)| word(a) == word(b))
}

/// Bytes of an extension from its word to the key.
fn extension_size(word: u32) -> usize {
    let chain = if word & CHAINED != 0 { CHAIN_SIZE } else { 0 };
    let cas = if word & EXPLICIT_CAS != 0 { EXPLICIT_CAS_SIZE } else { 0 };
    EXTENSION_SIZE + chain + cas
}

fn low_half(word: u64) -> u32 {
    (word & u64::from(u32::MAX)).try_into().expect("masked to 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extensions() -> impl Iterator<Item = Extension> {
        (0..32_u32).map(|bits| Extension {
            stale: bits & 1 != 0,
            token_sent: bits & 2 != 0,
            binary_key: bits & 4 != 0,
            chain: (bits & 8 != 0).then_some(Chain { value_len: 1 << 30, first: 77 }),
            explicit_cas: (bits & 16 != 0).then_some(u64::MAX),
        })
    }

    #[test]
    fn every_head_is_read_back_as_written_and_the_key_found_behind_it() {
        check_heads(HeaderSize::Full, VERSION_MAX);
        check_heads(HeaderSize::Compact, VERSION_COMPACT_MAX);
    }

    #[track_caller]
    fn check_heads(header_size: HeaderSize, version: u64) {
        let mut arena = Arena::reserve(4096, header_size, false).unwrap();
        let location = Location::from_offset(64);
        for extension in extensions() {
            for client_flags in [0, 1, u32::MAX] {
                let header = Header::new(3, version);
                let head = Head { header_size, header, client_flags, extension };
                arena.set_head(location, head);
                let key_start = location.offset() + head.key_offset();
                arena.bytes_mut(key_start..key_start + 3).copy_from_slice(b"key");
                let read = arena.head(location);
                assert_eq!((read.client_flags, read.extension), (client_flags, extension));
                assert_eq!(read.key_offset(), head.key_offset());
                assert_eq!(arena.key(location), b"key");
                assert_eq!(read.header.version(), version);
            }
        }
    }

    #[test]
    fn fields_of_a_header_do_not_touch_each_other() {
        let mut header = Header::new(250, VERSION_MAX);
        header.set_value_len(VALUE_LEN_MASK as usize);
        header.set_frequency(FREQUENCY_MAX);
        header.set_in_window(true);
        header.set_access(Seconds(u32::MAX));
        header.set_fetched(true);
        header.set_value_len(5);
        header.set_frequency(0);
        header.set_access(Seconds(0));
        assert_eq!((header.key_len(), header.value_len(), header.frequency()), (250, 5, 0));
        assert!(header.in_window() && header.is_fetched() && !header.has_client_flags());
        assert_eq!(header.version(), VERSION_MAX);
        header.set_in_window(false);
        header.set_fetched(false);
        header.set_version(0);
        assert_eq!(header, Header { packed: 250 | 5 << 8, ..Header::zeroed() });
    }

    #[test]
    fn keys_are_the_same_only_in_all_bytes() {
        for size in 0..40 {
            let key: Vec<u8> = (0..size).collect();
            assert!(is_same(&key, &key.clone()));
            for at in 0..key.len() {
                let mut other = key.clone();
                other[at] ^= 0x80;
                assert!(!is_same(&key, &other), "{size} {at}");
            }
        }
    }

    #[test]
    fn an_old_item_kept_by_the_sweeper_never_reads_as_fresh() {
        let mut header = Header::new(1, 1);
        let start = 1_700_000_000;
        header.set_access(Seconds(start));
        for now in (start..start + 100_000).step_by(4000) {
            let expected = (now - start).min(IDLE_SECONDS_MAX);
            assert_eq!(header.idle_seconds(Seconds(now)), expected);
            header = header.with_age_kept(Seconds(now)).unwrap_or(header);
        }
    }

    #[test]
    fn every_kind_of_chunk_says_what_it_is() {
        let (next, head) = (Location(5), Location(u32::MAX - 1));
        assert_eq!(Header::free(next).chunk(), Chunk::Free { next });
        assert_eq!(Header::reserved(next).chunk(), Chunk::Reserved { next });
        assert_eq!(Header::continuation(next, head).chunk(), Chunk::Continuation { next, head });
        assert_eq!(Header::new(1, 1).chunk(), Chunk::Item(Header::new(1, 1)));
    }
}
