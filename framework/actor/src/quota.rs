//! How many processors this process may use.

use std::path::{Path, PathBuf};

/// Processors this process may use: its CPU affinity and the quotas of its cgroups (version 2 and 1),
/// whichever is least, a fraction rounded up, at least 1.
///
/// Rounded up, since a quota of 1.5 keeps two threads busy three quarters of the time, while one
/// thread would leave a third of it unused.
///
/// ```
/// assert!(afflux_actor::cpu_quota() >= 1);
/// ```
pub fn cpu_quota() -> usize {
    quota_below(Path::new("/"))
}

fn quota_below(root: &Path) -> usize {
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    let affinity = read(root.join("proc/self/status"))
        .and_then(|status| status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).map(count_list))
        .filter(|n| *n > 0)
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    let groups = read(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut least = affinity;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let path = Path::new(path.trim_start_matches('/'));
        // A limit binds everything below it, so every ancestor is asked. Inside a container the path
        // may be the host's: the ancestors end at the mount point, which is the container's own group.
        for group in path.ancestors() {
            let limit = if id == "0" && controllers.is_empty() {
                read(root.join("sys/fs/cgroup").join(group).join("cpu.max")).and_then(|t| max_v2(&t))
            } else if controllers.split(',').any(|c| c == "cpu") {
                let base = root.join("sys/fs/cgroup/cpu").join(group);
                read(base.join("cpu.cfs_quota_us"))
                    .zip(read(base.join("cpu.cfs_period_us")))
                    .and_then(|(quota, period)| rounded_up(quota.trim(), period.trim()))
            } else {
                None
            };
            least = least.min(limit.unwrap_or(usize::MAX));
        }
    }
    least.max(1)
}

/// The processors of a list such as `0-3,8`.
fn count_list(list: &str) -> usize {
    list.trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
            Some(last.checked_sub(first)?.saturating_add(1))
        })
        .fold(0, usize::saturating_add)
}

/// The limit in a `cpu.max` such as `150000 100000`; none for `max 100000`.
fn max_v2(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    rounded_up(quota, period)
}

fn rounded_up(quota: &str, period: &str) -> Option<usize> {
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    if quota == 0 || period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota_with(files: &[(&str, &str)]) -> usize {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        quota_below(root.path())
    }

    const SIXTEEN: (&str, &str) = ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-11,16-19\n");

    #[test]
    fn without_a_quota_the_affinity_decides() {
        assert_eq!(quota_with(&[SIXTEEN]), 16);
        assert_eq!(
            quota_with(&[SIXTEEN, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpu.max", "max 100000\n")]),
            16
        );
    }

    #[test]
    fn a_fraction_of_a_version_2_quota_counts_as_a_whole_processor() {
        let files =
            [SIXTEEN, ("proc/self/cgroup", "0::/a/b\n"), ("sys/fs/cgroup/a/b/cpu.max", "150000 100000\n")];
        assert_eq!(quota_with(&files), 2);
    }

    #[test]
    fn the_least_of_all_ancestors_binds() {
        let files = [
            SIXTEEN,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "800000 100000\n"),
            ("sys/fs/cgroup/a/cpu.max", "300000 100000\n"),
        ];
        assert_eq!(quota_with(&files), 3);
    }

    #[test]
    fn a_version_1_quota_is_read_and_minus_one_means_none() {
        let group = ("proc/self/cgroup", "4:memory:/x\n1:cpu,cpuacct:/\n");
        let period = ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        assert_eq!(
            quota_with(&[SIXTEEN, group, period, ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000\n")]),
            3
        );
        assert_eq!(quota_with(&[SIXTEEN, group, period, ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")]), 16);
    }

    #[test]
    fn damaged_files_never_give_zero() {
        for text in ["", "0 0", "max", "-5 100", "1 99999999999999999999", "x y z"] {
            let n = quota_with(&[
                SIXTEEN,
                ("proc/self/cgroup", "0::/\n::\n\n7"),
                ("sys/fs/cgroup/cpu.max", text),
            ]);
            assert_eq!(n, 16, "{text:?}");
        }
        assert_eq!(count_list("5-2,,x"), 0);
    }
}
