//! What else the machine does while something is measured. Only Linux says.

use std::time::Instant;

use anyhow::Context as _;
use shoal_benches::cpu_seconds;

/// Others may take so much of all processors before a measurement says little.
pub(crate) const OTHERS_MAX: f64 = 0.2;

/// What everybody but this program and its children takes of the machine, from now on.
pub(crate) struct Others {
    began: Instant,
    busy: f64,
    own: f64,
}

impl Others {
    /// `served` is what the server had used by now: it lives on, so that this program's own account lacks it.
    pub(crate) fn from_now(served: f64) -> anyhow::Result<Self> {
        Ok(Self { began: Instant::now(), busy: busy_seconds()?, own: cpu_seconds(std::process::id())? + served })
    }

    /// Their part of the time of all processors until now, in [0, 1].
    pub(crate) fn share(&self, served: f64) -> anyhow::Result<f64> {
        let own = cpu_seconds(std::process::id())? + served - self.own;
        let all = self.began.elapsed().as_secs_f64() * processors()? as f64;
        Ok(((busy_seconds()? - self.busy - own) / all).clamp(0.0, 1.0))
    }
}

/// Over the last minute: runnable threads, one's own included.
pub(crate) fn load_average() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().context("a number")?.parse()?)
}

/// In one line: the processor as the kernel names it, which virtual machines may hide, and how many there are.
pub(crate) fn description() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value)
    };
    let (name, family, model) = (field("model name"), field("cpu family"), field("model\t"));
    Ok(format!("{name} (family {family}, model {model}), {} processors", processors()?))
}

fn processors() -> anyhow::Result<usize> {
    Ok(std::thread::available_parallelism()?.get())
}

fn busy_seconds() -> anyhow::Result<f64> {
    busy_ticks(&std::fs::read_to_string("/proc/stat")?).map(|ticks| ticks / 100.0)
}

/// All but idle and waiting for disks; what the hypervisor's other guests took counts.
fn busy_ticks(stat: &str) -> anyhow::Result<f64> {
    let line = stat.lines().next().context("a first line")?;
    let fields = line.split_whitespace().skip(1).take(8).map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(fields.len() == 8, "/proc/stat begins with: {line}");
    Ok(fields.iter().sum::<f64>() - fields[3] - fields[4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_waiting_for_disks_are_not_busy() {
        let ticks = busy_ticks("cpu  10 1 5 1000 300 2 3 4 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n").unwrap();
        assert_eq!(ticks, 25.0);
        assert!(busy_ticks("intr 7").is_err());
    }

    #[test]
    fn what_this_program_does_is_not_done_by_others() {
        let others = Others::from_now(0.0).unwrap();
        let own = || cpu_seconds(std::process::id()).unwrap() - others.own;
        // Ten ticks, however long that takes on a busy machine.
        while own() < 0.1 {}
        assert!((0.0..=1.0).contains(&others.share(0.0).unwrap()));
        // Had the server used all of it, nothing would be left for others.
        assert_eq!(others.share(1e6).unwrap(), 0.0);
    }
}
