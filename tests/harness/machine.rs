//! Whether the machine has time for its tests. Nodes of a cluster answer within a second or say that they are late, and on a machine that
//! compiles too they may be: what a test asks of their speed it asks only where processors are idle now and then, and who sleeps wakes in time.

use std::panic::{self, AssertUnwindSafe};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const NAP: Duration = Duration::from_millis(5);
/// A machine that others leave alone lets nobody wait for so long. Several such pauses, on the way of one request, make a node late.
const PAUSE_MAX: Duration = Duration::from_millis(15);
/// Of a hundred parts of the processors' time: with fewer idle ones somebody has to wait, and not who sleeps but who computes.
const IDLE_PERCENT_MIN: u64 = 15;
/// After so many naps it is looked how idle they were.
const NAPS: u32 = 100;
/// For so long it may show in answers: the patience of a node, the time until its links are there again, and until an answer is read.
const LATELY: Duration = Duration::from_secs(10);

/// What fails by a late answer is tried so often.
const ATTEMPTS_MAX: usize = 5;

/// What a node says that waited for another one in vain: for a second, for room on its link half of one, for a copy a quarter.
const LATE: [&str; 6] = [
    "SERVER_ERROR the key's node did not answer in time",
    "SERVER_ERROR the key's node cannot be reached",
    "SERVER_ERROR the key's node is busy",
    "SERVER_ERROR too much under way to the key's node",
    "SERVER_ERROR the key's copies did not confirm in time",
    "SERVER_ERROR the key's copies do not answer",
];

/// What a sleeper sees from when the process first asks for it.
#[derive(Debug)]
struct Sleeper {
    /// When it last woke too late, in microseconds.
    late_at: AtomicU64,
    begun: Instant,
}

fn sleeper() -> &'static Sleeper {
    static SLEEPER: OnceLock<Sleeper> = OnceLock::new();
    SLEEPER.get_or_init(|| {
        thread::spawn(|| {
            let mut before = Ticks::now();
            loop {
                for _ in 0..NAPS {
                    let began = Instant::now();
                    thread::sleep(NAP);
                    sleeper().look(began.elapsed().saturating_sub(NAP) > PAUSE_MAX);
                }
                let after = Ticks::now();
                sleeper().look(after.is_full_since(before));
                before = after;
            }
        });
        Sleeper { late_at: AtomicU64::new(0), begun: Instant::now() }
    })
}

impl Sleeper {
    fn look(&self, is_late: bool) {
        if is_late {
            self.late_at.store(micros(self.begun.elapsed()), Ordering::Relaxed);
        }
    }
}

/// What the processors have done since the machine began, by the kernel's clock.
#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    all: u64,
    idle: u64,
}

impl Ticks {
    /// `/proc/stat`: user, nice, system, idle, waiting for disks, interrupts of two kinds, and what other machines had. Zeros: there is none.
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let words = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        Self { all: ticks.iter().sum(), idle: ticks.iter().skip(3).take(2).sum() }
    }

    fn is_full_since(self, before: Self) -> bool {
        let (all, idle) = (self.all.saturating_sub(before.all), self.idle.saturating_sub(before.idle));
        idle * 100 < all * IDLE_PERCENT_MIN
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("no test takes centuries")
}

/// Begins to look, once for the process.
pub fn watch() {
    sleeper();
}

/// Whether the machine has let somebody wait lately.
pub fn is_busy() -> bool {
    let late_at = sleeper().late_at.load(Ordering::Relaxed);
    late_at > 0 && micros(sleeper().begun.elapsed()) < late_at + micros(LATELY)
}

/// Whether an answer says that a node was late, and the machine is a reason for that: then it is asked again. Elsewhere it is an error.
pub fn is_late(answer: &str) -> bool {
    LATE.contains(&answer) && is_busy()
}

/// Does something that fails where a node is late, and again, some times, if that was why and the machine is a reason for it.
#[track_caller]
pub fn in_time<T>(mut case: impl FnMut() -> T) -> T {
    for _ in 1..ATTEMPTS_MAX {
        match panic::catch_unwind(AssertUnwindSafe(&mut case)) {
            Ok(value) => return value,
            Err(reason) => {
                let text = reason.downcast_ref::<String>().map_or("", String::as_str);
                if !tells_of_lateness(text) {
                    panic::resume_unwind(reason);
                }
            }
        }
    }
    case()
}

/// Whether a text shows such an answer, with escapes or without.
pub fn tells_of_lateness(text: &str) -> bool {
    let text = text.replace("\\'", "'");
    LATE.iter().any(|late| text.contains(late)) && is_busy()
}
