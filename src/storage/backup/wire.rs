//! Numbers and byte strings in the repository's own formats: little-endian, lengths first. What is
//! read is data of a stranger: every length is held against what is left before it is believed, and
//! nothing may be left over at the end.

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// They end too early.
    #[error("it ends too early")]
    Short,
    /// Something is left over.
    #[error("there is more in it than its format has")]
    Long,
    /// A value that its format does not have.
    #[error("{0}")]
    Value(&'static str),
}

/// Result of reading.
pub(super) type Result<T> = std::result::Result<T, WireError>;

/// Reads from bytes.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(n).ok_or(WireError::Short)?;
        self.left = left;
        Ok(taken)
    }

    /// The next `N` bytes, by value.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, left) = self.left.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.left = left;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// Bytes with their length before them, at most `most`.
    pub(super) fn bytes(&mut self, most: usize) -> Result<&'a [u8]> {
        let length = usize::try_from(self.u32()?).map_err(|_| WireError::Short)?;
        if length > most {
            return Err(WireError::Value("a length in it is larger than any can be"));
        }
        self.take(length)
    }

    /// A count of things of at least `each` bytes.
    pub(super) fn count(&mut self, each: usize) -> Result<usize> {
        let count = usize::try_from(self.u32()?).map_err(|_| WireError::Short)?;
        if count > self.left.len() / each.max(1) {
            return Err(WireError::Short);
        }
        Ok(count)
    }

    /// The end.
    pub(super) fn end(self) -> Result<()> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(WireError::Long)
        }
    }
}

/// Writes bytes.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(super) fn i64(&mut self, value: i64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// A length or count. None of ours comes near its end: the reader would refuse what did.
    pub(super) fn count(&mut self, value: usize) -> &mut Self {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX))
    }

    /// Bytes with their length before them.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).put(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let mut writer = Writer::default();
        writer
            .u8(7)
            .u32(8)
            .u64(9)
            .i64(-1)
            .bytes(b"abc")
            .count(2)
            .put(b"xy");
        let bytes = writer.bytes;
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8(), Ok(7));
        assert_eq!(reader.u32(), Ok(8));
        assert_eq!(reader.u64(), Ok(9));
        assert_eq!(reader.i64(), Ok(-1));
        assert_eq!(reader.bytes(3), Ok(&b"abc"[..]));
        assert_eq!(reader.count(1), Ok(2));
        assert_eq!(reader.take(2), Ok(&b"xy"[..]));
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(Reader::new(b"x").end(), Err(WireError::Long));
    }

    #[test]
    fn lengths_are_not_believed() {
        let huge = [0xff_u8; 8];
        assert!(Reader::new(&huge).bytes(usize::MAX).is_err());
        assert!(Reader::new(&huge).bytes(10).is_err());
        assert!(Reader::new(&huge).count(1).is_err());
        assert!(Reader::new(&[3, 0, 0, 0, 1, 2]).count(1).is_err());
    }
}
