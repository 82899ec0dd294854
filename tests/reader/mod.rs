//! Reads Rust text just well enough for `tests/layering.rs`: files, code without its comments and
//! literals, `use` trees, paths. The rules themselves are there.

use std::fs;
use std::path::Path;

/// One file of the product.
pub struct Source {
    /// From the project folder: `src/plan/steps.rs`.
    pub path: String,
    /// `plan`; `bin` for programs, empty for `src/lib.rs`.
    pub room: String,
    /// As it is.
    pub text: String,
    /// The text with comments and literals blanked, lines kept.
    code: String,
}

impl Source {
    /// A file of this path and text.
    pub fn new(path: &str, text: &str) -> Self {
        let mut parts = path.split('/').skip(1);
        let room = match (parts.next(), parts.next()) {
            (Some(folder), Some(_)) => folder,
            (Some(file), None) if file != "lib.rs" => file.trim_end_matches(".rs"),
            _ => "",
        };
        Self {
            path: path.to_owned(),
            room: room.to_owned(),
            text: text.to_owned(),
            code: code_only(text),
        }
    }

    /// Lines above the file's test module.
    pub fn lines_before_tests(&self) -> usize {
        let tests = self
            .text
            .find("\n#[cfg(test)]\nmod ")
            .map_or(self.text.len(), |at| at + 1);
        self.text[..tests].lines().count()
    }

    /// Numbers of the lines whose code holds this word.
    pub fn lines_with_word(&self, word: &str) -> Vec<usize> {
        words(&self.code)
            .filter(|(_, w)| *w == word)
            .map(|(at, _)| self.line(at))
            .collect()
    }

    /// (line, room) of every path that starts at the crate's root and goes to a room.
    pub fn rooms_used(&self, rooms: &[(String, u32)]) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        // In `src/plan/mod.rs` one `super` is the root, in `src/plan/steps.rs` two are.
        let to_root = if self.path.ends_with("/mod.rs") { 1 } else { 2 };
        for (at, word) in words(&self.code) {
            let starts = match word {
                "crate" => true,
                "bulkhead" => self.room == "bin" && !self.follows_path(at),
                "super" => !self.follows_path(at),
                _ => false,
            };
            if !starts {
                continue;
            }
            let mut rest = &self.code[at + word.len()..];
            let mut supers = 1;
            if word == "super" {
                while let Some(next) = after_colons(rest).and_then(|r| r.strip_prefix("super")) {
                    supers += 1;
                    rest = next;
                }
                if supers < to_root {
                    continue;
                }
            }
            let Some(rest) = after_colons(rest) else {
                continue;
            };
            let line = self.line(at);
            let used = first_segments(rest).into_iter();
            found.extend(
                used.filter(|name| rooms.iter().any(|(room, _)| room == name))
                    .map(|room| (line, room.to_owned())),
            );
        }
        found
    }

    /// Lines that name this crate, where the name is not one the file took from a room of ours.
    pub fn crate_used(&self, name: &str) -> Vec<usize> {
        let ours = self.local_names().contains(&name);
        words(&self.code)
            .filter(|(at, word)| {
                let after = self.code[at + word.len()..].trim_start();
                let before = self.code[..*at].trim_end();
                let absolute = before.ends_with("::") && !self.follows_path(*at);
                let alone = before.ends_with("use") && after.starts_with([';', ' ']);
                *word == name
                    && !self.follows_path(*at)
                    && (after.starts_with("::") || alone)
                    && (absolute || !ours)
            })
            .map(|(at, _)| self.line(at))
            .collect()
    }

    /// Last names of everything that `use` takes from this crate, and of the modules declared here.
    fn local_names(&self) -> Vec<&str> {
        let mut found = Vec::new();
        for (at, word) in words(&self.code) {
            let rest = self.code[at + word.len()..].trim_start();
            let own = ["crate", "super", "self"]
                .iter()
                .any(|start| rest.starts_with(start));
            if word == "use" && own {
                let tree = &rest[..rest.find(';').unwrap_or(rest.len())];
                let mut names = words(tree).map(|(_, name)| name).peekable();
                while let Some(name) = names.next() {
                    match names.peek() {
                        Some(&"as") => {} // what counts is the name after it
                        _ => found.push(name),
                    }
                }
            } else if word == "mod" {
                found.extend(words(rest).next().map(|(_, name)| name));
            }
        }
        found
    }

    /// Whether the word at this place goes on a path: `a::WORD`, not `::WORD`.
    fn follows_path(&self, at: usize) -> bool {
        let before = self.code[..at].trim_end();
        before.strip_suffix("::").is_some_and(|b| {
            b.trim_end()
                .ends_with(|c: char| c == '_' || c == '>' || c.is_alphanumeric())
                && !b.trim_end().ends_with("use")
        })
    }

    fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }
}

/// All files of `src`, in order of their paths.
pub fn sources() -> Vec<Source> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![project.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(project).unwrap().to_str().unwrap();
                found.push(Source::new(name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// What follows a `::` that the text starts with.
fn after_colons(text: &str) -> Option<&str> {
    Some(text.trim_start().strip_prefix("::")?.trim_start())
}

/// The first segment of a path, or those of all members when it starts with a group.
fn first_segments(text: &str) -> Vec<&str> {
    let Some(group) = text.strip_prefix('{') else {
        return words(text)
            .next()
            .filter(|(at, _)| *at == 0)
            .map(|w| w.1)
            .into_iter()
            .collect();
    };
    let mut found = Vec::new();
    let (mut depth, mut at_start) = (1, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => at_start = true,
            _ if depth == 1 && at_start && !c.is_whitespace() => {
                at_start = false;
                found.extend(words(&group[at..]).next().map(|w| w.1));
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// The identifiers and keywords of a text, with their places.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let in_word = |c: char| c == '_' || c.is_alphanumeric();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(in_word)?;
        let length = text[start..]
            .find(|c| !in_word(c))
            .unwrap_or(text.len() - start);
        at = start + length;
        Some((start, &text[start..at]))
    })
}

/// The text with comments, strings and characters blanked; every line stays where it is.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_word = code.ends_with(|c: char| c == '_' || c.is_alphanumeric());
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment_length(rest),
            '"' => quoted_length(rest, '"'),
            'r' if !in_word || code.ends_with('b') => raw_length(rest),
            '\'' => char_length(rest),
            _ => 0,
        };
        let (blanked, kept) = rest.split_at(skipped);
        code.extend(blanked.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = kept;
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

fn comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

/// The length of a raw string, 0 if this `r` does not start one.
fn raw_length(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let body = 2 + hashes;
    let end = format!("\"{}", "#".repeat(hashes));
    text[body..]
        .find(&end)
        .map_or(text.len(), |at| body + at + end.len())
}

/// The length of a character literal, 0 for a lifetime.
fn char_length(text: &str) -> usize {
    let mut inner = text[1..].chars();
    match (inner.next(), inner.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted_length(text, '\''),
        _ => 0,
    }
}
