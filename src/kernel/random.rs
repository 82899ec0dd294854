//! Random numbers from the kernel (getrandom(2)).

use super::error::{KernelError, Result};

/// Fills `bytes` with random bytes.
pub fn fill(bytes: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        done += rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes[done..], flags))
            .map_err(KernelError::on("get", "random bytes"))?;
    }
    Ok(())
}

/// `n` random bytes as `2n` hexadecimal digits.
pub fn hex(n: usize) -> Result<String> {
    let mut bytes = vec![0_u8; n];
    fill(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
