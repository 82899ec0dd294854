//! What all groups together weigh at block devices beside everything else on the host, which weighs 100:
//! the host's part of them, when both want more than there is.

use super::dir::Dir;
use super::{CgroupError, Controller, Parent, Result, service};

impl Parent {
    /// Gives the folder of all groups this weight. Under systemd its slice gets the same, which is beside
    /// the host's services. Without a wish both stay what they are: whoever else has given them a weight
    /// has meant it.
    ///
    /// # Errors
    /// [`CgroupError::Unsupported`] where nothing shares by weight; when a file cannot be written.
    pub fn share_io(&self, weight: Option<u32>) -> Result<()> {
        let Some(weight) = weight.map(u64::from) else {
            return Ok(());
        };
        let v1 = self
            .v1
            .iter()
            .find(|(hierarchy, _)| hierarchy.controllers.contains(&Controller::Io));
        let (dir, files): (&Dir, &[&str]) = match v1 {
            Some((_, Some(dir))) => (dir, &["blkio.bfq.weight"]),
            _ => (&self.v2, &["io.bfq.weight", "io.weight"]),
        };
        let above = dir.path().parent();
        let slice = above.filter(|path| path.ends_with(service::SLICE));
        let slice = slice.map(Dir::open).transpose()?.flatten();
        let mut found = false;
        for dir in [Some(dir), slice.as_ref()].into_iter().flatten() {
            for file in files {
                let Some(text) = dir.try_read(file)? else {
                    continue;
                };
                found = true;
                if weight_of(&text) != Some(weight) {
                    let default = if *file == "io.weight" { "default " } else { "" };
                    dir.write(file, &format!("{default}{weight}"))?;
                }
            }
        }
        match found {
            true => Ok(()),
            false => Err(CgroupError::Unsupported {
                what: "reserve.io_weight, a weight of all guests at block devices,",
                mode: self.mode,
                why: "nothing here shares by weight; use the bfq scheduler or a kernel with iocost",
            }),
        }
    }
}

/// The weight that is for all devices: the first line, with or without a word before it.
fn weight_of(text: &str) -> Option<u64> {
    text.lines().next()?.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_for_all_devices_is_read() {
        assert_eq!(weight_of("100\n"), Some(100));
        assert_eq!(weight_of("default 50\n8:0 200\n"), Some(50));
        assert_eq!(weight_of(""), None);
    }
}
