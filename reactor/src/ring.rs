//! One io_uring with its provided buffers, wrapped so that the rest of the crate can stay safe.
//!
//! It owns every buffer that the kernel reads from or writes to, from the submission to the completion, whatever
//! becomes of the connection meanwhile. It knows operations and completions, not connections:
//! what a completion means is decided in `uring.rs`.
#![expect(unsafe_code, reason = "submission entries carry raw pointers")]

use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::types::{self, CancelBuilder, SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue};

use crate::buffers::{BufferId, Buffers};
use crate::io::{BURST_BYTES_MAX, ConnectionId, IoSettings};
use crate::outgoing::{Outgoing, Rest};

const BUFFER_GROUP: u16 = 0;
const COMPLETIONS_PER_SUBMISSION: u32 = 8;
/// The kernel counts a transfer in an `i32`; longer sends go in parts.
const SEND_PART_BYTES_MAX: usize = 1 << 30;
/// Where a submission entry keeps the limit of a multishot receive: `optlen` of `struct io_uring_sqe`, Linux 6.17.
const BURST_LIMIT_AT: usize = 44;
#[expect(clippy::cast_possible_truncation, reason = "checked below")]
const BURST_BYTES_LIMIT: u32 = BURST_BYTES_MAX as u32;

const _: () = assert!(BURST_BYTES_LIMIT as usize == BURST_BYTES_MAX);
const _: () = assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() == align_of::<u64>());

/// Two sends of one connection never overlap, so a slot needs one place.
type Sends = Vec<Option<Sending>>;

/// What a completion answers. It travels in `user_data` as `kind:8 | generation:24 | slot:32`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Bell = 4,
    Rung = 5,
    Cancel = 6,
    Datagrams = 7,
    Readable = 8,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Accept,
        Self::Receive,
        Self::Send,
        Self::Bell,
        Self::Rung,
        Self::Cancel,
        Self::Datagrams,
        Self::Readable,
    ];

    fn of(user_data: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|&kind| u64::from(kind as u8) == user_data >> 56)
    }
}

/// A finished operation, or one step of a multishot one.
#[derive(Debug)]
pub(crate) enum Completion {
    Accept { listener: u32, result: Result<OwnedFd, i32>, more: bool },
    Receive { connection: ConnectionId, result: Result<usize, i32>, buffer: Option<BufferId>, more: bool },
    Send { connection: ConnectionId, result: Result<(), i32>, outgoing: Outgoing },
    Bell { more: bool },
    Rung,
    Cancel,
    Datagrams { socket: u32, more: bool },
    Readable { connection: ConnectionId },
}

struct Sending {
    fd: RawFd,
    outgoing: Outgoing,
    /// What the kernel did not take before it heard of this is not sent any more.
    cancelled: bool,
}

/// How far down the ladder of set-up flags this kernel made us go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SetUp {
    /// Everything: task work runs only when we enter, one submitter, no indirection array (6.6).
    Full,
    /// Without the last (6.1 to 6.5).
    WithIndirection,
    /// Cooperative task running only (6.0).
    Cooperative,
}

impl SetUp {
    const LADDER: [Self; 3] = [Self::Full, Self::WithIndirection, Self::Cooperative];
}

pub(crate) struct Ring {
    // The halves write to the ring when they are dropped, so they go first (see `drop`).
    submitter: ManuallyDrop<Submitter<'static>>,
    submissions: ManuallyDrop<SubmissionQueue<'static>>,
    completions: ManuallyDrop<CompletionQueue<'static>>,
    owner: *mut IoUring,
    /// The ring's own descriptor.
    fd: RawFd,
    /// What the kernel may be writing to: dropped once it has let go of it.
    buffers: ManuallyDrop<Buffers>,
    sends: Sends,
    set_up: SetUp,
    /// The kernel takes a limit for a multishot receive.
    limits_bursts: bool,
    no_iowait: EnterFlags,
    overflows: u64,
    enters: u64,
    /// A ring stays on the thread that built it; the crate's own type would let it wander.
    _thread: PhantomData<*const ()>,
}

impl Ring {
    pub(crate) fn new(settings: &IoSettings) -> io::Result<Self> {
        let (ring, set_up) = build(settings.submissions)?;
        let no_iowait =
            if ring.params().is_feature_no_iowait() { EnterFlags::NO_IOWAIT } else { EnterFlags::empty() };
        let buffers =
            ManuallyDrop::new(Buffers::new(settings.receive_buffers, settings.receive_buffer_bytes)?);
        let fd = ring.as_raw_fd();
        let owner = Box::into_raw(Box::new(ring));
        // SAFETY: the box lives until `drop`, which ends the halves first.
        let ring: &'static mut IoUring = unsafe { &mut *owner };
        let (submitter, submissions, completions) = ring.split();
        let mut this = Self {
            submitter: ManuallyDrop::new(submitter),
            submissions: ManuallyDrop::new(submissions),
            completions: ManuallyDrop::new(completions),
            owner,
            fd,
            buffers,
            sends: Vec::new(),
            set_up,
            limits_bursts: true,
            no_iowait,
            overflows: 0,
            enters: 0,
            _thread: PhantomData,
        };
        this.register()?;
        Ok(this)
    }

    fn register(&mut self) -> io::Result<()> {
        let (address, count) = (self.buffers.ring_address(), self.buffers.count());
        // SAFETY: `buffers` outlives the registration (see `drop`) and has `count` entries.
        unsafe { self.submitter.register_buf_ring_with_flags(address, count, BUFFER_GROUP, 0) }?;
        match self.submitter.register_ring_fd() {
            // Without it each enter looks the descriptor up: slower, not wrong.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(crate) fn set_up(&self) -> SetUp {
        self.set_up
    }

    pub(crate) fn buffer_count(&self) -> u16 {
        self.buffers.count()
    }

    pub(crate) fn free_buffers(&self) -> usize {
        usize::from(self.buffers.free())
    }

    pub(crate) fn give_back(&mut self, id: BufferId) {
        self.buffers.give_back(id);
    }

    pub(crate) fn publish_buffers(&mut self) {
        self.buffers.publish();
    }

    pub(crate) fn bytes(&self, id: &BufferId, length: usize) -> &[u8] {
        self.buffers.bytes(id, length)
    }

    pub(crate) fn overflows(&self) -> u64 {
        self.overflows
    }

    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// The descriptor that peers name in a `MSG_RING`.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd
    }

    pub(crate) fn accept(&mut self, listener: u32, fd: RawFd) {
        let entry = opcode::AcceptMulti::new(types::Fd(fd)).flags(libc::SOCK_CLOEXEC).build();
        self.push(&entry.user_data(pack(Kind::Accept, 0, listener)));
    }

    pub(crate) fn receive(&mut self, connection: ConnectionId, fd: RawFd) {
        let mut entry = opcode::RecvMulti::new(types::Fd(fd), BUFFER_GROUP).build();
        if self.limits_bursts {
            let limit = (&raw mut entry).cast::<u8>().wrapping_add(BURST_LIMIT_AT).cast::<u32>();
            // SAFETY: an entry is `repr(C)` around the kernel's 64 bytes (asserted above), any of which are a number, and it is
            // aligned for one of 64 bits.
            unsafe { limit.write(BURST_BYTES_LIMIT) };
        }
        self.push(&entry.user_data(pack(Kind::Receive, connection.generation, connection.slot)));
    }

    /// Takes note that the kernel refuses a limited receive. False if it was not asked for one.
    pub(crate) fn stop_limiting_bursts(&mut self) -> bool {
        std::mem::take(&mut self.limits_bursts)
    }

    /// Hears once that a socket has something to read, or has ended.
    pub(crate) fn listen_to_socket(&mut self, connection: ConnectionId, fd: RawFd) {
        self.poll(fd, false, pack(Kind::Readable, connection.generation, connection.slot));
    }

    pub(crate) fn stop_listening_to_socket(&mut self, connection: ConnectionId) {
        self.cancel(pack(Kind::Readable, connection.generation, connection.slot));
    }

    pub(crate) fn cancel_accept(&mut self, listener: u32) {
        self.cancel(pack(Kind::Accept, 0, listener));
    }

    pub(crate) fn cancel_receive(&mut self, connection: ConnectionId) {
        self.cancel(pack(Kind::Receive, connection.generation, connection.slot));
    }

    /// Sends all of it; the completion gives it back.
    pub(crate) fn send(&mut self, connection: ConnectionId, fd: RawFd, outgoing: Outgoing) {
        let slot = connection.slot as usize;
        if self.sends.len() <= slot {
            self.sends.resize_with(slot + 1, || None);
        }
        assert!(self.sends[slot].is_none(), "one send at a time per connection");
        self.sends[slot] = Some(Sending { fd, outgoing, cancelled: false });
        self.push_send(connection);
    }

    fn push_send(&mut self, connection: ConnectionId) {
        let sending =
            self.sends[connection.slot as usize].as_ref().expect("the caller has just put it there");
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let fd = types::Fd(sending.fd);
        let entry = match sending.outgoing.rest() {
            Rest::Bytes(rest) => {
                let part =
                    u32::try_from(rest.len().min(SEND_PART_BYTES_MAX)).expect("bounded by the constant");
                opcode::Send::new(fd, rest.as_ptr(), part).flags(flags).build()
            }
            Rest::Message(message) => opcode::SendMsg::new(fd, message).flags(flags.cast_unsigned()).build(),
        };
        self.push(&entry.user_data(pack(Kind::Send, connection.generation, connection.slot)));
    }

    /// Hears of writes to an eventfd.
    pub(crate) fn listen_to_bell(&mut self, eventfd: RawFd) {
        self.poll(eventfd, true, pack(Kind::Bell, 0, 0));
    }

    /// Hears of datagrams that arrive.
    pub(crate) fn listen_to_datagrams(&mut self, socket: u32, fd: RawFd) {
        self.poll(fd, true, pack(Kind::Datagrams, 0, socket));
    }

    fn poll(&mut self, fd: RawFd, again: bool, user_data: u64) {
        let events = u32::try_from(libc::POLLIN).expect("a small positive constant");
        let entry = opcode::PollAdd::new(types::Fd(fd), events).multi(again).build();
        self.push(&entry.user_data(user_data));
    }

    /// Wakes the thread behind another ring, with the next submission.
    pub(crate) fn ring_peer(&mut self, peer_ring: RawFd) {
        let there = pack(Kind::Rung, 0, 0);
        let entry = opcode::MsgRingData::new(types::Fd(peer_ring), 0, there, None).build();
        // A completion of ours comes only if it failed: the peer is gone, and so is the need.
        let entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
        self.push(&entry.user_data(pack(Kind::Cancel, 0, 0)));
    }

    pub(crate) fn cancel_send(&mut self, connection: ConnectionId) {
        let sending = self.sends[connection.slot as usize].as_mut();
        sending.expect("the caller knows of a send").cancelled = true;
        self.cancel(pack(Kind::Send, connection.generation, connection.slot));
    }

    fn cancel(&mut self, user_data: u64) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(user_data)).build();
        self.push(&entry.user_data(pack(Kind::Cancel, 0, 0)));
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: every pointer in an entry is either into `sends`, whose buffers stay until their
            // completion, or into `buffers`, which go after the kernel let go of them (see `drop`), or to memory that was lent for a send, which the kernel
            // only reads, looking itself whether it is mapped.
            match unsafe { self.submissions.push(entry) } {
                Ok(()) => return,
                Err(_full) => {
                    // Only out-of-memory in the kernel makes this fail; the loop tries again.
                    if self.enter(None).is_err() {
                        std::thread::yield_now();
                    }
                }
            }
        }
    }

    /// Submits everything and, with `wait`, blocks until a completion or that long.
    pub(crate) fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.submissions.sync();
        // Publishes what was consumed, or the wait would be met by completions already seen.
        self.completions.sync();
        if self.submissions.cq_overflow() {
            self.overflows += 1;
        }
        let to_submit = u32::try_from(self.submissions.len()).expect("the ring's size is a u32");
        let timeout = Timespec::from(wait.unwrap_or(Duration::ZERO));
        let arguments = SubmitArgs::new().timespec(&timeout);
        // GETEVENTS always: deferred task work runs only then.
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if wait.is_some() {
            flags |= self.no_iowait;
        }
        self.enters += 1;
        // SAFETY: the arguments live across the call and are of the kind that EXT_ARG announces.
        let result = unsafe {
            self.submitter.enter(to_submit, u32::from(wait.is_some()), flags.bits(), Some(&arguments))
        };
        self.submissions.sync();
        self.completions.sync();
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The next completion; a send that went out in part is continued here and not reported.
    pub(crate) fn next(&mut self) -> Option<Completion> {
        loop {
            let entry = self.completions.next()?;
            if let Some(completion) = self.read(&entry) {
                return Some(completion);
            }
        }
    }

    fn read(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let user_data = entry.user_data();
        let kind = Kind::of(user_data).expect("only our own user data comes back");
        let connection = unpack(user_data);
        let more = cqueue::more(entry.flags());
        let result = usize::try_from(entry.result()).map_err(|_negative| -entry.result());
        let buffer = cqueue::buffer_select(entry.flags()).map(BufferId::from_completion);
        if let Some(id) = &buffer {
            self.buffers.lend(id);
        }
        match kind {
            Kind::Accept => {
                let result = result.map(|_fd| {
                    // SAFETY: the kernel has just made this descriptor for us.
                    unsafe { OwnedFd::from_raw_fd(entry.result()) }
                });
                Some(Completion::Accept { listener: connection.slot, result, more })
            }
            Kind::Receive => Some(Completion::Receive { connection, result, buffer, more }),
            Kind::Send => self.sent(connection, result),
            Kind::Bell => Some(Completion::Bell { more }),
            Kind::Rung => Some(Completion::Rung),
            Kind::Cancel => Some(Completion::Cancel),
            Kind::Datagrams => Some(Completion::Datagrams { socket: connection.slot, more }),
            Kind::Readable => Some(Completion::Readable { connection }),
        }
    }

    fn sent(&mut self, connection: ConnectionId, result: Result<usize, i32>) -> Option<Completion> {
        let place = &mut self.sends[connection.slot as usize];
        let sending = place.as_mut().expect("a send has one completion");
        if let Ok(bytes) = result
            && !sending.outgoing.advance(bytes)
            && !sending.cancelled
        {
            self.push_send(connection);
            return None;
        }
        let Sending { outgoing, .. } = place.take().expect("present above");
        Some(Completion::Send { connection, result: result.map(|_all| ()), outgoing })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Closing a ring cancels in the background; the buffers must not go before the kernel lets go of them.
        let patience = Timespec::from(Duration::from_millis(500));
        let cancelled = self.submitter.register_sync_cancel(Some(patience), CancelBuilder::any()).is_ok();
        if self.enter(None).is_ok() {
            while self.next().is_some() {}
        }
        // Rather lose some memory at the end of a thread than hand it out while the kernel reads or writes it.
        if self.sends.iter().any(Option::is_some) || !cancelled {
            std::mem::forget(std::mem::take(&mut self.sends));
        }
        match self.submitter.unregister_buf_ring(BUFFER_GROUP) {
            // It fails only if the registration failed before.
            Ok(()) | Err(_) => {}
        }
        // SAFETY: nothing uses the half after this.
        unsafe { ManuallyDrop::drop(&mut self.completions) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.submissions) };
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut self.submitter) };
        // SAFETY: made by `Box::into_raw` in `new`, and the halves that borrowed it are gone.
        drop(unsafe { Box::from_raw(self.owner) });
        if cancelled {
            // SAFETY: nothing uses them after this, and the kernel has ended every receive.
            unsafe { ManuallyDrop::drop(&mut self.buffers) };
        }
    }
}

fn build(submissions: u32) -> io::Result<(IoUring, SetUp)> {
    let mut refusal = io::Error::from_raw_os_error(libc::EINVAL);
    for set_up in SetUp::LADDER {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(submissions * COMPLETIONS_PER_SUBMISSION);
        builder.setup_clamp().setup_submit_all().setup_taskrun_flag().dontfork();
        match set_up {
            SetUp::Full => builder.setup_single_issuer().setup_defer_taskrun().setup_no_sqarray(),
            SetUp::WithIndirection => builder.setup_single_issuer().setup_defer_taskrun(),
            SetUp::Cooperative => builder.setup_coop_taskrun(),
        };
        match builder.build(submissions) {
            Ok(ring) => return Ok((ring, set_up)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = error,
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}

fn pack(kind: Kind, generation: u32, slot: u32) -> u64 {
    assert!(generation < 1 << 24);
    u64::from(kind as u8) << 56 | u64::from(generation) << 32 | u64::from(slot)
}

#[expect(clippy::cast_possible_truncation, reason = "each field is masked to its width")]
fn unpack(user_data: u64) -> ConnectionId {
    ConnectionId { generation: (user_data >> 32 & 0xff_ffff) as u32, slot: user_data as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_keeps_kind_generation_and_slot_apart() {
        let id = ConnectionId { slot: u32::MAX, generation: (1 << 24) - 1 };
        for kind in Kind::ALL {
            let packed = pack(kind, id.generation, id.slot);
            assert_eq!((Kind::of(packed), unpack(packed)), (Some(kind), id));
        }
        assert_eq!(Kind::of(0), None);
    }
}
