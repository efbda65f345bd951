//! Worlds that are simulated and made: the simulator's scenarios, slowed down to what two processors can carry.
//!
//! Slower by a factor means that batches take so many times as long, that objectives are so many times as far, and that
//! so many times fewer requests arrive: to the scheduler it is the same world. Only what a call costs besides, which
//! does not grow along, weighs less.

use std::fmt::Write as _;
use std::time::Duration;

use shoal_scheduler::{Budget, Timestamp};
use shoal_sim::bound::capacity;
use shoal_sim::scenario::{Absence, Curve, Lengths, Scenario, Traffic, catalog, standard};

/// Rows of one batch at most, as in the simulator's scenarios.
pub(crate) const BATCH_ROWS_MAX: u32 = 64;
/// Tokens of one batch at most.
pub(crate) const BATCH_TOKENS_MAX: u32 = 16_384;
/// What each request has where the scenario has no tokens: a text cannot be empty.
const TOKENS_LEAST: u32 = 8;

/// One world.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    /// Offered over what can be answered in time at best.
    pub(crate) load: f64,
    /// When a worker is killed, if one is; its supervisor starts it again.
    pub(crate) kill: Option<Duration>,
}

/// Which worlds there are, each for `duration`, those with slow bursts three times as long.
pub(crate) fn worlds(duration: Duration, seed: u64) -> Vec<World> {
    let families = catalog(duration, seed);
    let family = |name: &str, slower: u32| {
        let family = families.iter().find(|family| family.name() == name);
        // The names are those of the catalogue, and a test makes every world.
        let family = family.unwrap_or_else(|| unreachable!("no scenario is called {name}"));
        World::new(family.shown(), slower, family.load)
    };
    let poisson = |workers: usize, load: f64, slower: u32| {
        let scenario = Scenario { duration, seed, ..standard(workers, 1) };
        let rate = capacity(&scenario) * load;
        World::new(scenario.at_rate(rate), slower, load)
    };
    let mut worlds: Vec<World> = [0.3, 0.6, 0.9].into_iter().map(|load| poisson(1, load, 4)).collect();
    worlds.push(poisson(1, 1.5, 4));
    worlds.extend([0.3, 0.6, 0.9].map(|load| poisson(4, load, 4)));
    worlds.push(poisson(4, 1.5, 8));
    worlds.extend([family("mmpp", 8), family("gamma-4", 4), family("code-like", 8), family("poisson-4w-16m", 4)]);
    let mut loss = family("worker-loss", 4);
    loss.kill = Some(duration / 2);
    worlds.push(loss);
    worlds
}

impl World {
    fn new(mut scenario: Scenario, slower: u32, load: f64) -> Self {
        let factor = u64::from(slower);
        for model in &mut scenario.models {
            let Curve { base_ns, row_ns, token_ps, token_squared_fs } = model.curve;
            model.curve = Curve {
                base_ns: base_ns * factor,
                row_ns: row_ns * factor,
                token_ps: token_ps * factor,
                token_squared_fs: token_squared_fs * factor,
            };
            model.objective *= slower;
        }
        for worker in &mut scenario.workers {
            worker.budget = Budget { rows: BATCH_ROWS_MAX, tokens: BATCH_TOKENS_MAX, ..worker.budget };
            worker.absences.clear();
        }
        for stream in &mut scenario.traffic {
            if stream.lengths.mean() < 1.0 {
                stream.lengths = Lengths::Fixed(TOKENS_LEAST);
            }
        }
        let rate = scenario.rate() / f64::from(slower);
        Self { scenario: scenario.at_rate(rate), load, kill: None }
    }

    pub(crate) fn name(&self) -> &str {
        &self.scenario.name
    }

    /// Its name and its load.
    pub(crate) fn title(&self) -> String {
        format!("{} at {:.1}", self.name(), self.load)
    }

    /// The models' names on the server, in their order.
    pub(crate) fn models(&self) -> Vec<String> {
        self.scenario.models.iter().map(|model| format!("m{}", model.id.0)).collect()
    }

    pub(crate) fn workers(&self) -> u32 {
        self.scenario.workers.len() as u32
    }

    /// The objective; in these worlds all models have the same.
    pub(crate) fn objective(&self) -> Duration {
        self.scenario.objective_max()
    }

    /// The same world with one worker away for that time.
    pub(crate) fn without_one(&self, away: Absence) -> Scenario {
        let mut scenario = self.scenario.clone();
        scenario.workers[0].absences = vec![away];
        scenario
    }

    /// When the first request arrives. A trace begins with it.
    pub(crate) fn first(&self) -> Timestamp {
        Traffic::new(&self.scenario).next().map_or(Timestamp::ZERO, |ask| ask.at)
    }

    /// The very requests of the scenario as a trace and its texts, which are as many bytes long as there are tokens.
    pub(crate) fn trace(&self) -> (String, String) {
        let (first, models) = (self.first(), self.models());
        let (mut trace, mut texts) = ("seconds,model\n".to_owned(), String::new());
        for ask in Traffic::new(&self.scenario) {
            let (seconds, model) = (ask.at.since(first).as_secs_f64(), &models[ask.model.0 as usize]);
            // Writing to a string cannot fail.
            let _ = writeln!(trace, "{seconds:.9},{model}");
            let _ = writeln!(texts, "{}", "x".repeat(ask.cost.tokens as usize));
        }
        (trace, texts)
    }

    /// The server's settings; `policy` is what each model says of its own.
    pub(crate) fn settings(&self, policy: &str) -> String {
        let mut settings = format!("workers = {}\nworker_batch_tokens = {BATCH_TOKENS_MAX}\n", self.workers());
        for (name, model) in self.models().iter().zip(&self.scenario.models) {
            let Curve { base_ns, row_ns, token_ps, token_squared_fs } = model.curve;
            let squared = token_squared_fs as f64 / 1e6;
            let source = format!(
                "synthetic:base={base_ns}ns+per_row={row_ns}ns+per_token={}ns+nanos_per_token_squared={squared}",
                token_ps / 1_000
            );
            let _ = write!(
                settings,
                "\n[models.{name}]\nsource = \"{source}\"\nslo = \"{}us\"\nbatch_rows_max = {BATCH_ROWS_MAX}\n{policy}",
                model.objective.as_micros()
            );
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_world_is_one_of_its_own_that_two_processors_can_carry() {
        let worlds = worlds(Duration::from_secs(2), 1);
        let names: BTreeSet<_> = worlds.iter().map(World::title).collect();
        assert_eq!(names.len(), worlds.len());
        for world in &worlds {
            assert!(world.scenario.rate() < 2_000.0, "{}: {}", world.name(), world.scenario.rate());
            let load = world.scenario.rate() / capacity(&world.scenario);
            // Whoever is killed was away in the catalogue's account of what can be done, and is not in this one's.
            assert!(world.kill.is_some() || (load / world.load - 1.0).abs() < 0.01, "{}: {load}", world.name());
        }
    }

    #[test]
    fn a_trace_has_the_requests_of_the_scenario_counted_from_its_first() {
        let world = worlds(Duration::from_millis(500), 1).pop().unwrap();
        let (trace, texts) = world.trace();
        let asks: Vec<_> = Traffic::new(&world.scenario).collect();
        let lines: Vec<_> = trace.lines().collect();
        assert_eq!((lines.len() - 1, texts.lines().count()), (asks.len(), asks.len()));
        assert_eq!((lines[0], lines[1]), ("seconds,model", "0.000000000,m0"));
        let last = lines.last().unwrap().split(',').next().unwrap().parse::<f64>().unwrap();
        let span = asks.last().unwrap().at.since(world.first()).as_secs_f64();
        assert!((last - span).abs() < 1e-8, "{last} for {span}");
        assert!(texts.lines().zip(&asks).all(|(text, ask)| text.len() == ask.cost.tokens as usize));
    }

    #[test]
    fn settings_say_the_curve_the_objective_and_the_policy_of_every_model() {
        let world = worlds(Duration::from_secs(1), 1).swap_remove(10);
        assert_eq!(world.name(), "code-like");
        let settings = world.settings("on_late = \"shed\"\n");
        assert!(settings.starts_with("workers = 4\nworker_batch_tokens = 16384\n"), "{settings}");
        let source = "base=16000000ns+per_row=240000ns+per_token=24000ns+nanos_per_token_squared=6.4";
        assert!(settings.contains(source), "{settings}");
        assert!(settings.contains("slo = \"400000us\"") && settings.contains("on_late = \"shed\""), "{settings}");
    }
}
