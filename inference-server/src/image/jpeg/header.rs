//! A JPEG file's segments: frame, tables and scans.

use super::{Error, huffman::Table};

/// Where the coefficient that comes at a place of the stream lies in its block, row by row. Sixteen more places catch runs
/// that lead out of the block.
pub const NATURAL_ORDER: [u8; 80] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63,
];

/// What the components' samples mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// One component.
    Gray,
    /// Luma and two chromas.
    Ycc,
    /// Red, green, blue.
    Rgb,
    /// Four inks, stored inverted as Adobe does.
    Cmyk,
    /// The same with the first three as luma and chromas.
    Ycck,
}

/// One component of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    id: u8,
    /// Blocks of an interleaved unit, across.
    pub across: usize,
    /// Blocks of an interleaved unit, down.
    pub down: usize,
    /// Which quantisation table.
    pub quantization: usize,
}

/// The frame: what all scans are parts of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether scans refine each other.
    pub is_progressive: bool,
    /// Columns of pixels.
    pub width: usize,
    /// Rows of pixels.
    pub height: usize,
    /// One, three or four.
    pub components: Vec<Component>,
    /// What they mean.
    pub colour: Colour,
}

/// A component's part in a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanComponent {
    /// Its place in the frame.
    pub component: usize,
    /// Its table for the first coefficients.
    pub dc: usize,
    /// Its table for the others.
    pub ac: usize,
}

/// What comes next in the stream of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The components, interleaved where there are several.
    pub components: Vec<ScanComponent>,
    /// The first coefficient.
    pub start: usize,
    /// The last coefficient.
    pub end: usize,
    /// The bit above the lowest known one; 0 in a first scan.
    pub high: u32,
    /// The lowest bit that is known after it.
    pub low: u32,
}

/// Tables that hold until others replace them.
#[derive(Debug, Default)]
pub struct Tables {
    /// In the order of the block's rows.
    pub quantization: [Option<[i16; 64]>; 4],
    /// For first coefficients.
    pub dc: [Option<Box<Table>>; 4],
    /// For the others.
    pub ac: [Option<Box<Table>>; 4],
    /// How many units come between two restarts; 0 where there are none.
    pub restart_interval: usize,
}

/// Reads segments in their order.
#[derive(Debug)]
pub struct Segments<'a> {
    file: &'a [u8],
    position: usize,
    is_jfif: bool,
    adobe_transform: Option<u8>,
    /// The metadata of the camera, where the file has some.
    pub exif: Option<&'a [u8]>,
    /// The frame, once it was read.
    pub frame: Option<Frame>,
    /// The tables so far.
    pub tables: Tables,
}

impl Frame {
    /// How many units cover the image, across and down.
    pub fn units(&self) -> (usize, usize) {
        let (across, down) = self.most();
        (self.width.div_ceil(across * 8), self.height.div_ceil(down * 8))
    }

    /// How many blocks cover a component, across and down.
    pub fn blocks(&self, component: usize) -> (usize, usize) {
        let (across, down) = self.most();
        let Component { across: own_across, down: own_down, .. } = self.components[component];
        ((self.width * own_across).div_ceil(across).div_ceil(8), (self.height * own_down).div_ceil(down).div_ceil(8))
    }

    /// The most blocks that a unit has of any component, across and down.
    pub fn most(&self) -> (usize, usize) {
        let most = |of: fn(&Component) -> usize| self.components.iter().map(of).max().unwrap_or(1);
        (most(|component| component.across), most(|component| component.down))
    }
}

impl<'a> Segments<'a> {
    /// At the start of a file.
    ///
    /// # Errors
    /// When it is no JPEG file.
    pub fn new(file: &'a [u8]) -> Result<Self, Error> {
        if !file.starts_with(&[0xff, 0xd8]) {
            return Err(Error::Damaged("it does not begin as a JPEG file does"));
        }
        Ok(Self {
            file,
            position: 2,
            is_jfif: false,
            adobe_transform: None,
            exif: None,
            frame: None,
            tables: Tables::default(),
        })
    }

    /// Reads up to the next scan; none at the end of the image.
    ///
    /// # Errors
    /// When the file ends, or says what can't be.
    pub fn next_scan(&mut self) -> Result<Option<Scan>, Error> {
        loop {
            let marker = self.next_marker()?;
            match marker {
                0xd9 => return Ok(None),
                0x01 | 0xd0..=0xd8 => {}
                0xda => {
                    let payload = self.payload()?;
                    return self.scan(payload).map(Some);
                }
                _ => {
                    let payload = self.payload()?;
                    self.segment(marker, payload)?;
                }
            }
        }
    }

    /// The bytes after the scan's header, and how the reading goes on behind them.
    pub fn entropy_coded(&self) -> (&'a [u8], usize) {
        (self.file, self.position)
    }

    /// Goes on at a place behind the scan's bits.
    pub fn go_on_at(&mut self, position: usize) {
        self.position = position;
    }

    fn next_marker(&mut self) -> Result<u8, Error> {
        let rest = self.file.get(self.position..).unwrap_or_default();
        let before = memchr::memchr(0xff, rest).ok_or(Error::Truncated)?;
        let fill = rest[before..].iter().take_while(|byte| **byte == 0xff).count();
        let marker = *rest.get(before + fill).ok_or(Error::Truncated)?;
        self.position += before + fill + 1;
        Ok(marker)
    }

    fn payload(&mut self) -> Result<&'a [u8], Error> {
        let rest = self.file.get(self.position..).unwrap_or_default();
        let [high, low, ..] = *rest else { return Err(Error::Truncated) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < 2 {
            return Err(Error::Damaged("a segment is shorter than its own length"));
        }
        let payload = rest.get(2..length).ok_or(Error::Truncated)?;
        self.position += length;
        Ok(payload)
    }

    fn segment(&mut self, marker: u8, payload: &'a [u8]) -> Result<(), Error> {
        match marker {
            0xc0..=0xc2 => self.start_frame(marker == 0xc2, payload),
            0xc4 => self.huffman_tables(payload),
            0xdb => self.quantization_tables(payload),
            0xdd => {
                let [high, low] = *payload else {
                    return Err(Error::Damaged("its restart interval has a wrong length"));
                };
                self.tables.restart_interval = usize::from(u16::from_be_bytes([high, low]));
                Ok(())
            }
            0xe0 => {
                self.is_jfif |= payload.starts_with(b"JFIF\0");
                Ok(())
            }
            0xe1 if self.exif.is_none() => {
                self.exif = payload.strip_prefix(b"Exif\0\0");
                Ok(())
            }
            0xee if payload.starts_with(b"Adobe") && payload.len() >= 12 => {
                self.adobe_transform = Some(payload[11]);
                Ok(())
            }
            0xc9 | 0xca => Err(Error::Unsupported("it is arithmetic-coded")),
            0xc3 | 0xc5..=0xc7 | 0xcb | 0xcd..=0xcf => Err(Error::Unsupported("it is lossless or hierarchical")),
            _ => Ok(()),
        }
    }

    fn start_frame(&mut self, is_progressive: bool, payload: &[u8]) -> Result<(), Error> {
        if self.frame.is_some() {
            return Err(Error::Damaged("it has two frames"));
        }
        let [precision, h0, h1, w0, w1, count, ref parts @ ..] = *payload else {
            return Err(Error::Damaged("its frame is too short"));
        };
        if precision != 8 {
            return Err(Error::Unsupported("its samples have other than 8 bits"));
        }
        let height = usize::from(u16::from_be_bytes([h0, h1]));
        let width = usize::from(u16::from_be_bytes([w0, w1]));
        if width == 0 || height == 0 {
            return Err(Error::Damaged("it has no pixels, or says later how many"));
        }
        let (parts, rest) = parts.as_chunks::<3>();
        if parts.len() != usize::from(count) || !rest.is_empty() {
            return Err(Error::Damaged("its frame has a wrong length"));
        }
        let mut components = Vec::with_capacity(parts.len().min(4));
        for [id, sampling, quantization] in parts.iter().copied().take(4) {
            let (across, down) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) || quantization > 3 {
                return Err(Error::Damaged("a component's sampling or table can't be"));
            }
            components.push(Component { id, across, down, quantization: quantization.into() });
        }
        if let [only] = components.as_mut_slice() {
            // A single component is not interleaved, whatever its sampling says.
            (only.across, only.down) = (1, 1);
        }
        let colour = self.colour(count, &components)?;
        self.frame = Some(Frame { is_progressive, width, height, components, colour });
        Ok(())
    }

    /// The rules by which libjpeg guesses.
    fn colour(&self, count: u8, components: &[Component]) -> Result<Colour, Error> {
        match (count, components) {
            (1, _) => Ok(Colour::Gray),
            (3, [first, second, third]) => Ok(match self.adobe_transform {
                Some(0) if !self.is_jfif => Colour::Rgb,
                None if !self.is_jfif && [first.id, second.id, third.id] == *b"RGB" => Colour::Rgb,
                _ => Colour::Ycc,
            }),
            (4, _) => Ok(match self.adobe_transform {
                None | Some(0) => Colour::Cmyk,
                Some(_) => Colour::Ycck,
            }),
            _ => Err(Error::Unsupported("it has other than 1, 3 or 4 components")),
        }
    }

    fn quantization_tables(&mut self, mut payload: &[u8]) -> Result<(), Error> {
        while let [head, rest @ ..] = payload {
            let size = if head >> 4 == 0 { 1 } else { 2 };
            let slot = self.tables.quantization.get_mut(usize::from(head & 15));
            let (Some(slot), Some(values)) = (slot, rest.get(..64 * size)) else {
                return Err(Error::Damaged("a quantisation table is short or has a number above 3"));
            };
            let mut table = [0; 64];
            for (value, place) in values.chunks_exact(size).zip(NATURAL_ORDER) {
                let value = value.iter().fold(0, |sum: u16, byte| sum << 8 | u16::from(*byte));
                table[usize::from(place)] = value.cast_signed();
            }
            *slot = Some(table);
            payload = &rest[64 * size..];
        }
        Ok(())
    }

    fn huffman_tables(&mut self, mut payload: &[u8]) -> Result<(), Error> {
        while let [head, rest @ ..] = payload {
            let is_ac = head >> 4 == 1;
            let tables = if is_ac { &mut self.tables.ac } else { &mut self.tables.dc };
            let slot = tables.get_mut(usize::from(head & 15)).filter(|_| head >> 4 < 2);
            let counts = rest.first_chunk::<16>();
            let (Some(slot), Some(counts)) = (slot, counts) else {
                return Err(Error::Damaged("a Huffman table is short or has a number above 3"));
            };
            let total = counts.iter().map(|count| usize::from(*count)).sum::<usize>();
            let symbols = rest[16..].get(..total).ok_or(Error::Damaged("a Huffman table is short"))?;
            slot.get_or_insert_default().fill(counts, symbols, is_ac)?;
            payload = &rest[16 + total..];
        }
        Ok(())
    }

    fn scan(&self, payload: &[u8]) -> Result<Scan, Error> {
        let frame = self.frame.as_ref().ok_or(Error::Damaged("a scan comes before the frame"))?;
        let wrong = Error::Damaged("a scan's header can't be");
        let [count, ref rest @ ..] = *payload else { return Err(wrong) };
        let Some((parts, [start, end, bits])) = rest.split_at_checked(usize::from(count) * 2) else {
            return Err(wrong);
        };
        let mut components: Vec<ScanComponent> = Vec::with_capacity(4);
        for [id, tables] in parts.as_chunks::<2>().0.iter().take(5) {
            let component = frame.components.iter().position(|component| component.id == *id);
            let component = component.filter(|place| components.iter().all(|other| other.component != *place));
            let (dc, ac) = (usize::from(tables >> 4), usize::from(tables & 15));
            let (Some(component), 0..=3, 0..=3) = (component, dc, ac) else { return Err(wrong) };
            components.push(ScanComponent { component, dc, ac });
        }
        let scan = Scan {
            components,
            start: usize::from(*start),
            end: usize::from(*end),
            high: u32::from(bits >> 4),
            low: u32::from(bits & 15),
        };
        let is_possible = if frame.is_progressive {
            let is_band = if scan.start == 0 { scan.end == 0 } else { scan.components.len() == 1 };
            is_band
                && scan.start <= scan.end
                && scan.end < 64
                && scan.low <= 13
                && (scan.high == 0 || scan.high == scan.low + 1)
        } else {
            true
        };
        if scan.components.is_empty() || !is_possible { Err(wrong) } else { Ok(scan) }
    }
}
