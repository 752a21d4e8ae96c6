//! A network of its own for each node: a network namespace behind a bridge, which nftables break.
//!
//! Where a proxy holds back what passes it, here packets are lost: the kernels on both sides send them again, give
//! up, or never hear that the other has ended. All of it lies in a namespace of the run, so that nothing of the
//! machine's network is touched and nothing is left behind. Wants root, `unshare`, `ip` and `nft`.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use afflux::{Error, Result};

/// Set in the run's namespace.
const INSIDE: &str = "CHAOS_INSIDE";
/// Makes the run's namespaces: those of nodes are told to nobody else, either.
const ENTER: &str = "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && exec \"$@\"";
/// The launcher's place on the bridge; node 1 is at the next.
const LAUNCHER: u8 = 1;
/// Where nodes listen.
const PORT: u16 = 7_000;
/// Of a hundred packets, so many are lost on a bad line.
const LOST_PERCENT: u8 = 30;

/// How a node's network is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing comes in, nothing goes out, and nobody is told.
    Drop,
    /// Nothing comes in.
    Deaf,
    /// Nothing goes out.
    Mute,
    /// Nothing passes between it and one other node; both reach the rest.
    Split(usize),
    /// Some packets are lost.
    Lossy,
    /// What comes in is answered with a reset.
    Refuse,
    /// The link is down: there is no way to anybody.
    Down,
}

/// Runs this program again in a namespace, if it is not in one; returns only where that fails.
///
/// # Errors
/// What is missing.
pub(crate) fn enter() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(
            Error::usage("network namespaces want root").hint("run it as root, or leave `--namespaces` out")
        );
    }
    let program = std::env::current_exe()
        .map_err(|error| Error::failed(format!("this executable cannot be found again: {error}")))?;
    let error = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", ENTER, "sh"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(Error::failed(format!("unshare cannot be run: {error}"))
        .hint("install util-linux, iproute2 and nftables, and run this as root"))
}

/// The launcher's address on the bridge.
pub(crate) fn launcher() -> String {
    address(LAUNCHER)
}

fn address(place: u8) -> String {
    format!("10.77.0.{place}")
}

/// Makes the bridge.
///
/// # Errors
/// What `ip` says.
pub(crate) fn make_bridge() -> Result<()> {
    ip(&format!(
        "link set lo up\nlink add name bridge type bridge\naddress add {}/24 dev bridge\nlink set bridge up",
        launcher()
    ))
}

/// The namespace of a node.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    name: String,
    place: u8,
    /// Rises with each fault: an earlier one that is over ends no later one.
    faults: Arc<AtomicU64>,
}

impl Namespace {
    /// Makes one for the node of a number, from 0 on, and its line to the bridge.
    ///
    /// # Errors
    /// What `ip` says.
    pub(crate) fn make(number: usize) -> Result<Self> {
        let place = Self::place(number);
        let (name, line) = (format!("chaos-{place}"), format!("line-{place}"));
        ip(&format!(
            "netns add {name}\n\
             link add {line} type veth peer name eth0 netns {name}\n\
             link set {line} master bridge up\n\
             -n {name} link set lo up\n\
             -n {name} address add {}/24 dev eth0\n\
             -n {name} link set eth0 up",
            address(place)
        ))?;
        Ok(Self { name, place, faults: Arc::default() })
    }

    fn place(number: usize) -> u8 {
        u8::try_from(number).unwrap_or(u8::MAX - LAUNCHER - 1) + LAUNCHER + 1
    }

    /// Where the node listens.
    pub(crate) fn listen(&self) -> String {
        format!("{}:{PORT}", address(self.place))
    }

    /// A command that runs a program in it, as the same process.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Breaks it, for so long.
    ///
    /// # Errors
    /// What `nft` or `ip` says.
    pub(crate) fn suffer(&self, fault: Fault, time: Duration) -> Result<()> {
        let number = self.faults.fetch_add(1, Ordering::Relaxed) + 1;
        // A fault takes the place of the one before.
        ip(&format!("-n {} link set eth0 up", self.name))?;
        match fault {
            Fault::Down => ip(&format!("-n {} link set eth0 down", self.name))?,
            other => self.filter(&rules(other))?,
        }
        let healed = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if healed.faults.load(Ordering::Relaxed) != number {
                return;
            }
            // It has worked once: where it does not, nothing recovers and the run says so.
            let _flushed = healed.filter("");
            let _up = ip(&format!("-n {} link set eth0 up", healed.name));
        });
        Ok(())
    }

    /// Puts these rules in place of those there are.
    fn filter(&self, rules: &str) -> Result<()> {
        let mut command = self.command(Path::new("nft"));
        command.args(["-f", "-"]);
        fed(command, &format!("flush ruleset\n{rules}\n"))
    }
}

/// What nftables are told of a fault. A node reaches itself whatever comes.
fn rules(fault: Fault) -> String {
    let (inward, outward) = match fault {
        Fault::Drop => ("drop".to_owned(), "drop".to_owned()),
        Fault::Deaf => ("drop".to_owned(), String::new()),
        Fault::Mute => (String::new(), "drop".to_owned()),
        Fault::Split(other) => {
            let other = address(Namespace::place(other));
            (format!("ip saddr {other} drop"), format!("ip daddr {other} drop"))
        }
        Fault::Lossy => {
            let lost = format!("numgen random mod 100 < {LOST_PERCENT} drop");
            (lost.clone(), lost)
        }
        Fault::Refuse => ("meta l4proto tcp reject with tcp reset".to_owned(), String::new()),
        Fault::Down => (String::new(), String::new()),
    };
    format!(
        "table inet chaos {{\n\
         chain inward {{\ntype filter hook input priority 0\niifname \"lo\" accept\n{inward}\n}}\n\
         chain outward {{\ntype filter hook output priority 0\noifname \"lo\" accept\n{outward}\n}}\n}}"
    )
}

/// Runs `ip` with each line.
fn ip(lines: &str) -> Result<()> {
    for line in lines.lines() {
        let mut command = Command::new("ip");
        command.args(line.split_whitespace());
        fed(command, "")?;
    }
    Ok(())
}

/// Runs a command that reads this text.
fn fed(mut command: Command, text: &str) -> Result<()> {
    let failed = |what: String| {
        Error::failed(format!("a namespace cannot be set up: {what}"))
            .hint("install util-linux, iproute2 and nftables, and run this as root")
    };
    let told = format!("{command:?}");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| failed(format!("{told}: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).map_err(|error| failed(format!("{told}: {error}")))?;
    }
    let ended = child.wait_with_output().map_err(|error| failed(format!("{told}: {error}")))?;
    if ended.status.success() {
        return Ok(());
    }
    Err(failed(format!("{told}: {}", String::from_utf8_lossy(&ended.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_filters_what_its_name_says() {
        let both = |fault| {
            let rules = rules(fault);
            let (inward, outward) = rules.split_once("chain outward").unwrap();
            (inward.contains("drop"), outward.contains("drop"))
        };
        assert_eq!(both(Fault::Drop), (true, true));
        assert_eq!(both(Fault::Deaf), (true, false));
        assert_eq!(both(Fault::Mute), (false, true));
        assert_eq!(both(Fault::Lossy), (true, true));
        assert_eq!(both(Fault::Refuse), (false, false));
        assert!(rules(Fault::Refuse).contains("reject with tcp reset"));
        assert!(rules(Fault::Split(1)).contains("ip saddr 10.77.0.3 drop"));
    }
}
