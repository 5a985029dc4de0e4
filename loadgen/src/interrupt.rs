//! What ends a run early: Ctrl-C, or for an agent its coordinator. The run ends with what was measured until then; a second
//! Ctrl-C ends the program.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What shells say of a program that was interrupted: 128 and the number of the signal.
const STATUS: i32 = 128 + SIGINT;

static CAME: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on signals to end are noted. Without it they end the program, as they should an agent that waits.
pub(crate) fn listen() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // In this order: a second signal finds the flag set by the first.
        flag::register_conditional_shutdown(signal, STATUS, Arc::clone(&CAME))?;
        flag::register(signal, Arc::clone(&CAME))?;
    }
    Ok(())
}

/// Whether the run under way shall end.
#[inline]
pub(crate) fn came() -> bool {
    CAME.load(Ordering::Relaxed)
}

/// Ends the run under way.
pub(crate) fn raise() {
    CAME.store(true, Ordering::Relaxed);
}

/// Lets the next run begin.
pub(crate) fn clear() {
    CAME.store(false, Ordering::Relaxed);
}
