//! What df(1) tells in a guest on btrfs: what it was sold, by every way to ask and for every user, as
//! long as somebody is there who answers, and of this guest's root only.

use crate::life;
use crate::life::inside;
use crate::support::{Bulkhead, Need, eventually, need};

const MIB: u64 = 1 << 20;

/// Size, used and available bytes of what a command prints last.
#[track_caller]
fn told(host: &Bulkhead, line: &str) -> [u64; 3] {
    let text = inside(host, "a", line);
    let words = text.split_whitespace();
    let all: Vec<u64> = words.map(|word| word.parse().expect("a number")).collect();
    <[u64; 3]>::try_from(all).unwrap_or_else(|all| panic!("{line}: {all:?}"))
}

const DF: &str = "df --output=size,used,avail -B1 / | tail -1";

/// The same by fstatfs(2) of a file that is open, in bytes.
const BY_FILE: &str = r#"perl -e '
    open my $file, "<", "/root/big" or die;
    my $told = "\0" x 120;
    syscall(138, fileno $file, $told) == 0 or die $!;
    my (undef, $block, $all, $free, $left) = unpack "q5", $told;
    print join " ", map { $_ * $block } $all, $all - $free, $left;
'"#;

/// What the kernel says of another filesystem, by both calls; and of what is not there.
const OTHERS: &str = r#"stat -f -c %T /proc /sys /dev; cd /proc; stat -f -c %T self/status;
    ln -s /proc /root/way; stat -f -c %T /root/way/;
    perl -e 'my $told = "\0" x 120; open my $file, "<", "/proc/self/status" or die;
    syscall(138, fileno $file, $told); printf "%x\n", unpack "q", $told';
    stat -f /none 2>&1; true"#;

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).expect("a process of ours");
}

#[track_caller]
fn keeper(host: &Bulkhead) -> i32 {
    let path = host.root().join("run/bulkhead/guests/a/state.json");
    let state = std::fs::read_to_string(path).expect("a run state");
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    let pid = state["keeper"]["pid"].as_i64().expect("a process");
    i32::try_from(pid).expect("a pid")
}

/// Who answers, a child of the keeper at first.
fn answering(keeper: i32) -> Option<i32> {
    let path = format!("/proc/{keeper}/task/{keeper}/children");
    let children = std::fs::read_to_string(path).ok()?;
    let mut pids = children.split_whitespace().map(|pid| pid.parse::<i32>());
    pids.find_map(|pid| {
        let pid = pid.ok()?;
        let shown = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        shown.starts_with(b"bulkhead: calls of a\0").then_some(pid)
    })
}

/// A program of 32 bits that makes one call and writes what it returned, and 84 bytes of memory that
/// the call may have filled in. `{path}` is the address of a path, `{room}` that of the memory.
fn of_32_bits(call: u32, arguments: [&str; 3], path: &str) -> Vec<u8> {
    const AT: u32 = 0x0804_8000;
    let head = 52 + 32;
    let code_size = 58;
    let path_at = AT + head + code_size;
    let told_at = AT + 0x1000;
    let value = |text: &str| match text {
        "path" => path_at,
        "room" => told_at + 4,
        number => number.parse().expect("a number"),
    };
    let [b, c, d] = arguments.map(value);
    let mut code = Vec::new();
    // mov to eax, ebx, ecx, edx; int 0x80; mov from eax
    let mut four = |number: u32, [b, c, d]: [u32; 3]| {
        for (register, value) in [(0xb8, number), (0xbb, b), (0xb9, c), (0xba, d)] {
            code.push(register);
            code.extend(value.to_le_bytes());
        }
        code.extend([0xcd, 0x80]);
        if number != 4 {
            code.push(0xa3);
            code.extend(told_at.to_le_bytes());
        }
    };
    four(call, [b, c, d]);
    four(4, [1, told_at, 88]);
    code.extend([0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80]);
    assert_eq!(code.len(), code_size as usize, "where the path lies");
    code.extend(path.as_bytes());
    code.push(0);
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2_u16, 3] {
        file.extend(half.to_le_bytes());
    }
    for word in [1, AT + head, 52, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [52_u16, 32, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let size = head + u32::try_from(code.len()).expect("short");
    for word in [1, 0, AT, AT, size, 0x2000, 7, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// What such a program prints in the guest: what the call returned, and the memory in words.
#[track_caller]
fn told_of_32_bits(
    host: &Bulkhead,
    (call, arguments, path): (u32, [&str; 3], &str),
) -> (i32, Vec<u32>) {
    let file = host.root().join("of32");
    std::fs::write(&file, of_32_bits(call, arguments, path)).expect("a folder of ours");
    host.ok(&[
        "file",
        "push",
        "--mode",
        "755",
        &file.to_string_lossy(),
        "a:/root/of32",
    ]);
    let text = inside(host, "a", "/root/of32 </root/big | od -An -v -tu4 -w88");
    let words = text.split_whitespace();
    let mut words = words.map(|word| word.parse::<u32>().expect("a number"));
    let returned = words.next().expect("88 bytes").cast_signed();
    (returned, words.collect())
}

/// Programs of 32 bits are told the same, by their four calls; and of what is wrong, what the kernel says.
fn told_to_32_bits(host: &Bulkhead, size: u64) {
    let blocks = |words: &[u32], at: usize| u64::from(words[at]) * u64::from(words[1]);
    for call in [
        (268, ["path", "84", "room"], "/"),
        (269, ["0", "84", "room"], ""),
    ] {
        let (returned, words) = told_of_32_bits(host, call);
        assert_eq!(
            (returned, blocks(&words, 2), words[3]),
            (0, size, 0),
            "{call:?}"
        );
        assert_eq!((words[0], words[14]), (0x794c_7630, 255), "{words:?}");
        assert!(
            (50 * MIB..70 * MIB).contains(&(size - blocks(&words, 4))),
            "{words:?}"
        );
    }
    for call in [
        (99, ["path", "room", "0"], "/"),
        (100, ["0", "room", "0"], ""),
    ] {
        let (returned, words) = told_of_32_bits(host, call);
        assert_eq!((returned, blocks(&words, 2)), (0, size), "{call:?}");
        assert_eq!((words[9], &words[16..]), (255, &[0; 5][..]), "{words:?}");
    }
    let returns = |call| told_of_32_bits(host, call).0;
    assert_eq!(returns((268, ["path", "88", "room"], "/")), -22);
    assert_eq!(returns((268, ["path", "84", "1"], "/")), -14);
    assert_eq!(returns((268, ["path", "84", "room"], "/none")), -2);
    let (returned, words) = told_of_32_bits(host, (268, ["path", "84", "room"], "/proc"));
    assert_eq!((returned, words[0]), (0, 0x9fa0));
}

#[track_caller]
fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    let base = ["create", name, "--template", "host", "--network", "none"];
    let rest = ["--init", "/bin/sleep 86400", "--pool", "bt", "--start"];
    host.ok(&[&base[..], &rest, flags].concat());
}

#[test]
fn df_on_btrfs_tells_what_was_sold() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let pool = [
        "pool", "create", "bt", "--driver", "btrfs", "--size", "512M",
    ];
    host.ok(&pool);
    made(&host, "a", &["--disk", "300M"]);
    let [size, before, left] = told(&host, DF);
    assert_eq!(size, 300 * MIB);
    assert!(
        before < 20 * MIB && left <= size - before,
        "{before} {left}"
    );
    inside(&host, "a", "head -c 50M /dev/urandom > /root/big; sync");
    let [size, used, left] = told(&host, DF);
    assert_eq!(size, 300 * MIB);
    let grown = used - before;
    assert!((49 * MIB..56 * MIB).contains(&grown), "{grown}");
    assert!(left <= size - used && left > 100 * MIB, "{left}");
    // By other ways, and for somebody who is not root and may not look into a folder.
    let by_file = told(&host, BY_FILE);
    assert_eq!(by_file, [size, used, left]);
    let blocks = |of: &str| inside(&host, "a", &format!("{of} -f -c '%b %f %a %T'"));
    let by_path = blocks("cd /root; stat big");
    assert_eq!(by_path.split(' ').next(), Some("76800"), "{by_path}");
    assert!(by_path.ends_with(" overlayfs"), "{by_path}");
    for of in ["cd /; stat root/../root/big", "ln -s /root/big /l; stat /l"] {
        assert_eq!(blocks(of), by_path, "{of}");
    }
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    assert_eq!(
        blocks(&format!("mkdir -m 755 /open; {nobody} stat /open")),
        by_path
    );
    let closed = format!("chmod 700 /root; {nobody} stat -f /root/big 2>&1; true");
    assert!(inside(&host, "a", &closed).contains("Permission denied"));
    let others = inside(&host, "a", OTHERS);
    let others: Vec<&str> = others.lines().collect();
    assert_eq!(others.len(), 7, "{others:?}");
    assert_eq!(others[..2], ["proc", "sysfs"]);
    assert_eq!(others[3..6], ["proc", "proc", "9fa0"]);
    assert!(others[6].contains("No such file"), "{others:?}");
    if cfg!(target_arch = "x86_64") {
        told_to_32_bits(&host, size);
    }
    // What is not memory is refused, and another size is told at once.
    let bad = "perl -e 'my $at = \"/\"; print syscall(137, $at, 1), \" \", $! + 0'";
    assert_eq!(inside(&host, "a", bad), "-1 14");
    host.ok(&["set", "a", "disk.size=400M"]);
    assert_eq!(told(&host, DF)[0], 400 * MIB);
    // Whoever is killed, df tells something, and soon the same again.
    let first = keeper(&host);
    kill(answering(first).expect("one who answers"));
    assert!(told(&host, DF)[0] >= 400 * MIB);
    eventually("the next one tells it", 10, || {
        told(&host, DF)[0] == 400 * MIB
    });
    kill(first);
    assert!(told(&host, DF)[0] >= 400 * MIB);
    eventually("it is told", 10, || told(&host, DF)[0] == 400 * MIB);
    // Who has no size, and who wants the kernel's answers, has them.
    made(&host, "any", &[]);
    made(&host, "files", &["--disk", "300M", "--view", "files"]);
    for name in ["any", "files"] {
        let shown = life::shown(&host, name);
        assert!(shown > 450 * MIB, "{name}: {shown}");
    }
    host.ok(&["delete", "--all", "--force"]);
    host.ok(&["pool", "delete", "bt"]);
}
