//! Compares policies in simulated worlds: `cargo run --release -p shoal-sim -- report`.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use shoal_sim::report::{Options, report};
use shoal_sim::scenario::{Family, catalog};

const HELP: &str = "\
Compares batching policies in simulated worlds.

Usage: shoal-sim report [OPTIONS]

Options:
  --out DIR   Where report.md and the charts go [default: target/sim-report]
  --quick     A fraction of the time, for a first look
  --seed N    What every scenario draws from [default: 1]
  --only NAME The table of this scenario alone; may be given more than once
  -h, --help  Print this

The tables also go to standard output. The same seed gives the same numbers on every machine.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Help,
    Report(Options),
}

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print!("{HELP}"),
        Ok(Command::Report(options)) => {
            if let Err(error) = report(&options, &mut io::stdout().lock()) {
                eprintln!("error: cannot write the report to {}: {error}", options.out.display());
                return ExitCode::FAILURE;
            }
        }
        Err(error) => {
            eprintln!("error: {error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let mut arguments = arguments.map(|argument| argument.into_string().unwrap_or_else(lossy));
    let mut options = Options::default();
    match arguments.next().as_deref() {
        Some("report") => {}
        None | Some("-h" | "--help" | "help") => return Ok(Command::Help),
        Some(other) => return Err(format!("there is no command '{other}'; the only one is 'report'")),
    }
    while let Some(argument) = arguments.next() {
        // `--flag=value` is `--flag value`.
        let (flag, joined) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let mut value = || joined.clone().or_else(|| arguments.next()).ok_or(format!("{flag} needs a value"));
        match flag {
            "--out" => options.out = value()?.into(),
            "--seed" => {
                let text = value()?;
                options.seed = text.parse().map_err(|_| format!("--seed must be a whole number, not '{text}'"))?;
            }
            "--only" => options.only.push(known(value()?)?),
            "--quick" if joined.is_some() => return Err("--quick takes no value".into()),
            "--quick" => options.quick = true,
            "-h" | "--help" => return Ok(Command::Help),
            _ => return Err(format!("there is no option '{flag}'")),
        }
    }
    Ok(Command::Report(options))
}

/// The name of a scenario that there is.
fn known(name: String) -> Result<String, String> {
    let families = catalog(Duration::from_secs(1), 1);
    let names: Vec<_> = families.iter().map(Family::name).collect();
    if names.contains(&&*name) {
        return Ok(name);
    }
    Err(format!("--only: there is no scenario '{name}'; there are {}", names.join(", ")))
}

/// What can be shown of an argument that is not Unicode.
fn lossy(argument: OsString) -> String {
    argument.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn reads_every_option_in_both_spellings() {
        let expected = Options { out: "a/b".into(), quick: true, seed: 7, only: Vec::new() };
        assert_eq!(parsed("report --out a/b --quick --seed 7"), Ok(Command::Report(expected.clone())));
        assert_eq!(parsed("report --seed=7 --out=a/b --quick"), Ok(Command::Report(expected)));
        assert_eq!(parsed("report"), Ok(Command::Report(Options::default())));
        let only = vec!["mmpp".into(), "poison".into()];
        let expected = Options { only, ..Options::default() };
        assert_eq!(parsed("report --only mmpp --only=poison"), Ok(Command::Report(expected)));
    }

    #[test]
    fn shows_help_when_asked_and_when_nothing_is_asked() {
        for line in ["", "--help", "help", "report -h"] {
            assert_eq!(parsed(line), Ok(Command::Help), "{line}");
        }
    }

    #[test]
    fn errors_name_the_flag() {
        for (line, named) in [
            ("report --seed", "--seed needs a value"),
            ("report --seed x", "--seed must be a whole number"),
            ("report --only nowhere", "--only: there is no scenario 'nowhere'"),
            ("report --fast", "'--fast'"),
            ("report --quick=1", "--quick takes no value"),
            ("reports", "'reports'"),
        ] {
            assert!(parsed(line).is_err_and(|error| error.contains(named)), "{line}");
        }
    }
}
