use core::hint::black_box;
use std::time::Instant;

use super::{W, gpu, mixed, taken};
use crate::cost::Costs;
use crate::cost::tests::noise::Noise;

#[test]
#[ignore = "measures: run alone, in release, with --nocapture"]
fn what_a_call_costs() {
    let mut noise = Noise::new(1);
    let mut costs = Costs::new(None);
    let batches: Vec<_> = (0..1_000)
        .map(|batch| {
            let size = mixed(&mut noise);
            (W[batch % 4], size, taken(&gpu(), size, noise.factor(0.1)))
        })
        .collect();
    let nanos = |what: &str, mut call: Box<dyn FnMut() + '_>| {
        let best = (0..200).map(|_| {
            let started = Instant::now();
            call();
            started.elapsed().as_nanos() as f64 / batches.len() as f64
        });
        println!("{what}: {:.1} ns a call", best.fold(f64::MAX, f64::min));
    };
    nanos(
        "observe",
        Box::new(|| batches.iter().for_each(|(worker, size, taken)| costs.observe(*worker, *size, *taken))),
    );
    let costs = &costs;
    nanos(
        "expected",
        Box::new(|| {
            for (worker, size, _) in &batches {
                black_box(costs.expected(*worker, *size));
            }
        }),
    );
    nanos(
        "high",
        Box::new(|| {
            for (worker, size, _) in &batches {
                black_box(costs.high(*worker, *size));
            }
        }),
    );
}
