//! Changes the text of a definition and leaves alone what is not changed: comments, order, blank
//! lines. Which keys there are is said next door in `key`.

use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::capability::Capability;
use super::error::DefineError;
use super::key::{KeyPath, Kind};
use super::read::Sheet;
use super::word::Word;

/// What happens to a key.
#[derive(Clone, Debug)]
pub enum Change {
    /// It has this value from now on.
    Set(Value),
    /// It is left to profiles and defaults.
    Unset,
}

/// The text with the changes made. What comes out is a valid definition.
///
/// # Errors
/// The text is no definition, or would be none afterwards; nothing is changed then.
pub fn edit(text: &str, changes: &[(KeyPath, Change)]) -> Result<String, DefineError> {
    Sheet::parse("", text)?;
    let mut document: DocumentMut = text
        .parse()
        .map_err(|e: toml_edit::TomlError| DefineError::single("", e.message()))?;
    for (path, change) in changes {
        apply(&mut document, path, change);
    }
    let text = document.to_string();
    Sheet::parse("", &text)?;
    Ok(text)
}

fn apply(document: &mut DocumentMut, path: &KeyPath, change: &Change) {
    let key = path.key;
    let item = path.item.as_deref();
    match (key.kind, key.path) {
        (_, "template") => set_template_name(document, change),
        (_, "template.options") => template_option(document, item, change),
        (_, "sysctls") => sysctl(document, item, change),
        (Kind::Text | Kind::Number | Kind::Switch | Kind::List, _) => {
            set(document, &parts(key.path), change);
        }
        (Kind::Map, _) => {
            let mut parts = parts(key.path);
            parts.extend(item);
            set(document, &parts, change);
        }
        (Kind::Words, path) => words(document, path, item, change),
        (Kind::Mount | Kind::Tmpfs, path) => entry(document, path, "target", item, change),
        (Kind::Device, path) => entry(document, path, "path", item, change),
        (Kind::IoLimit, path) => entry(document, path, "device", item, change),
    }
}

fn parts(path: &str) -> Vec<&str> {
    path.split('.').collect()
}

/// The table at a path; made on the way if `make`.
fn table<'d>(
    document: &'d mut DocumentMut,
    path: &[&str],
    make: bool,
) -> Option<&'d mut dyn TableLike> {
    let mut here: &mut dyn TableLike = document.as_table_mut();
    for part in path {
        if !here.contains_key(part) {
            if !make {
                return None;
            }
            // Its header is written only when it has keys: `[[io.device]]` needs no `[io]`.
            let mut made = Table::new();
            made.set_implicit(true);
            here.insert(part, Item::Table(made));
        }
        here = here.get_mut(part)?.as_table_like_mut()?;
    }
    Some(here)
}

fn set(document: &mut DocumentMut, path: &[&str], change: &Change) {
    let Some((name, above)) = path.split_last() else {
        return;
    };
    match change {
        Change::Set(value) => {
            if let Some(table) = table(document, above, true) {
                put(table, name, value);
            }
        }
        Change::Unset => remove(document, above, name),
    }
}

/// Blanks and a comment after the old value stay.
fn put(table: &mut dyn TableLike, name: &str, value: &Value) {
    match table.get_mut(name).and_then(Item::as_value_mut) {
        Some(old) => {
            let decor = old.decor().clone();
            *old = value.clone();
            *old.decor_mut() = decor;
        }
        None => {
            table.insert(name, Item::Value(value.clone()));
        }
    }
}

/// Comments right above the key go with it; those a blank line apart stay.
fn remove(document: &mut DocumentMut, above: &[&str], name: &str) {
    let Some(table) = table(document, above, false) else {
        return;
    };
    let prefix = table
        .key(name)
        .and_then(|key| key.leaf_decor().prefix()?.as_str());
    let kept = prefix.and_then(|text| text.rfind("\n\n").map(|end| text[..end + 2].to_owned()));
    table.remove(name);
    let Some(kept) = kept.filter(|text| text.contains('#')) else {
        return;
    };
    let next = table
        .iter()
        .find(|(_, item)| item.is_value())
        .map(|(name, _)| name.to_owned());
    if let Some(mut key) = next.as_deref().and_then(|name| table.key_mut(name)) {
        let own = key
            .leaf_decor()
            .prefix()
            .and_then(|p| p.as_str())
            .unwrap_or_default()
            .to_owned();
        key.leaf_decor_mut().set_prefix(format!("{kept}{own}"));
    } else {
        let own = document.trailing().as_str().unwrap_or_default().to_owned();
        document.set_trailing(format!("{own}{kept}"));
    }
}

/// `template = "debian"` and `template = { name = "debian", … }` are both written.
fn set_template_name(document: &mut DocumentMut, change: &Change) {
    let is_table = document.get("template").is_some_and(Item::is_table_like);
    if is_table && matches!(change, Change::Set(_)) {
        set(document, &["template", "name"], change);
    } else {
        set(document, &["template"], change);
    }
}

fn template_option(document: &mut DocumentMut, item: Option<&str>, change: &Change) {
    if let (Change::Set(_), Some(Item::Value(Value::String(name)))) =
        (change, document.get("template"))
    {
        let mut inline = InlineTable::new();
        inline.insert("name", name.value().as_str().into());
        put(
            document.as_table_mut(),
            "template",
            &Value::InlineTable(inline),
        );
    }
    match item {
        Some(item) => set(document, &["template", item], change),
        None => {
            let Some(table) = table(document, &["template"], false) else {
                return;
            };
            let options = table.iter().map(|(name, _)| name.to_owned());
            let options: Vec<String> = options.filter(|name| name != "name").collect();
            options.iter().for_each(|name| {
                table.remove(name);
            });
        }
    }
}

/// A kernel setting may be there as one quoted key or as tables; new ones are quoted keys.
fn sysctl(document: &mut DocumentMut, item: Option<&str>, change: &Change) {
    let Some(name) = item else {
        return set(document, &["sysctls"], change);
    };
    let mut nested = vec!["sysctls"];
    nested.extend(name.split('.'));
    let (last, above) = (nested[nested.len() - 1], &nested[..nested.len() - 1]);
    let is_nested = table(document, above, false).is_some_and(|table| table.contains_key(last));
    let path = if is_nested {
        nested
    } else {
        vec!["sysctls", name]
    };
    set(document, &path, change);
}

/// A capability added is no longer dropped, and the reverse.
fn words(document: &mut DocumentMut, path: &str, item: Option<&str>, change: &Change) {
    let same = |value: &Value, word: &str| match value.as_str() {
        Some(text) if path.starts_with("security.") => {
            text == word || Capability::read(text).is_ok_and(|c| Capability::read(word) == Ok(c))
        }
        text => text == Some(word),
    };
    let opposite = match path {
        "security.add" => Some("drop"),
        "security.drop" => Some("add"),
        _ => None,
    };
    let parts = parts(path);
    let Some(word) = item else {
        return set(document, &parts, change);
    };
    let (last, above) = (parts[parts.len() - 1], &parts[..parts.len() - 1]);
    let setting = matches!(change, Change::Set(_));
    let Some(table) = table(document, above, setting) else {
        return;
    };
    if setting {
        if let Some(list) = opposite.and_then(|name| table.get_mut(name)) {
            if let Some(list) = list.as_array_mut() {
                list.retain(|value| !same(value, word));
            }
        }
        if !table.contains_key(last) {
            table.insert(last, Item::Value(Value::Array(Array::new())));
        }
    }
    // One text in place of a list becomes a list.
    if let Some(Item::Value(value)) = table.get_mut(last) {
        if !value.is_array() {
            let one: Array = std::iter::once(value.clone()).collect();
            *value = Value::Array(one);
        }
    }
    if let Some(list) = table.get_mut(last).and_then(Item::as_array_mut) {
        if setting && !list.iter().any(|value| same(value, word)) {
            list.push(word);
        } else if !setting {
            list.retain(|value| !same(value, word));
        }
    }
}

/// One of several tables, by the key that tells them apart.
fn entry(
    document: &mut DocumentMut,
    path: &str,
    identity: &str,
    item: Option<&str>,
    change: &Change,
) {
    let parts = parts(path);
    let Some(name) = item else {
        return set(document, &parts, change);
    };
    let (last, above) = (parts[parts.len() - 1], &parts[..parts.len() - 1]);
    let new = match change {
        Change::Set(Value::InlineTable(table)) => Some(table),
        _ => None,
    };
    let Some(table) = table(document, above, new.is_some()) else {
        return;
    };
    if !table.contains_key(last) && new.is_some() {
        table.insert(last, Item::ArrayOfTables(ArrayOfTables::new()));
    }
    let is_it = |value: Option<&Value>| value.and_then(Value::as_str) == Some(name);
    match table.get_mut(last) {
        Some(Item::ArrayOfTables(tables)) => {
            let at = tables
                .iter()
                .position(|t| is_it(t.get(identity).and_then(Item::as_value)));
            match (at.and_then(|at| tables.get_mut(at)), new) {
                (Some(old), Some(new)) => replace(old, new),
                (None, Some(new)) => tables.push(new.clone().into_table()),
                (_, None) => tables.retain(|t| !is_it(t.get(identity).and_then(Item::as_value))),
            }
            if tables.is_empty() {
                table.remove(last);
            }
        }
        Some(Item::Value(Value::Array(list))) => {
            list.retain(|v| !is_it(v.as_inline_table().and_then(|t| t.get(identity))));
            if let Some(new) = new {
                list.push(new.clone());
            }
        }
        _ => {}
    }
}

/// Keys that are there keep their place and comments.
fn replace(old: &mut Table, new: &InlineTable) {
    let gone: Vec<String> = old
        .iter()
        .map(|(k, _)| k.to_owned())
        .filter(|k| !new.contains_key(k))
        .collect();
    gone.iter().for_each(|name| {
        old.remove(name);
    });
    for (name, value) in new {
        put(old, name, value);
    }
}
