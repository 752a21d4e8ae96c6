//! One node process of the launcher: started, watched, stopped, and never left behind.
//!
//! The launcher holds the writing end of the child's stdin. When it ends, however it ends, the child
//! reads the end of its stdin and stops; so no child outlives it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use afflux_actor::Place;
use tokio::io::{AsyncBufReadExt, AsyncRead};
use tokio::process::{ChildStdin, Command};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::telemetry::bars;

/// Lines of a dead child's log that are shown.
const LAST_LINES_MAX: usize = 8;

/// Where the output of a child goes.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// Into this file.
    File(PathBuf),
    /// Here, each line behind the child's name.
    Prefixed,
}

/// What a child is started with.
#[derive(Clone, Debug)]
pub(crate) struct ChildSpec {
    /// Its name.
    pub(crate) id: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Added to the launcher's own environment.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) output: Output,
    /// Whether its log goes on behind that of an earlier life.
    pub(crate) again: bool,
}

/// A running or ended child.
pub(crate) struct Child {
    pub(crate) id: String,
    pub(crate) pid: u32,
    log: Option<PathBuf>,
    stdin: Option<ChildStdin>,
    ended: watch::Receiver<Option<ExitStatus>>,
    kill: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Child {
    /// Starts a child in a process group of its own, so that a Ctrl-C on the terminal reaches the
    /// launcher alone, which then stops its children in order.
    ///
    /// # Errors
    /// A program or a log file that cannot be opened.
    pub(crate) fn start(spec: ChildSpec) -> Result<Self> {
        let place =
            Place::current().ok_or_else(|| Error::failed("a child can be started inside a system only"))?;
        let mut command = Command::new(&spec.program);
        command.args(&spec.args).envs(spec.environment).stdin(Stdio::piped()).kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let log = match &spec.output {
            Output::File(path) => {
                let failed =
                    |error| Error::failed(format!("cannot write the log {}: {error}", path.display()));
                if let Some(directory) = path.parent() {
                    std::fs::create_dir_all(directory).map_err(failed)?;
                }
                let mut options = File::options();
                options.create(true).append(true);
                let file = options.open(path).map_err(failed)?;
                if !spec.again {
                    file.set_len(0).map_err(failed)?;
                }
                command.stdout(file.try_clone().map_err(failed)?).stderr(file);
                Some(path.clone())
            }
            Output::Prefixed => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                None
            }
        };
        let mut child = command.spawn().map_err(|error| {
            Error::failed(format!("cannot start {} as {}: {error}", spec.program.display(), spec.id))
        })?;
        let pid = child.id().unwrap_or_default();
        if let Some(stdout) = child.stdout.take() {
            show(&place, spec.id.clone(), stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            show(&place, spec.id.clone(), stderr);
        }
        let stdin = child.stdin.take();
        let (tell, ended) = watch::channel(None);
        let (kill, killed) = tokio::sync::oneshot::channel::<()>();
        place.spawn_with(move || async move {
            let own = tokio::select! {
                biased;
                status = child.wait() => Some(status),
                // Also when the launcher dropped the child: nothing is left behind.
                _ = killed => None,
            };
            let status = match own {
                Some(status) => status,
                None => {
                    if let Err(error) = child.start_kill() {
                        tracing::debug!(%error, "a child had ended already");
                    }
                    child.wait().await
                }
            };
            match status {
                Ok(status) => drop(tell.send(Some(status))),
                Err(error) => tracing::error!(%error, "a child cannot be watched"),
            }
        });
        Ok(Self { id: spec.id, pid, log, stdin, ended, kill: Some(kill) })
    }

    /// How it ended, if it has.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Resolves when it has ended.
    pub(crate) fn ended(&self) -> impl Future<Output = Option<ExitStatus>> + 'static {
        let mut ended = self.ended.clone();
        async move {
            let status = ended.wait_for(Option::is_some).await;
            status.ok().and_then(|status| *status)
        }
    }

    /// Ends its stdin, which asks it to stop.
    pub(crate) fn ask_to_stop(&mut self) {
        self.stdin = None;
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
    }

    /// The last lines it wrote, when they went to a file.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.log.as_deref().map(last_lines).unwrap_or_default()
    }

    /// The file it writes to.
    pub(crate) fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// `killed by signal 9`, `ended with exit code 1`.
    pub(crate) fn describe(status: ExitStatus) -> String {
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
            return format!("killed by signal {signal}");
        }
        match status.code() {
            Some(code) => format!("ended with exit code {code}"),
            None => "ended".to_owned(),
        }
    }
}

/// Stops children: asks all, waits up to `grace` for all, kills the rest. Returns the names of those.
pub(crate) async fn stop_all(children: &mut [Child], grace: Duration) -> Vec<String> {
    for child in children.iter_mut() {
        child.ask_to_stop();
    }
    let all = futures_util::future::join_all(children.iter().map(Child::ended).collect::<Vec<_>>());
    if tokio::time::timeout(grace, all).await.is_ok() {
        return Vec::new();
    }
    let mut killed = Vec::new();
    for child in children.iter_mut().filter(|child| child.status().is_none()) {
        child.kill();
        killed.push(child.id.clone());
    }
    futures_util::future::join_all(children.iter().map(Child::ended).collect::<Vec<_>>()).await;
    killed
}

/// Copies lines to stderr, each behind the child's name.
fn show(place: &Place, id: String, output: impl AsyncRead + Unpin + Send + 'static) {
    place.spawn_future(async move {
        let mut lines = tokio::io::BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            // A closed stderr is no reason to stop a cluster.
            let _ = bars().suspend(|| writeln!(std::io::stderr().lock(), "{id} | {line}"));
        }
    });
}

fn last_lines(path: &Path) -> Vec<String> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let mut last = VecDeque::with_capacity(LAST_LINES_MAX);
    for line in BufReader::new(file).lines().map_while(std::result::Result::ok) {
        if last.len() == LAST_LINES_MAX {
            last.pop_front();
        }
        last.push_back(line);
    }
    last.into()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(dir: &Path, script: &str) -> ChildSpec {
        ChildSpec {
            id: "node-1".into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            environment: vec![("AFFLUX_TOKEN".into(), "secret".into())],
            output: Output::File(dir.join("logs").join("node-1.log")),
            again: false,
        }
    }

    #[test]
    fn a_child_stops_when_its_stdin_ends() {
        let dir = tempfile::tempdir().unwrap();
        afflux_actor::system(|| async {
            let mut children =
                vec![Child::start(shell(dir.path(), "cat; echo bye $AFFLUX_TOKEN; exit 3")).unwrap()];
            assert_eq!(children[0].status(), None);
            let killed = stop_all(&mut children, Duration::from_secs(30)).await;
            assert!(killed.is_empty());
            let status = children[0].status().unwrap();
            assert_eq!(Child::describe(status), "ended with exit code 3");
            assert_eq!(children[0].last_lines(), ["bye secret"]);
        })
        .unwrap();
    }

    #[test]
    fn a_child_that_does_not_stop_in_time_is_killed_and_named() {
        let dir = tempfile::tempdir().unwrap();
        afflux_actor::system(|| async {
            let mut children = vec![Child::start(shell(dir.path(), "while true; do sleep 1; done")).unwrap()];
            let killed = stop_all(&mut children, Duration::from_millis(1)).await;
            assert_eq!(killed, ["node-1"]);
            assert_eq!(Child::describe(children[0].status().unwrap()), "killed by signal 9");
        })
        .unwrap();
    }

    #[test]
    fn a_child_that_is_started_again_writes_behind_its_earlier_life() {
        let dir = tempfile::tempdir().unwrap();
        afflux_actor::system(|| async {
            for (text, again, lines) in
                [("one", false, vec!["one"]), ("two", true, vec!["one", "two"]), ("new", false, vec!["new"])]
            {
                let spec = ChildSpec { again, ..shell(dir.path(), &format!("echo {text}")) };
                let child = Child::start(spec).unwrap();
                child.ended().await;
                assert_eq!(child.last_lines(), lines);
            }
        })
        .unwrap();
    }

    #[test]
    fn only_the_last_lines_of_a_log_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, (0..100).map(|i| format!("{i}\n")).collect::<String>()).unwrap();
        assert_eq!(last_lines(&path).first().map(String::as_str), Some("92"));
        assert_eq!(last_lines(&path).len(), LAST_LINES_MAX);
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let dir = tempfile::tempdir().unwrap();
        afflux_actor::system(|| async {
            let spec = ChildSpec { program: "/nowhere/flights".into(), ..shell(dir.path(), "") };
            let error = Child::start(spec).err().unwrap().to_string();
            assert!(error.starts_with("cannot start /nowhere/flights as node-1"), "{error}");
        })
        .unwrap();
    }
}
