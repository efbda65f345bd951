//! How workers' GPUs are: gauges that are there for as long as something is known, and go with their worker.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// A worker's GPU, as the worker reads it. What it does not know is unset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GpuHealth {
    /// As NVIDIA's tools write it.
    pub uuid: String,
    /// Such as `NVIDIA H200`.
    pub name: String,
    pub memory_bytes: Option<u64>,
    /// By all processes.
    pub memory_used_bytes: Option<u64>,
    pub power_watts: Option<f64>,
    pub temperature_celsius: Option<f64>,
    /// How much of the last moment any kernel ran, of 1.
    pub utilization_ratio: Option<f64>,
}

/// What was told last of each worker's GPU.
#[derive(Clone, Debug, Default)]
pub(super) struct GpuGauges(Arc<Mutex<BTreeMap<Arc<str>, GpuHealth>>>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GpuLabels {
    worker: String,
    uuid: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InfoLabels {
    worker: String,
    uuid: String,
    name: String,
}

/// What one gauge shows.
struct Shown {
    name: &'static str,
    help: &'static str,
    unit: fn() -> Unit,
    value: fn(&GpuHealth) -> Option<f64>,
}

const SHOWN: [Shown; 5] = [
    Shown {
        name: "gpu_memory",
        help: "Memory of the GPU",
        unit: || Unit::Bytes,
        value: |gpu| gpu.memory_bytes.map(|bytes| bytes as f64),
    },
    Shown {
        name: "gpu_memory_used",
        help: "Memory of the GPU in use, by all processes",
        unit: || Unit::Bytes,
        value: |gpu| gpu.memory_used_bytes.map(|bytes| bytes as f64),
    },
    Shown {
        name: "gpu_power",
        help: "Power that the GPU draws",
        unit: || Unit::Other("watts".to_owned()),
        value: |gpu| gpu.power_watts,
    },
    Shown {
        name: "gpu_temperature",
        help: "Temperature of the GPU",
        unit: || Unit::Celsius,
        value: |gpu| gpu.temperature_celsius,
    },
    Shown {
        name: "gpu_utilization",
        help: "Part of the time in which the GPU ran any kernel",
        unit: || Unit::Other("ratio".to_owned()),
        value: |gpu| gpu.utilization_ratio,
    },
];

impl GpuGauges {
    /// What is known of a worker's GPU now; none if that is nothing any more.
    pub(super) fn set(&self, worker: &Arc<str>, health: Option<GpuHealth>) {
        match health {
            Some(health) => self.known().insert(worker.clone(), health),
            None => self.known().remove(worker),
        };
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, GpuHealth>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for GpuGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let known = self.known().clone();
        let mut info = encoder.encode_descriptor("gpu_info", "1 for each worker's GPU", None, MetricType::Gauge)?;
        for (worker, gpu) in &known {
            let labels = InfoLabels { worker: worker.to_string(), uuid: gpu.uuid.clone(), name: gpu.name.clone() };
            info.encode_family(&labels)?.encode_gauge(&1_i64)?;
        }
        for Shown { name, help, unit, value } in &SHOWN {
            let unit = unit();
            let mut gauge = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?;
            for (worker, gpu) in &known {
                if let Some(value) = value(gpu) {
                    let labels = GpuLabels { worker: worker.to_string(), uuid: gpu.uuid.clone() };
                    gauge.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    fn shown(metrics: &Metrics) -> Vec<String> {
        let page = metrics.encode().expect("page");
        page.lines().filter(|line| line.starts_with("shoal_gpu_")).map(str::to_owned).collect()
    }

    #[test]
    fn a_gpu_is_shown_with_standard_units_until_its_worker_goes() {
        let (metrics, worker) = (Metrics::new(), Arc::from("local-0"));
        let health = GpuHealth {
            uuid: "GPU-1".into(),
            name: "NVIDIA \"H200\"".into(),
            memory_bytes: Some(151 << 30),
            memory_used_bytes: Some(1 << 30),
            power_watts: Some(123.5),
            temperature_celsius: Some(41.0),
            utilization_ratio: Some(0.25),
        };
        metrics.gpu(&worker, Some(health));
        let expected = [
            r#"shoal_gpu_info{worker="local-0",uuid="GPU-1",name="NVIDIA \"H200\""} 1"#,
            r#"shoal_gpu_memory_bytes{worker="local-0",uuid="GPU-1"} 162135015424.0"#,
            r#"shoal_gpu_memory_used_bytes{worker="local-0",uuid="GPU-1"} 1073741824.0"#,
            r#"shoal_gpu_power_watts{worker="local-0",uuid="GPU-1"} 123.5"#,
            r#"shoal_gpu_temperature_celsius{worker="local-0",uuid="GPU-1"} 41.0"#,
            r#"shoal_gpu_utilization_ratio{worker="local-0",uuid="GPU-1"} 0.25"#,
        ];
        assert_eq!(shown(&metrics), expected);
        metrics.gpu(&worker, None);
        assert_eq!(shown(&metrics), [""; 0]);
    }

    #[test]
    fn what_is_not_known_of_a_gpu_is_not_shown() {
        let metrics = Metrics::new();
        let part = |uuid: &str| GpuHealth { uuid: uuid.into(), memory_used_bytes: Some(7), ..GpuHealth::default() };
        metrics.gpu(&Arc::from("a"), Some(part("MIG-1")));
        metrics.gpu(&Arc::from("b"), Some(part("MIG-2")));
        let expected = [
            r#"shoal_gpu_info{worker="a",uuid="MIG-1",name=""} 1"#,
            r#"shoal_gpu_info{worker="b",uuid="MIG-2",name=""} 1"#,
            r#"shoal_gpu_memory_used_bytes{worker="a",uuid="MIG-1"} 7.0"#,
            r#"shoal_gpu_memory_used_bytes{worker="b",uuid="MIG-2"} 7.0"#,
        ];
        assert_eq!(shown(&metrics), expected);
    }
}
