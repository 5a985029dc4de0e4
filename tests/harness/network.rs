//! The network between nodes, and between them and etcd, as bad as a test wants it: somebody in the middle of every connection.
//!
//! Nodes say that they are where the middle listens (`--peer-advertise`); who dials says so in the first frame (`docs/wire.md`), so each
//! way from one node to another has a weather of its own. Nothing that is said is ever changed.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::cluster::{Neighbourhood, PEER_PORT};

/// Who is at an end of a way, beside the nodes from 1 on.
pub const ETCD: u8 = 250;

/// Added to the number of a node: where the middle listens for other nodes, and for the node itself when it calls etcd.
const FRONT: u8 = 100;
const ETCD_FRONT: u8 = 150;
const ETCD_PORT: u16 = 2_379;

/// Of a frame, and of an introduction before the names: `docs/wire.md`.
const HEADER_BYTES: usize = 32;
const INTRODUCTION_BYTES: usize = 45;
const GREETING_BYTES_MAX: usize = 1_024;

const PIECE_BYTES: usize = 64 * 1024;
/// Threads of the middle have small frames.
const STACK_BYTES: usize = 256 * 1024;
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What becomes of what is sent one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// It arrives.
    #[default]
    Clear,
    /// It arrives later by this, and up to twice as much.
    Delay(Duration),
    /// It arrives at so many bytes a second.
    Throttle(u32),
    /// It is lost and sent again until the weather is better, as TCP does: it arrives then.
    Stall,
    /// It is lost, and the sender does not hear of it. When the weather is better, connections that lost something end.
    Lose,
    /// One of so many pieces, by chance, ends its connection.
    Break(u32),
    /// Connections end, and none is made. It takes one way for both to be cut.
    Cut,
}

/// From whom to whom.
type Way = (u8, u8);

/// See the module. What listens, and every connection, ends with it.
#[derive(Debug)]
pub struct Network {
    place: Neighbourhood,
    sky: Arc<Sky>,
    listeners: Vec<(SocketAddr, JoinHandle<()>)>,
}

#[derive(Debug, Default)]
struct Sky {
    weather: Mutex<BTreeMap<Way, Weather>>,
    /// Connections, to be ended from outside.
    streams: Mutex<Vec<(Way, Weak<TcpStream>)>>,
    dice: Mutex<u64>,
    is_over: AtomicBool,
}

impl Network {
    /// Stands between the nodes `1..=count` of a place, and between each and etcd. `seed` decides what breaks.
    pub fn start(place: Neighbourhood, count: u8, seed: u64) -> Self {
        let sky = Arc::new(Sky { dice: Mutex::new(seed), ..Sky::default() });
        let mut listeners = Vec::new();
        for number in 1..=count {
            let (front, behind) = (Self::front(place, number), place.peer(number));
            let meet = move |stream: &TcpStream| Some((introduced(stream)?, number, behind));
            listeners.push((front, listen(&sky, front, meet)));
            let (front, behind) = (Self::etcd_front(place, number), (place.ip(ETCD), ETCD_PORT).into());
            let meet = move |_: &TcpStream| Some((Hello { from: number, said: Vec::new() }, ETCD, behind));
            listeners.push((front, listen(&sky, front, meet)));
        }
        Self { place, sky, listeners }
    }

    /// For `--peer-advertise` of a node.
    pub fn peer(&self, number: u8) -> SocketAddr {
        Self::front(self.place, number)
    }

    /// For `--etcd` of a node.
    pub fn etcd(&self, number: u8) -> String {
        format!("http://{}", Self::etcd_front(self.place, number))
    }

    fn front(place: Neighbourhood, number: u8) -> SocketAddr {
        (place.ip(FRONT + number), PEER_PORT).into()
    }

    fn etcd_front(place: Neighbourhood, number: u8) -> SocketAddr {
        (place.ip(ETCD_FRONT + number), ETCD_PORT).into()
    }

    /// From now on, one way.
    pub fn set(&self, from: u8, to: u8, weather: Weather) {
        self.sky.weather().insert((from, to), weather);
        if weather == Weather::Cut {
            self.sky.end(|way| way == (from, to) || way == (to, from));
        }
    }

    /// From now on, both ways.
    pub fn set_both(&self, one: u8, other: u8, weather: Weather) {
        self.set(one, other, weather);
        self.set(other, one, weather);
    }

    /// From now on, everywhere.
    pub fn clear(&self) {
        self.sky.weather().clear();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.sky.is_over.store(true, Ordering::Relaxed);
        for (address, listener) in self.listeners.drain(..) {
            // Wakes it. That it has gone already is no loss.
            TcpStream::connect(address).ok();
            listener.join().ok();
        }
        self.sky.end(|_| true);
    }
}

impl Sky {
    fn weather(&self) -> MutexGuard<'_, BTreeMap<Way, Weather>> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self, way: Way) -> Weather {
        self.weather().get(&way).copied().unwrap_or_default()
    }

    fn is_cut(&self, (from, to): Way) -> bool {
        self.over((from, to)) == Weather::Cut || self.over((to, from)) == Weather::Cut
    }

    fn end(&self, is_meant: impl Fn(Way) -> bool) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|(way, stream)| {
            let Some(stream) = stream.upgrade() else { return false };
            if is_meant(*way) {
                // Who has gone already needs no end.
                stream.shutdown(Shutdown::Both).ok();
            }
            !is_meant(*way)
        });
    }

    fn keep(&self, way: Way, stream: &Arc<TcpStream>) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|(_, stream)| stream.strong_count() > 0);
        streams.push((way, Arc::downgrade(stream)));
    }

    fn is_hit(&self, one_of: u32) -> bool {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*dice >> 33).is_multiple_of(u64::from(one_of.max(1)))
    }
}

/// Who has dialled, and what was read to know it.
struct Hello {
    from: u8,
    said: Vec<u8>,
}

/// Reads the first frame of a node that is named `n` and its number.
fn introduced(mut stream: &TcpStream) -> Option<Hello> {
    let mut said = vec![0; HEADER_BYTES];
    stream.read_exact(&mut said).ok()?;
    let length = u32::from_le_bytes(*said.first_chunk()?);
    let length = usize::try_from(length).ok().filter(|length| *length <= GREETING_BYTES_MAX)?;
    said.resize(HEADER_BYTES + length, 0);
    stream.read_exact(&mut said[HEADER_BYTES..]).ok()?;
    let (cluster, rest) = said.get(HEADER_BYTES + INTRODUCTION_BYTES..)?.split_first()?;
    let (node, rest) = rest.get(usize::from(*cluster)..)?.split_first()?;
    let name = std::str::from_utf8(rest.get(..usize::from(*node))?).ok()?;
    let from = name.strip_prefix('n')?.parse().ok()?;
    Some(Hello { from, said })
}

/// Takes connections until it is over; what goes wrong with one is what the others are to endure.
fn listen(
    sky: &Arc<Sky>,
    at: SocketAddr,
    meet: impl Fn(&TcpStream) -> Option<(Hello, u8, SocketAddr)> + Send + Sync + 'static,
) -> JoinHandle<()> {
    let listener = TcpListener::bind(at).expect("the address is free");
    let (sky, meet) = (Arc::clone(sky), Arc::new(meet));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if sky.is_over.load(Ordering::Relaxed) {
                return;
            }
            let (sky, meet) = (Arc::clone(&sky), Arc::clone(&meet));
            run(move || {
                let Some((hello, to, behind)) = meet(&stream) else { return };
                connect(&sky, stream, &hello, to, behind).ok();
            });
        }
    })
}

fn run(what: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(STACK_BYTES);
    thread.spawn(what).expect("there is room for a thread");
}

fn connect(sky: &Arc<Sky>, near: TcpStream, hello: &Hello, to: u8, behind: SocketAddr) -> io::Result<()> {
    let way = (hello.from, to);
    if sky.is_cut(way) {
        return Ok(());
    }
    let (near, far) = (Arc::new(near), Arc::new(TcpStream::connect(behind)?));
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        sky.keep(way, stream);
    }
    let has_lost = !send(sky, way, &hello.said, &far, false)?;
    let back = (to, hello.from);
    let (sky_back, near_back, far_back) = (Arc::clone(sky), Arc::clone(&near), Arc::clone(&far));
    run(move || end_after(&pass(&sky_back, back, &far_back, &near_back, false), &near_back, &far_back));
    end_after(&pass(sky, way, &near, &far, has_lost), &near, &far);
    Ok(())
}

/// A way that ends well leaves the other open; one that fails takes it along.
fn end_after(passed: &io::Result<()>, near: &TcpStream, far: &TcpStream) {
    if passed.is_err() {
        near.shutdown(Shutdown::Both).ok();
        far.shutdown(Shutdown::Both).ok();
    }
}

/// Passes on what is said one way until its end.
fn pass(sky: &Sky, way: Way, mut from: &TcpStream, to: &TcpStream, mut has_lost: bool) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            return to.shutdown(Shutdown::Write);
        }
        has_lost = !send(sky, way, &piece[..count], to, has_lost)?;
    }
}

/// Sends a piece as the weather lets it. False: it is lost, and nothing may follow it.
fn send(sky: &Sky, way: Way, piece: &[u8], mut to: &TcpStream, has_lost: bool) -> io::Result<bool> {
    loop {
        match sky.over(way) {
            Weather::Lose => return Ok(false),
            _ if has_lost => return Err(ErrorKind::ConnectionReset.into()),
            Weather::Clear => break,
            Weather::Delay(time) => {
                thread::sleep(time);
                break;
            }
            Weather::Throttle(bytes_per_s) => {
                let bytes = u32::try_from(piece.len()).expect("a piece is small");
                thread::sleep(Duration::from_secs(1) * bytes / bytes_per_s.max(1));
                break;
            }
            Weather::Stall if sky.is_over.load(Ordering::Relaxed) => {
                return Err(ErrorKind::ConnectionReset.into());
            }
            Weather::Stall => thread::sleep(POLL_INTERVAL),
            Weather::Break(one_of) if sky.is_hit(one_of) => return Err(ErrorKind::ConnectionReset.into()),
            Weather::Break(_) => break,
            Weather::Cut => return Err(ErrorKind::ConnectionReset.into()),
        }
    }
    to.write_all(piece)?;
    Ok(true)
}
