//! A world in which a day of Shoal's scheduling takes milliseconds and any minute of it can be had again.
//!
//! One seed makes one [`Plan`]: clients, models, workers, links, and which faults there are. [`run`] plays it against the
//! real core in virtual time; a [`Judge`] reads every input and output and compares them with a naive account of the same
//! contract. What is simulated is everything but the core. What is absent is real time, real payloads and threads: a run
//! depends on its seed and on nothing else.
//!
//! ```
//! let run = shoal_sim::run(shoal_sim::Plan::draw(1));
//! assert_eq!(run.verdict, Ok(()), "{}", run.transcript);
//! ```
//!
//! That world is for finding mistakes. Beside it is one for measuring policies: a [`scenario`] says what the models,
//! workers and clients are like, [`play`](mod@play) runs it without judging a step, [`score`] counts, [`bound`] says what
//! nobody could beat, and [`report`](mod@report) compares every [`contender`] in tables and charts.
//! [`play::several`] runs one under several schedulers that share its workers.
//!
//! ```
//! use shoal_sim::{contender::contenders, limit::score_at, scenario::catalog};
//!
//! let families = catalog(std::time::Duration::from_secs(1), 1);
//! let score = score_at(&families[0], 0.5, &contenders()[0].variants[0]);
//! assert!(score.total.on_time_share() > 0.99);
//! ```

pub mod bound;
mod check;
mod clock;
pub mod contender;
mod faults;
mod fnv;
pub mod limit;
pub mod math;
mod plan;
pub mod play;
mod reference;
pub mod report;
mod rng;
pub mod scenario;
pub mod score;
mod transcript;
mod worker;
mod workload;
mod world;

pub use check::{Judge, Violation};
pub use clock::Agenda;
pub use faults::{Faults, Strike};
pub use plan::{Knowledge, Plan};
pub use rng::Rng;
pub use transcript::{Entry, Transcript, What};
pub use worker::Profile;
pub use workload::{Arrivals, Call, Nature, Workload};
pub use world::{Run, run};
