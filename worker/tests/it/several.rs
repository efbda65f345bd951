//! Several servers that share one worker.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_proto::link::batch_failed::Reason;
use shoal_proto::link::{
    Cancel, Drain, Fragment, ItemResult, Load, ModelSource, Refused, SyntheticSource, Turn, Unload, control_request,
    control_response, data_response, model_source, model_state, refused, turn,
};
use shoal_worker::{Endpoint, Exit, Options, Refusal, Resolver};

use crate::begun;
use crate::server::{Peer, Server, Worker, text_run, within};

/// Two servers, a worker that serves both, and the model in its memory for both.
struct Two {
    first: Server,
    /// Ends with its owner.
    _second: Server,
    worker: Worker,
    one: Peer,
    two: Peer,
    /// Numbers batches that only keep the device busy.
    rounds: u64,
}

impl Two {
    async fn start() -> Self {
        let (mut first, mut second) = (Server::start().sharing(1), Server::start().sharing(2));
        let worker = Worker::start(both(&first, &second));
        // Their epochs are the same: they number connections each for itself.
        let (mut one, mut two) = (first.peer(1).await, second.peer(1).await);
        one.load_synthetic().await;
        two.load_synthetic().await;
        Self { first, _second: second, worker, one, two, rounds: 1000 }
    }

    /// One turn for both, once a batch of the first is over that they waited for.
    async fn turns(&mut self) -> (Turn, Turn) {
        self.one.bid("synthetic", 1).await;
        let turn = self.one.turn().await;
        self.rounds += 1;
        let mut run = text_run(self.rounds, &["!sleep 300ms"]);
        let begun = begun::awaited(&mut run);
        self.one.run_in(&turn, run).await;
        within(begun).await.unwrap();
        self.one.bid("synthetic", 2).await;
        self.two.bid("synthetic", 3).await;
        self.one.answer(self.rounds).await.items();
        (self.one.turn().await, self.two.turn().await)
    }
}

fn both(first: &Server, second: &Server) -> Options {
    let mut options = first.options();
    options.connect.push(second.endpoint.clone());
    // So that no turn ends before a busy machine has come to answer it.
    options.turn_wait_max = Duration::from_secs(10);
    options
}

fn indices(items: &[ItemResult]) -> Vec<u32> {
    items.iter().map(|item| item.index).collect()
}

#[tokio::test]
async fn what_comes_in_one_turn_runs_as_one_batch() {
    let mut all = Two::start().await;
    let (turn, other) = all.turns().await;
    assert_eq!((turn.slot, turn.kind()), (other.slot, turn::Kind::OnTime));
    assert_eq!((turn.own.unwrap().rows, turn.others.unwrap().rows), (2, 3));
    assert_eq!((other.own.unwrap().rows, other.others.unwrap().rows), (3, 2));
    all.one.run_in(&turn, text_run(7, &["a", "b"])).await;
    all.two.run_in(&other, text_run(7, &["c", "!sleep 20ms", "a"])).await;
    let (mine, theirs) = (all.one.answer(7).await.items(), all.two.answer(7).await.items());
    assert_eq!((indices(&mine), indices(&theirs)), (vec![0, 1], vec![0, 1, 2]));
    assert_eq!(mine[0].tensors, theirs[2].tensors, "the same text has the same answer");
    assert_ne!(mine[1].tensors, theirs[0].tensors);
    let others = |peer: &Peer| peer.begun.last().map(|begun| begun.others.unwrap().rows);
    assert_eq!((others(&all.one), others(&all.two)), (Some(3), Some(2)));
    assert_eq!(all.one.stats().await.batches, 2, "and not three");
}

#[tokio::test]
async fn one_that_passes_is_not_waited_for() {
    let mut all = Two::start().await;
    let (turn, other) = all.turns().await;
    all.two.pass(&other).await;
    all.one.run_in(&turn, text_run(7, &["a"])).await;
    assert_eq!(all.one.answer(7).await.items().len(), 1);
}

#[tokio::test]
async fn a_failure_of_the_whole_is_told_to_each_and_one_of_a_row_to_its_own() {
    let mut all = Two::start().await;
    let (turn, other) = all.turns().await;
    all.one.run_in(&turn, text_run(7, &["good"])).await;
    all.two.run_in(&other, text_run(8, &["!break"])).await;
    assert_eq!(all.one.answer(7).await.failed().reason(), Reason::Item);
    assert_eq!(all.two.answer(8).await.failed().reason(), Reason::Item);

    let (turn, other) = all.turns().await;
    all.one.run_in(&turn, text_run(9, &["good"])).await;
    all.two.run_in(&other, text_run(10, &["good", "!fail too odd"])).await;
    assert!(all.one.answer(9).await.items()[0].error.is_none());
    let items = all.two.answer(10).await.items();
    assert_eq!(items.iter().map(|item| item.error.is_some()).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn a_cancel_and_a_deadline_are_their_own_servers_alone() {
    let mut all = Two::start().await;
    let (turn, other) = all.turns().await;
    // It would break the batch if it ran. The cancel is heard before the last bytes come.
    let mut run = text_run(7, &["kept", "!break"]);
    let rest = run.columns[0].data.split_off(3);
    all.one.run_in(&turn, run).await;
    all.one.send(control_response::Message::Cancel(Cancel { batch: 7, items: vec![1] })).await;
    all.one.barrier().await;
    let mut late = text_run(7, &["kept", "!break"]);
    late.items[1].remaining_micros = Some(-1);
    all.two.run_in(&other, late).await;
    all.one.send_data(data_response::Message::Fragment(Fragment { data: rest })).await;
    assert_eq!(indices(&all.one.answer(7).await.items()), [0]);
    let items = all.two.answer(7).await.items();
    assert_eq!(items.iter().map(|item| item.error.is_some()).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn a_server_that_is_lost_takes_its_own_batches_along_and_nothing_else() {
    let mut all = Two::start().await;
    let (turn, other) = all.turns().await;
    let mut run = text_run(7, &["!sleep 100ms"]);
    let begun = begun::awaited(&mut run);
    all.one.run_in(&turn, text_run(7, &["lost"])).await;
    all.two.run_in(&other, run).await;
    within(begun).await.unwrap();
    drop(all.one);
    assert_eq!(all.two.answer(7).await.items().len(), 1);
    all.two.bid("synthetic", 1).await;
    let turn = all.two.turn().await;
    all.two.run_in(&turn, text_run(8, &["on"])).await;
    assert_eq!(all.two.answer(8).await.items().len(), 1);
    // It is dialled again, and the model is there.
    let mut again = all.first.peer(2).await;
    again.load_synthetic().await;
    again.bid("synthetic", 1).await;
    let turn = again.turn().await;
    again.run_in(&turn, text_run(1, &["back"])).await;
    assert_eq!(again.answer(1).await.items().len(), 1);
}

#[tokio::test]
async fn a_server_that_is_lost_before_its_part_began_is_dialled_again_at_once() {
    let mut all = Two::start().await;
    let (turn, other) = all.turns().await;
    // The other does not answer, so that this one is not begun yet when its server goes.
    all.one.run_in(&turn, text_run(7, &["!sleep 1s"])).await;
    drop(all.one);
    let again = all.first.peer(2).await;
    all.two.run_in(&other, text_run(8, &["on"])).await;
    all.two.answer(8).await.items();
    drop(again);
}

#[tokio::test]
async fn a_server_that_asks_for_a_drain_is_left_and_dialled_again_and_the_other_served() {
    let mut all = Two::start().await;
    all.one.send(control_response::Message::Drain(Drain::default())).await;
    match all.one.try_control().await {
        Some(control_request::Message::Goodbye(goodbye)) => assert!(goodbye.drained),
        other => panic!("no goodbye but {other:?}"),
    }
    all.two.bid("synthetic", 1).await;
    let turn = all.two.turn().await;
    all.two.run_in(&turn, text_run(8, &["on"])).await;
    assert_eq!(all.two.answer(8).await.items().len(), 1);
    drop(all.one);
    all.first.peer(2).await;
}

#[tokio::test]
async fn a_stop_answers_what_every_server_sent() {
    let mut all = Two::start().await;
    let (turn, other) = all.turns().await;
    all.one.run_in(&turn, text_run(7, &["!sleep 50ms"])).await;
    all.worker.stop();
    all.two.run_in(&other, text_run(8, &["last"])).await;
    for (peer, batch) in [(&mut all.one, 7), (&mut all.two, 8)] {
        assert_eq!(peer.answer(batch).await.items().len(), 1);
    }
    for peer in [&mut all.one, &mut all.two] {
        match peer.try_control().await {
            Some(control_request::Message::Goodbye(goodbye)) => assert!(goodbye.drained),
            other => panic!("no goodbye but {other:?}"),
        }
    }
    drop((all.one, all.two));
    assert_eq!(all.worker.exit().await, Exit::Drained);
}

#[tokio::test]
async fn a_model_stays_as_long_as_a_server_wants_it() {
    let mut all = Two::start().await;
    let unload = || control_response::Message::Unload(Unload { model: "synthetic".to_owned() });
    all.one.send(unload()).await;
    assert_eq!(all.one.model_state().await.state(), model_state::State::Unloaded);
    all.two.bid("synthetic", 1).await;
    let turn = all.two.turn().await;
    all.two.run_in(&turn, text_run(8, &["still there"])).await;
    assert_eq!(all.two.answer(8).await.items().len(), 1);
    all.two.send(unload()).await;
    assert_eq!(all.two.model_state().await.state(), model_state::State::Unloaded);
}

/// As it is while a server is started anew, or its link breaks for a moment.
#[tokio::test]
async fn a_model_stays_for_a_server_that_is_expected_back() {
    let mut all = Two::start().await;
    drop(all.one);
    // It is dialled again, so the worker knows that it was lost.
    let caller = all.first.call().await;
    all.two.send(control_response::Message::Unload(Unload { model: "synthetic".to_owned() })).await;
    assert_eq!(all.two.model_state().await.state(), model_state::State::Unloaded);
    let mut again = all.first.welcome(caller, 2, Duration::from_secs(5)).await;
    let source = model_source::Source::Synthetic(SyntheticSource { faults: true, ..SyntheticSource::default() });
    let source = Some(ModelSource { source: Some(source) });
    let load = Load { model: "synthetic".to_owned(), source, ..Load::default() };
    again.send(control_response::Message::Load(load)).await;
    assert_eq!(again.model_state().await.state(), model_state::State::Ready, "and is not read again");
}

#[tokio::test]
async fn a_server_that_does_not_share_is_not_served_beside_others() {
    let (mut first, mut second) = (Server::start().sharing(1), Server::start());
    let _worker = Worker::start(both(&first, &second));
    let mut one = first.peer(1).await;
    one.load_synthetic().await;
    for _ in 0..2 {
        second.call().await.sees_it_leave_after_welcome(false, 0).await;
    }
    one.bid("synthetic", 1).await;
    one.turn().await;
}

#[tokio::test]
async fn one_server_under_two_addresses_is_attached_once() {
    let (mut first, mut second) = (Server::start().sharing(1), Server::start().sharing(1));
    let _worker = Worker::start(both(&first, &second));
    let mut one = first.peer(1).await;
    second.call().await.sees_it_leave_after_welcome(true, 1).await;
    one.load_synthetic().await;
}

/// As where `localhost` stands for an address of IPv6 as well, on which the server does not listen.
#[tokio::test]
async fn a_server_that_refuses_it_for_good_ends_it_though_its_name_has_an_address_where_nobody_answers() {
    let mut server = Server::start_tcp().await.sharing(1);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = vec![free.local_addr().unwrap(), address(&server)];
    drop(free);
    let mut options = server.options();
    options.connect = vec!["http://shoal-workers:8003".parse().unwrap()];
    options.resolver = Resolver::new(move |_, _| {
        let answer = addresses.clone();
        async move { Ok(answer) }
    });
    let worker = Worker::start(options);
    let refused = Refused { reason: refused::Reason::Auth.into(), detail: "wrong token".to_owned() };
    server.call().await.refuse(refused).await;
    assert_eq!(worker.exit().await, Exit::Refused { reason: Refusal::Auth, detail: "wrong token".to_owned() });
}

/// Where another server is told of by itself, it may yet come and want the worker.
#[tokio::test]
async fn one_that_refuses_it_for_good_does_not_speak_for_another() {
    let mut server = Server::start_tcp().await.sharing(1);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = server.options();
    options.connect.push(format!("http://{}", free.local_addr().unwrap()).parse().unwrap());
    drop(free);
    let _worker = Worker::start(options);
    for _ in 0..3 {
        let refused = Refused { reason: refused::Reason::Auth.into(), detail: "wrong token".to_owned() };
        server.call().await.refuse(refused).await;
    }
    server.peer(1).await;
}

fn address(server: &Server) -> SocketAddr {
    let Endpoint::Tcp(uri) = &server.endpoint else { panic!("{}", server.endpoint) };
    uri.trim_start_matches("http://").parse().unwrap()
}

#[tokio::test]
async fn servers_behind_a_name_come_and_go_with_what_it_stands_for() {
    let (mut first, mut second) = (Server::start_tcp().await.sharing(1), Server::start_tcp().await.sharing(2));
    let (here, there) = (address(&first), address(&second));
    let names = Arc::new(Mutex::new(vec![here]));
    let mut options = first.options();
    options.connect = vec!["http://shoal-workers:8003".parse().unwrap()];
    options.resolve_every = Duration::from_millis(20);
    let known = names.clone();
    options.resolver = Resolver::new(move |host, port| {
        assert_eq!((host.as_str(), port), ("shoal-workers", 8003));
        let answer = known.lock().unwrap().clone();
        async move { Ok(answer) }
    });
    let _worker = Worker::start(options);
    let mut one = first.peer(1).await;
    *names.lock().unwrap() = vec![here, there];
    let mut two = second.peer(1).await;
    // A server that drains is out of the name at once, and its calls are still to be answered.
    *names.lock().unwrap() = vec![there];
    one.load_synthetic().await;
    two.load_synthetic().await;
    one.bid("synthetic", 1).await;
    let turn = one.turn().await;
    one.run_in(&turn, text_run(1, &["answered"])).await;
    assert_eq!(one.answer(1).await.items().len(), 1);
    drop(one);
    two.bid("synthetic", 1).await;
    let turn = two.turn().await;
    two.run_in(&turn, text_run(1, &["on"])).await;
    assert_eq!(two.answer(1).await.items().len(), 1);
    // Longer than the first rest before a server is dialled again.
    let again = tokio::time::timeout(Duration::from_millis(500), first.call()).await;
    assert!(again.is_err(), "it was dialled again");
}
