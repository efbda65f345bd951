//! The same seed is the same run, to the letter.

use shoal_sim::{Plan, run};

/// The run this hash stands for has faults, cancels and several models. The hash changes with any change to what the
/// core decides, to what the simulator draws, or to how a transcript is written: when that was meant, take the number
/// the test prints. That it is the same on every machine is what it is here to prove.
const GOLDEN: (u64, u64) = (8, 0xa069_dfb0_5797_9ed2);

#[test]
fn the_same_seed_gives_the_same_transcript_twice() {
    for seed in 0..20 {
        let (one, other) = (run(Plan::draw(seed)).transcript, run(Plan::draw(seed)).transcript);
        assert_eq!(one, other);
        assert_eq!(one.hash(), other.hash());
    }
}

#[test]
fn different_seeds_give_different_transcripts() {
    assert_ne!(run(Plan::draw(1)).transcript.hash(), run(Plan::draw(2)).transcript.hash());
}

#[test]
fn one_seed_gives_the_same_transcript_on_every_machine() {
    let (seed, hash) = GOLDEN;
    let transcript = run(Plan::draw(seed)).transcript;
    assert_eq!(transcript.hash(), hash, "{:#018x}", transcript.hash());
}
