//! What is wrong with a text, and where. Every message of this room ends here; what a problem means
//! for the command (exit code, hint) is said by the front door.

use std::fmt;

/// One thing wrong with one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// File name as it was given, or `profile NAME`; empty for text that came from nowhere.
    pub source: String,
    /// Line, from 1; `None` if the fault belongs to no line.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.source.is_empty(), self.line) {
            (false, Some(line)) => write!(f, "{}:{line}: {}", self.source, self.message),
            (false, None) => write!(f, "{}: {}", self.source, self.message),
            (true, Some(line)) => write!(f, "line {line}: {}", self.message),
            (true, None) => f.write_str(&self.message),
        }
    }
}

/// A definition, profile or settings file that is refused: all that is wrong with it, in the order
/// of its lines. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DefineError {
    /// What is wrong.
    pub faults: Vec<Fault>,
}

impl fmt::Display for DefineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl DefineError {
    /// One fault that belongs to no line.
    pub(super) fn single(source: &str, message: impl Into<String>) -> Self {
        Self::at(source, None, message)
    }

    /// One fault at a line and column.
    pub(super) fn at(
        source: &str,
        place: Option<(usize, usize)>,
        message: impl Into<String>,
    ) -> Self {
        let (line, column) = (place.map(|p| p.0), place.map(|p| p.1));
        Self {
            faults: vec![Fault {
                source: source.to_owned(),
                line,
                column,
                message: message.into(),
            }],
        }
    }
}

/// `: did you mean "memory"?` if a candidate is near, else a list of what there is.
pub(super) fn suggestion<'a>(
    wrong: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    // Comparing takes time with the length; nothing that long was meant to be one of these.
    let short = Some(wrong).filter(|wrong| wrong.len() <= 64);
    match short.and_then(|wrong| crate::model::nearest(wrong, candidates.clone())) {
        Some(near) => format!(": did you mean {near:?}?"),
        None => {
            let all: Vec<&str> = candidates.into_iter().collect();
            format!(": there is {}", all.join(", "))
        }
    }
}
