//! A chat at a terminal: lines, Ctrl-C, the history, Ctrl-D; and the terminal afterwards is as it was.
#![cfg(unix)]

#[macro_use]
mod common;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{bookworm, program};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const ENTER: &str = "\r";
const UP: &str = "\x1b[A";
/// For what takes milliseconds, on machines that are busy with other things.
const SOON: Duration = Duration::from_secs(2);
/// For what computes.
const LONG: Duration = Duration::from_secs(60);

/// Both ends of a pseudo-terminal, and all that was written to it.
struct Terminal {
    person: File,
    program: File,
    seen: String,
    n_expected: usize, // bytes of `seen` up to the end of what was expected last
}

impl Terminal {
    fn open() -> Terminal {
        let size = libc::winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut person, mut program) = (-1, -1);
        let (name, modes) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: two places for descriptors and a size; the null pointers ask for the usual.
        let opened = unsafe { libc::openpty(&mut person, &mut program, name, modes, (&raw const size).cast_mut()) };
        assert_eq!(opened, 0, "no pseudo-terminal: {}", std::io::Error::last_os_error());
        // SAFETY: the descriptors were just opened, and nobody else has them.
        let [person, program] = [person, program].map(|descriptor| unsafe { File::from_raw_fd(descriptor) });
        // SAFETY: sets a flag of an open descriptor.
        assert_eq!(unsafe { libc::fcntl(person.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }, 0);
        Terminal { person, program, seen: String::new(), n_expected: 0 }
    }

    /// Modes of input, output, control and lines, and the special characters.
    fn modes(&self) -> ([libc::tcflag_t; 4], [libc::cc_t; libc::NCCS]) {
        // SAFETY: all bytes zero are a `termios`, which the call fills.
        let mut modes: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: an open terminal, and a place for its modes.
        assert_eq!(unsafe { libc::tcgetattr(self.program.as_raw_fd(), &mut modes) }, 0);
        ([modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag], modes.c_cc)
    }

    /// Starts a chat in a session of its own, whose terminal this is.
    fn chat(&self, more: &[&str]) -> Child {
        let end = || Stdio::from(self.program.try_clone().expect("a descriptor"));
        let mut command = program();
        command.args(args!["run", bookworm()]).args(more).stdin(end()).stdout(end()).stderr(end());
        // The slowest kernels, so that a long answer is still going on when Ctrl-C comes.
        command.env("NETWEIGHT_ISA", "scalar").env("TERM", "xterm");
        // SAFETY: both calls may be made between fork and exec; 0 is the terminal by then.
        unsafe {
            command.pre_exec(|| match libc::setsid() != -1 && libc::ioctl(0, libc::TIOCSCTTY as _, 0) == 0 {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            });
        }
        command.spawn().expect("the program starts")
    }

    fn send(&mut self, keys: &str) {
        self.person.write_all(keys.as_bytes()).expect("room for a line");
    }

    /// Waits until `wanted` stands behind what was expected last.
    #[track_caller]
    fn expect(&mut self, wanted: &str, limit: Duration) {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.seen[self.n_expected..].find(wanted) {
                self.n_expected += at + wanted.len();
                return;
            }
            assert!(begin.elapsed() < limit, "no {wanted:?} in {:?}: {:?}", limit, &self.seen[self.n_expected..]);
            self.read();
        }
    }

    /// Takes what there is, or waits a little.
    fn read(&mut self) {
        let mut bytes = [0; 4096];
        match self.person.read(&mut bytes) {
            Ok(n) => self.seen.push_str(&String::from_utf8_lossy(&bytes[..n])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => panic!("the terminal: {error}"),
        }
    }
}

/// The exit code, while what is written is still read.
fn end(mut child: Child, terminal: &mut Terminal) -> Option<i32> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        assert!(begin.elapsed() < LONG, "it does not end: {:?}", terminal.seen);
        terminal.read();
    }
}

#[test]
fn a_conversation() {
    const QUESTION: &str = "Tell me about the sea.";
    const PROMPT: &str = "> ";
    let mut terminal = Terminal::open();
    let before = terminal.modes();
    let child = terminal.chat(&["--max-tokens", "200"]);
    terminal.expect("type a message", LONG);
    terminal.expect(PROMPT, LONG);
    assert_ne!(terminal.modes(), before, "lines are not edited");

    terminal.send(&format!("{QUESTION}{ENTER}"));
    terminal.expect(QUESTION, SOON);
    terminal.expect("whale", LONG);
    let begin = Instant::now();
    terminal.send(CTRL_C);
    terminal.expect(", interrupted]", SOON);
    terminal.expect(PROMPT, SOON);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());

    terminal.send(UP);
    terminal.expect(QUESTION, SOON);
    terminal.send(ENTER);
    terminal.expect(" tokens at ", LONG);
    terminal.expect(PROMPT, SOON);

    terminal.send(CTRL_D);
    assert_eq!(end(child, &mut terminal), Some(0), "{:?}", terminal.seen);
    terminal.read();
    assert_eq!(terminal.modes(), before, "the terminal is not as it was");
    let [n_begun, n_ended] = ["\x1b[?2004h", "\x1b[?2004l"].map(|order| terminal.seen.matches(order).count());
    assert_eq!(n_begun, n_ended, "pasting is left marked");
}
