//! From blocks of coefficients to rows of red, green and blue.

use std::ops::Range;

use fearless_simd::Simd;

use super::{
    Error,
    colour::{blacken, ycc_to_rgb},
    header::{Colour, Frame, Tables},
    idct::{self, Block},
    planes::Planes,
};

/// Makes the rows that are wanted, in their order, from units of blocks that come row by row.
#[derive(Debug)]
pub struct Output {
    planes: Planes,
    quantizers: Vec<Block>,
    colour: Colour,
    rows: Range<usize>,
    /// How many rows of the output a row of units gives.
    unit_height: usize,
    rgb: [Vec<u8>; 3],
}

impl Output {
    /// For an image whose blocks become `edge` x `edge` samples, and the part of it that is wanted.
    ///
    /// # Errors
    /// When the frame needs what is not there.
    pub fn new(
        frame: &Frame,
        tables: &Tables,
        edge: usize,
        columns: Range<usize>,
        rows: Range<usize>,
    ) -> Result<Self, Error> {
        let quantizer = |component: &super::header::Component| {
            tables.quantization[component.quantization].ok_or(Error::Damaged("a quantisation table is missing"))
        };
        Ok(Self {
            planes: Planes::new(frame, edge, columns)?,
            quantizers: frame.components.iter().map(quantizer).collect::<Result<_, _>>()?,
            colour: frame.colour,
            rows,
            unit_height: frame.most().1 * edge,
            rgb: Default::default(),
        })
    }

    /// Whether all wanted rows are made.
    pub fn is_done(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether any wanted row needs a row of units.
    pub fn needs(&self, unit_row: usize) -> bool {
        // Smoothing looks one sample further, which is two rows at most.
        (unit_row + 1) * self.unit_height + 2 > self.rows.start
    }

    /// The blocks that are needed of a component's row of blocks.
    #[inline(always)]
    pub fn blocks(&self, component: usize) -> Range<usize> {
        self.planes.list[component].blocks.clone()
    }

    /// Takes a block that is needed, with the place in the stream of its last coefficient that may differ from zero.
    #[inline(always)]
    pub fn put<S: Simd>(
        &mut self,
        simd: S,
        component: usize,
        (block_row, block): (usize, usize),
        data: &Block,
        last: usize,
    ) {
        let plane = &mut self.planes.list[component];
        let quantizers = &self.quantizers[component];
        let samples = match plane.edge {
            _ if last == 0 => [[idct::flat(data[0], quantizers[0]); 8]; 8],
            8 => idct::whole(simd, data, quantizers),
            4 => idct::half(data, quantizers),
            2 => idct::quarter(data, quantizers),
            _ => [[idct::flat(data[0], quantizers[0]); 8]; 8],
        };
        plane.put(block_row, block, &samples);
    }

    /// Gives the rows that can be made when so many rows of units are there.
    #[inline(always)]
    pub fn emit(&mut self, units: usize, sink: &mut dyn FnMut(&[&[u8]])) {
        for plane in &mut self.planes.list {
            for block_row in (units - 1) * plane.down..units * plane.down {
                plane.extend(block_row);
            }
        }
        while !self.rows.is_empty() && self.planes.is_ready(self.rows.start, units) {
            let row = self.rows.start;
            for component in 0..self.planes.list.len() {
                self.planes.expand(component, row);
            }
            self.give(row, sink);
            self.rows.start += 1;
        }
    }

    #[inline(always)]
    fn give(&mut self, row: usize, sink: &mut dyn FnMut(&[&[u8]])) {
        let samples = |component| self.planes.expanded(component, row);
        match self.colour {
            Colour::Gray => return sink(&[samples(0)]),
            Colour::Rgb => return sink(&[samples(0), samples(1), samples(2)]),
            Colour::Ycc => ycc_to_rgb(samples(0), samples(1), samples(2), &mut self.rgb),
            Colour::Ycck => {
                ycc_to_rgb(samples(0), samples(1), samples(2), &mut self.rgb);
                self.rgb.iter_mut().flatten().for_each(|value| *value = 255 - *value);
                blacken(samples(3), &mut self.rgb);
            }
            Colour::Cmyk => {
                for (component, channel) in self.rgb.iter_mut().enumerate() {
                    channel.clear();
                    channel.extend_from_slice(samples(component));
                }
                blacken(samples(3), &mut self.rgb);
            }
        }
        let [red, green, blue] = &self.rgb;
        sink(&[red, green, blue]);
    }
}
