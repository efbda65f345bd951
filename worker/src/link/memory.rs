//! What the system says of this process and this machine. Zero or empty where it does not say.

use std::fs;

/// Bytes of memory this process holds, now and at most so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) now: u64,
    pub(super) most: u64,
}

impl Held {
    pub(super) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self { now: kibibytes(&status, "VmRSS:"), most: kibibytes(&status, "VmHWM:") }
    }
}

/// Memory of this machine in bytes.
pub(crate) fn installed() -> u64 {
    kibibytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:")
}

/// What the processor calls itself.
pub(crate) fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// The value of a line such as `VmRSS:   1234 kB`, in bytes.
fn kibibytes(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
    value.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_in_kibibytes() {
        assert_eq!(kibibytes("VmHWM:\t   20 kB\nVmRSS:\t    12 kB\n", "VmRSS:"), 12 * 1024);
        assert_eq!(kibibytes("VmHWM:\t   20 kB\n", "VmRSS:"), 0);
    }
}
