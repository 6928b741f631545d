//! Huffman tables: a code's meaning by one look at the next bits, with the value behind it where that fits.

use super::{Error, bits::Bits};

/// How many bits one look takes.
const LOOK: u32 = 10;
/// A run that leads out of any block: the end of the block's coefficients.
const END: u32 = 64;
/// Marks a look that gave the code but not all bits of the value behind it.
const PARTIAL: u32 = 0x80;

/// One table.
#[derive(Debug)]
pub struct Table {
    /// By the next bits: the value (16 bits), the zeros before it (8 bits), and the length of code and value. Where not all of
    /// the value is among the bits: its size instead of it, the code's length, and a mark. 0 for longer codes.
    looks: Box<[u32; 1 << LOOK]>,
    /// By the next bits: a code's symbol (8 bits) and length. 0 for longer codes.
    codes: Box<[u16; 1 << LOOK]>,
    /// For each length, the first code behind its last one, with zeros up to 16 bits.
    limits: [u32; 17],
    /// For each length, what leads from a code to its symbol's place.
    offsets: [u32; 17],
    symbols: Box<[u8; 256]>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            looks: Box::new([0; 1 << LOOK]),
            codes: Box::new([0; 1 << LOOK]),
            limits: [0; 17],
            offsets: [0; 17],
            symbols: Box::new([0; 256]),
        }
    }
}

impl Table {
    /// Replaces the codes: how many there are of each length, and their symbols in order.
    ///
    /// # Errors
    /// When that is no prefix code.
    pub fn fill(&mut self, counts: &[u8; 16], symbols: &[u8], is_ac: bool) -> Result<(), Error> {
        let wrong = Error::Damaged("a Huffman table is no prefix code");
        self.looks.fill(0);
        self.codes.fill(0);
        self.symbols.fill(0);
        self.symbols.get_mut(..symbols.len()).ok_or(wrong)?.copy_from_slice(symbols);
        if !is_ac && symbols.iter().any(|symbol| *symbol > 15) {
            return Err(wrong);
        }
        let (mut code, mut place) = (0_u32, 0_u32);
        for (length, count) in (1_u32..).zip(counts) {
            self.offsets[length as usize] = place.wrapping_sub(code);
            for _ in 0..*count {
                if code >= 1 << length {
                    return Err(wrong);
                }
                if length <= LOOK {
                    self.fill_looks(code, length, symbols[place as usize], is_ac);
                }
                code += 1;
                place += 1;
            }
            self.limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(())
    }

    fn fill_looks(&mut self, code: u32, length: u32, symbol: u8, is_ac: bool) {
        let free = LOOK - length;
        let first = (code << free) as usize;
        for rest in 0..1_u32 << free {
            let place = first + rest as usize;
            self.codes[place] = u16::from(symbol) << 8 | length as u16;
            let (run, size) = if is_ac { (u32::from(symbol >> 4), u32::from(symbol & 15)) } else { (0, symbol.into()) };
            self.looks[place] = if size == 0 {
                // A full run of zeros and nothing behind it, or the end of the block.
                (if run == 15 || !is_ac { run } else { END }) << 8 | length
            } else if size <= free {
                let value = extend(rest >> (free - size), size);
                u32::from(value.cast_unsigned() as u16) << 16 | run << 8 | (length + size)
            } else {
                size << 16 | run << 8 | PARTIAL | length
            };
        }
    }

    /// The next zeros and the value behind them; END zeros at the end of a block. Takes at most 31 bits.
    ///
    /// # Errors
    /// When no code begins with the next bits.
    #[inline(always)]
    pub fn run_and_value(&self, bits: &mut Bits) -> Result<(usize, i32), Error> {
        let look = self.looks[bits.peek(LOOK) as usize];
        if look & PARTIAL == 0 && look != 0 {
            bits.skip(look & 0x7f);
            return Ok(((look >> 8 & 0xff) as usize, look.cast_signed() >> 16));
        }
        let (run, size) = if look == 0 {
            let symbol = self.long_symbol(bits)?;
            let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            (if size == 0 && run != 15 { END } else { run }, size)
        } else {
            bits.skip(look & 0x7f);
            (look >> 8 & 0xff, look >> 16)
        };
        if size == 0 {
            return Ok((run as usize, 0));
        }
        Ok((run as usize, extend(bits.take(size), size)))
    }

    /// The next symbol. Takes at most 16 bits.
    ///
    /// # Errors
    /// When no code begins with the next bits.
    #[inline(always)]
    pub fn symbol(&self, bits: &mut Bits) -> Result<u8, Error> {
        let code = self.codes[bits.peek(LOOK) as usize];
        if code == 0 {
            return self.long_symbol(bits);
        }
        bits.skip(u32::from(code & 0xff));
        Ok((code >> 8) as u8)
    }

    #[cold]
    fn long_symbol(&self, bits: &mut Bits) -> Result<u8, Error> {
        let next = bits.peek(16);
        for length in LOOK + 1..=16 {
            if next < self.limits[length as usize] {
                bits.skip(length);
                let place = (next >> (16 - length)).wrapping_add(self.offsets[length as usize]);
                return Ok(self.symbols[(place & 0xff) as usize]);
            }
        }
        Err(Error::Damaged("its bits are no code"))
    }
}

/// The value that so many bits stand for: without a leading one it is negative.
#[inline(always)]
pub fn extend(bits: u32, size: u32) -> i32 {
    let value = bits.cast_signed();
    if value >> (size - 1) == 0 { value - (1 << size) + 1 } else { value }
}
