//! The GPUs of this machine, as a process of their own finds them: it ends at once, and the server itself never opens the
//! driver, which would keep memory on each.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

/// A driver that has to wake its GPUs first takes seconds for each.
const FIND_TIME_MAX: Duration = Duration::from_secs(60);

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpus {
    /// In the order of their numbers.
    pub gpus: Vec<Gpu>,
    /// Why there are none, in one line.
    pub missing: Option<String>,
}

/// Whether there are GPUs is not known.
#[derive(Debug, thiserror::Error)]
#[error("cannot look for GPUs: {0}")]
pub struct CannotLook(String);

/// A GPU that the driver shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Counted from 0, as the driver counts.
    pub index: u32,
    /// Such as `NVIDIA H200`.
    pub name: String,
    /// As NVIDIA's tools write it: by it or its number `shoal worker --gpu` takes it.
    pub uuid: String,
    /// On the bus.
    pub address: String,
    /// Such as `9.0`.
    pub compute_capability: String,
    /// All of it, in use or not.
    pub memory_bytes: u64,
    /// What keeps a worker from computing on it, in one line.
    pub missing: Option<String>,
}

impl Gpus {
    /// Asks `program`, the running executable, which takes a few milliseconds where there is no driver.
    ///
    /// # Errors
    /// When it does not answer, in time or at all: that there are none is an answer.
    pub async fn find(program: &Path) -> Result<Self, CannotLook> {
        let asked = Command::new(program).args(["devices", "--json"]).stdin(Stdio::null()).kill_on_drop(true).output();
        let problem = match timeout(FIND_TIME_MAX, asked).await {
            Ok(Ok(output)) if output.status.success() => match serde_json::from_slice(&output.stdout) {
                Ok(gpus) => return Ok(gpus),
                Err(error) => error.to_string(),
            },
            Ok(Ok(output)) => {
                let words = String::from_utf8_lossy(&output.stderr);
                format!("{}: {}", output.status, words.lines().last().unwrap_or_default())
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the driver does not answer within {FIND_TIME_MAX:?}"),
        };
        Err(CannotLook(problem))
    }

    /// Those that a worker can compute on.
    pub fn usable(&self) -> Vec<&Gpu> {
        self.gpus.iter().filter(|gpu| gpu.missing.is_none()).collect()
    }

    /// For people.
    pub fn table(&self) -> String {
        if self.gpus.is_empty() {
            return self.to_string();
        }
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header(["GPU", "name", "compute capability", "memory", "UUID", "address", "missing"]);
        for gpu in &self.gpus {
            table.add_row([
                gpu.index.to_string(),
                gpu.name.clone(),
                gpu.compute_capability.clone(),
                format!("{} MiB", gpu.memory_bytes >> 20),
                gpu.uuid.clone(),
                gpu.address.clone(),
                gpu.missing.clone().unwrap_or_else(|| "nothing".to_owned()),
            ]);
        }
        table.to_string()
    }
}

/// In one line.
impl fmt::Display for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gpus.len() {
            0 => return write!(f, "no GPU: {}", self.missing.as_deref().unwrap_or("there is none")),
            1 => f.write_str("1 GPU: ")?,
            count => write!(f, "{count} GPUs: ")?,
        }
        for (at, gpu) in self.gpus.iter().enumerate() {
            write!(f, "{}{} {}", if at > 0 { ", " } else { "" }, gpu.index, gpu.name)?;
            if let Some(missing) = &gpu.missing {
                write!(f, " (of no use: {missing})")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32, name: &str, missing: Option<&str>) -> Gpu {
        Gpu {
            index,
            name: name.into(),
            uuid: format!("GPU-{index}"),
            address: format!("0000:{index:02x}:00.0"),
            compute_capability: "9.0".into(),
            memory_bytes: 3 << 20,
            missing: missing.map(str::to_owned),
        }
    }

    #[test]
    fn what_was_found_is_one_line() {
        let gpus = |gpus| Gpus { gpus, missing: None };
        assert_eq!(gpus(vec![gpu(0, "NVIDIA H200", None)]).to_string(), "1 GPU: 0 NVIDIA H200");
        let two = gpus(vec![gpu(0, "Tesla V100", Some("too old")), gpu(1, "NVIDIA H200", None)]);
        assert_eq!(two.to_string(), "2 GPUs: 0 Tesla V100 (of no use: too old), 1 NVIDIA H200");
        assert_eq!(two.usable(), [&two.gpus[1]]);
        let none = Gpus { gpus: Vec::new(), missing: Some("no driver".into()) };
        assert_eq!(none.to_string(), "no GPU: no driver");
    }

    #[test]
    fn a_table_has_a_row_for_each() {
        let table =
            Gpus { gpus: vec![gpu(0, "Tesla V100", Some("too old")), gpu(1, "NVIDIA H200", None)], missing: None }
                .table();
        assert!(["GPU-0", "too old", "GPU-1", "nothing", "3 MiB"].iter().all(|word| table.contains(word)), "{table}");
    }

    #[test]
    fn what_one_process_writes_another_reads() {
        let gpus = Gpus { gpus: vec![gpu(0, "NVIDIA H200", Some("no NVRTC"))], missing: None };
        let json = serde_json::to_string(&gpus).expect("JSON");
        assert_eq!(serde_json::from_str::<Gpus>(&json).expect("what was written"), gpus);
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_asked_is_no_word_of_there_being_none() {
        for program in ["/nowhere", "/bin/false", "/bin/echo"] {
            let problem = Gpus::find(Path::new(program)).await.expect_err("no answer").to_string();
            assert!(problem.starts_with("cannot look for GPUs: "), "{problem}");
        }
    }
}
