//! Scans: units of blocks, in the order in which their bits come.

use std::ops::Range;

use fearless_simd::Simd;

use super::{
    Error,
    bits::{Bits, Place, unstuff},
    header::{Frame, NATURAL_ORDER, Scan, Tables},
    huffman::{Table, extend},
    idct::Block,
    output::Output,
};

/// The bits of a scan, from restart to restart.
#[derive(Debug)]
pub struct Stream<'a> {
    file: &'a [u8],
    /// Where the next marker is.
    position: usize,
    clean: &'a mut Vec<u8>,
    place: Place,
    /// The units between two restarts, and those left until the next; 0 where there are no restarts.
    interval: usize,
    left: usize,
    /// What the next first coefficients are told from.
    previous: [i32; 4],
    /// The blocks to come whose band of coefficients is at its end.
    ended: u32,
}

impl<'a> Stream<'a> {
    /// At the first bit of a scan.
    pub fn new(file: &'a [u8], position: usize, interval: usize, clean: &'a mut Vec<u8>) -> Self {
        let position = unstuff(file, position, clean);
        Self { file, position, clean, place: Place::default(), interval, left: interval, previous: [0; 4], ended: 0 }
    }

    /// Where the marker behind the scan is.
    pub fn position(&self) -> usize {
        self.position
    }

    /// How many of the next units, of `wanted`, come before a restart. Goes over the restart that is due.
    fn run(&mut self, wanted: usize) -> Result<usize, Error> {
        if self.interval == 0 {
            return Ok(wanted);
        }
        if self.left == 0 {
            match self.file.get(self.position..) {
                Some([0xff, 0xd0..=0xd7, ..]) => {}
                Some([_, ..]) => return Err(Error::Damaged("a restart marker is missing")),
                _ => return Err(Error::Truncated),
            }
            self.position = unstuff(self.file, self.position + 2, self.clean);
            (self.place, self.previous, self.ended, self.left) = (Place::default(), [0; 4], 0, self.interval);
        }
        let run = self.left.min(wanted);
        self.left -= run;
        Ok(run)
    }

    fn check(&self) -> Result<(), Error> {
        if Bits::at(self.clean, self.place).is_overrun() { Err(Error::Truncated) } else { Ok(()) }
    }
}

/// Decodes a row of units of the only scan of a frame, straight into samples.
///
/// # Errors
/// When the bits end, or are none of the table's.
#[inline(always)]
pub fn units<S: Simd>(
    simd: S,
    (scan, frame, tables): (&Scan, &Frame, &Tables),
    stream: &mut Stream<'_>,
    (row, count): (usize, usize),
    output: &mut Output,
) -> Result<(), Error> {
    let is_needed = output.needs(row);
    let mut parts = Vec::with_capacity(4);
    for part in &scan.components {
        let component = frame.components[part.component];
        let needed = if is_needed { output.blocks(part.component) } else { 0..0 };
        parts.push((part.component, component, table(&tables.dc, part.dc)?, table(&tables.ac, part.ac)?, needed));
    }
    let mut block: Block = [0; 64];
    let mut next = 0;
    while next < count {
        let run = stream.run(count - next)?;
        let mut bits = Bits::at(stream.clean, stream.place);
        for unit in next..next + run {
            for (place, component, dc, ac, needed) in &parts {
                for down in 0..component.down {
                    for across in 0..component.across {
                        let last = sequential(&mut bits, dc, ac, &mut stream.previous[*place], &mut block)?;
                        let at = unit * component.across + across;
                        if needed.contains(&at) {
                            output.put(simd, *place, (row * component.down + down, at), &block, last);
                        }
                        if last > 0 {
                            block = [0; 64];
                        }
                    }
                }
            }
        }
        stream.place = bits.place();
        stream.check()?;
        next += run;
    }
    Ok(())
}

/// All coefficients of a block; the place of the last one.
#[inline(always)]
fn sequential(bits: &mut Bits, dc: &Table, ac: &Table, previous: &mut i32, block: &mut Block) -> Result<usize, Error> {
    bits.refill();
    let (_, difference) = dc.run_and_value(bits)?;
    *previous = previous.wrapping_add(difference);
    block[0] = *previous as i16;
    let (mut place, mut last) = (1, 0);
    while place < 64 {
        bits.refill();
        let (zeros, value) = ac.run_and_value(bits)?;
        place += zeros;
        if place >= 64 {
            break;
        }
        block[usize::from(NATURAL_ORDER[place] & 63)] = value as i16;
        last = place;
        place += 1;
    }
    Ok(last)
}

fn table(tables: &[Option<Box<Table>>; 4], number: usize) -> Result<&Table, Error> {
    tables[number].as_deref().ok_or(Error::Damaged("a Huffman table is missing"))
}

/// All coefficients of a component, block by block.
#[derive(Debug, Default)]
pub struct Coefficients {
    values: Vec<Block>,
    /// The blocks of a row, and the rows: whole units.
    across: usize,
    down: usize,
}

impl Coefficients {
    /// Zeros for so many blocks.
    pub fn clear(&mut self, across: usize, down: usize) {
        (self.across, self.down) = (across, down);
        self.values.clear();
        self.values.resize(across * down, [0; 64]);
    }

    /// A block.
    pub fn block(&self, row: usize, block: usize) -> &Block {
        &self.values[row * self.across + block]
    }

    fn block_mut(&mut self, row: usize, block: usize) -> &mut Block {
        &mut self.values[row * self.across + block]
    }
}

/// Adds what a scan tells to the coefficients.
///
/// # Errors
/// When the bits end, or are none of the table's.
pub fn collect(
    (scan, frame, tables): (&Scan, &Frame, &Tables),
    stream: &mut Stream<'_>,
    units: (usize, usize),
    coefficients: &mut [Coefficients],
) -> Result<(), Error> {
    // A component alone comes block by block, without those that only fill the last units.
    let (across, down) = match scan.components.as_slice() {
        [only] => frame.blocks(only.component),
        _ => units,
    };
    for row in 0..down {
        let mut next = 0;
        while next < across {
            let run = stream.run(across - next)?;
            let (mut bits, mut previous, mut ended) =
                (Bits::at(stream.clean, stream.place), stream.previous, stream.ended);
            for unit in next..next + run {
                for part in &scan.components {
                    let component = frame.components[part.component];
                    let is_alone = scan.components.len() == 1;
                    let (wide, high) = if is_alone { (1, 1) } else { (component.across, component.down) };
                    for index in 0..wide * high {
                        let (block_row, block) = (row * high + index / wide, unit * wide + index % wide);
                        let block = coefficients[part.component].block_mut(block_row, block);
                        let previous = &mut previous[part.component];
                        match (frame.is_progressive, scan.start, scan.high) {
                            (false, ..) => {
                                let (dc, ac) = (table(&tables.dc, part.dc)?, table(&tables.ac, part.ac)?);
                                sequential(&mut bits, dc, ac, previous, block)?;
                            }
                            (true, 0, 0) => {
                                first_dc(&mut bits, table(&tables.dc, part.dc)?, previous, scan.low, block)?;
                            }
                            (true, 0, _) => {
                                bits.refill();
                                block[0] |= (bits.take(1) << scan.low) as i16;
                            }
                            (true, _, 0) => first_ac(&mut bits, table(&tables.ac, part.ac)?, scan, &mut ended, block)?,
                            _ => refine_ac(&mut bits, table(&tables.ac, part.ac)?, scan, &mut ended, block)?,
                        }
                    }
                }
            }
            (stream.place, stream.previous, stream.ended) = (bits.place(), previous, ended);
            stream.check()?;
            next += run;
        }
    }
    Ok(())
}

fn first_dc(bits: &mut Bits, dc: &Table, previous: &mut i32, low: u32, block: &mut Block) -> Result<(), Error> {
    bits.refill();
    let (_, difference) = dc.run_and_value(bits)?;
    *previous = previous.wrapping_add(difference);
    block[0] = (*previous << low) as i16;
    Ok(())
}

fn first_ac(bits: &mut Bits, ac: &Table, scan: &Scan, ended: &mut u32, block: &mut Block) -> Result<(), Error> {
    if *ended > 0 {
        *ended -= 1;
        return Ok(());
    }
    let mut place = scan.start;
    while place <= scan.end {
        bits.refill();
        let symbol = ac.symbol(bits)?;
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 && run < 15 {
            *ended = end_run(bits, run) - 1;
            break;
        }
        place += run as usize;
        if size > 0 {
            let value = extend(bits.take(size), size) << scan.low;
            block[usize::from(NATURAL_ORDER[place] & 63)] = value as i16;
        }
        place += 1;
    }
    Ok(())
}

/// How many blocks, this one among them, are at their end.
fn end_run(bits: &mut Bits, size: u32) -> u32 {
    (1 << size) + if size > 0 { bits.take(size) } else { 0 }
}

fn refine_ac(bits: &mut Bits, ac: &Table, scan: &Scan, ended: &mut u32, block: &mut Block) -> Result<(), Error> {
    let bit = 1_i16 << scan.low;
    let mut place = scan.start;
    if *ended == 0 {
        while place <= scan.end {
            bits.refill();
            let symbol = ac.symbol(bits)?;
            let (mut run, size) = (usize::from(symbol >> 4), symbol & 15);
            let mut value = 0;
            if size > 0 {
                value = if bits.take(1) == 1 { bit } else { -bit };
            } else if run < 15 {
                *ended = end_run(bits, run as u32);
                break;
            }
            // Over as many zeros as the run has, and over all that is known, which gets its next bit.
            while place <= scan.end {
                let known = &mut block[usize::from(NATURAL_ORDER[place] & 63)];
                if *known != 0 {
                    refine(bits, known, bit);
                } else if run == 0 {
                    *known = value;
                    break;
                } else {
                    run -= 1;
                }
                place += 1;
            }
            place += 1;
        }
    }
    if *ended > 0 {
        for place in place..=scan.end {
            let known = &mut block[usize::from(NATURAL_ORDER[place] & 63)];
            if *known != 0 {
                refine(bits, known, bit);
            }
        }
        *ended -= 1;
    }
    Ok(())
}

fn refine(bits: &mut Bits, known: &mut i16, bit: i16) {
    bits.refill();
    if bits.take(1) == 1 && *known & bit == 0 {
        *known = if *known > 0 { known.wrapping_add(bit) } else { known.wrapping_sub(bit) };
    }
}

/// The rows of units that samples are made from, once all scans are read.
#[inline(always)]
pub fn transform<S: Simd>(simd: S, frame: &Frame, row: usize, coefficients: &[Coefficients], output: &mut Output) {
    if !output.needs(row) {
        return;
    }
    for (place, component) in frame.components.iter().enumerate() {
        let needed: Range<usize> = output.blocks(place);
        for block_row in row * component.down..(row + 1) * component.down {
            for at in needed.clone() {
                let block = coefficients[place].block(block_row, at);
                let last = usize::from(block[1..].iter().any(|value| *value != 0));
                output.put(simd, place, (block_row, at), block, last);
            }
        }
    }
}
