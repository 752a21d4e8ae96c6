//! `upgrade` with two builds: a second one is the same program with another byte at its end.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

use super::{Dev, PATIENCE, json, program, succeeds, text};

/// A cluster of one node, which is replaced by a script.
struct Site {
    dir: tempfile::TempDir,
    address: String,
}

impl Site {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let old = std::env::current_exe().unwrap();
        let mut other = std::fs::read(&old).unwrap();
        other.push(b'\n');
        let new = dir.path().join("new");
        std::fs::write(&new, other).unwrap();
        executable(&new);
        let seed = Dev::start(dir.path(), &["node", "--id", "probe", "--log-format", "json"]);
        let started = seed.until("node started");
        let address = json(started.last().unwrap())["address"].as_str().unwrap().to_owned();
        seed.signal("SIGTERM");
        assert_eq!(seed.end().0, Some(0));
        // Stops the node that runs and starts PROGRAM in its place, on the same port.
        let roll = dir.path().join("roll");
        let text = format!(
            "#!/bin/sh\n\
             cd '{here}'\n\
             if [ -f pid ]; then\n\
             kill -TERM \"$(cat pid)\"\n\
             while kill -0 \"$(cat pid)\" 2>/dev/null; do sleep 0.05; done\n\
             fi\n\
             \"$1\" node --id one --listen {address} --set checkpoint.dir=kept --set checkpoint.interval_ms=200 \
             --set drain.lame_duck_ms=0 </dev/null >>log 2>&1 &\n\
             echo $! >pid\n",
            here = dir.path().display(),
        );
        std::fs::write(&roll, text).unwrap();
        executable(&roll);
        let site = Self { dir, address };
        assert!(std::process::Command::new(&roll).arg(&old).status().unwrap().success());
        site
    }

    fn at(&self) -> &Path {
        self.dir.path()
    }

    fn roll(&self, to: &str) -> String {
        format!("{} {to}", self.at().join("roll").display())
    }

    fn command<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--address", &self.address]].concat()
    }

    fn jobs(&self) -> serde_json::Value {
        json(&succeeds(self.at(), &self.command(&["jobs", "--json"])))
    }

    fn build(&self) -> String {
        let nodes = json(&succeeds(self.at(), &self.command(&["nodes", "--json"])));
        nodes[0]["build"].as_str().unwrap().to_owned()
    }

    /// Starts the endless pipeline once the node coordinates jobs.
    fn run(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let started =
                program(self.at(), &self.command(&["run", "endless", "--detach"])).output().unwrap();
            if started.status.success() {
                return text(&started.stdout).trim().to_owned();
            }
            assert!(Instant::now() < deadline, "{}", text(&started.stderr));
        }
    }

    fn upgrade(&self, job: &str, roll: &str, more: &[&str]) -> Output {
        let args = [&["upgrade", job, "--roll", roll, "--within", "30", "--json"], more].concat();
        program(self.at(), &self.command(&args)).output().unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.at().join("pid")).ok().and_then(|pid| pid.trim().parse().ok());
        if let Some(pid) = pid.filter(|pid| super::is_alive(*pid)) {
            super::kill("SIGKILL", pid);
        }
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.at().join("log")).unwrap_or_default());
        }
    }
}

fn executable(path: &PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

pub(super) fn an_upgrade_goes_on_with_the_new_build_or_returns_to_the_old_one() {
    let site = Site::start();
    let first = site.run();
    let old_build = site.build();

    // What `rescale --auto` would do: it has seen all tasks, and says a number and why.
    let auto = ["rescale", &first, "--auto", "--dry-run", "--interval", "0.5", "--max", "4", "--json"];
    let auto = Dev::start(site.at(), &site.command(&auto));
    let told = json(auto.until("is at work").last().unwrap());
    assert!(told["job"] == first.as_str() && told["dry_run"] == true, "{told}");
    auto.signal("SIGINT");
    assert_eq!(auto.end().0, Some(0));

    let done = site.upgrade(&first, &site.roll("./new"), &[]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let done = json(&text(&done.stdout));
    assert_eq!((&done["from"], &done["old_build"]), (&first.as_str().into(), &old_build.as_str().into()));
    let new_build = site.build();
    assert!(new_build != old_build && done["new_build"] == new_build.as_str(), "{done}");
    let second = done["to"].as_str().unwrap().to_owned();
    let jobs = site.jobs();
    assert!(jobs[0]["id"] == second.as_str() && jobs[0]["state"] == "running", "{jobs}");

    // A build that fails as soon as it runs the pipeline: back to the one before.
    let old = std::env::current_exe().unwrap();
    let fails = format!("TEST_ENDLESS_FAILS=1 {}", site.roll(&old.display().to_string()));
    let failed = site.upgrade(&second, &fails, &["--back", &site.roll("./new")]);
    let said = text(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    for part in ["the new build does not run endless", "as it was told", "goes on as"] {
        assert!(said.contains(part), "`{part}` is missing: {said}");
    }
    assert_eq!(site.build(), new_build);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let jobs = site.jobs();
        let job = &jobs[0];
        // It goes on from the checkpoint, and takes others.
        if job["state"] == "running" && job["last_checkpoint"].as_u64().is_some() {
            break;
        }
        assert!(Instant::now() < deadline, "{jobs}");
    }

    // Nodes that are not replaced are noticed, and without a way back it says where the job stands.
    let third = site.jobs()[0]["id"].as_str().unwrap().to_owned();
    let same = site.upgrade(&third, "exit 3", &[]);
    let said = text(&same.stderr);
    assert_eq!(same.status.code(), Some(1), "{said}");
    assert!(said.contains("stands still at checkpoint") && said.contains("exit status: 3"), "{said}");
    assert!(said.contains(&format!("run endless --restore {third}/")), "{said}");
}
