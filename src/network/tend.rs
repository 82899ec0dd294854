//! A network that is set up, of which somebody has taken something away: its firewall went with the host's
//! own, say, its uplink is another, or its interfaces are called otherwise.

use super::host::HostError;
use super::{Network, files};
use crate::kernel::netlink::Netlink;

impl Network {
    /// Writes the firewall anew, whatever of it is still there; false if the network is not set up.
    ///
    /// # Errors
    /// As [`Network::ensure_host`].
    pub fn reload(&self) -> Result<bool, HostError> {
        let mut kernel = Netlink::open()?;
        let _lock = files::lock(&self.run_folder())?;
        self.name_again_in(&mut kernel)?;
        if self.own_bridge(&mut kernel)?.is_none() || !self.holds_back() {
            return Ok(false);
        }
        self.set_up(&mut kernel)?;
        self.lead_all_again(&mut kernel).map(|()| true)
    }

    /// Puts back what is gone of the host's side, if the network is set up; whether anything was.
    ///
    /// # Errors
    /// As [`Network::ensure_host`].
    pub fn tend(&self) -> Result<bool, HostError> {
        let mut kernel = Netlink::open()?;
        let named = self.name_again_in(&mut kernel)?;
        if !self.holds_back() || !self.lacks(&mut kernel)? {
            return Ok(named);
        }
        let lock = files::lock(&self.run_folder())?;
        // What was gone may have been another command's doing, which held it until now.
        if !self.lacks(&mut kernel)? {
            return Ok(named);
        }
        self.set_up(&mut kernel)?;
        self.lead_all_again(&mut kernel)?;
        drop(lock);
        self.ensure_served()?;
        Ok(true)
    }

    fn lacks(&self, kernel: &mut Netlink) -> Result<bool, HostError> {
        Ok(self.own_bridge(kernel)?.is_some()
            && (self.found(kernel)?.is_none() || !self.without_route(kernel)?.is_empty()))
    }
}
