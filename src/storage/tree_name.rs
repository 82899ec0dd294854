//! Paths of a stranger's tree as people and programs are told them.

/// A path as people and programs are told it: absolute, on one line, each byte to be had back.
pub(super) fn shown(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len() + 1);
    text.push('/');
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if steers(c) => {
                    let mut bytes = [0; 4];
                    escape(&mut text, c.encode_utf8(&mut bytes).as_bytes());
                }
                c => text.push(c),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// The bytes of a path that was told so.
pub(super) fn bytes_of(shown: &str) -> Vec<u8> {
    let text = shown.strip_prefix('/').unwrap_or(shown).as_bytes();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        let escaped = match (first, more) {
            (b'\\', [b'\\', more @ ..]) => Some((b'\\', more)),
            (b'\\', [b'x', high, low, more @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok();
                digits.and_then(|d| Some((u8::from_str_radix(d, 16).ok()?, more)))
            }
            _ => None,
        };
        let (byte, more) = escaped.unwrap_or((*first, more));
        bytes.push(byte);
        rest = more;
    }
    bytes
}

/// Whether a character does something else than to be seen: control characters, ends of lines, and
/// marks that turn the direction of writing.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

fn escape(text: &mut String, bytes: &[u8]) {
    use std::fmt::Write as _;
    for byte in bytes {
        // Writing into a text does not fail.
        write!(text, "\\x{byte:02x}").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_steers_nothing_and_can_be_had_back() {
        assert_eq!(shown(b""), "/");
        assert_eq!(shown("etc/grün".as_bytes()), "/etc/grün");
        assert_eq!(shown(b"a\x1b[2J\n\\x"), r"/a\x1b[2J\x0a\\x");
        for path in [
            &b"etc/gr\xc3\xbcn"[..],
            b"a\x1b[2J\n\\x41",
            b"x\xff\xc3",
            b"\\\\",
            b"",
        ] {
            assert_eq!(bytes_of(&shown(path)), path);
        }
        assert_eq!(shown(b"x\xff\xc3"), r"/x\xff\xc3");
        // Written from right to left, and not to be seen.
        assert_eq!(
            shown("a\u{202e}b\u{200b}".as_bytes()),
            r"/a\xe2\x80\xaeb\xe2\x80\x8b"
        );
    }
}
