//! What the pages for readers say about the code, checked against the code: the tables of files in
//! docs/ARCHITECTURE.md, names of files, links, dependencies. Needs no privilege.

use std::fs;
use std::path::{Path, PathBuf};

/// Set to have the tables of docs/ARCHITECTURE.md written anew.
const BLESS: &str = "BULKHEAD_BLESS";
const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[track_caller]
fn read(path: &str) -> String {
    fs::read_to_string(project(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// All files below a folder of the project, as paths from the project, sorted.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(project(folder)).unwrap_or_else(|e| panic!("{folder}: {e}")) {
        let entry = entry.expect("an entry");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("a type").is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The pages that people read.
fn pages() -> Vec<String> {
    let mut pages: Vec<String> = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
        .map(str::to_owned)
        .to_vec();
    pages.extend(
        files("docs")
            .into_iter()
            .filter(|path| path.ends_with(".md")),
    );
    pages
}

/// Rooms and their layers, from the table in src/lib.rs.
fn rooms() -> Vec<(String, String)> {
    let lib = read("src/lib.rs");
    let rows = lib.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("//! | L")?.split(" | ");
        let layer = format!("L{}", cells.next()?.trim());
        let room = cells.next()?.trim().strip_prefix("[`")?;
        Some((room.strip_suffix("`]")?.to_owned(), layer))
    });
    rows.collect()
}

/// The first sentence of a file's head, as a cell of a table.
fn head(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let paragraph: Vec<&str> = lines
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let paragraph = paragraph.join(" ");
    let sentence = paragraph.split(". ").next().unwrap_or_default();
    let mut plain = sentence.trim_end_matches('.').replace('|', "\\|");
    // Links of rustdoc mean nothing on a page.
    while let Some((before, after)) = plain.split_once("`](") {
        let rest = after.split_once(')').map_or("", |(_, rest)| rest);
        plain = format!("{before}`{rest}");
    }
    plain.replace("[`", "`").replace("`]", "`")
}

/// The table of a room: every file but the one that introduces it.
fn table(room: &str) -> String {
    let folder = format!("src/{room}/");
    let mut text = "| file | what |\n|---|---|\n".to_owned();
    for path in files(&format!("src/{room}")) {
        let name = &path[folder.len()..];
        if name == "mod.rs" || !name.ends_with(".rs") {
            continue;
        }
        text += &format!("| `{name}` | {} |\n", head(&read(&path)));
    }
    text
}

/// The page with every table as the code wants it.
fn architecture() -> String {
    let mut page = read(ARCHITECTURE);
    for (room, _) in rooms() {
        let begin = format!("<!-- files of {room} -->\n");
        let (before, rest) = page
            .split_once(&begin)
            .unwrap_or_else(|| panic!("{ARCHITECTURE} has no table of the files of {room}"));
        let (_, after) = rest
            .split_once("<!-- end -->")
            .expect("an end of the table");
        page = format!("{before}{begin}{}<!-- end -->{after}", table(&room));
    }
    page
}

#[test]
fn every_room_has_its_part_and_every_file_its_line() {
    let page = read(ARCHITECTURE);
    for (room, layer) in rooms() {
        let heading = format!("\n### {room} ({layer})\n");
        assert!(page.contains(&heading), "no heading {heading:?}");
    }
    let wanted = architecture();
    if std::env::var_os(BLESS).is_some() {
        fs::write(project(ARCHITECTURE), &wanted).expect("a writable page");
    }
    let page = read(ARCHITECTURE);
    let differ = page.lines().zip(wanted.lines()).find(|(a, b)| a != b);
    assert!(
        page == wanted,
        "{ARCHITECTURE} and the heads of the files differ at {differ:?}: \
         run `{BLESS}=1 cargo nextest run --test plain_docs`"
    );
}

/// The words in backticks of a page, code blocks left out.
fn quoted(page: &str) -> Vec<String> {
    let text: String = page.split("```").step_by(2).collect();
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Whether a page may name this file: it is there, from the project or from `src`, or it is the
/// end of a path in `src` (`steps.rs`, where the room stands beside it).
fn is_there(name: &str, sources: &[String]) -> bool {
    project(name).exists()
        || project("src").join(name).exists()
        || sources
            .iter()
            .any(|path| path.ends_with(&format!("/{name}")))
}

#[test]
fn files_that_pages_name_are_there() {
    let sources = files("src");
    let mut missing = Vec::new();
    for page in pages() {
        // `storage/NAME.rs` stands for any.
        for name in quoted(&read(&page))
            .into_iter()
            .filter(|name| !name.contains("NAME"))
        {
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            let file = name.ends_with(".rs") && name.chars().all(plain);
            let folder = ["src/", "tests/", "scripts/", "docs/", "profiles/"]
                .iter()
                .any(|start| name.starts_with(start) && name.chars().all(plain));
            if (file || folder) && !is_there(&name, &sources) {
                missing.push(format!("{page}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn a_file_that_is_not_there_is_missed() {
    let sources = files("src");
    assert!(is_there("plan/steps.rs", &sources) && is_there("steps.rs", &sources));
    assert!(!is_there("plan/stepps.rs", &sources) && !is_there("eps.rs", &sources));
    assert_eq!(quoted("a `b.rs` c\n```\n`d`\n```\n`e`"), ["b.rs", "e"]);
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let text = read(&page);
        let folder = project(&page).parent().expect("a folder").to_owned();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(folder.join(target).exists(), "{page}: {target}");
        }
    }
}

#[test]
fn the_index_names_every_page() {
    let index = read("docs/README.md");
    for page in files("docs") {
        let name = page.trim_start_matches("docs/");
        assert!(
            name == "README.md" || index.contains(&format!("]({name})")),
            "docs/README.md does not name {name}"
        );
    }
}

/// Names of the direct dependencies, those of tests too.
fn dependencies() -> Vec<String> {
    let manifest = read("Cargo.toml");
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = [
                "[dependencies]",
                "[dev-dependencies]",
                "[build-dependencies]",
            ]
            .contains(&line.trim());
        } else if inside
            && !line.starts_with('#')
            && let Some((name, _)) = line.split_once('=')
        {
            names.push(name.trim().trim_matches('"').to_owned());
        }
    }
    names
}

#[test]
fn every_dependency_is_accounted_for() {
    let page = read("docs/DEPENDENCIES.md");
    let rows: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let names = dependencies();
    assert!(names.len() > 20, "{names:?}");
    for name in &names {
        let count = rows.iter().filter(|row| *row == name).count();
        assert_eq!(count, 1, "docs/DEPENDENCIES.md: a row for `{name}`");
    }
    for row in rows {
        assert!(
            names.iter().any(|name| name == row),
            "{row} is no dependency"
        );
    }
}

#[test]
fn every_variable_the_program_looks_at_is_told() {
    let page = read("CONTRIBUTING.md");
    for path in files("src") {
        let text = read(&path);
        for (at, start) in text.match_indices("\"BULKHEAD_") {
            let name = text[at + 1..].split('"').next().unwrap_or(start);
            let told = page.contains(&format!("`{name}`"));
            assert!(told, "{path}: CONTRIBUTING.md does not tell of {name}");
        }
    }
}

#[test]
fn both_licences_are_there() {
    assert!(read("LICENSE-APACHE").contains("Version 2.0, January 2004"));
    assert!(read("LICENSE-MIT").starts_with("MIT License"));
    assert!(read("Cargo.toml").contains("license = \"Apache-2.0 OR MIT\""));
}
