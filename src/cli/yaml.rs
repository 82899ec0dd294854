//! JSON values as YAML: block style, and every text quoted that YAML could read as something else.
//! Only written, never read, so that the whole language is not needed.

use serde_json::Value;

/// The value as one YAML document, with a newline at its end.
pub(super) fn text(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out.push('\n');
    out
}

/// Writes `value` from the current place on; its further lines begin at column `indent`.
fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (i, (key, value)) in fields.iter().enumerate() {
                if i > 0 {
                    line(indent, out);
                }
                *out += &scalar(key);
                out.push(':');
                if is_block(value) {
                    line(indent + 2, out);
                } else {
                    out.push(' ');
                }
                block(value, indent + 2, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    line(indent, out);
                }
                *out += "- ";
                block(item, indent + 2, out);
            }
        }
        Value::String(text) => *out += &scalar(text),
        other => *out += &other.to_string(),
    }
}

fn line(indent: usize, out: &mut String) {
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', indent));
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

/// A text as it is where nothing else can be meant, else as JSON writes it, which YAML reads alike.
fn scalar(text: &str) -> String {
    const MEANT: [&str; 10] = [
        "true", "false", "null", "yes", "no", "on", "off", "y", "n", "~",
    ];
    let first = text.bytes().next();
    let plain = first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'/')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
        && !MEANT.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_values_keep_their_order() {
        let value = serde_json::json!([
            {"b": 1, "a": {"x": [], "y": [1, [2, 3]], "z": {}}, "c": null},
            "text"
        ]);
        let expected = "- b: 1\n  a:\n    x: []\n    \"y\":\n      - 1\n      - - 2\n        - 3\n    \
                        z: {}\n  c: null\n- text\n";
        assert_eq!(text(&value), expected);
    }

    #[test]
    fn a_text_stays_a_text() {
        for (from, to) in [
            ("web-1", "web-1"),
            ("/usr/bin", "/usr/bin"),
            ("", "\"\""),
            ("No", "\"No\""),
            ("1.5", "\"1.5\""),
            ("-x", "\"-x\""),
            ("a: b", "\"a: b\""),
            ("a #b", "\"a #b\""),
            ("two\nlines", "\"two\\nlines\""),
        ] {
            assert_eq!(scalar(from), to);
        }
    }
}
