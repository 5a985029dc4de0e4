//! One thread of a server that the kernel treats badly, by `strace`: its next wait fails, or does not begin. The other threads go on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::{Server, announce_skip};

/// What a shard waits with, over either way to the kernel.
const WAITS: &str = "io_uring_enter,epoll_wait,epoll_pwait,epoll_pwait2";

/// What becomes of the thread's next wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// It is refused with `EBADF`.
    Fails,
    /// It begins when the tampering ends; the thread is there when [`Tampering::begin`] returns.
    Hangs,
}

/// A thread that is tampered with until this is dropped.
#[derive(Debug)]
pub struct Tampering {
    strace: Child,
    /// Kept open: strace must not end because nobody reads it.
    said: BufReader<ChildStderr>,
}

impl Tampering {
    /// Begins with the thread of this name. `None`, with one loud line, where nobody may do so.
    pub fn begin(server: &Server, thread: &str, wait: Wait) -> Option<Self> {
        let id = thread_id(server, thread);
        let how = match wait {
            Wait::Fails => "error=EBADF",
            Wait::Hangs => "delay_enter=600000000",
        };
        let mut command = Command::new("strace");
        command.args(["-p", &id, "-e", &format!("trace={WAITS}")]);
        command.args(["-e", &format!("inject={WAITS}:{how}:when=1")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let Ok(mut strace) = command.spawn() else {
            announce_skip("strace is not installed: no thread of a server is made to fail or to hang");
            return None;
        };
        let mut said = BufReader::new(strace.stderr.take().expect("stderr is piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("strace says something");
        let mut begun = Self { strace, said };
        if !line.contains("attached") {
            announce_skip(format_args!("no thread of a server is made to fail or to hang: {line}"));
            return None;
        }
        if wait == Wait::Hangs {
            // Until then it may take a last turn.
            begun.said.fill_buf().expect("strace shows the call that hangs");
        }
        Some(begun)
    }
}

impl Drop for Tampering {
    fn drop(&mut self) {
        // The kernel lets go of the thread when its tracer is gone. It has ended already if its thread has.
        self.strace.kill().ok();
        self.strace.wait().expect("a killed child can be waited for");
    }
}

fn thread_id(server: &Server, name: &str) -> String {
    let threads = fs::read_dir(format!("/proc/{}/task", server.id())).expect("Linux shows a child of ours");
    let threads = threads.map(|thread| thread.expect("a thread").path());
    let has_name = |path: &std::path::PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    let path = threads.into_iter().find(has_name).expect("there is such a thread");
    path.file_name().and_then(|id| id.to_str()).expect("a number").to_owned()
}
