//! A network that is set up, of which somebody has taken something away: its firewall went with the host's
//! own, say, or its uplink is another.

use super::Network;
use super::host::HostError;
use crate::kernel::netlink::Netlink;

impl Network {
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
