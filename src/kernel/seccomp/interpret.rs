//! What a program would say: an interpreter of the part of classic BPF that filters use. For
//! `doctor` and for the tests that compare our programs with libseccomp's and with the rules.

use super::emit::{
    ABOVE, AND, ANY_BIT, ARCH, ARGUMENTS, AT_LEAST, EQUAL, JUMP, LOAD, NUMBER, RETURN,
};
use super::{Instruction, Program};

/// The end of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The value returned: see `Action::code`.
    pub code: u32,
    /// Instructions executed.
    pub steps: u32,
}

impl Program {
    /// What the program says about a call. `token` is `Arch::audit_token`'s.
    #[must_use]
    pub fn run(&self, token: u32, number: u32, args: &[u64; 6]) -> Option<Run> {
        Self::interpret(&self.instructions, token, number, args)
    }

    /// What any program says about a call; `None` if it is no program: it leaves itself, uses an
    /// operation that filters do not use, or looks outside of the call.
    #[must_use]
    pub fn interpret(
        code: &[Instruction],
        token: u32,
        number: u32,
        args: &[u64; 6],
    ) -> Option<Run> {
        let mut loaded = 0_u32;
        let mut at = 0_usize;
        // Jumps only lead forward, so this ends.
        for steps in 1.. {
            let i = code.get(at)?;
            at += 1;
            let branch = |holds: bool| usize::from(if holds { i.jt } else { i.jf });
            match i.code {
                LOAD => loaded = word(token, number, args, i.k)?,
                AND => loaded &= i.k,
                JUMP => at += usize::try_from(i.k).ok()?,
                EQUAL => at += branch(loaded == i.k),
                ABOVE => at += branch(loaded > i.k),
                AT_LEAST => at += branch(loaded >= i.k),
                ANY_BIT => at += branch(loaded & i.k != 0),
                RETURN => return Some(Run { code: i.k, steps }),
                _ => return None,
            }
        }
        None
    }
}

/// A word of struct seccomp_data.
fn word(token: u32, number: u32, args: &[u64; 6], offset: u32) -> Option<u32> {
    match offset {
        NUMBER => Some(number),
        ARCH => Some(token),
        _ => {
            let at = usize::try_from(offset.checked_sub(ARGUMENTS)?).ok()?;
            let bytes = args.get(at / 8)?.to_ne_bytes();
            let word = bytes.get(at % 8..at % 8 + 4)?;
            Some(u32::from_ne_bytes(word.try_into().ok()?))
        }
    }
}
