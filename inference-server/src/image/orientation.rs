//! How a camera was held: the EXIF tag, and turning an image by it.

use std::ops::Range;

/// What turns stored pixels into the image as it was seen: first transposed, then mirrored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    /// Rows become columns.
    pub is_transposed: bool,
    /// Left becomes right.
    pub is_mirrored: bool,
    /// Top becomes bottom.
    pub is_flipped: bool,
}

/// The part of an image that is wanted: columns and rows.
type Window = (Range<usize>, Range<usize>);

impl Turn {
    /// The turn that EXIF data ask for; none where they ask for none, or are damaged.
    pub fn of(exif: &[u8]) -> Self {
        let turn = |is_transposed, is_mirrored, is_flipped| Self { is_transposed, is_mirrored, is_flipped };
        match tag(exif) {
            Some(2) => turn(false, true, false),
            Some(3) => turn(false, true, true),
            Some(4) => turn(false, false, true),
            Some(5) => turn(true, false, false),
            Some(6) => turn(true, true, false),
            Some(7) => turn(true, true, true),
            Some(8) => turn(true, false, true),
            _ => Self::default(),
        }
    }

    /// Columns and rows of the turned image.
    pub fn size(self, (width, height): (usize, usize)) -> (usize, usize) {
        if self.is_transposed { (height, width) } else { (width, height) }
    }

    /// The part of the stored image, of that size as stored, that a part of the turned one is made of.
    pub fn window(self, (columns, rows): Window, (width, height): (usize, usize)) -> Window {
        let (across, down) = self.size((width, height));
        let reverse = |range: Range<usize>, length: usize| length - range.end..length - range.start;
        let columns = if self.is_mirrored { reverse(columns, across) } else { columns };
        let rows = if self.is_flipped { reverse(rows, down) } else { rows };
        if self.is_transposed { (rows, columns) } else { (columns, rows) }
    }

    /// Gives the rows of the turned part, from planes that hold the stored part of so many columns and rows.
    pub fn rows(self, planes: &[Vec<u8>], (width, height): (usize, usize), sink: &mut dyn FnMut(&[&[u8]])) {
        /// So many columns are transposed together: the bytes of one piece of the processor's cache.
        const STRIP: usize = 64;
        let (across, down) = self.size((width, height));
        let mut strips = vec![vec![0; across * STRIP.min(down)]; planes.len()];
        for strip in 0..down.div_ceil(STRIP) {
            let turned = strip * STRIP..((strip + 1) * STRIP).min(down);
            for (plane, strip) in planes.iter().zip(&mut strips) {
                self.turn(plane, (width, height), turned.clone(), strip);
            }
            for row in 0..turned.len() {
                let rows: Vec<&[u8]> = strips.iter().map(|strip| &strip[row * across..(row + 1) * across]).collect();
                sink(&rows);
            }
        }
    }

    fn turn(self, plane: &[u8], (width, height): (usize, usize), turned: Range<usize>, strip: &mut [u8]) {
        let (across, down) = self.size((width, height));
        let source = |row: usize| if self.is_flipped { down - 1 - row } else { row };
        if self.is_transposed {
            for (index, samples) in plane.chunks_exact(width).enumerate() {
                let column = if self.is_mirrored { height - 1 - index } else { index };
                for (place, row) in turned.clone().enumerate() {
                    strip[place * across + column] = samples[source(row)];
                }
            }
            return;
        }
        for (row, out) in turned.zip(strip.chunks_exact_mut(across)) {
            let start = source(row) * width;
            out.copy_from_slice(&plane[start..start + width]);
            if self.is_mirrored {
                out.reverse();
            }
        }
    }
}

/// The orientation's tag in a TIFF file's first directory.
fn tag(exif: &[u8]) -> Option<u16> {
    const ORIENTATION: u16 = 0x0112;
    const SHORT: u16 = 3;
    let is_little = match exif.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| -> Option<u16> {
        let bytes = *exif.get(at..)?.first_chunk()?;
        Some(if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let bytes = *exif.get(4..)?.first_chunk()?;
    let directory = if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) } as usize;
    let count = usize::from(short(directory)?);
    (0..count)
        .map(|entry| directory + 2 + entry * 12)
        .take_while(|entry| *entry + 12 <= exif.len())
        .find(|entry| short(*entry) == Some(ORIENTATION) && short(*entry + 2) == Some(SHORT))
        .and_then(|entry| short(entry + 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exif(is_little: bool, orientation: u16) -> Vec<u8> {
        let mut file = if is_little { b"II*\0".to_vec() } else { b"MM\0*".to_vec() };
        let mut put = |value: u32, size: usize| {
            let bytes = value.to_le_bytes();
            let bytes = bytes.iter().take(size);
            if is_little { file.extend(bytes) } else { file.extend(bytes.rev()) }
        };
        for (value, size) in [(8, 4), (2, 2), (0x010f, 2), (2, 2), (3, 4), (0, 4)] {
            put(value, size);
        }
        for (value, size) in [(0x0112, 2), (3, 2), (1, 4), (orientation.into(), 2), (0, 2)] {
            put(value, size);
        }
        file
    }

    #[test]
    fn the_tag_is_found_in_either_order_of_bytes() {
        for is_little in [true, false] {
            for orientation in 1..=8 {
                assert_eq!(tag(&exif(is_little, orientation)), Some(orientation));
            }
        }
        let whole = exif(true, 6);
        for end in 0..whole.len() - 4 {
            assert_eq!(tag(&whole[..end]), None, "{end} bytes");
        }
        assert_eq!(tag(b"II*\0\xff\xff\xff\xff"), None);
        assert_eq!(Turn::of(&exif(true, 9)), Turn::default());
    }

    /// Each value of the tag, and what the stored image `abc / def` is then seen as.
    #[test]
    fn turns_are_what_the_standard_says() {
        for (orientation, seen) in [
            (1, ["abc", "def", ""]),
            (2, ["cba", "fed", ""]),
            (3, ["fed", "cba", ""]),
            (4, ["def", "abc", ""]),
            (5, ["ad", "be", "cf"]),
            (6, ["da", "eb", "fc"]),
            (7, ["fc", "eb", "da"]),
            (8, ["cf", "be", "ad"]),
        ] {
            let turn = Turn::of(&exif(true, orientation));
            let mut rows = vec![];
            turn.rows(&[b"abcdef".to_vec()], (3, 2), &mut |row| rows.push(String::from_utf8(row[0].to_vec()).unwrap()));
            let seen: Vec<&str> = seen.into_iter().filter(|row| !row.is_empty()).collect();
            assert_eq!(rows, seen, "orientation {orientation}");
            // The window of the first row's first place is where the stored image has that letter.
            let (columns, lines) = turn.window((0..1, 0..1), (3, 2));
            assert_eq!(b"abcdef"[lines.start * 3 + columns.start], seen[0].as_bytes()[0], "orientation {orientation}");
        }
    }
}
