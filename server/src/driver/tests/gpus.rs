//! What workers say of their GPUs, on the page of metrics.

use super::*;
use crate::metrics::GpuHealth;

impl Bench {
    /// Lines of the page on GPUs.
    fn shown(&self) -> Vec<String> {
        let page = self.driver.around.metrics.encode().expect("page");
        page.lines().filter(|line| line.starts_with("shoal_gpu_power_watts{")).map(str::to_owned).collect()
    }
}

fn drawing(watts: f64) -> FromWorker {
    FromWorker::Gpu(Some(GpuHealth { uuid: "GPU-1".into(), power_watts: Some(watts), ..GpuHealth::default() }))
}

#[tokio::test(start_paused = true)]
async fn a_gpu_is_shown_until_its_worker_goes() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    bench.say(&worker, drawing(70.0));
    bench.say(&worker, drawing(300.5));
    assert_eq!(bench.shown(), [r#"shoal_gpu_power_watts{worker="w",uuid="GPU-1"} 300.5"#]);
    bench.apply(Event::ProcessEnded { worker: "w".into(), cause: DownCause::Crashed });
    assert_eq!(bench.shown(), [""; 0]);
    // Of a life that is over.
    bench.say(&worker, drawing(70.0));
    assert_eq!(bench.shown(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_gpu_of_which_nothing_is_known_any_more_is_not_shown() {
    let mut bench = Bench::new();
    let worker = bench.worker("w", 1);
    bench.say(&worker, drawing(70.0));
    bench.say(&worker, FromWorker::Gpu(None));
    assert_eq!(bench.shown(), [""; 0]);
}
