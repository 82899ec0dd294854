//! `/etc/hosts` of a guest: the program keeps a block between two marks and leaves the rest of the
//! file to the guest. Pure text: `storage` writes it for a guest that does not run, `launch` as the
//! guest's own root for one that does.

const BEGIN: &str = "# bulkhead: begin";
const END: &str = "# bulkhead: end";

/// The block: `lines` between the marks.
#[must_use]
pub fn hosts_block(lines: &str) -> String {
    format!("{BEGIN} (kept by the host)\n{lines}{END}\n")
}

/// The file's new text: the old one with `block` in the place of the block it has, or at its end.
#[must_use]
pub fn merge_hosts(old: &str, block: &str) -> String {
    if old.trim().is_empty() {
        return format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{block}");
    }
    let (mut new, mut inside, mut placed) = (String::new(), false, false);
    let mut ends = old.lines().filter(|l| l.starts_with(END)).count();
    for line in old.lines() {
        if line.starts_with(END) {
            ends -= 1;
        }
        if line.starts_with(BEGIN) {
            // Without an end below, what follows is the guest's own.
            inside = ends > 0;
            if !placed {
                new.push_str(block);
                placed = true;
            }
        } else if line.starts_with(END) {
            inside = false;
        } else if !inside {
            new.push_str(line);
            new.push('\n');
        }
    }
    if !placed {
        new.push_str(block);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_guests_own_stay() {
        let first = merge_hosts("", &hosts_block("10.1.0.2 web\n10.1.0.3 db\n"));
        assert!(first.contains("ip6-loopback\n# bulkhead: begin"), "{first}");
        let edited = format!("# mine\n{first}192.0.2.1 printer\n");
        let moved = hosts_block("10.1.0.9 web\n");
        let second = merge_hosts(&edited, &moved);
        assert!(second.starts_with("# mine\n127.0.0.1 localhost\n"));
        assert!(second.ends_with("192.0.2.1 printer\n"), "{second}");
        assert!(second.contains("10.1.0.9 web") && !second.contains("10.1.0.2"));
        assert_eq!(merge_hosts(&second, &moved), second, "nothing new");
    }

    #[test]
    fn a_block_without_an_end_loses_nothing() {
        let block = hosts_block("10.1.0.9 web\n");
        let mended = merge_hosts(&format!("a\n{BEGIN}\nb\n"), &block);
        assert!(mended.starts_with("a\n") && mended.ends_with("\nb\n"));
        assert_eq!(merge_hosts(&mended, &block), mended);
    }
}
