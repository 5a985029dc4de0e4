//! The table of a reactor's sockets: dense slots with generations. No system calls but what concerns
//! one socket alone: reading it by hand, closing it or one side of it.

use std::io::{self, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::OwnedFd;

use rustix::net::{RecvAncillaryBuffer, RecvFlags};
use socket2::{SockAddr, SockRef};

use crate::io::ConnectionId;

const GENERATION_MAX: u32 = (1 << 24) - 1;

struct Slot<S> {
    generation: u32,
    tenant: Option<Socket<S>>,
}

/// A socket with what its backend keeps beside it.
pub(crate) struct Socket<S> {
    pub(crate) fd: OwnedFd,
    pub(crate) state: S,
}

/// Slots are taken again last freed first, so the table stays as small as the most sockets there ever were.
pub(crate) struct Sockets<S> {
    slots: Vec<Slot<S>>,
    free: Vec<u32>,
}

impl<S> Sockets<S> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// Sockets in the table.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, fd: OwnedFd, state: S) -> ConnectionId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, tenant: None });
            u32::try_from(self.slots.len() - 1).expect("descriptors run out long before")
        });
        let place = &mut self.slots[slot as usize];
        assert!(place.tenant.is_none());
        place.generation = if place.generation == GENERATION_MAX { 1 } else { place.generation + 1 };
        place.tenant = Some(Socket { fd, state });
        ConnectionId { slot, generation: place.generation }
    }

    /// The socket of `id`, or nothing when it is gone.
    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Socket<S>> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.tenant.as_mut() } else { None }
    }

    /// Whom the socket of `id` is connected to.
    pub(crate) fn peer(&self, id: ConnectionId) -> Option<SockAddr> {
        let slot = self.slots.get(id.slot as usize).filter(|slot| slot.generation == id.generation)?;
        SockRef::from(&slot.tenant.as_ref()?.fd).peer_addr().ok()
    }

    /// Closes the socket of `id`, which must be there.
    pub(crate) fn remove(&mut self, id: ConnectionId) {
        let slot = &mut self.slots[id.slot as usize];
        assert!(slot.generation == id.generation && slot.tenant.is_some());
        slot.tenant = None;
        self.free.push(id.slot);
    }
}

/// Takes what the socket has, at most so much, without waiting.
pub(crate) fn receive_now(fd: &OwnedFd, places: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let (mut none, flags) = (RecvAncillaryBuffer::default(), RecvFlags::DONTWAIT);
    Ok(rustix::net::recvmsg(fd, places, &mut none, flags)?.bytes)
}

/// Makes the socket end for its reader behind the bytes that the kernel has.
pub(crate) fn shut_down_receive(fd: &OwnedFd) {
    match SockRef::from(fd).shutdown(Shutdown::Read) {
        // It fails when the peer has reset the connection, which ends it as well.
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_under_a_new_generation() {
        let fd = || crate::thread::eventfd().unwrap();
        let mut sockets = Sockets::new();
        let first = sockets.insert(fd(), 'a');
        sockets.remove(first);
        let second = sockets.insert(fd(), 'b');
        assert_eq!(first.slot, second.slot);
        assert!(sockets.get_mut(first).is_none());
        assert_eq!(sockets.get_mut(second).unwrap().state, 'b');
        assert_eq!(sockets.len(), 1);
    }
}
