//! The stream of bits between two restarts.

/// What is read, and how far: 64 bits at a time.
#[derive(Debug, Clone, Copy)]
pub struct Bits<'a> {
    data: &'a [u8],
    position: usize,
    /// The next bits, the first one highest.
    buffer: u64,
    /// How many of them count.
    count: u32,
}

/// Where a reader was, without what it reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    position: usize,
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// Goes on at a place; behind the data come zeros, and [`Bits::is_overrun`] tells.
    pub fn at(data: &'a [u8], place: Place) -> Self {
        Self { data, position: place.position, buffer: place.buffer, count: place.count }
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        Place { position: self.position, buffer: self.buffer, count: self.count }
    }

    /// Makes sure of 32 bits.
    #[inline(always)]
    pub fn refill(&mut self) {
        if self.count < 32 {
            let rest = self.data.get(self.position..).unwrap_or_default();
            let next = rest.first_chunk::<8>().map_or_else(|| last(rest), |next| u64::from_be_bytes(*next));
            self.buffer |= next >> self.count;
            // As many whole bytes as there is room for; the bits of the next one that are there too come again, the same.
            self.position += ((63 - self.count) >> 3) as usize;
            self.count |= 0b11_1000;
        }
    }

    /// The next bits, which stay; 1 to 32.
    #[inline(always)]
    pub fn peek(&self, count: u32) -> u32 {
        (self.buffer >> (64 - count)) as u32
    }

    /// Leaves bits behind.
    #[inline(always)]
    pub fn skip(&mut self, count: u32) {
        self.buffer <<= count;
        self.count = self.count.wrapping_sub(count);
    }

    /// The next bits; 1 to 32.
    #[inline(always)]
    pub fn take(&mut self, count: u32) -> u32 {
        let bits = self.peek(count);
        self.skip(count);
        bits
    }

    /// Whether more bits were read than there are.
    pub fn is_overrun(&self) -> bool {
        (self.position * 8).saturating_sub(self.count as usize) > self.data.len() * 8
    }
}

#[cold]
fn last(rest: &[u8]) -> u64 {
    let mut next = [0; 8];
    next[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(next)
}

/// Copies a scan's bytes up to the next marker into `clean`, without the zeros that are stuffed behind bytes of ones, and returns
/// where the marker is; the end of the file, where none comes.
pub fn unstuff(file: &[u8], mut position: usize, clean: &mut Vec<u8>) -> usize {
    clean.clear();
    loop {
        let rest = file.get(position..).unwrap_or_default();
        let Some(ones) = memchr::memchr(0xff, rest) else {
            clean.extend_from_slice(rest);
            return file.len();
        };
        match rest.get(ones + 1) {
            Some(0) => {
                clean.extend_from_slice(&rest[..=ones]);
                position += ones + 2;
            }
            // A byte of ones may fill the space before a marker.
            Some(0xff) => {
                clean.extend_from_slice(&rest[..ones]);
                position += ones + 1;
            }
            _ => {
                clean.extend_from_slice(&rest[..ones]);
                return position + ones;
            }
        }
    }
}
