//! Changes the text of a definition and leaves alone what is not changed: comments, order, blank
//! lines. Which keys there are is said next door in `key`.

use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::capability::Capability;
use super::error::DefineError;
use super::key::{KeyPath, Kind};
use super::read::Sheet;
use super::word::Word;
use crate::model::Forward;

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
        (Kind::Nic, path) => entry(document, path, "name", item, change),
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
                tidy(document, above);
            }
        }
        Change::Unset => remove(document, above, name),
    }
}

/// A table within one line is written evenly again; one over several lines is left as it is.
fn tidy(document: &mut DocumentMut, path: &[&str]) {
    let Some((name, above)) = path.split_last() else {
        return;
    };
    let item = table(document, above, false).and_then(|table| table.get_mut(name));
    if let Some(inline) = item.and_then(Item::as_inline_table_mut)
        && !inline.to_string().contains('\n')
    {
        let decor = inline.decor().clone();
        inline.fmt();
        *inline.decor_mut() = decor;
    }
}

fn tidy_list(list: &mut Array) {
    if !list.to_string().contains('\n') {
        list.fmt();
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
    let names: Vec<String> = table.iter().map(|(name, _)| name.to_owned()).collect();
    let at = names
        .iter()
        .position(|other| other == name)
        .unwrap_or(names.len());
    table.remove(name);
    let Some(kept) = kept.filter(|text| text.contains('#')) else {
        return;
    };
    if !hand_on(table, names.get(at + 1..).unwrap_or_default(), &kept) {
        let own = document.trailing().as_str().unwrap_or_default().to_owned();
        document.set_trailing(format!("{own}{kept}"));
    }
}

/// Puts comments before the first of these keys that is written somewhere.
fn hand_on(table: &mut dyn TableLike, names: &[String], comments: &str) -> bool {
    let before = |decor: &mut toml_edit::Decor| {
        let own = decor
            .prefix()
            .and_then(|prefix| prefix.as_str())
            .unwrap_or_default();
        let both = format!("{comments}{own}");
        decor.set_prefix(both);
    };
    for name in names {
        if table.get(name).is_some_and(Item::is_value)
            && let Some(mut key) = table.key_mut(name)
        {
            before(key.leaf_decor_mut());
            return true;
        }
        match table.get_mut(name) {
            Some(Item::Table(below)) if below.is_dotted() || below.is_implicit() => {
                let names: Vec<String> = below.iter().map(|(name, _)| name.to_owned()).collect();
                if hand_on(below, &names, comments) {
                    return true;
                }
            }
            Some(Item::Table(below)) => {
                before(below.decor_mut());
                return true;
            }
            Some(Item::ArrayOfTables(tables)) => {
                if let Some(first) = tables.get_mut(0) {
                    before(first.decor_mut());
                    return true;
                }
            }
            _ => {}
        }
    }
    false
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
        // `8080:80/tcp` is `8080:80`.
        Some(text) if path == "network.forward" => {
            text == word || Forward::read(text).is_ok_and(|f| Forward::read(word) == Ok(f))
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
        if let Some(list) = opposite.and_then(|name| table.get_mut(name))
            && let Some(list) = list.as_array_mut()
        {
            list.retain(|value| !same(value, word));
            tidy_list(list);
        }
        if !table.contains_key(last) {
            table.insert(last, Item::Value(Value::Array(Array::new())));
        }
    }
    // One text in place of a list becomes a list.
    if let Some(Item::Value(value)) = table.get_mut(last)
        && !value.is_array()
    {
        let one: Array = std::iter::once(value.clone()).collect();
        *value = Value::Array(one);
    }
    if let Some(list) = table.get_mut(last).and_then(Item::as_array_mut) {
        if setting && !list.iter().any(|value| same(value, word)) {
            list.push(word);
        } else if !setting {
            list.retain(|value| !same(value, word));
        }
        tidy_list(list);
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
            tidy_list(list);
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

#[cfg(test)]
mod tests {
    use super::super::key::Key;
    use super::*;

    fn set(text: &str, path: &str, flag: &str) -> String {
        edit(text, &Key::find(path).unwrap().changes(&[flag]).unwrap()).unwrap()
    }

    fn unset(text: &str, path: &str) -> String {
        edit(text, &[(KeyPath::parse(path).unwrap(), Change::Unset)]).unwrap()
    }

    #[test]
    fn comments_and_order_stay() {
        let text = "# my server\n\n[memory]   # room\nlimit = \"64M\"  # tight\n\n# last\n[cpu]\nweight = 5\n";
        assert_eq!(set(text, "memory.limit", "1G"), text.replace("64M", "1G"));
        let more = set(text, "memory.swap", "8M");
        assert_eq!(more, text.replace("tight\n", "tight\nswap = \"8M\"\n"));
        assert_eq!(unset(&more, "memory.swap"), text);
        assert_eq!(
            set("[cpu]\nweight = 5\n", "ptys", "7"),
            "ptys = 7\n[cpu]\nweight = 5\n"
        );
    }

    #[test]
    fn a_heading_outlives_the_first_key() {
        assert_eq!(
            unset("# heading\n\n# few\nptys = 5\ncgroups = 6\n", "ptys"),
            "# heading\n\ncgroups = 6\n"
        );
        assert_eq!(
            unset("# heading\n\nptys = 5\n[cpu]\nweight = 5\n", "ptys"),
            "# heading\n\n[cpu]\nweight = 5\n"
        );
    }

    #[test]
    fn every_way_of_writing_is_edited_in_place() {
        assert_eq!(
            set("memory = { limit = 67108864 }\n", "memory.swap", "0"),
            "memory = { limit = 67108864, swap = 0 }\n"
        );
        assert_eq!(
            set("cpu.weight = 5\n", "cpu.weight", "6"),
            "cpu.weight = 6\n"
        );
        assert_eq!(
            set(
                "template = \"debian\"\n",
                "template.options",
                "suite=trixie"
            ),
            "template = { name = \"debian\", suite = \"trixie\" }\n"
        );
        assert_eq!(
            set("template = { name = \"debian\" }\n", "template", "host"),
            "template = { name = \"host\" }\n"
        );
        assert_eq!(
            set(
                "[sysctls]\nnet.core.somaxconn = 1\n",
                "sysctls",
                "net.core.somaxconn=2"
            ),
            "[sysctls]\nnet.core.somaxconn = \"2\"\n"
        );
        assert_eq!(
            set("autostart.after = \"a\"\n", "autostart.after", "b"),
            "autostart.after = [\"a\", \"b\"]\n"
        );
        assert_eq!(
            set(
                "mount = [{ source = \"/a\", target = \"/b\" }]\n",
                "mount",
                "/c:/d"
            ),
            "mount = [{ source = \"/a\", target = \"/b\" }, { source = \"/c\", target = \"/d\" }]\n"
        );
    }

    #[test]
    fn an_entry_is_replaced_and_removed_by_its_identity() {
        let text = "[[mount]]\nsource = \"/a\"\ntarget = \"/b\" # here\nread_only = true\n";
        let moved = set(text, "mount", "/c:/b");
        assert_eq!(
            moved,
            "[[mount]]\nsource = \"/c\"\ntarget = \"/b\" # here\n"
        );
        assert_eq!(unset(&set(&moved, "mount", "/x:/y"), "mount./y"), moved);
        assert_eq!(unset(&moved, "mount./b"), "");
    }

    #[test]
    fn a_capability_is_added_or_dropped_not_both() {
        let text = "[security]\ndrop = [\"CAP_MKNOD\", \"KILL\"]\n";
        let added = set(text, "security.add", "mknod");
        assert_eq!(added, "[security]\ndrop = [\"KILL\"]\nadd = [\"mknod\"]\n");
        assert_eq!(
            unset(&added, "security.add.MKNOD"),
            "[security]\ndrop = [\"KILL\"]\nadd = []\n"
        );
    }

    #[test]
    fn nothing_is_edited_that_is_not_valid() {
        let limit = Key::find("memory.limit").unwrap().changes(&["1G"]).unwrap();
        assert!(edit("[memroy]\n", &limit).is_err());
        let bad = KeyPath {
            key: Key::find("processes").unwrap(),
            item: None,
        };
        assert!(edit("", &[(bad, Change::Set("many".into()))]).is_err());
    }
}
