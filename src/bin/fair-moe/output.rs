//! What the command line prints: printing can fail like any other write, and says so in one sentence.

use fair_moe::Error;
use std::io::{self, IsTerminal, Write};

/// Standard output. Remembers whether its reader went away, which ends the program without a word.
#[derive(Default)]
pub struct Output {
    closed: bool,
}

impl Output {
    /// Whether the reader of a pipe went away.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    fn watch<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.closed |= result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
        result
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = io::stdout().write(bytes);
        self.watch(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = io::stdout().flush();
        self.watch(result)
    }
}

/// The error of a print that failed.
pub fn failed(error: io::Error) -> Error {
    Error::file("standard output", error)
}

/// Prints one line to `out`, formatted as by `println!`; gives a [`fair_moe::Result`].
macro_rules! say {
    ($out:expr $(, $($argument:tt)*)?) => { writeln!($out $(, $($argument)*)?).map_err($crate::output::failed) };
}
pub(crate) use say;

/// Prints one line to standard error, where nothing can be done about a failure.
pub fn complain(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Names on standard error what is about to run, so that whoever waits, or finds what a killed run left, knows where it is. On a terminal
/// it takes the place of what was named before.
pub fn announce(what: impl std::fmt::Display) {
    let mut err = io::stderr();
    // No longer than a line, of which no part would stay.
    let what = format!("{what}");
    let _ = if err.is_terminal() { write!(err, "\r\x1b[K{what:.78}") } else { writeln!(err, "{what}") };
}

/// Takes away what was announced last, where it stands on a terminal.
pub fn announced() {
    let mut err = io::stderr();
    if err.is_terminal() {
        let _ = write!(err, "\r\x1b[K");
    }
}
