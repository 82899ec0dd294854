//! A network that is set up, of which somebody has taken something away: its firewall went with the host's
//! own, say, or its uplink is another.

use super::Network;
use super::files;
use super::host::HostError;
use crate::kernel::netlink::Netlink;

impl Network {
    /// Writes the firewall anew, whatever of it is still there; false if the network is not set up.
    ///
    /// # Errors
    /// As [`Network::ensure_host`].
    pub fn reload(&self) -> Result<bool, HostError> {
        let mut kernel = Netlink::open()?;
        let _lock = files::lock(&self.run_folder())?;
        if self.own_bridge(&mut kernel)?.is_none() || !self.holds_back() {
            return Ok(false);
        }
        self.set_up(&mut kernel).map(|_| true)
    }

    /// Puts back what is gone of the host's side, if the network is set up; whether anything was.
    ///
    /// # Errors
    /// As [`Network::ensure_host`].
    pub fn tend(&self) -> Result<bool, HostError> {
        let mut kernel = Netlink::open()?;
        if !self.holds_back()
            || self.own_bridge(&mut kernel)?.is_none()
            || self.found(&mut kernel)?.is_some()
        {
            return Ok(false);
        }
        let done = self.reload()?;
        self.ensure_served()?;
        Ok(done)
    }
}
