//! Large values on their way in: they are written straight into the room that the owner's shard has reserved, piece by
//! piece as they come, and become items when they are whole. A sender that stalls holds its reservation and nothing else. No
//! I/O.
//!
//! For the key of another shard the pieces travel in its letters, behind a beginning and before an end.

use std::io::{self, IoSliceMut};

use slabring_engine::{
    Delete, DeleteMode, Reservation, Room as Space, SPACES_MAX, Seconds, StoreMode, StoreOutcome,
};
use slabring_protocol::{Announced, Command, ErrorReply, KEY_SIZE_MAX, Request, StoreMode as Mode, reply};
use slabring_reactor::ConnectionId;

use crate::batch::ReturnAddress;
use crate::cluster::links::Owner;
use crate::connection::{Connection, Ending};
use crate::datagrams::is_datagram;
use crate::dispatch::Dispatcher;
use crate::execute::{Executor, refuse_fence, reply_to_store, store_of};
use crate::owned::OwnedRequest;
use crate::shards::ShardId;

/// Requests from this size on are not collected first. `docs/measurements.md` has the figures.
pub const TAKEN_IN_BYTES_MIN: usize = 16 << 10;
/// Bytes of a value that go into a letter at once, where a letter is meant for so many.
const PART_BYTES_MAX: usize = 64 << 10;
/// A value of this shard with so many bytes to come is received where it belongs: the kernel makes the only copy.
/// `docs/measurements.md` has the figures.
const BY_HAND_BYTES_MIN: usize = 16 << 10;
/// Bytes received so in one turn: others want to be served.
const BY_HAND_BYTES_MAX: usize = 256 << 10;
/// What follows the last bytes of a value comes with them, up to so many.
const BEHIND_BYTES_MAX: usize = 1 << 10;

/// A request whose value is on its way.
#[derive(Clone, Debug)]
pub struct Coming {
    request: OwnedRequest,
    /// Bytes of the value.
    pub value_bytes: usize,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "an intake is in a box of its own")]
enum Room {
    /// This shard's, as long as memory lasts. Without, what comes is counted and forgotten.
    Here(Option<Reservation>),
    /// Another's, who keeps it under the connection's name, once it has said so. Before, nothing is sent there: what cannot be
    /// taken yet must not lie about in letters.
    There { owner: ShardId, begun: bool },
}

/// The value that a connection is sending.
#[derive(Debug)]
pub struct Intake {
    coming: Coming,
    room: Room,
    begun_at: Seconds,
    /// How many of the shard's had begun before it.
    pub number: u64,
    value_bytes: usize,
    left: usize,
    /// What must follow the value.
    end: &'static [u8],
    end_came: usize,
    end_is_wrong: bool,
}

/// The value that a connection of another shard is sending.
#[derive(Debug)]
pub struct Visitor {
    shard: ShardId,
    connection: ConnectionId,
    coming: Coming,
    /// None if there was no room.
    reservation: Option<Reservation>,
}

impl Coming {
    /// That of a request without its value.
    pub fn new(request: &Request<'_>, value_bytes: usize) -> Self {
        assert!(request.value.is_empty());
        Self { request: OwnedRequest::new(request), value_bytes }
    }

    /// Whether the engine can be told of the value before it is whole.
    fn comes_in_pieces(&self) -> bool {
        let (mode, invalidates) = match self.request().command {
            Command::Store { mode, .. } => (mode, false),
            Command::MetaStore(flags) => (flags.store_mode(), flags.has(b'I')),
            _ => return false,
        };
        !invalidates && matches!(mode, Mode::Set | Mode::Add | Mode::Replace)
    }

    /// The request, without its value.
    pub fn request(&self) -> Request<'_> {
        self.request.request()
    }
}

impl Intake {
    /// Another shard is ready for it.
    pub fn begun(&mut self) {
        let Room::There { begun, .. } = &mut self.room else { panic!("nobody was asked") };
        *begun = true;
    }

    /// Whether the rest is better received where it belongs. Once begun, all of it is.
    fn is_for_hands(&self, begun: bool) -> bool {
        let least = if begun { 1 } else { BY_HAND_BYTES_MIN };
        matches!(self.room, Room::Here(Some(_))) && self.left >= least
    }

    /// When it began, and the bytes that have come since.
    pub fn progress(&self) -> (Seconds, usize) {
        (self.begun_at, self.value_bytes - self.left)
    }

    fn is_whole(&self) -> bool {
        self.left == 0 && self.end_came == self.end.len()
    }

    /// Takes note of bytes behind the value. Returns how many belong to it.
    fn take_end(&mut self, bytes: &[u8]) -> usize {
        let expected = &self.end[self.end_came..];
        let taken = expected.len().min(bytes.len());
        self.end_is_wrong |= bytes[..taken] != expected[..taken];
        self.end_came += taken;
        taken
    }
}

impl Visitor {
    /// Whose value it is: a connection of another shard.
    pub fn is_of(&self, shard: ShardId, connection: ConnectionId) -> bool {
        (self.shard, self.connection) == (shard, connection)
    }
}

impl Dispatcher {
    /// Begins to take in the value that `bytes` announce, if it is large. Returns the bytes done with: none if it is collected
    /// first, like a small one.
    pub fn begin_intake(&mut self, client: &mut Connection, bytes: &[u8], total_bytes: usize) -> usize {
        // What has copies is written when it is whole: others get it too.
        let waits = self.executor.replicates() || self.executor.is_guarded();
        let is_collected = self.executor.is_observed() || waits;
        if total_bytes < TAKEN_IN_BYTES_MIN || is_collected {
            return 0;
        }
        let Some(announced) = client.parser.announced(bytes, &self.limits) else { return 0 };
        let coming = Coming::new(&announced.request, announced.value_bytes);
        // What goes to another node travels whole.
        let Owner::Shard(owner) = self.owner_of(&announced.request) else { return 0 };
        let Some(room) = self.make_room(client, owner, &coming) else { return 0 };
        self.start_intake(client, &announced, coming, room, bytes)
    }

    /// Takes in a value that has waited too long to be collected, and keeps nothing of it: its store is refused when it has come, as
    /// it is by a memcached without memory, and its client goes on. False if another must say so.
    pub fn refuse_value(&mut self, client: &mut Connection) -> bool {
        let mut input = client.input.lend();
        let used = self.begin_refused(client, input.unread());
        if let Some(used) = used {
            input.consume(used);
            // It was not heard because nobody listened.
            client.heard_at = self.now;
            client.waits_for_memory = false;
            client.stalled = !input.is_empty();
        }
        client.input.put_back(input);
        used.is_some()
    }

    fn begin_refused(&mut self, client: &mut Connection, bytes: &[u8]) -> Option<usize> {
        let announced = client.parser.announced(bytes, &self.limits)?;
        let is_mine = self.owner_of(&announced.request) == Owner::Shard(self.shards.me);
        if !is_mine || self.executor.replicates() || self.executor.is_guarded() {
            return None;
        }
        let coming = Coming::new(&announced.request, announced.value_bytes);
        Some(self.start_intake(client, &announced, coming, Room::Here(None), bytes))
    }

    fn start_intake(
        &mut self,
        client: &mut Connection,
        announced: &Announced<'_>,
        coming: Coming,
        room: Room,
        bytes: &[u8],
    ) -> usize {
        let &Announced { head_bytes, value_bytes, end, .. } = announced;
        client.input.need(0);
        let (end_came, end_is_wrong) = (0, false);
        let (begun_at, number) = (self.now, self.values_begun);
        self.values_begun += 1;
        let left = value_bytes;
        self.executor.values_open += usize::from(matches!(room, Room::Here(_)));
        let intake =
            Intake { coming, room, begun_at, number, value_bytes, left, end, end_came, end_is_wrong };
        client.intake = Some(Box::new(intake));
        head_bytes + self.take_in(client, &bytes[head_bytes..])
    }

    fn make_room(&mut self, client: &Connection, owner: ShardId, coming: &Coming) -> Option<Room> {
        if owner == self.shards.me {
            let reservation = self.executor.reserve(self.now, coming);
            self.value_waited |= reservation.is_none() && coming.comes_in_pieces();
            return reservation.map(|reservation| Room::Here(Some(reservation)));
        }
        if !coming.comes_in_pieces() || is_datagram(client.id) || !self.may_execute(client) {
            return None;
        }
        self.executor.traffic.requests_posted += 1;
        self.post.begin_value(owner, ReturnAddress::without_ticket(client.id), coming);
        Some(Room::There { owner, begun: false })
    }

    /// Takes in what has come of a value, and answers when it is whole. Returns the bytes done with: all of them, but for what
    /// follows the value, and for what another shard has no room for now.
    pub fn take_in(&mut self, client: &mut Connection, bytes: &[u8]) -> usize {
        let mut intake = client.intake.take().expect("the caller has looked");
        let mut used = 0;
        while intake.left > 0 && used < bytes.len() {
            let rest = &bytes[used..];
            let piece = &rest[..rest.len().min(intake.left)];
            let Some(taken) = self.take_piece(client, &mut intake.room, piece) else { break };
            used += taken;
            intake.left -= taken;
        }
        if intake.left == 0 {
            used += intake.take_end(&bytes[used..]);
        }
        if intake.is_whole() && self.may_end(client, &intake) {
            self.end_intake(client, *intake);
        } else {
            client.intake = Some(intake);
        }
        used
    }

    fn take_piece(&mut self, client: &mut Connection, room: &mut Room, piece: &[u8]) -> Option<usize> {
        match room {
            Room::Here(reservation) => {
                let taken = self.executor.fill(self.now, reservation, piece);
                client.stalled |= taken == 0;
                self.has_more |= taken == 0;
                (taken > 0).then_some(taken)
            }
            Room::There { owner, begun } => {
                if !*begun || !self.may_execute(client) {
                    client.stalled = true;
                    return None;
                }
                let part_bytes = self.post.letter_bytes().min(PART_BYTES_MAX);
                let part = &piece[..piece.len().min(part_bytes)];
                self.post.value_part(*owner, ReturnAddress::without_ticket(client.id), part);
                Some(part.len())
            }
        }
    }

    /// Whether the owner can be told that the value is whole.
    fn may_end(&self, client: &mut Connection, intake: &Intake) -> bool {
        let may_end = match intake.room {
            Room::Here(_) => true,
            Room::There { begun, .. } => begun && self.may_execute(client),
        };
        client.stalled |= !may_end;
        may_end
    }

    fn end_intake(&mut self, client: &mut Connection, intake: Intake) {
        let Intake { coming, room, end_is_wrong, .. } = intake;
        if end_is_wrong {
            self.drop_room(client.id, room);
            if !coming.request().noreply {
                client.outbox.local(|out| reply::error(out, ErrorReply::BadDataChunk));
            }
            return;
        }
        match room {
            Room::Here(reservation) => {
                self.executor.values_open -= 1;
                let (executor, now) = (&mut self.executor, self.now);
                client.outbox.local(|out| executor.end_value(now, &coming, reservation, out));
            }
            Room::There { owner, .. } => {
                let sender = ReturnAddress { connection: client.id, ticket: client.outbox.expect() };
                self.post.end_value(owner, sender);
            }
        }
    }

    /// Whether the next bytes of a connection are those of a large value for this shard, and nothing else.
    pub fn is_for_hands(client: &Connection) -> bool {
        let intake = client.intake.as_ref();
        client.session.is_none()
            && client.input.is_empty()
            && client.ending == Ending::No
            && intake.is_some_and(|intake| intake.is_for_hands(client.by_hand))
    }

    /// Receives what has come of a value by `receive`, which fills places in order and says how many bytes that were. Returns that
    /// number, or none where room is still to be made.
    ///
    /// # Errors
    /// Those of `receive`.
    pub fn receive_value(
        &mut self,
        client: &mut Connection,
        receive: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<Option<usize>> {
        let intake = client.intake.as_mut().expect("the caller has looked");
        let Room::Here(Some(reservation)) = &mut intake.room else { panic!("the caller has looked") };
        let shard = self.executor.shard_mut();
        let mut behind = [0; BEHIND_BYTES_MAX];
        let spaces = match shard.spaces(self.now, reservation, BY_HAND_BYTES_MAX) {
            Space::Here(spaces) => spaces,
            Space::Later => return Ok(None),
            Space::NoMemory => {
                let Room::Here(given_up) = std::mem::replace(&mut intake.room, Room::Here(None)) else {
                    unreachable!("seen above")
                };
                given_up.into_iter().for_each(|reservation| shard.abandon(reservation));
                return Ok(None);
            }
        };
        let room: usize = spaces.iter().map(|space| space.len()).sum();
        let received = if room < intake.left {
            receive(&mut spaces.map(IoSliceMut::new))?
        } else {
            let mut places = [const { None }; SPACES_MAX + 1];
            places.iter_mut().zip(spaces).for_each(|(place, space)| *place = Some(IoSliceMut::new(space)));
            places[SPACES_MAX] = Some(IoSliceMut::new(&mut behind));
            receive(&mut places.map(|place| place.expect("all of them were set")))?
        };
        let filled = received.min(room);
        shard.filled(reservation, filled);
        intake.left -= filled;
        self.executor.traffic.bytes_read += filled as u64;
        client.heard_at = self.now;
        if received > filled || intake.left == 0 {
            // What is behind the value goes the usual way.
            self.received(client, &behind[..received - filled]);
        }
        Ok(Some(received))
    }

    /// Gives up the value that a connection was sending, if it was.
    pub fn drop_intake(&mut self, client: &mut Connection) {
        if let Some(intake) = client.intake.take() {
            self.drop_room(client.id, intake.room);
        }
    }

    fn drop_room(&mut self, connection: ConnectionId, room: Room) {
        match room {
            Room::Here(reservation) => {
                self.executor.values_open -= 1;
                reservation
                    .into_iter()
                    .for_each(|reservation| self.executor.shard_mut().abandon(reservation));
            }
            Room::There { owner, .. } => self.forget_at(owner, connection),
        }
    }
}

impl Executor {
    /// Room for a value, if it can be written before it is whole. Otherwise it is collected first.
    fn reserve(&mut self, now: Seconds, coming: &Coming) -> Option<Reservation> {
        if !coming.comes_in_pieces() {
            return None;
        }
        let mut scratch = [0; KEY_SIZE_MAX];
        let request = coming.request();
        let key = request.decoded_key(&mut scratch);
        let store = store_of(now, &request, key);
        self.shard_mut().reserve(now, &store, coming.value_bytes)
    }

    /// Takes the next bytes of a value, and returns how many: fewer, or none, where room is still to be made. Where none can be made
    /// the reservation is gone, and all bytes are taken and forgotten.
    fn fill(&mut self, now: Seconds, reservation: &mut Option<Reservation>, bytes: &[u8]) -> usize {
        let shard = self.shard_mut();
        let mut filled = 0;
        while filled < bytes.len() {
            let Some(rest) = reservation else { return bytes.len() };
            match shard.space(now, rest) {
                Space::Here(space) => {
                    let some = space.len().min(bytes.len() - filled);
                    space[..some].copy_from_slice(&bytes[filled..filled + some]);
                    shard.filled(rest, some);
                    filled += some;
                }
                Space::Later => break,
                Space::NoMemory => {
                    reservation.take().into_iter().for_each(|reservation| shard.abandon(reservation));
                }
            }
        }
        filled
    }

    /// Stores a value of which all has come, if there was room for it, and answers.
    fn end_value(
        &mut self,
        now: Seconds,
        coming: &Coming,
        reservation: Option<Reservation>,
        out: &mut Vec<u8>,
    ) {
        match reservation {
            Some(reservation) => self.commit(now, coming, reservation, out),
            None => {
                let mut scratch = [0; KEY_SIZE_MAX];
                let request = coming.request();
                if !self.admits(&request, request.decoded_key(&mut scratch)) {
                    return refuse_fence(&request, coming.value_bytes, out);
                }
                // As with any store that fails: a value that was to be replaced must not be read again.
                self.drop_unstored(now, coming);
                self.answer_store(now, coming, StoreOutcome::NoMemory, out);
            }
        }
    }

    /// Stores a value that is whole, and answers.
    fn commit(&mut self, now: Seconds, coming: &Coming, reservation: Reservation, out: &mut Vec<u8>) {
        let mut scratch = [0; KEY_SIZE_MAX];
        let request = coming.request();
        if !self.admits(&request, request.decoded_key(&mut scratch)) {
            self.shard_mut().abandon(reservation);
            return refuse_fence(&request, coming.value_bytes, out);
        }
        let outcome = self.shard_mut().commit(now, reservation);
        self.answer_store(now, coming, outcome, out);
    }

    fn answer_store(&mut self, now: Seconds, coming: &Coming, outcome: StoreOutcome, out: &mut Vec<u8>) {
        let request = coming.request();
        let mut scratch = [0; KEY_SIZE_MAX];
        let key = request.decoded_key(&mut scratch);
        let store = store_of(now, &request, key);
        let outcome = self.count_outcome(&store, outcome);
        self.note_write(&request);
        reply_to_store(&request, coming.value_bytes, outcome, out);
    }

    /// A connection of another shard begins to send a value.
    pub fn begin_visit(&mut self, now: Seconds, shard: ShardId, connection: ConnectionId, coming: Coming) {
        let reservation = self.reserve(now, &coming);
        self.visitors.push(Visitor { shard, connection, coming, reservation });
    }

    /// More of it has come. Of a value that was given up, nothing is kept.
    pub fn go_on_visiting(&mut self, now: Seconds, shard: ShardId, connection: ConnectionId, bytes: &[u8]) {
        let Some(at) = self.visitor_at(shard, connection) else { return };
        let mut reservation = self.visitors[at].reservation.take();
        let mut filled = 0;
        // Its sender can not wait: a step more of making room for each time that there is none.
        while filled < bytes.len() {
            filled += self.fill(now, &mut reservation, &bytes[filled..]);
        }
        self.visitors[at].reservation = reservation;
    }

    /// All of it has come.
    pub fn end_visit(&mut self, now: Seconds, shard: ShardId, connection: ConnectionId, out: &mut Vec<u8>) {
        let at = self.visitor_at(shard, connection).expect("a value that ends has begun");
        let Visitor { coming, reservation, .. } = self.visitors.swap_remove(at);
        self.end_value(now, &coming, reservation, out);
    }

    fn drop_unstored(&mut self, now: Seconds, coming: &Coming) {
        let request = coming.request();
        let mut scratch = [0; KEY_SIZE_MAX];
        let key = request.decoded_key(&mut scratch);
        let store = store_of(now, &request, key);
        if store.mode == StoreMode::Set && store.compare.is_none() {
            let delete = Delete { key, compare: None, mode: DeleteMode::Remove, explicit_cas: None };
            self.shard_mut().delete(now, &delete);
        }
    }

    /// It will not be whole.
    pub fn drop_visit(&mut self, shard: ShardId, connection: ConnectionId) {
        if let Some(at) = self.visitor_at(shard, connection) {
            let Visitor { reservation, .. } = self.visitors.swap_remove(at);
            reservation.into_iter().for_each(|reservation| self.shard_mut().abandon(reservation));
        }
    }

    /// None of them will be whole.
    pub fn end_visits(&mut self) {
        for Visitor { reservation, .. } in std::mem::take(&mut self.visitors) {
            reservation.into_iter().for_each(|reservation| self.shard_mut().abandon(reservation));
        }
    }

    fn visitor_at(&self, shard: ShardId, connection: ConnectionId) -> Option<usize> {
        self.visitors.iter().position(|visitor| visitor.is_of(shard, connection))
    }
}
