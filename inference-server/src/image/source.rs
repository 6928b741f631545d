//! A file of one of the formats, behind one face.

use std::ops::Range;

use super::{
    ImageError,
    jpeg::{self, Jpeg, Reduction},
    orientation::Turn,
    png::Png,
    webp::WebP,
};

/// Memory that is kept from file to file.
#[derive(Debug, Default)]
pub struct Buffers {
    jpeg: jpeg::Buffers,
    planes: [Vec<u8>; 3],
    whole: Vec<u8>,
}

/// A file whose header was read.
#[derive(Debug)]
pub enum Source<'a> {
    /// JPEG.
    Jpeg(Box<Jpeg<'a>>),
    /// PNG.
    Png(Box<Png<'a>>),
    /// WebP.
    WebP(Box<WebP<'a>>),
}

impl<'a> Source<'a> {
    /// Tells the format by the first bytes, and reads the header.
    ///
    /// # Errors
    /// When the file is of another format, or damaged.
    pub fn open(file: &'a [u8]) -> Result<Self, ImageError> {
        match file {
            [0xff, 0xd8, ..] => Ok(Self::Jpeg(Box::new(Jpeg::open(file)?))),
            [0x89, b'P', b'N', b'G', ..] => Ok(Self::Png(Box::new(Png::open(file)?))),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
                Ok(Self::WebP(Box::new(WebP::open(file)?)))
            }
            [] => Err(ImageError::Undecodable("the file is empty".to_owned())),
            _ => Err(ImageError::Undecodable("it is no JPEG, PNG or WebP file".to_owned())),
        }
    }

    /// Columns and rows of pixels.
    pub fn size(&self) -> (usize, usize) {
        match self {
            Self::Jpeg(jpeg) => jpeg.size(),
            Self::Png(png) => png.size(),
            Self::WebP(webp) => webp.size(),
        }
    }

    /// One plane for a grey image, else three for red, green and blue.
    pub fn planes(&self) -> usize {
        match self {
            Self::Jpeg(jpeg) => jpeg.planes(),
            Self::Png(png) => png.planes(),
            Self::WebP(_) => 3,
        }
    }

    /// How the camera was held, where the file says.
    pub fn turn(&self) -> Turn {
        let exif = match self {
            Self::Jpeg(jpeg) => jpeg.exif(),
            Self::Png(png) => png.exif(),
            Self::WebP(webp) => webp.exif(),
        };
        exif.map(Turn::of).unwrap_or_default()
    }

    /// The smallest size that it can be decoded in with a short side of `side` at least.
    pub fn reduction(&self, side: usize) -> Reduction {
        let (width, height) = self.size();
        match self {
            Self::Jpeg(_) => Reduction::by(width.min(height) / side.max(1)),
            Self::Png(_) | Self::WebP(_) => Reduction::None,
        }
    }

    /// Decodes, and gives the wanted part of the wanted rows: for each plane its samples.
    ///
    /// # Errors
    /// When the file is damaged. Some rows may have been given before.
    pub fn decode(
        self,
        reduction: Reduction,
        window: (Range<usize>, Range<usize>),
        buffers: &mut Buffers,
        sink: &mut dyn FnMut(&[&[u8]]),
    ) -> Result<(), ImageError> {
        match self {
            Self::Jpeg(jpeg) => jpeg.decode(reduction, window, &mut buffers.jpeg, sink)?,
            Self::Png(png) => png.decode(window, &mut buffers.planes, &mut buffers.whole, sink)?,
            Self::WebP(webp) => webp.decode(window, &mut buffers.planes, &mut buffers.whole, sink)?,
        }
        Ok(())
    }
}
