//! Values to text: tables for people; JSON, YAML and CSV for programs. Nothing that somebody else
//! wrote reaches a terminal with its control characters.

use serde::Serialize;
use serde_json::Value;

use crate::guest::view::printable;

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table for people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Comma-separated values with a heading, RFC 4180.
    Csv,
}

/// How a cell looks on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As usual.
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Odd,
    /// Wrong.
    Bad,
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell; what is in it is made safe.
    #[must_use]
    pub fn new(text: &str, tone: Tone) -> Self {
        Self {
            text: safe(text),
            tone,
        }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text.as_ref(), Tone::Plain)
    }
}

/// A text on one line, without anything that steers a terminal.
#[must_use]
pub fn safe(text: &str) -> String {
    printable(text.as_bytes()).replace(['\n', '\t'], " ")
}

/// The same for a text of several lines, such as a definition from elsewhere.
pub(super) fn safe_lines(text: &str) -> String {
    text.lines()
        .map(|line| format!("{}\n", safe(line)))
        .collect()
}

/// A text in the colour of a tone.
#[must_use]
pub fn toned(text: &str, tone: Tone, colour: bool) -> String {
    let code = match tone {
        Tone::Good if colour => "32",
        Tone::Odd if colour => "33",
        Tone::Bad if colour => "31",
        _ => return text.to_owned(),
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// A list in a format.
pub fn list<T: Serialize>(
    format: Format,
    colour: bool,
    items: &[T],
    headings: &[&str],
    cells: impl Fn(&T) -> Vec<Cell>,
) -> String {
    match format {
        Format::Table => table(
            headings,
            &items.iter().map(cells).collect::<Vec<_>>(),
            colour,
        ),
        format => data(format, &items),
    }
}

/// Columns as wide as their widest cell, two blanks between, nothing after the last.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<Cell>], colour: bool) -> String {
    let heading: Vec<Cell> = headings.iter().map(Cell::from).collect();
    let rows: Vec<&Vec<Cell>> = std::iter::once(&heading).chain(rows).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.text.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        let mut gap = 0;
        for (cell, width) in row.iter().zip(&widths) {
            if !cell.text.is_empty() {
                line.extend(std::iter::repeat_n(' ', gap));
                gap = 0;
                line += &toned(&cell.text, cell.tone, colour);
            }
            gap += width + 2 - cell.text.chars().count();
        }
        out += &line;
        out.push('\n');
    }
    out
}

/// A value for programs; as a table, JSON.
pub fn data<T: Serialize>(format: Format, item: &T) -> String {
    let value = serde_json::to_value(item).unwrap_or_default();
    match format {
        Format::Yaml => escaped(&super::yaml::text(&value)),
        Format::Csv => csv(&value),
        Format::Json | Format::Table => {
            let text = serde_json::to_string_pretty(&value).unwrap_or_default();
            escaped(&text) + "\n"
        }
    }
}

/// One value on one line, for output that goes on: JSON Lines, YAML documents, CSV without heading.
pub fn streamed<T: Serialize>(format: Format, item: &T) -> String {
    let value = serde_json::to_value(item).unwrap_or_default();
    match format {
        Format::Yaml => format!("---\n{}", escaped(&super::yaml::text(&value))),
        Format::Csv => csv(&value)
            .split_once('\n')
            .map_or_else(String::new, |l| l.1.into()),
        Format::Json | Format::Table => escaped(&value.to_string()) + "\n",
    }
}

/// JSON and YAML leave some control characters in their quoted texts as they are; here they become
/// `\u` escapes, which both read back.
fn escaped(text: &str) -> String {
    let steers = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(steers) {
        return text.to_owned();
    }
    let escape = |c: char| {
        if steers(c) {
            format!("\\u{:04x}", u32::from(c))
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

/// A list of objects, or one: a column for each field there is; what is nested, as JSON.
fn csv(value: &Value) -> String {
    let one = std::slice::from_ref(value);
    let rows = value.as_array().map_or(one, Vec::as_slice);
    let mut columns: Vec<&str> = Vec::new();
    for key in rows
        .iter()
        .filter_map(Value::as_object)
        .flat_map(|row| row.keys())
    {
        if !columns.contains(&key.as_str()) {
            columns.push(key);
        }
    }
    let line = |fields: Vec<String>| fields.join(",") + "\n";
    let mut out = line(columns.iter().map(|column| field(column)).collect());
    for row in rows {
        let fields = columns.iter().map(|column| match row.get(column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => field(text),
            Some(other) => field(&other.to_string()),
        });
        out += &line(fields.collect());
    }
    out
}

fn field(text: &str) -> String {
    let text = safe(text);
    if text.contains([',', '"']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_end_without_blanks() {
        let rows = vec![
            vec![
                Cell::from("a"),
                Cell::new("running", Tone::Good),
                Cell::from(""),
            ],
            vec![Cell::from("longer"), Cell::from(""), Cell::from("note")],
        ];
        let text = table(&["NAME", "STATUS", "NOTE"], &rows, false);
        assert_eq!(
            text,
            "NAME    STATUS   NOTE\na       running\nlonger           note\n"
        );
        assert!(table(&["N", "S"], &rows, true).contains("\u{1b}[32mrunning\u{1b}[0m\n"));
    }

    #[test]
    fn no_format_lets_a_control_character_through() {
        let item = serde_json::json!([{"note": "a\u{9b}2J\u{1b}[31m\u{202e}\"x,\ny"}]);
        for format in [Format::Json, Format::Yaml, Format::Csv] {
            let text = data(format, &item);
            let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(bad), "{text:?}");
        }
        let read: Value = serde_json::from_str(&data(Format::Json, &item)).unwrap();
        assert_eq!(read, item);
    }

    #[test]
    fn csv_has_a_column_for_every_field() {
        let items = serde_json::json!([{"a": 1, "b": "x,\"y\""}, {"a": null, "c": [1, 2]}]);
        assert_eq!(
            data(Format::Csv, &items),
            "a,b,c\n1,\"x,\"\"y\"\"\",\n,,\"[1,2]\"\n"
        );
    }
}
