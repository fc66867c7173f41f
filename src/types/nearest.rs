//! What somebody who misspelled a name most likely meant: settings, parameters, members.

/// Which of `words` is spelled most like `word`; none where there are none.
#[must_use]
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    words.into_iter().min_by_key(|known| edits(word, known))
}

/// Edits from one word to the other (Levenshtein), on the first 64 characters: longer ones are near nothing.
fn edits(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=from.len()).collect();
    for (i, goal) in to.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, have) in from.iter().enumerate() {
            let change = diagonal + usize::from(*have != goal);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[from.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        assert_eq!(nearest("wieght", ["weight", "zone", "seeds"]), Some("weight"));
        assert_eq!(nearest("n3", []), None);
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!((edits("timeout", "timeout"), edits("timout", "timeout"), edits("", "abc")), (0, 1, 3));
        assert_eq!(edits(&"a".repeat(1_000_000), "a"), 63, "a long word costs no more than a short one");
    }
}
