//! Changing a network that somebody made, and removing it.

use super::directory::DirectoryError;
use super::host::HostError;
use super::record::Record;
use super::{Network, files};
use crate::kernel::netlink::Netlink;
use crate::model::Prefix6;

impl Network {
    /// Refuses for what a network cannot be, or not with the guests it has.
    ///
    /// # Errors
    /// It cannot be so; the message says why.
    pub fn check_change(&self, record: &Record) -> Result<(), DirectoryError> {
        let refused = |why: String| DirectoryError::Refused {
            name: record.name.clone(),
            why,
        };
        record.check().map_err(refused)?;
        self.of(record).refuse_missing()?;
        let before = self.load(&record.name)?;
        if let Some(prefix) = record.prefix6.filter(|_| before.changes6(record)) {
            if let Some(why) = self.refused6(prefix, &record.name)? {
                return Err(refused(why));
            }
            let mut kernel = Netlink::open()?;
            self.of(record).refuse_overlap6(&mut kernel)?;
        }
        let new = self.of(record);
        if (before.mtu != new.mtu || before.changes6(record))
            && let Some(why) = new.wrong_size(&mut Netlink::open()?)?
        {
            return Err(refused(why));
        }
        if before.changes6(record)
            && let Some(why) = new.unfit6(&before.leases()?, record.subnet)
        {
            return Err(refused(why));
        }
        let pool = new.pool_in(record.subnet);
        for (guest, address) in before.leases()?.iter() {
            if let Some(role) = pool.role(address) {
                return Err(refused(format!(
                    "{guest} has {address}, which would be {role}: give it another with `bulkhead set {guest} --address IP` and restart it, or leave that address to it"
                )));
            }
        }
        Ok(())
    }

    /// Changes what of a network can be changed: its largest packet, whether guests are kept apart, what
    /// of its pool they get, its IPv6. It holds from the next start of a guest on; another prefix needs
    /// all of them stopped, and so does another gateway if that is the host. Where the host has no ends of
    /// their interfaces, the caller knows which run.
    ///
    /// # Errors
    /// It cannot be so, guests are on it, or a file cannot be written.
    pub fn change_record(&self, record: &Record) -> Result<(), DirectoryError> {
        let _lock = self.lock_directory()?;
        let before = self.load(&record.name)?;
        // In the order of a start, which holds the first and waits for the second.
        let _run = files::lock(&before.run_folder())?;
        let _book = before.lock_book()?;
        self.check_change(record)?;
        let moved = match before.is_guest_of_lan() {
            // The gateway is somebody else's.
            true => before.changes6(record),
            false => {
                before.addresses.gateway != record.addresses.gateway || before.changes6(record)
            }
        };
        if moved {
            // The next start makes it anew.
            let gone = Netlink::open()
                .map_err(HostError::from)
                .and_then(|mut kernel| before.take_down(&mut kernel));
            gone.map_err(|error| match error {
                HostError::InUse { ports, .. } => DirectoryError::Refused {
                    name: record.name.clone(),
                    why: format!("stop the guests that are on it ({ports}) before it gets another gateway, or another IPv6 prefix or none"),
                },
                other => other.into(),
            })?;
            files::pause(&before.folder())?;
        }
        // First, so that nobody who finds the new record takes what is there to be made for it.
        files::remove(&before.marker_file())?;
        files::pause(&before.folder())?;
        Ok(files::write(&self.record_file(&record.name), record)?)
    }

    /// Whether a record says another IPv6 prefix than this network has.
    #[must_use]
    pub fn changes6(&self, record: &Record) -> bool {
        self.wanted6() != record.prefix6
    }

    /// The IPv6 prefix that its record has.
    pub(super) fn wanted6(&self) -> Option<Prefix6> {
        self.prefix6.or(self.missed6)
    }

    /// Takes a network's side of the host down, then its record, then its folders. The locks of the
    /// directory and of its run folder are held.
    pub(super) fn discard(&self) -> Result<(), DirectoryError> {
        let Some(name) = &self.name else {
            return Ok(());
        };
        self.refuse_away()?;
        self.take_down(&mut Netlink::open()?)?;
        files::pause(&self.folder())?;
        files::remove(&self.record_file(name))?;
        files::pause(&self.folder())?;
        files::remove_folder(&self.folder())?;
        Ok(files::remove_folder(&self.run_folder())?)
    }
}
