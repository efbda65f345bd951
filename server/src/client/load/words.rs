//! Texts of a given number of tokens.

use rand::RngExt as _;
use rand::rngs::StdRng;

/// Words so common that tokenizers of English know each as one token.
#[rustfmt::skip]
const WORDS: [&str; 176] = [
    "time", "people", "year", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company",
    "system", "program", "question", "work", "government", "number", "night", "point", "home", "water", "room",
    "mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word",
    "business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power", "hour", "game",
    "line", "end", "member", "law", "car", "city", "community", "name", "president", "team", "minute", "idea",
    "body", "information", "back", "parent", "face", "others", "level", "office", "door", "health", "person", "art",
    "war", "history", "party", "result", "change", "morning", "reason", "research", "girl", "guy", "moment", "air",
    "teacher", "force", "education", "good", "new", "first", "last", "long", "great", "little", "own", "other",
    "old", "big", "high", "small", "large", "next", "early", "young", "important", "few", "public", "bad", "same",
    "able", "have", "make", "know", "take", "see", "come", "think", "look", "want", "give", "use", "find", "tell",
    "ask", "seem", "feel", "try", "leave", "call", "river", "road", "tree", "bird", "light", "sound", "summer",
    "winter", "green", "paper", "music", "table", "window", "garden", "market", "island", "village", "bridge",
    "letter", "color", "animal", "field", "machine", "ship", "train", "engine", "stone", "metal", "north", "south",
    "east", "west", "street", "price", "science",
];

/// What models put around a text: a token before it and one after.
const SPECIAL: u32 = 2;

/// A text that most models count as so many tokens, its special ones included; at least one word.
pub(super) fn text(tokens: u32, random: &mut StdRng) -> String {
    let words = tokens.saturating_sub(SPECIAL).max(1);
    let mut text = String::with_capacity(words as usize * 6);
    for word in 0..words {
        if word > 0 {
            text.push(' ');
        }
        text.push_str(WORDS[random.random_range(0..WORDS.len())]);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::{WORDS, text};

    #[test]
    fn a_text_has_as_many_words_as_tokens_without_the_special_ones() {
        let mut random = StdRng::seed_from_u64(0);
        for (tokens, words) in [(1, 1), (2, 1), (3, 1), (4, 2), (256, 254)] {
            assert_eq!(text(tokens, &mut random).split(' ').count(), words);
        }
    }

    #[test]
    fn no_two_words_are_alike() {
        assert_eq!(WORDS.iter().collect::<HashSet<_>>().len(), WORDS.len());
        assert!(WORDS.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
    }
}
