//! How large packets of a network are: what it says, or what goes on whole from there; and what IPv6
//! needs, which has no smaller ones.

use super::Network;
use crate::kernel::netlink::{Netlink, NetlinkError};

/// Every link that carries IPv6 takes packets of so many bytes.
const IPV6_NEEDS: u32 = 1280;

impl Network {
    /// What its guests are given, of what there is room for: on a link of ours with IPv6 no less than that
    /// needs, as the host tells who sends more than goes on.
    pub(super) fn for_guests(&self, mtu: u32) -> u32 {
        match self.prefix6.is_some() && !self.is_guest_of_lan() {
            true => mtu.max(IPV6_NEEDS),
            false => mtu,
        }
    }

    /// Why its packets cannot be so large, or so small.
    pub(super) fn wrong_size(&self, kernel: &mut Netlink) -> Result<Option<String>, NetlinkError> {
        let largest = match self.largest_within(kernel)? {
            Some(most) => Some((most, "go to the other hosts whole".to_owned())),
            None if self.is_guest_of_lan() && !self.is_passthrough() => {
                let most = self.taken_by_lan(kernel)?;
                most.map(|most| (most, format!("go over {}", self.bridge)))
            }
            None => None,
        };
        Ok(wrong(self.mtu, largest, self.wanted6().is_some()))
    }

    /// What the host's interface takes. A bridge takes what the least of its ports does, and those of
    /// guests are as the network says.
    fn taken_by_lan(&self, kernel: &mut Netlink) -> Result<Option<u32>, NetlinkError> {
        let Some(link) = kernel.link(&self.bridge)? else {
            return Ok(None);
        };
        if !self.is_external() {
            return Ok(Some(link.mtu));
        }
        let ours = self.prefix();
        let ports = kernel.links("")?.into_iter();
        let theirs = ports.filter(|port| port.master == Some(link.index));
        let theirs = theirs.filter(|port| !port.name.starts_with(&ours));
        Ok(theirs.map(|port| port.mtu).min())
    }
}

fn wrong(said: Option<u32>, largest: Option<(u32, String)>, ipv6: bool) -> Option<String> {
    if let (Some(said), Some((most, way))) = (said, &largest)
        && said > *most
    {
        return Some(format!(
            "packets of {said} bytes do not {way}: {most} is the most"
        ));
    }
    let least = said.or(largest.map(|(most, _)| most))?;
    let why = said.map_or("the most here", |_| "what --mtu says");
    (ipv6 && least < IPV6_NEEDS).then(|| {
        format!(
            "IPv6 needs packets of {IPV6_NEEDS} bytes, and {least} is {why}: let them be larger, or leave out --prefix6"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_fit_the_way_and_ipv6() {
        let way = |most| Some((most, "go over br0".to_owned()));
        assert_eq!(wrong(None, None, true), None);
        assert_eq!(wrong(Some(1280), None, true), None);
        assert_eq!(wrong(Some(576), way(1500), false), None);
        let narrow = wrong(Some(1279), None, true).unwrap();
        assert!(
            narrow.contains("1280") && narrow.contains("1279"),
            "{narrow}"
        );
        let narrow = wrong(None, way(1250), true).unwrap();
        assert!(narrow.contains("1250 is the most"), "{narrow}");
        let wide = wrong(Some(9000), way(1500), false).unwrap();
        assert_eq!(
            wide,
            "packets of 9000 bytes do not go over br0: 1500 is the most"
        );
    }
}
