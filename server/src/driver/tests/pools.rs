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
    let mut worker = bench.connect_as(None, "p", "a", 1);
    // What is on its way into its memory is waited for.
    let early = bench.call(1);
    assert_eq!(pool(&mut bench, "p", &[]).open_calls, 1);
    drop(early);
    bench.driver.cancel(Instant::now(), GroupId(1));
    bench.hold_m(&mut worker);
    bench.teach(&mut worker).await;
    let mut replies: Vec<Reply> = (0..4).map(|_| bench.call(1)).collect();
    let alone = pool(&mut bench, "p", &["m"]);
    assert_eq!((alone.open_calls, alone.last_call, alone.queued_elsewhere), (4, Some(Duration::ZERO), Duration::ZERO));
    let other = bench.worker_of("q", "b", 2);
    replies.extend((0..4).map(|_| bench.call(1)));
    let busy = (worker.run(), other);
    let standing = pool(&mut bench, "p", &["m"]);
    // What others hold as well is theirs until too much of it waits: half of all, as there are two.
    assert_eq!((standing.workers, standing.open_calls, standing.last_call), (1, 0, None));
    assert_eq!(standing.queued_elsewhere, standing.queued);
    assert_eq!(standing, pool(&mut bench, "p", &[]));
    // Six of the eight wait, of 10 ms for two, and half of that is for the other pool.
    assert!((Duration::from_millis(5)..Duration::from_millis(40)).contains(&standing.queued), "{standing:?}");
    assert_eq!(standing.queued, pool(&mut bench, "q", &["m"]).queued);
    // 60 batches of 2 ms, in the mean of a minute.
    assert!((0.0019..0.0021).contains(&standing.busy), "{standing:?}");
    assert_eq!(pool(&mut bench, "q", &[]).busy, 0.0);
    // Whom nobody is there for has nothing of what others have.
    let none = pool(&mut bench, "r", &["m"]);
    assert_eq!((none.queued, none.queued_elsewhere), (Duration::ZERO, standing.queued));
    drop(busy);
    assert!(replies.iter_mut().all(|reply| reply.try_recv().is_err()));
}
