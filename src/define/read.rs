//! TOML text to a definition: every fault with file, line and nearest valid name, and the place of
//! every key kept for the faults that show only later. Which keys there are is said next door in
//! `definition`.

use std::collections::BTreeMap;

use toml::de::{DeArray, DeTable, DeValue};

use super::definition::Definition;
use super::error::{DefineError, Fault, suggestion};
use super::layer::Layer;
use super::word::{Word, quoted};

/// A value with its place in the text.
pub(super) type Node<'t> = toml::Spanned<DeValue<'t>>;

/// A definition as it was read, with the places of its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    /// Where it was read from, for messages.
    pub source: String,
    /// What it says.
    pub definition: Definition,
    text: String,
    places: BTreeMap<String, usize>,
}

impl Sheet {
    /// Reads the definition of a guest.
    ///
    /// # Errors
    /// All faults of the text, each with its line.
    pub fn parse(source: &str, text: &str) -> Result<Self, DefineError> {
        Self::parse_with(source, text, |reader, definition: &Definition| {
            if !definition.why.0.is_empty() {
                let why = "why: only a profile gives reasons; write a comment instead";
                reader.fault_at_key("why", why.into());
            }
        })
    }

    /// Reads a definition and lets `more` find faults of its own.
    pub(super) fn parse_with(
        source: &str,
        text: &str,
        more: impl FnOnce(&mut Reader<'_>, &Definition),
    ) -> Result<Self, DefineError> {
        let mut reader = Reader::new(source, text);
        let definition = reader.document::<Definition>();
        more(&mut reader, &definition);
        let places = reader.finish()?;
        Ok(Self {
            source: source.to_owned(),
            definition,
            text: text.to_owned(),
            places,
        })
    }

    /// The keys it has, with their tables.
    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Line and column, from 1, of a key such as `memory.limit` or `mount./data`; `None` if the
    /// text does not have it.
    #[must_use]
    pub fn place(&self, key: &str) -> Option<(usize, usize)> {
        self.places.get(key).map(|at| line_column(&self.text, *at))
    }
}

/// So many items are more than anybody means, and looking through them all would take time.
const MOST_ITEMS: usize = 1000;
/// Enough to see what is wrong.
const MOST_FAULTS: usize = 50;

/// Line and column, from 1, of a byte.
fn line_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        1 + before.matches('\n').count(),
        1 + before[line_start..].chars().count(),
    )
}

/// `a.b`, or `b` at the top.
pub(super) fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", key) => key.to_owned(),
        (path, "") => path.to_owned(),
        (path, key) => format!("{path}.{key}"),
    }
}

/// The text that stands for a single value; `None` for a list, a table or a date.
pub(super) fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        // Octal is kept as it is written: the one place that takes it is a mode.
        DeValue::Integer(number) if number.radix() == 8 => Some(format!("0o{}", number.as_str())),
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(|n| n.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// Reads one text and collects its faults.
pub(super) struct Reader<'t> {
    source: &'t str,
    text: &'t str,
    faults: Vec<(usize, String)>,
    places: BTreeMap<String, usize>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(source: &'t str, text: &'t str) -> Self {
        Self {
            source,
            text,
            faults: Vec::new(),
            places: BTreeMap::new(),
        }
    }

    /// The whole text as one layer.
    pub(super) fn document<T: Layer>(&mut self) -> T {
        match DeTable::parse(self.text) {
            Err(error) => {
                let start = error.span().map_or(0, |span| span.start);
                let (_, column) = line_column(self.text, start);
                let message = error.message().replace('\n', ", ");
                self.faults
                    .push((start, format!("{message} (column {column})")));
                T::default()
            }
            Ok(table) => {
                let node = toml::Spanned::new(table.span(), DeValue::Table(table.into_inner()));
                self.refuse_control_characters(&node);
                T::read(self, "", &node)
            }
        }
    }

    /// The places of all keys, if there were no faults.
    pub(super) fn finish(mut self) -> Result<BTreeMap<String, usize>, DefineError> {
        if self.faults.is_empty() {
            return Ok(self.places);
        }
        self.faults.sort();
        self.faults.dedup();
        let fault = |(at, message): (usize, String)| {
            let (line, column) = line_column(self.text, at);
            let source = self.source.to_owned();
            Fault {
                source,
                line: Some(line),
                column: Some(column),
                message,
            }
        };
        Err(DefineError {
            faults: self.faults.into_iter().map(fault).collect(),
        })
    }

    fn fault_at(&mut self, at: usize, message: String) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push((at, message));
        }
    }

    /// Newlines too: what a definition holds ends up in files that are read by lines.
    fn refuse_control_characters(&mut self, node: &Node<'_>) {
        let bad = |text: &str| text.chars().find(|c| c.is_control());
        match node.get_ref() {
            DeValue::String(text) => {
                if let Some(c) = bad(text) {
                    let message = format!("a value has the control character {c:?}: leave it out");
                    self.fault(node, message);
                }
            }
            DeValue::Array(list) => {
                list.iter()
                    .for_each(|node| self.refuse_control_characters(node));
            }
            DeValue::Table(table) => {
                for (key, value) in table {
                    if let Some(c) = bad(key.get_ref()) {
                        let message =
                            format!("a key has the control character {c:?}: leave it out");
                        self.fault_at(key.span().start, message);
                    }
                    self.refuse_control_characters(value);
                }
            }
            _ => {}
        }
    }

    /// Something is wrong with this value.
    pub(super) fn fault(&mut self, node: &Node<'_>, message: String) {
        self.fault_at(node.span().start, message);
    }

    /// Something is wrong with what this key says.
    pub(super) fn fault_at_key(&mut self, key: &str, message: String) {
        let at = self.places.get(key).copied().unwrap_or(0);
        self.fault_at(at, message);
    }

    /// Remembers where a key's value is.
    pub(super) fn mark(&mut self, path: &str, node: &Node<'_>) {
        self.places.insert(path.to_owned(), node.span().start);
    }

    /// The value as a table.
    pub(super) fn table<'n, 'd>(
        &mut self,
        path: &str,
        node: &'n Node<'d>,
    ) -> Option<&'n DeTable<'d>> {
        self.mark(path, node);
        let table = node.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(path, node, "a table of keys and values");
        }
        table.filter(|table| self.bounded(path, node, table.len()))
    }

    /// The value as a list.
    pub(super) fn list<'n, 'd>(
        &mut self,
        path: &str,
        node: &'n Node<'d>,
    ) -> Option<&'n DeArray<'d>> {
        self.mark(path, node);
        let list = node.get_ref().as_array();
        if list.is_none() {
            self.wrong_type(path, node, "a list");
        }
        list.filter(|list| self.bounded(path, node, list.len()))
    }

    fn bounded(&mut self, path: &str, node: &Node<'_>, items: usize) -> bool {
        if items > MOST_ITEMS {
            self.fault(
                node,
                format!("{path}: has {items} items, more than {MOST_ITEMS}"),
            );
        }
        items <= MOST_ITEMS
    }

    fn wrong_type(&mut self, path: &str, node: &Node<'_>, wanted: &str) {
        let is = match node.get_ref() {
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
            DeValue::Datetime(_) => "a date",
            _ => "a single value",
        };
        self.fault(node, format!("{path}: is {is}, must be {wanted}"));
    }

    /// The value as one word.
    pub(super) fn word<T: Word>(&mut self, path: &str, node: &Node<'_>) -> Option<T> {
        self.mark(path, node);
        match scalar(node.get_ref()) {
            Some(text) => self.parse(path, node, &text),
            None => {
                self.wrong_type(path, node, "a single value");
                None
            }
        }
    }

    /// A word that stands for the value or a part of it.
    pub(super) fn parse<T: Word>(&mut self, path: &str, node: &Node<'_>, text: &str) -> Option<T> {
        self.mark(path, node);
        T::read(text)
            .map_err(|why| self.fault(node, format!("{path}: {why}")))
            .ok()
    }

    /// What a table has at a key; nothing if it does not have it.
    pub(super) fn field<T: Layer>(&mut self, path: &str, table: &DeTable<'_>, name: &str) -> T {
        match table.get_key_value(name) {
            None => T::default(),
            Some((key, node)) => {
                let path = join(path, name);
                let value = T::read(self, &path, node);
                // A fault of the whole key is said at the key, not at the first of its parts.
                self.places.insert(path, key.span().start);
                value
            }
        }
    }

    /// What a table must have at a key.
    pub(super) fn required<T: Word>(
        &mut self,
        path: &str,
        node: &Node<'_>,
        table: &DeTable<'_>,
        name: &str,
    ) -> Option<T> {
        if table.get(name).is_none() {
            self.fault(node, format!("{path}: the key {name:?} is missing"));
        }
        self.field(path, table, name)
    }

    /// Refuses keys that are none of `names`.
    pub(super) fn known(
        &mut self,
        path: &str,
        table: &DeTable<'_>,
        names: &'static [&'static str],
    ) {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if names.contains(&name) || self.faults.len() >= MOST_FAULTS {
                continue;
            }
            let place = if path.is_empty() {
                String::new()
            } else {
                format!(" in {path}")
            };
            let hint = match (path, name) {
                ("", "name") => {
                    ": a guest's name is that of its folder; `bulkhead rename` changes it"
                        .to_owned()
                }
                _ => suggestion(name, names.iter().copied()),
            };
            let message = format!("unknown key {}{place}{hint}", quoted(name));
            self.fault_at(key.span().start, message);
        }
    }
}
