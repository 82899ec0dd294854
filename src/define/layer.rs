//! What a table, a list and a map are, how each is read, and which of two layers wins. A table made
//! by [`layered!`] can forget none of its fields: the macro writes reading and layering for each.
//! Single values are read next door in `word`.

use std::collections::BTreeMap;

use super::read::{Node, Reader, join, scalar};
use super::word::Word;

/// What can be written at a key; the settings table is tested against it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(test),
    allow(dead_code, reason = "read by the test of the settings table")
)]
pub(super) enum Shape {
    /// One value, or a list that is one value.
    Single,
    /// A list that grows.
    Words,
    /// Keys of one's own.
    Map,
    /// Keys of the schema.
    Table(&'static [(&'static str, &'static Shape)]),
    /// Tables of the schema, as `[[mount]]`.
    Entries,
}

/// A part of a definition that can lie over the same part of another.
pub(super) trait Layer: Default {
    /// What can be written there.
    #[cfg_attr(
        not(test),
        allow(dead_code, reason = "read by the test of the settings table")
    )]
    const SHAPE: Shape;
    /// This part over `lower`; this one wins.
    #[must_use]
    fn over(self, lower: Self) -> Self;
    /// Reads it; faults go to the reader, and what was wrong is left out.
    fn read(reader: &mut Reader<'_>, path: &str, node: &Node<'_>) -> Self;
}

/// Makes a table of the schema: a struct of layers.
macro_rules! layered {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name { $($(#[$doc])* pub $field: $kind,)* }

        impl $crate::define::layer::Layer for $name {
            const SHAPE: $crate::define::layer::Shape = $crate::define::layer::Shape::Table(&[
                $((stringify!($field), &<$kind as $crate::define::layer::Layer>::SHAPE),)*
            ]);

            fn over(self, lower: Self) -> Self {
                Self { $($field: $crate::define::layer::Layer::over(self.$field, lower.$field),)* }
            }

            fn read(
                reader: &mut $crate::define::read::Reader<'_>,
                path: &str,
                node: &$crate::define::read::Node<'_>,
            ) -> Self {
                let Some(table) = reader.table(path, node) else {
                    return Self::default();
                };
                reader.known(path, table, &[$(stringify!($field)),*]);
                Self { $($field: reader.field(path, table, stringify!($field)),)* }
            }
        }
    };
}
pub(super) use layered;

impl<T: Word> Layer for Option<T> {
    const SHAPE: Shape = Shape::Single;

    fn over(self, lower: Self) -> Self {
        self.or(lower)
    }

    fn read(reader: &mut Reader<'_>, path: &str, node: &Node<'_>) -> Self {
        reader.word(path, node)
    }
}

impl<T: Word> Layer for BTreeMap<String, T> {
    const SHAPE: Shape = Shape::Map;

    fn over(self, mut lower: Self) -> Self {
        lower.extend(self);
        lower
    }

    fn read(reader: &mut Reader<'_>, path: &str, node: &Node<'_>) -> Self {
        let Some(table) = reader.table(path, node) else {
            return Self::default();
        };
        let mut map = Self::new();
        for (key, value) in table {
            let path = join(path, key.get_ref());
            if let Some(value) = reader.word(&path, value) {
                map.insert(key.get_ref().to_string(), value);
            }
        }
        map
    }
}

/// Kernel settings. Their names have dots, which TOML takes for tables; both ways of writing are
/// the same here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dotted(pub BTreeMap<String, String>);

impl Layer for Dotted {
    const SHAPE: Shape = Shape::Map;

    fn over(self, lower: Self) -> Self {
        Self(self.0.over(lower.0))
    }

    fn read(reader: &mut Reader<'_>, path: &str, node: &Node<'_>) -> Self {
        let mut map = BTreeMap::new();
        collect_dotted(reader, path, "", node, &mut map);
        Self(map)
    }
}

/// The parser bounds how deep tables go, so this ends.
fn collect_dotted(
    reader: &mut Reader<'_>,
    path: &str,
    prefix: &str,
    node: &Node<'_>,
    map: &mut BTreeMap<String, String>,
) {
    let Some(table) = reader.table(&join(path, prefix), node) else {
        return;
    };
    for (key, value) in table {
        let name = join(prefix, key.get_ref());
        if value.get_ref().is_table() {
            collect_dotted(reader, path, &name, value, map);
        } else if let Some(text) = reader.word(&join(path, &name), value)
            && map.insert(name.clone(), text).is_some()
        {
            reader.fault(value, format!("{path}: {name:?} is given twice"));
        }
    }
}

/// A list that is one value: a higher layer replaces it whole. Text in place of a list is split at
/// blanks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replace<T>(pub Option<Vec<T>>);

impl<T> Default for Replace<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Word> Layer for Replace<T> {
    const SHAPE: Shape = Shape::Single;

    fn over(self, lower: Self) -> Self {
        Self(self.0.or(lower.0))
    }

    fn read(reader: &mut Reader<'_>, path: &str, node: &Node<'_>) -> Self {
        if let Some(text) = scalar(node.get_ref()) {
            let words = text.split_whitespace();
            return Self(words.map(|word| reader.parse(path, node, word)).collect());
        }
        let Some(list) = reader.list(path, node) else {
            return Self(None);
        };
        Self(list.iter().map(|node| reader.word(path, node)).collect())
    }
}

/// A list that grows: a higher layer adds to it. One text is a list of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extend<T>(pub Vec<T>);

impl<T> Default for Extend<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Word + PartialEq> Layer for Extend<T> {
    const SHAPE: Shape = Shape::Words;

    fn over(self, lower: Self) -> Self {
        let mut all = lower.0;
        for word in self.0 {
            if !all.contains(&word) {
                all.push(word);
            }
        }
        Self(all)
    }

    fn read(reader: &mut Reader<'_>, path: &str, node: &Node<'_>) -> Self {
        if node.get_ref().is_array() {
            let list = reader.list(path, node).into_iter().flatten();
            Self(list.filter_map(|node| reader.word(path, node)).collect())
        } else {
            Self(reader.word(path, node).into_iter().collect())
        }
    }
}

/// A table of which there can be several, as `[[mount]]`.
pub(super) trait Entry: Sized {
    /// The keys of one.
    #[cfg_attr(
        not(test),
        allow(dead_code, reason = "read by the test of the settings table")
    )]
    const NAMES: &'static [&'static str];
    /// The key by which one is told from another.
    const IDENTITY: &'static str;
    /// The value of that key.
    fn identity(&self) -> String;
    /// Reads one.
    fn read(reader: &mut Reader<'_>, path: &str, node: &Node<'_>) -> Option<Self>;
}

impl<T: Entry> Layer for Vec<T> {
    const SHAPE: Shape = Shape::Entries;

    fn over(self, lower: Self) -> Self {
        let mine: Vec<String> = self.iter().map(T::identity).collect();
        let mut all = lower;
        all.retain(|entry| !mine.contains(&entry.identity()));
        all.extend(self);
        all
    }

    fn read(reader: &mut Reader<'_>, path: &str, node: &Node<'_>) -> Self {
        if node.get_ref().is_table() {
            reader.fault(
                node,
                format!("{path}: there can be several: write [[{path}]]"),
            );
            return Self::new();
        }
        let mut all: Self = Self::new();
        for node in reader.list(path, node).into_iter().flatten() {
            let Some(entry) = T::read(reader, path, node) else {
                continue;
            };
            let identity = entry.identity();
            if all.iter().any(|other| other.identity() == identity) {
                let name = T::IDENTITY;
                reader.fault(node, format!("{path}: {name} {identity:?} is given twice"));
            }
            reader.mark(&join(path, &identity), node);
            all.push(entry);
        }
        all
    }
}

/// Makes a table of which there can be several.
macro_rules! entry {
    (
        $(#[$meta:meta])* pub struct $name:ident by $identity:ident {
            required { $($(#[$must_doc:meta])* $must:ident: $must_kind:ty,)* }
            optional { $($(#[$may_doc:meta])* $may:ident: $may_kind:ty,)* }
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[$must_doc])* pub $must: $must_kind,)*
            $($(#[$may_doc])* pub $may: Option<$may_kind>,)*
        }

        impl $crate::define::layer::Entry for $name {
            const NAMES: &'static [&'static str] =
                &[$(stringify!($must),)* $(stringify!($may),)*];
            const IDENTITY: &'static str = stringify!($identity);

            fn identity(&self) -> String {
                self.$identity.display().to_string()
            }

            fn read(
                reader: &mut $crate::define::read::Reader<'_>,
                path: &str,
                node: &$crate::define::read::Node<'_>,
            ) -> Option<Self> {
                let table = reader.table(path, node)?;
                reader.known(path, table, Self::NAMES);
                $(let $must: Option<$must_kind> =
                    reader.required(path, node, table, stringify!($must));)*
                $(let $may: Option<$may_kind> = reader.field(path, table, stringify!($may));)*
                Some(Self { $($must: $must?,)* $($may,)* })
            }
        }
    };
}
pub(super) use entry;
