//! Which device nodes a group may open or make. Version 1 has rules for it; for version 2 the
//! kernel asks an eBPF program, which is written here by hand from the same rules. Which devices a
//! guest should have belongs above.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::dir::Dir;
use super::{CgroupError, Controller, DeviceAccess, DeviceKind, DeviceRule, Group, Result};

impl Group {
    /// Replaces the device rules of a group that was made with some.
    ///
    /// # Errors
    /// [`CgroupError::Unsupported`] on version 1, when the group was made without rules; when the
    /// kernel refuses one.
    pub fn set_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        if !self.v1_controllers.contains(&Controller::Devices) {
            return attach(self.v2_dir()?, &ordered(rules), false);
        }
        let Some(dir) = self.v1_dir(Controller::Devices) else {
            return Err(self.site("").unsupported(
                "device rules for a running group that was made without them",
                "start it again",
            ));
        };
        let old = dir.read("devices.list")?;
        if old.starts_with('a') {
            return install(self, rules);
        }
        let new: Vec<String> = rules.iter().map(v1_line).collect();
        for line in &new {
            dir.write("devices.allow", line)?;
        }
        for line in old.lines().filter(|line| !new.iter().any(|n| n == line)) {
            dir.write("devices.deny", line)?;
        }
        Ok(())
    }
}

/// Puts the rules of a new group in force: nothing but these.
pub(super) fn install(group: &Group, rules: &[DeviceRule]) -> Result<()> {
    let Some(dir) = group.v1_dir(Controller::Devices) else {
        return attach(group.v2_dir()?, &ordered(rules), false);
    };
    dir.write("devices.deny", "a")?;
    let path = || dir.path().join("devices.allow");
    let file = dir
        .file("devices.allow", rustix::fs::OFlags::WRONLY)
        .map_err(|e| CgroupError::file("open", &path(), e))?;
    for rule in rules {
        let line = v1_line(rule);
        rustix::io::write(&file, line.as_bytes())
            .map_err(|e| CgroupError::with_value("write", &path(), &line, e))?;
    }
    Ok(())
}

fn v1_line(rule: &DeviceRule) -> String {
    let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
    let kind = match rule.kind {
        DeviceKind::Char => 'c',
        DeviceKind::Block => 'b',
    };
    format!(
        "{kind} {}:{} {}",
        number(rule.major),
        number(rule.minor),
        rule.access.letters()
    )
}

/// One eBPF instruction (struct bpf_insn), packed as the kernel lays it out on this machine.
const fn instruction(code: u8, to: u8, from: u8, jump: i16, number: i32) -> u64 {
    let registers = (to & 15) | (from << 4);
    u64::from_ne_bytes({
        let (j, n) = (jump.to_ne_bytes(), number.to_ne_bytes());
        [code, registers, j[0], j[1], n[0], n[1], n[2], n[3]]
    })
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_NUMBER: u8 = 0xb7;
const AND_NUMBER: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_UNLESS: u8 = 0x55;
const JUMP_IF: u8 = 0x15;
const EXIT: u8 = 0x95;

/// One rule of an ordered list; `None` is any.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ordered {
    pub(super) allow: bool,
    pub(super) kind: Option<DeviceKind>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: DeviceAccess,
}

impl From<&DeviceRule> for Ordered {
    fn from(rule: &DeviceRule) -> Self {
        Self {
            allow: true,
            kind: Some(rule.kind),
            major: rule.major,
            minor: rule.minor,
            access: rule.access,
        }
    }
}

const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// What is asked for and not yet allowed.
const LEFT: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// The program for an ordered list: 1 when all that is asked is allowed, else 0. For each letter of
/// `rwm` the last rule that matches counts, so the rules are gone through from the last to the
/// first: one that denies something still asked for ends it, one that allows takes off what it
/// allows, until nothing is left. What no rule mentions is denied. The program is given struct
/// bpf_cgroup_dev_ctx: access and kind in one word, major, minor.
fn program(rules: &[Ordered]) -> Vec<u64> {
    let mut out = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        instruction(MOVE, LEFT, KIND, 0, 0),
        instruction(SHIFT_RIGHT, LEFT, 0, 0, 16),
        instruction(AND_NUMBER, KIND, 0, 0, 0xffff),
    ];
    for rule in rules.iter().rev() {
        emit(rule, &mut out);
    }
    out.push(instruction(MOVE_NUMBER, 0, 0, 0, 0));
    out.push(instruction(EXIT, 0, 0, 0, 0));
    out
}

/// The instructions of one rule: comparisons, each of which leads behind the rule, then the verdict.
fn emit(rule: &Ordered, out: &mut Vec<u64>) {
    let kind = rule.kind.map(|kind| match kind {
        DeviceKind::Block => 1,
        DeviceKind::Char => 2,
    });
    // Device numbers end at 2^20; a larger one is never equal, whichever sign it gets.
    let number = |n: Option<u32>| n.map(u32::cast_signed);
    let compared = [
        (KIND, kind),
        (MAJOR, number(rule.major)),
        (MINOR, number(rule.minor)),
    ];
    let a = rule.access;
    let letters = i32::from(a.mknod) | i32::from(a.read) << 1 | i32::from(a.write) << 2;
    let verdict = if rule.allow {
        [
            instruction(AND_NUMBER, LEFT, 0, 0, !letters),
            instruction(JUMP_UNLESS, LEFT, 0, 2, 0),
            instruction(MOVE_NUMBER, 0, 0, 0, 1),
            instruction(EXIT, 0, 0, 0, 0),
        ]
        .to_vec()
    } else {
        [
            instruction(MOVE, SCRATCH, LEFT, 0, 0),
            instruction(AND_NUMBER, SCRATCH, 0, 0, letters),
            instruction(JUMP_IF, SCRATCH, 0, 2, 0),
            instruction(MOVE_NUMBER, 0, 0, 0, 0),
            instruction(EXIT, 0, 0, 0, 0),
        ]
        .to_vec()
    };
    let compared: Vec<(u8, i32)> = compared
        .into_iter()
        .filter_map(|(register, n)| n.map(|n| (register, n)))
        .collect();
    let mut behind: i16 = if rule.allow { 4 } else { 5 };
    behind += i16::from(compared.len() > 1) + i16::from(compared.len() > 2);
    for (register, n) in compared {
        out.push(instruction(JUMP_UNLESS, register, 0, behind, n));
        behind -= 1;
    }
    out.extend(verdict);
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Groups below may add programs, and all of them must allow: nobody below can loosen ours.
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// The part of union bpf_attr that loads a program.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// The part that attaches one.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

/// The part that asks what is attached.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// The part that opens a program by its number.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// bpf(2), Linux 3.18.
///
/// # Safety
/// `attr` must be the part of union bpf_attr that `command` reads, and every address in it must
/// be valid for as many bytes as the counts beside it say.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> rustix::io::Result<i32> {
    let size = size_of::<T>();
    // SAFETY: attr is exclusively borrowed and `size` bytes long, so the kernel reads and writes
    // only it and what the caller vouches for.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    i32::try_from(result)
        .ok()
        .filter(|&n| n >= 0)
        .ok_or_else(last_error)
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // An open descriptor is never negative.
    fd.as_raw_fd().cast_unsigned()
}

fn ordered(rules: &[DeviceRule]) -> Vec<Ordered> {
    rules.iter().map(Ordered::from).collect()
}

/// Loads the program for `rules` and attaches it to the group, in place of an earlier one unless the
/// group is `fresh`. The kernel holds it as long as the group lives.
pub(super) fn attach(dir: &Dir, rules: &[Ordered], fresh: bool) -> Result<()> {
    use std::os::fd::AsFd;
    let failed = |verb| move |e| CgroupError::file(verb, dir.path(), e);
    let program = load(&program(rules)).map_err(failed("load the device program of"))?;
    let old = match fresh {
        true => None,
        false => attached(dir.as_fd()).map_err(failed("find the device program of"))?,
    };
    let mut attr = Attach {
        target: raw(dir.as_fd()),
        program: raw(program.as_fd()),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
        replaced: 0,
    };
    if let Some(old) = &old {
        attr.flags |= BPF_F_REPLACE;
        attr.replaced = raw(old.as_fd());
    }
    // SAFETY: Attach is what this command reads; it holds no addresses.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }
        .map(|_| ())
        .map_err(failed("attach the device program to"))
}

/// Whether a device program is attached to the group itself.
pub(super) fn has_program(dir: &Dir) -> Result<bool> {
    use std::os::fd::AsFd;
    attached(dir.as_fd())
        .map(|found| found.is_some())
        .map_err(|e| CgroupError::file("find the device program of", dir.path(), e))
}

fn load(instructions: &[u64]) -> rustix::io::Result<OwnedFd> {
    let licence = c"Apache-2.0";
    let mut attr = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?,
        instructions: instructions.as_ptr() as u64,
        licence: licence.as_ptr() as u64,
        attach_type: BPF_CGROUP_DEVICE,
        ..Load::default()
    };
    // SAFETY: Load is what this command reads; both addresses are of borrowed memory that outlives
    // the call, `count` instructions of 8 bytes and a string that ends with zero.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: the call has just opened this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The program that we attached to the group earlier. Ours is the only one: the folder is not
/// delegated.
fn attached(target: BorrowedFd<'_>) -> rustix::io::Result<Option<OwnedFd>> {
    let mut ids = [0_u32; 4];
    let mut attr = Query {
        target: raw(target),
        attach_type: BPF_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: 4,
        ..Query::default()
    };
    // SAFETY: Query is what this command reads; the address is of `count` numbers of ours.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    if attr.count == 0 {
        return Ok(None);
    }
    let mut attr = ById {
        id: ids[0],
        ..ById::default()
    };
    // SAFETY: ById is what this command reads; it holds no addresses.
    let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
    // SAFETY: the call has just opened this descriptor for us alone.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        let access = DeviceAccess::parse(access).unwrap();
        DeviceRule {
            kind,
            major,
            minor,
            access,
        }
    }

    /// Runs a program as the kernel would.
    fn run(program: &[u64], word: u32, major: u32, minor: u32) -> u64 {
        let mut r = [0_u64; 11];
        let mut at = 0;
        loop {
            let b = program[at].to_ne_bytes();
            let (to, from) = (usize::from(b[1] & 15), usize::from(b[1] >> 4));
            let jump = i16::from_ne_bytes([b[2], b[3]]);
            let n = i32::from_ne_bytes([b[4], b[5], b[6], b[7]]);
            let low = |r: u64| u64::from(r as u32);
            at += 1;
            match b[0] {
                LOAD_WORD => r[to] = u64::from([word, major, minor][jump as usize / 4]),
                MOVE => r[to] = low(r[from]),
                MOVE_NUMBER => r[to] = n as u64,
                AND_NUMBER => r[to] = low(r[to] & low(n as u64)),
                SHIFT_RIGHT => r[to] = low(r[to]) >> n,
                JUMP_UNLESS => {
                    if r[to] != n as u64 {
                        at += jump as usize;
                    }
                }
                JUMP_IF => {
                    if r[to] == n as u64 {
                        at += jump as usize;
                    }
                }
                EXIT => return r[0],
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_allows_what_the_rules_allow() {
        let code = program(&ordered(&[
            rule(DeviceKind::Char, Some(1), Some(3), "rw"),
            rule(DeviceKind::Char, None, None, "m"),
            rule(DeviceKind::Block, Some(8), None, "r"),
        ]));
        let (mknod, read, write) = (1 << 16, 2 << 16, 4 << 16);
        let (block, char) = (1, 2);
        assert_eq!(run(&code, char | read | write, 1, 3), 1);
        assert_eq!(run(&code, char | read, 1, 4), 0);
        assert_eq!(run(&code, char | read, 2, 3), 0);
        assert_eq!(run(&code, char | mknod, 5, 9), 1);
        assert_eq!(run(&code, char | mknod | read, 5, 9), 0);
        assert_eq!(run(&code, block | read, 8, 77), 1);
        assert_eq!(run(&code, block | write, 8, 77), 0);
        assert_eq!(run(&code, block | mknod, 8, 77), 0);
        assert_eq!(run(&program(&[]), char | read, 1, 3), 0);
    }

    /// What the list means, letter by letter.
    fn meant(rules: &[Ordered], kind: DeviceKind, major: u32, minor: u32, bits: u32) -> bool {
        type Letter = fn(&DeviceAccess) -> bool;
        let last = |letter: Letter| {
            rules.iter().rev().find(|r| {
                letter(&r.access)
                    && r.kind.is_none_or(|k| k == kind)
                    && r.major.is_none_or(|n| n == major)
                    && r.minor.is_none_or(|n| n == minor)
            })
        };
        let letters: [(u32, Letter); 3] = [(1, |a| a.mknod), (2, |a| a.read), (4, |a| a.write)];
        letters
            .into_iter()
            .filter(|(bit, _)| bits & bit != 0)
            .all(|(_, letter)| last(letter).is_some_and(|r| r.allow))
    }

    proptest! {
        #[test]
        fn the_last_matching_rule_counts(
            list in prop::collection::vec(
                (any::<bool>(), 0_u8..3, prop::option::of(0_u32..3), prop::option::of(0_u32..3), 1_u8..8),
                0..12,
            ),
            asked in (any::<bool>(), 0_u32..3, 0_u32..3, 1_u32..8),
        ) {
            let rules: Vec<Ordered> = list
                .into_iter()
                .map(|(allow, kind, major, minor, a)| Ordered {
                    allow,
                    kind: [None, Some(DeviceKind::Block), Some(DeviceKind::Char)][usize::from(kind)],
                    major,
                    minor,
                    access: DeviceAccess { mknod: a & 1 != 0, read: a & 2 != 0, write: a & 4 != 0 },
                })
                .collect();
            let (block, major, minor, bits) = asked;
            let (kind, word) = match block {
                true => (DeviceKind::Block, 1),
                false => (DeviceKind::Char, 2),
            };
            let allowed = run(&program(&rules), word | bits << 16, major, minor) == 1;
            prop_assert_eq!(allowed, meant(&rules, kind, major, minor, bits));
        }
    }

    #[test]
    fn any_number_is_a_star_in_version_1() {
        assert_eq!(v1_line(&rule(DeviceKind::Char, None, None, "m")), "c *:* m");
        assert_eq!(
            v1_line(&rule(DeviceKind::Block, Some(8), None, "rw")),
            "b 8:* rw"
        );
    }
}
