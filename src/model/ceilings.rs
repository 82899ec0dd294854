//! How much of what all guests share on a network one of them may use, beside bytes a second, and who of
//! them goes first.

use serde::{Deserialize, Serialize};

use super::Urgency;

/// What a definition says; the default is no ceiling of the guest's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceilings {
    /// Packets that it sends in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u32>,
    /// Connections that it begins in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_connections: Option<u32>,
    /// Connections of it that the host keeps track of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Whether what it sends goes before what others send, or behind it.
    #[serde(default, skip_serializing_if = "Urgency::is_normal")]
    pub urgency: Urgency,
}

impl Ceilings {
    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether packets are counted on their way, which takes rules at the guest's port.
    #[must_use]
    pub fn at_port(&self) -> bool {
        self.packets.is_some() || self.new_connections.is_some()
    }

    /// Whether anything at all is done there.
    #[must_use]
    pub fn needs_port(&self) -> bool {
        self.at_port() || self.urgency != Urgency::Normal
    }
}
