//! Ranges → instructions. Code is made from its end to its start: when a jump is made, both places
//! it leads to are there already, so its distance is known and a jump that would be too long (255
//! is the most) gets a stepping stone at once. What the ranges mean is `ranges`' subject.
//!
//! The part before the first look at an argument uses only loads of `nr` and `arch`, jumps and
//! returns: what the kernel (5.11 and later) can follow when it notes, at load time, which calls
//! are always allowed and need no run of the program at all.

use std::collections::BTreeMap;

use super::Instruction;
use super::ranges::{Group, Verdict};
use crate::model::{ArgCmp, Compare};

// Operations of linux/bpf_common.h put together.
pub(super) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(super) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const ABOVE: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(super) const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in struct seccomp_data of linux/seccomp.h.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCH: u32 = 4;
pub(super) const ARGUMENTS: u32 = 16;

/// Longest jump made. The kernel's limit is 255; the rest is room for the stepping stones of one
/// instruction.
const REACH: usize = 250;

/// A place in the code: how many instructions there are from it to the end.
type Place = usize;

#[derive(Default)]
struct Code {
    /// Last instruction first.
    reversed: Vec<Instruction>,
    returns: BTreeMap<u32, Place>,
}

/// The whole program for these groups; calls with another token meet `bad_arch`.
pub(super) fn program(groups: &[Group], bad_arch: u32) -> Vec<Instruction> {
    let mut code = Code::default();
    let mut next = None;
    for group in groups.iter().rev() {
        let search = code.group(&group.ranges);
        code.fall_through(search);
        let start = code.push(LOAD, 0, 0, NUMBER);
        let otherwise = next.unwrap_or_else(|| code.ret(bad_arch));
        next = Some(code.branch(EQUAL, group.token, start, otherwise));
    }
    let first = next.unwrap_or_else(|| code.ret(bad_arch));
    code.fall_through(first);
    code.push(LOAD, 0, 0, ARCH);
    code.reversed.reverse();
    without_unreachable(&code.reversed)
}

impl Code {
    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Place {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len()
    }

    /// A place within reach that returns `value`.
    fn ret(&mut self, value: u32) -> Place {
        match self.returns.get(&value) {
            Some(&place) if self.reversed.len() - place < REACH / 2 => place,
            _ => {
                let place = self.push(RETURN, 0, 0, value);
                self.returns.insert(value, place);
                place
            }
        }
    }

    /// A place within reach that leads to `place`.
    fn near(&mut self, place: Place) -> Place {
        let distance = self.reversed.len() - place;
        if distance < REACH {
            return place;
        }
        let there = self.reversed[place - 1];
        if there.code == RETURN {
            return self.ret(there.k);
        }
        // A program has at most 4096 instructions; a longer one is refused after it is made.
        self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX))
    }

    fn fall_through(&mut self, place: Place) {
        let distance = self.reversed.len() - place;
        if distance > 0 {
            self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX));
        }
    }

    /// A comparison of what is loaded with `k`.
    fn branch(&mut self, code: u16, k: u32, yes: Place, no: Place) -> Place {
        let (yes, no) = (self.near(yes), self.near(no));
        let distance = |place| u8::try_from(self.reversed.len() - place).unwrap_or(u8::MAX);
        let (jt, jf) = (distance(yes), distance(no));
        self.push(code, jt, jf, k)
    }

    /// The search of one group, with `nr` loaded.
    fn group(&mut self, ranges: &[(u32, Verdict)]) -> Place {
        // Argument checks go behind the search, so that its own jumps stay short.
        let mut places = BTreeMap::new();
        for (_, verdict) in ranges {
            if let Verdict::Checked {
                checks,
                otherwise,
                bits,
            } = verdict
                && !places.contains_key(verdict)
            {
                let place = self.checks(checks, *otherwise, *bits);
                places.insert(verdict, place);
            }
        }
        self.search(ranges, &places)
    }

    fn search(&mut self, r: &[(u32, Verdict)], places: &BTreeMap<&Verdict, Place>) -> Place {
        match r {
            [(_, Verdict::Plain(value))] => self.ret(*value),
            [(_, verdict)] => places[verdict],
            // One number between two ranges of the same verdict needs one question, not two.
            [(_, before), (one, _), (next, after)] if before == after && *next == one + 1 => {
                let it = self.search(&r[1..2], places);
                let others = self.search(&r[..1], places);
                self.branch(EQUAL, *one, it, others)
            }
            _ => {
                let middle = r.len() / 2;
                let high = self.search(&r[middle..], places);
                let low = self.search(&r[..middle], places);
                self.branch(AT_LEAST, r[middle].0, high, low)
            }
        }
    }

    fn checks(&mut self, checks: &[(Vec<ArgCmp>, u32)], otherwise: u32, bits: u32) -> Place {
        let mut next = self.ret(otherwise);
        for (conditions, value) in checks.iter().rev() {
            let mut place = self.ret(*value);
            for condition in conditions.iter().rev() {
                place = self.compare(*condition, bits, place, next);
            }
            next = place;
        }
        next
    }

    /// One condition on one argument.
    fn compare(&mut self, condition: ArgCmp, bits: u32, yes: Place, no: Place) -> Place {
        let words = Words::of(condition.arg, bits);
        match condition.compare {
            Compare::Eq(v) => self.equal(&words, u64::MAX, v, yes, no),
            Compare::Ne(v) => self.equal(&words, u64::MAX, v, no, yes),
            Compare::MaskedEq { mask, value } => self.equal(&words, mask, value, yes, no),
            Compare::Gt(v) => self.order(&words, ABOVE, v, yes, no),
            Compare::Le(v) => self.order(&words, ABOVE, v, no, yes),
            Compare::Ge(v) => self.order(&words, AT_LEAST, v, yes, no),
            Compare::Lt(v) => self.order(&words, AT_LEAST, v, no, yes),
        }
    }

    fn equal(&mut self, words: &Words, mask: u64, value: u64, yes: Place, no: Place) -> Place {
        let low = self.masked(words.low, low(mask), low(value), yes, no);
        match words.high {
            Some(offset) => self.masked(offset, high(mask), high(value), low, no),
            None => low,
        }
    }

    fn masked(&mut self, offset: u32, mask: u32, value: u32, yes: Place, no: Place) -> Place {
        let value = value & mask;
        if mask == 0 {
            yes
        } else if mask == u32::MAX {
            self.word(offset, EQUAL, value, yes, no)
        } else if value == 0 {
            self.word(offset, ANY_BIT, mask, no, yes)
        } else if mask.is_power_of_two() {
            self.word(offset, ANY_BIT, mask, yes, no)
        } else {
            self.branch(EQUAL, value, yes, no);
            self.push(AND, 0, 0, mask);
            self.push(LOAD, 0, 0, offset)
        }
    }

    /// `argument > value` or `>=`: the high words decide unless they are equal.
    fn order(&mut self, words: &Words, code: u16, value: u64, yes: Place, no: Place) -> Place {
        let low = self.word(words.low, code, low(value), yes, no);
        let Some(offset) = words.high else { return low };
        let equal = self.word(offset, EQUAL, high(value), low, no);
        self.word(offset, ABOVE, high(value), yes, equal)
    }

    /// Loads a word and compares it. Where a jump leads to a load of the same word, it goes past it.
    fn word(&mut self, offset: u32, code: u16, k: u32, yes: Place, no: Place) -> Place {
        let past = |place: Place| {
            let there = self.reversed[place - 1];
            place - usize::from(there.code == LOAD && there.k == offset)
        };
        let (yes, no) = (past(yes), past(no));
        self.branch(code, k, yes, no);
        self.push(LOAD, 0, 0, offset)
    }
}

/// Where the words of an argument are.
struct Words {
    low: u32,
    high: Option<u32>,
}

impl Words {
    fn of(arg: u8, bits: u32) -> Self {
        let first = ARGUMENTS + 8 * u32::from(arg);
        let (low, high) = if cfg!(target_endian = "little") {
            (first, first + 4)
        } else {
            (first + 4, first)
        };
        Self {
            low,
            high: (bits == 64).then_some(high),
        }
    }
}

const fn low(v: u64) -> u32 {
    (v & 0xffff_ffff) as u32
}

const fn high(v: u64) -> u32 {
    (v >> 32) as u32
}

/// Drops what no path reaches (loads that every jump goes past). Distances only shrink.
fn without_unreachable(code: &[Instruction]) -> Vec<Instruction> {
    let mut reached = vec![false; code.len()];
    let mut todo = vec![0];
    while let Some(at) = todo.pop() {
        if !std::mem::replace(&mut reached[at], true) {
            todo.extend(successors(code, at));
        }
    }
    // How many are kept before each place.
    let mut kept = 0_u32;
    let position: Vec<u32> = reached
        .iter()
        .map(|&r| {
            let before = kept;
            kept += u32::from(r);
            before
        })
        .collect();
    let distance = |at: usize, to: usize| position[to] - position[at] - 1;
    let short = |at, to| u8::try_from(distance(at, to)).unwrap_or(u8::MAX);
    let keep = (0..code.len()).filter(|&at| reached[at]);
    keep.map(|at| {
        let mut i = code[at];
        match successors(code, at)[..] {
            [yes, no] => (i.jt, i.jf) = (short(at, yes), short(at, no)),
            [to] if i.code == JUMP => i.k = distance(at, to),
            _ => {}
        }
        i
    })
    .collect()
}

fn successors(code: &[Instruction], at: usize) -> Vec<usize> {
    let i = code[at];
    match i.code {
        RETURN => vec![],
        JUMP => vec![at + 1 + i.k as usize],
        EQUAL | ABOVE | AT_LEAST | ANY_BIT => {
            vec![at + 1 + usize::from(i.jt), at + 1 + usize::from(i.jf)]
        }
        _ => vec![at + 1],
    }
}
