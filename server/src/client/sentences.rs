//! English sentences to show and measure with, four to fifty words long, written for this project.

/// The sentences, each once.
pub fn all() -> Vec<&'static str> {
    include_str!("sentences.txt").lines().collect()
}

/// Questions whose answers are among the sentences.
pub const QUERIES: [&str; 3] = [
    "How do plants turn sunlight into food?",
    "I forgot my password, what can I do?",
    "How can I keep bread from going stale?",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn there_are_hundreds_and_no_two_are_alike() {
        let all = super::all();
        assert!(all.len() >= 300, "{}", all.len());
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        let words = |sentence: &&str| sentence.split_whitespace().count();
        assert!(all.iter().map(words).all(|n| (4..=60).contains(&n)));
    }
}
