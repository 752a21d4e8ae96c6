//! A program as processes: started, signalled, killed, and heard to the end.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use afflux::dev::{DIRECTORY, DevFile, DevNode};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::until::until;

/// A binary, and a directory of its own to run in.
///
/// ```
/// use afflux_sandbox::Program;
/// let echo = Program::new("/bin/sh");
/// let ended = echo.run(&["-c", "echo out; echo err >&2; exit 3"]);
/// assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(3), "out\n", "err\n"));
/// ```
pub struct Program {
    binary: PathBuf,
    directory: TempDir,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit code; none when a signal killed it.
    pub code: Option<i32>,
    /// All it wrote to stdout.
    pub stdout: String,
    /// All it wrote to stderr.
    pub stderr: String,
}

impl Program {
    /// The binary in a fresh directory.
    ///
    /// # Panics
    /// When there is no place for a directory.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self { binary: binary.into(), directory: tempfile::tempdir().unwrap() }
    }

    /// The working directory of its processes.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it, without the settings of this process's environment.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self, args: &[&str]) -> Process {
        let mut command = Command::new(&self.binary);
        command.args(args).current_dir(self.directory());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AFFLUX_")) {
            command.env_remove(name);
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        let stdout = Heard::of(child.stdout.take().unwrap());
        let stderr = Heard::of(child.stderr.take().unwrap());
        Process { what: args.join(" "), child, stdout, stderr }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it does not end in time (it is killed then), or panics.
    pub fn run(&self, args: &[&str]) -> Ended {
        self.start(args).end()
    }

    /// Runs it and returns its stdout.
    ///
    /// # Panics
    /// As [`Program::run`], and when it fails.
    pub fn succeeds(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert_eq!(ended.code, Some(0), "{args:?}: {}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    /// Runs it and returns its stdout as JSON.
    ///
    /// # Panics
    /// As [`Program::succeeds`], and when that is no JSON.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let text = self.succeeds(args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// Runs it and expects this exit code, and these parts in its stderr.
    ///
    /// # Panics
    /// As [`Program::run`], and when anything else comes.
    pub fn fails(&self, args: &[&str], code: i32, parts: &[&str]) -> Ended {
        let ended = self.run(args);
        ended.expect(code, parts);
        ended
    }

    /// The node processes that a running `dev` has started here, once it has told them.
    ///
    /// # Panics
    /// When it never does.
    pub fn nodes(&self) -> Vec<DevNode> {
        let directory = self.directory().join(DIRECTORY);
        until("the nodes in .afflux/dev.json", || DevFile::read(&directory).ok().flatten()).nodes
    }

    /// What the node processes of `dev` have logged.
    pub fn logs(&self) -> String {
        let Ok(files) = self.directory().join(DIRECTORY).join("logs").read_dir() else {
            return String::new();
        };
        files.map_while(Result::ok).filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let logs = self.logs();
        if std::thread::panicking() {
            eprintln!("--- logs of the nodes\n{logs}---");
        } else {
            assert!(!logs.contains("panicked"), "a node panicked:\n{logs}");
        }
    }
}

impl Ended {
    /// Expects this exit code, and these parts in its stderr.
    ///
    /// # Panics
    /// When it is not so.
    pub fn expect(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is missing: {}", self.stderr);
        }
    }
}

/// A running process, killed when it is dropped.
pub struct Process {
    what: String,
    child: Child,
    stdout: Heard,
    stderr: Heard,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until its stderr contains this.
    ///
    /// # Panics
    /// When that never comes, or the process ends first.
    pub fn until_says(&mut self, part: &str) {
        let (child, stderr, what) = (&mut self.child, &self.stderr, &self.what);
        until(&format!("`{part}` from `{what}`"), || {
            let ended = child.try_wait().unwrap();
            if stderr.text().contains(part) {
                return Some(());
            }
            // What it wrote last may still be in the pipe.
            assert!(ended.is_none() || !stderr.ended(), "`{what}` ended without `{part}`: {}", stderr.text());
            None
        });
    }

    /// Sends it a signal, such as `INT`.
    pub fn signal(&self, signal: &str) {
        kill(signal, self.pid());
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time (it is killed then), or panics.
    pub fn end(mut self) -> Ended {
        let (child, stderr, what) = (&mut self.child, &self.stderr, &self.what);
        let status = until(&format!("the end of `{what}`"), || child.try_wait().unwrap());
        until(&format!("the end of what `{what}` writes"), || {
            (stderr.ended() && self.stdout.ended()).then_some(())
        });
        let ended = Ended { code: status.code(), stdout: self.stdout.text(), stderr: stderr.text() };
        assert!(!ended.stderr.contains("panicked"), "`{what}` panicked: {}", ended.stderr);
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- `{}` wrote\n{}{}---", self.what, self.stdout.text(), self.stderr.text());
        }
    }
}

/// A pipe being read, so that the process never waits for its reader.
struct Heard {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Heard {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                heard.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        Self { text, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    fn ended(&self) -> bool {
        self.reader.is_finished()
    }
}

/// Sends a process a signal, such as `KILL`.
///
/// # Panics
/// When there is no such process or no such signal.
pub fn kill(signal: &str, pid: u32) {
    let number: Signal = format!("SIG{signal}").parse().expect("the name of a signal without SIG");
    let sent = nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), number);
    assert!(sent.is_ok(), "process {pid} could not be sent {signal}: {sent:?}");
}

/// Whether a process is there and at work: one that only waits for its parent to look is not.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_heard_signalled_and_gone() {
        let shell = Program::new("/bin/sh");
        let mut waits =
            shell.start(&["-c", "trap 'echo bye >&2; exit 7' TERM; echo ready >&2; while :; do :; done"]);
        waits.until_says("ready");
        let pid = waits.pid();
        assert!(is_alive(pid));
        waits.signal("TERM");
        waits.end().expect(7, &["ready", "bye"]);
        assert!(!is_alive(pid));
    }

    #[test]
    fn a_dropped_process_is_killed() {
        let shell = Program::new("/bin/sh");
        let pid = shell.start(&["-c", "while :; do :; done"]).pid();
        assert!(!is_alive(pid));
    }
}
