//! How pools of workers stand.

use super::*;

fn pool(bench: &mut Bench, pool: &str, models: &[&str]) -> PoolStanding {
    let (done, mut standing) = oneshot::channel();
    let models = models.iter().map(|model| (*model).into()).collect();
    bench.apply(Event::Pool { pool: pool.into(), models, done });
    standing.try_recv().expect("a standing")
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_pool_is_its_part_of_what_waits_for_its_models() {
    let mut bench = Bench::new();
    assert_eq!(pool(&mut bench, "p", &[]), PoolStanding::default());
    let mut worker = bench.worker_of("p", "a", 1);
    bench.teach(&mut worker).await;
    let other = bench.worker_of("q", "b", 2);
    let mut replies: Vec<Reply> = (0..8).map(|_| bench.call(1)).collect();
    let busy = (worker.run(), other);
    let standing = pool(&mut bench, "p", &["m"]);
    assert_eq!((standing.workers, standing.open_calls, standing.last_call), (1, 8, Some(Duration::ZERO)));
    assert_eq!(standing, pool(&mut bench, "p", &[]));
    // Six of the eight wait, of 10 ms for two, and half of that is for the other pool.
    assert!((Duration::from_millis(5)..Duration::from_millis(40)).contains(&standing.queued), "{standing:?}");
    assert_eq!(standing.queued, pool(&mut bench, "q", &["m"]).queued);
    // 60 batches of 2 ms, in the mean of a minute.
    assert!((0.0019..0.0021).contains(&standing.busy), "{standing:?}");
    assert_eq!(pool(&mut bench, "q", &[]).busy, 0.0);
    // Whom nobody is there for has nothing of what others have.
    let none = pool(&mut bench, "r", &["m"]);
    assert_eq!((none.queued, none.open_calls), (Duration::ZERO, 8));
    drop(busy);
    assert!(replies.iter_mut().all(|reply| reply.try_recv().is_err()));
}
