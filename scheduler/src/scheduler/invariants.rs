//! Everything that must hold between two inputs, derived anew.

use alloc::collections::{BTreeMap, BTreeSet};

use super::Scheduler;
use crate::fleet::Holding;
use crate::model::Model;
use crate::pools::Heads;
use crate::requests::Place;
use crate::{BatchId, Class, RequestId, WaitCause};

impl Scheduler {
    /// Checks every index, sum and promise against the requests themselves. For tests and the simulator; takes time in
    /// the number of requests.
    ///
    /// # Panics
    ///
    /// Panics with the name of the first one that does not hold.
    pub fn assert_invariants(&self) {
        self.requests.assert_invariants();
        self.inflight.assert_invariants();
        self.fleet.assert_invariants();
        self.models.values().for_each(|model| model.queue.assert_invariants());
        self.assert_each_request_is_in_its_place();
        self.assert_sums();
        self.assert_batches_and_workers_agree();
        self.assert_nothing_waits_that_could_run();
        self.assert_waits();
        self.assert_workers_know_what_is_wanted();
        self.assert_parts_are_apart();
        let timeout = self.poll_timeout();
        assert!(timeout.is_none_or(|(at, _)| at > self.now), "nothing is due at {:?}: {timeout:?}", self.now);
    }

    fn assert_each_request_is_in_its_place(&self) {
        let mut found = BTreeMap::<RequestId, Place>::new();
        for (id, model) in &self.models {
            assert_eq!(*id, model.config.id, "a model stands under its own id");
            for (item, part) in model.queue.iter() {
                let place = part.map_or(Place::Queued, Place::Isolated);
                assert!(found.insert(item.rank.id, place).is_none(), "request {} is queued once", item.rank.id);
                let request = self.requests.get(item.rank.id).expect("a queued request is live");
                assert_eq!((request.model, request.item(item.rank.id)), (*id, item), "a request as queued");
            }
        }
        for (id, batch) in self.inflight.iter() {
            for request in batch.requests.iter().filter(|request| self.requests.is_running(**request, id)) {
                assert!(found.insert(*request, Place::Running(id)).is_none(), "request {request} is in one place");
                assert!(!batch.withdrawn.contains(request), "a running request was not withdrawn");
            }
        }
        self.hedges.assert_invariants(&self.inflight);
        let places: BTreeMap<_, _> = self.requests.iter().map(|(id, request)| (id, request.place)).collect();
        assert_eq!(places, found, "every live request is where it says it is");
    }

    fn assert_sums(&self) {
        let queued = || self.requests.iter().filter(|(_, request)| !matches!(request.place, Place::Running(_)));
        let mut by_tenant = BTreeMap::new();
        let mut by_class = [0; Class::ALL.len()];
        for (_, request) in queued() {
            *by_tenant.entry(request.tenant).or_insert(0) += 1;
            by_class[request.class as usize] += 1;
        }
        assert_eq!(self.admission.queued_by_tenant(), by_tenant, "requests queued by tenant");
        assert_eq!(self.admission.queued_by_class(), by_class, "requests queued by class");
        let bytes: u64 = queued().map(|(_, request)| request.cost.bytes).sum();
        assert_eq!(self.admission.bytes_queued(), bytes, "bytes queued");
        let wakes: BTreeSet<_> = self.models.iter().filter_map(|(id, model)| Some((model.wake?, *id))).collect();
        assert_eq!(self.wakes, wakes, "the index of policy wakes");
    }

    fn assert_batches_and_workers_agree(&self) {
        let mut held = BTreeSet::<BatchId>::new();
        for (worker, epoch, link) in self.fleet.connected() {
            let mut rows = 0;
            for (position, id) in link.outstanding.iter().enumerate() {
                let batch = self.inflight.get(*id).expect("an outstanding batch is in flight");
                assert_eq!((batch.worker, batch.epoch), (worker, epoch), "batch {id} is with worker {worker}");
                assert_eq!(batch.overdue.is_some(), position == 0, "the clock of batch {id} runs when it is first");
                assert!(!batch.is_probe || position == 0, "probe {id} waits for nothing");
                assert_eq!(batch.is_probe, batch.requests.is_empty(), "batch {id} is a probe or has requests");
                rows += u64::from(batch.rows);
                held.insert(*id);
            }
            assert_eq!(link.rows, rows, "rows outstanding of worker {worker}");
        }
        let in_flight: BTreeSet<_> = self.inflight.iter().map(|(id, _)| id).collect();
        assert_eq!(held, in_flight, "every batch in flight is with a connected worker");
    }

    fn assert_nothing_waits_that_could_run(&self) {
        assert!(self.stirred.is_empty(), "every stirred model was looked at");
        let seeking = self.seeking.iter().filter_map(|id| self.models.get(id)?.wake);
        assert_eq!(seeking.count(), self.seeking.len(), "who seeks a worker waits");
        assert!(self.unlisted.is_empty() || self.fleet.credits() == 0, "lists are true while a worker is free");
        let is_active = |model: &Model| match self.unlisted.contains(model.config.id) {
            true => model.is_active,
            false => model.queue.on_time().requests > 0,
        };
        let active = self.models.values().filter(|model| is_active(model)).count();
        assert_eq!(active, self.active, "models with a request that can still be on time");
        assert!(!self.is_probe_due(), "no worker that could run a probe is idle");
        for (id, model) in &self.models {
            assert!(model.wake.is_none() || !model.queue.is_empty(), "model {id} wakes for something");
            // When they must start changes with what is learned; which requests lead them does not.
            let ranks = |heads: Heads| heads.map(|head| head.map(|(.., rank)| rank));
            if !self.unlisted.contains(*id) {
                assert_eq!(ranks(model.heads(1)), ranks(model.listed), "model {id} is listed as it waits");
                self.fleet.pools.assert_listed(*id, &model.listed);
            }
            if self.worker_for(*id).is_some() {
                assert_eq!(model.queue.part_head(None), None, "model {id} has a credit and a part to run");
                assert!(
                    model.wake.is_some() || model.queue.line().is_empty(),
                    "model {id} has a credit and does not wait"
                );
            }
        }
    }

    fn assert_waits(&self) {
        for (id, model) in &self.models {
            let holds = |wanted: Holding| {
                let mut holdings = self.fleet.connected().filter_map(|(_, _, link)| link.holdings.get(id));
                holdings.any(|holding| *holding == wanted)
            };
            assert!(!holds(Holding::Unloading), "model {id} is wanted, and a worker was told to unload it");
            let expected = match () {
                () if holds(Holding::Ready) => WaitCause::WorkersBusy,
                () if holds(Holding::Loading) => WaitCause::Loading,
                () => WaitCause::NoWorker,
            };
            let (workers, policy) = model.waits.settings();
            assert_eq!(workers, expected, "what workers keep model {id} waiting for");
            // Where workers serve others as well, who may be late is looked at again even if nobody waits.
            assert!(policy.is_none() || model.wake.is_some(), "the policy of model {id} waits until some time");
            assert!(policy.is_some() || model.wake.is_none() || self.is_sharing, "model {id} waits for something");
        }
    }

    fn assert_parts_are_apart(&self) {
        if self.is_sharing {
            return;
        }
        for (worker, _, link) in self.fleet.connected() {
            let is_apart = |id: &BatchId| self.inflight.get(*id).is_some_and(|batch| batch.isolated);
            assert_eq!(link.outstanding.iter().any(is_apart), link.is_apart, "worker {worker} has a part");
            assert!(!link.is_apart || link.outstanding.len() == 1, "nothing is beside the part of worker {worker}");
            let is_held = self.held.values().any(|held| *held == worker);
            assert_eq!(is_held, link.is_held, "worker {worker} is held");
            assert!(
                !is_held || (!link.outstanding.is_empty() && link.credits() > 0),
                "worker {worker} is held in vain"
            );
        }
        for (id, model) in &self.models {
            let (are_held, first) = (self.held.contains_key(id), model.queue.first_part());
            assert_eq!(are_held, model.queue.are_parts_held(), "a worker is held for model {id}");
            assert!(!are_held || first.is_some(), "model {id} has a part to hold a worker for");
            assert!(first.is_none() || self.idle_for(*id).is_none(), "model {id} has a part and a worker is idle");
        }
        assert!(self.held.keys().all(|id| self.models.contains_key(id)), "workers are held for models that are there");
    }

    fn assert_workers_know_what_is_wanted(&self) {
        if !self.is_sharing {
            assert_eq!(self.bids.iter().count(), 0, "nobody asks for turns where there are credits");
            return;
        }
        assert_eq!(self.fleet.credits(), 0, "turns are not kept");
        let told: BTreeSet<_> = self.bids.iter().map(|(worker, model, _)| (worker, model)).collect();
        let mut wanted = BTreeSet::new();
        for (worker, _, link) in self.fleet.connected() {
            let models = link.ready_models().filter(|model| self.next_for(*model, worker).want.is_some());
            wanted.extend(models.map(|model| (worker, model)));
        }
        assert_eq!(told, wanted, "workers know what is wanted of them");
    }
}
