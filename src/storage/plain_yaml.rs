//! The part of YAML in which Incus and LXD write what they say of a container: maps, lists and
//! scalars in block style, `{}` and `[]`. Whatever else comes is an error: it is a stranger's text,
//! and no part of it (anchors, tags) may grow or become something else.

/// Most levels.
const DEPTH: usize = 32;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Yaml {
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    /// What a map has at a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(all) => all.iter().find(|(name, _)| name == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text at a key.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Keys and values of a map.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Self)> {
        let all = match self {
            Self::Map(all) => all.as_slice(),
            _ => &[],
        };
        all.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many values a list has.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::List(all) => all.len(),
            _ => 0,
        }
    }
}

/// A line: its number, how far it is indented, what it says.
type Line<'a> = (usize, usize, &'a str);

/// Parses a document.
pub(super) fn parse(text: &str) -> Result<Yaml, String> {
    let lines: Vec<Line<'_>> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#') && line != "---"
        })
        .map(|(n, line)| {
            (
                n + 1,
                line.len() - line.trim_start_matches(' ').len(),
                line.trim(),
            )
        })
        .collect();
    let mut left = lines.as_slice();
    let value = block(&mut left, 0, 0)?;
    match left.first() {
        None => Ok(value),
        Some((n, ..)) => Err(format!("line {n} is not where it belongs")),
    }
}

/// A map or a list that begins on the first line and is indented by at least `least`.
fn block(lines: &mut &[Line<'_>], least: usize, depth: usize) -> Result<Yaml, String> {
    let Some(&(number, indent, first)) = lines.first() else {
        return Ok(Yaml::Text(String::new()));
    };
    if depth > DEPTH {
        return Err(format!("line {number} lies too deep"));
    }
    if indent < least {
        return Ok(Yaml::Text(String::new()));
    }
    match first == "-" || first.starts_with("- ") {
        true => list(lines, indent, depth),
        false => map(lines, indent, depth),
    }
}

fn list(lines: &mut &[Line<'_>], indent: usize, depth: usize) -> Result<Yaml, String> {
    let mut all = Vec::new();
    while let Some(&(number, at, line)) = lines.first()
        && at == indent
        && let Some(rest) = line.strip_prefix('-')
    {
        let inner = rest.trim_start();
        if inner.is_empty() {
            *lines = &lines[1..];
            all.push(block(lines, indent + 1, depth + 1)?);
        } else if key(inner).is_some() {
            // A map whose first key stands on the line of the dash.
            let within = indent + (line.len() - inner.len());
            let mut own: Vec<Line<'_>> = vec![(number, within, inner)];
            let more = lines[1..].iter().take_while(|line| line.1 > indent);
            own.extend(more);
            *lines = &lines[own.len()..];
            let mut rest = own.as_slice();
            all.push(map(&mut rest, within, depth + 1)?);
            if let Some((n, ..)) = rest.first() {
                return Err(format!("line {n} is not where it belongs"));
            }
        } else {
            *lines = &lines[1..];
            all.push(scalar(inner, number)?);
        }
    }
    Ok(Yaml::List(all))
}

fn map(lines: &mut &[Line<'_>], indent: usize, depth: usize) -> Result<Yaml, String> {
    let mut all: Vec<(String, Yaml)> = Vec::new();
    while let Some(&(number, at, line)) = lines.first()
        && at == indent
    {
        let Some((name, rest)) = key(line) else {
            break;
        };
        *lines = &lines[1..];
        if all.iter().any(|(other, _)| *other == name) {
            return Err(format!("line {number} has {name:?} a second time"));
        }
        let value = match rest {
            "" => match lines.first() {
                // A list may stand right below its key.
                Some((_, at, line)) if *at == indent && line.starts_with('-') => {
                    list(lines, indent, depth + 1)?
                }
                _ => block(lines, indent + 1, depth + 1)?,
            },
            "|" | "|-" | ">" | ">-" => {
                let own = lines.iter().take_while(|line| line.1 > indent).count();
                let texts: Vec<&str> = lines[..own].iter().map(|line| line.2).collect();
                *lines = &lines[own..];
                Yaml::Text(texts.join("\n"))
            }
            rest => scalar(rest, number)?,
        };
        all.push((name, value));
    }
    Ok(Yaml::Map(all))
}

/// Key and the rest of a line that has one.
fn key(line: &str) -> Option<(String, &str)> {
    let (name, rest) = match line.chars().next()? {
        quote @ ('"' | '\'') => {
            let end = line[1..].find(quote)? + 1;
            (&line[1..end], line[end + 1..].strip_prefix(':')?)
        }
        _ => {
            let end = line
                .find(": ")
                .or_else(|| line.strip_suffix(':').map(str::len))?;
            (&line[..end], &line[end + 1..])
        }
    };
    Some((name.to_owned(), rest.trim()))
}

fn scalar(text: &str, number: usize) -> Result<Yaml, String> {
    let wrong = || format!("line {number} is in a form that is not read here");
    Ok(match text.chars().next() {
        _ if text == "{}" => Yaml::Map(Vec::new()),
        _ if text == "[]" => Yaml::List(Vec::new()),
        Some('&' | '*' | '!' | '{' | '[' | '@' | '`' | '%') => return Err(wrong()),
        Some('\'') => {
            let inner = text[1..].strip_suffix('\'').ok_or_else(wrong)?;
            Yaml::Text(inner.replace("''", "'"))
        }
        // Its escapes are those of JSON as far as these programs write them.
        Some('"') => Yaml::Text(serde_json::from_str(text).map_err(|_| wrong())?),
        _ => Yaml::Text(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_incus_writes_is_read() {
        let text = "name: c1\nsnapshots: []\nconfig:\n  instance:\n    config:\n      limits.cpu: \"2\"\n      \
                    user.text: |-\n        a\n        b\n      volatile.idmap: '[{\"Hostid\":1}]'\n    devices:\n      \
                    root:\n        path: /\n        size: 10GiB\n    profiles:\n    - default\n    - web\n  \
                    pools:\n  - name: p\n    config: {}\n  - name: q\nlast: x\n";
        let yaml = parse(text).unwrap();
        let instance = yaml.get("config").unwrap().get("instance").unwrap();
        let config = instance.get("config").unwrap();
        assert_eq!(config.text("limits.cpu"), Some("2"));
        assert_eq!(config.text("user.text"), Some("a\nb"));
        assert_eq!(config.text("volatile.idmap"), Some("[{\"Hostid\":1}]"));
        assert_eq!(instance.get("profiles").unwrap().len(), 2);
        let root = instance.get("devices").unwrap().get("root").unwrap();
        assert_eq!(root.text("size"), Some("10GiB"));
        let Some(Yaml::List(pools)) = yaml.get("config").unwrap().get("pools") else {
            panic!("{yaml:?}");
        };
        assert_eq!(pools[1].text("name"), Some("q"));
        assert_eq!(yaml.text("last"), Some("x"));
    }

    #[test]
    fn what_could_grow_or_change_is_refused() {
        for bad in [
            "a: &x b",
            "a: *x",
            "a: !!python/object x",
            "a: {b: c}",
            "a: 1\na: 2",
            "a: \"b",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let deep: String = (0..200).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert!(parse(&deep).is_err());
    }

    proptest! {
        #[test]
        fn any_text_ends(text in "[-a:'\"|{}\\[\\] \n]{0,80}") {
            drop(parse(&text));
        }
    }
}
