//! An input of a batch: elements as bytes, in memory that a device can read as values of their type without a copy.

use bytes::{Bytes, BytesMut};

use super::DeviceError;
use crate::tensor::{Data, DataType};

#[cfg(target_endian = "big")]
compile_error!("tensors travel in little-endian order, and devices read them as they came");

/// Enough for every element type, and a cache line.
const ALIGNMENT: usize = 64;

/// One input of a batch.
#[derive(Debug)]
pub struct BatchInput {
    /// The element type.
    pub data_type: DataType,
    /// All dimensions, the batch first where the model has one.
    pub shape: Vec<usize>,
    /// The elements.
    pub values: Values,
}

/// Where the elements are.
#[derive(Debug)]
pub enum Values {
    /// In a batch's own memory.
    Own(BytesMut),
    /// In a request's body, when one request is the whole batch.
    Lent(Bytes),
    /// The elements of a BYTES input.
    Strings(Vec<Bytes>),
}

impl BatchInput {
    /// An input with a copy of some elements.
    pub fn new(data_type: DataType, shape: Vec<usize>, data: &Data) -> Self {
        let values = match data {
            Data::Fixed(bytes) => {
                let mut own = aligned(bytes.len());
                own.copy_from_slice(bytes);
                Values::Own(own)
            }
            Data::Strings(strings) => Values::Strings(strings.clone()),
        };
        Self { data_type, shape, values }
    }

    /// The elements of a fixed size as bytes; nothing for a BYTES input.
    pub fn bytes(&self) -> &[u8] {
        match &self.values {
            Values::Own(bytes) => bytes,
            Values::Lent(bytes) => bytes,
            Values::Strings(_) => &[],
        }
    }

    /// The elements as values of their type.
    ///
    /// # Errors
    /// When the type has another size or alignment than the memory, which the engine rules out.
    pub fn typed<T: bytemuck::AnyBitPattern>(&self) -> Result<&[T], DeviceError> {
        bytemuck::try_cast_slice(self.bytes()).map_err(|error| self.misfit(&error))
    }

    /// The elements as truth values.
    ///
    /// # Errors
    /// When one is neither 0 nor 1, which the engine rules out.
    pub fn bools(&self) -> Result<&[bool], DeviceError> {
        bytemuck::checked::try_cast_slice(self.bytes()).map_err(|error| self.misfit(&error))
    }

    fn misfit(&self, error: &dyn std::fmt::Display) -> DeviceError {
        DeviceError(format!("an input's memory has no {} elements: {error}", self.data_type.name()))
    }

    /// A copy of the elements in the protocol's order.
    pub fn to_data(&self) -> Data {
        match &self.values {
            Values::Strings(strings) => Data::Strings(strings.clone()),
            Values::Own(_) | Values::Lent(_) => Data::Fixed(Bytes::copy_from_slice(self.bytes())),
        }
    }
}

/// Zeroes in memory that is aligned for every element type.
pub fn aligned(bytes: usize) -> BytesMut {
    let mut memory = BytesMut::zeroed(bytes + ALIGNMENT);
    let skipped = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    drop(memory.split_to(skipped));
    memory.truncate(bytes);
    memory
}

/// Whether a device can read these bytes as elements of the type.
pub fn is_aligned(bytes: &[u8], data_type: DataType) -> bool {
    data_type.size().is_some_and(|size| bytes.as_ptr().align_offset(size) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_typed() {
        for size in [0, 1, 63, 64, 1 << 20] {
            let memory = aligned(size);
            assert_eq!((memory.len(), memory.as_ptr().align_offset(ALIGNMENT)), (size, 0));
        }
        let data = Data::Fixed(Bytes::from([1.5_f32, -2.0].map(f32::to_le_bytes).concat()));
        let input = BatchInput::new(DataType::Fp32, vec![2], &data);
        assert_eq!(input.typed::<f32>().unwrap(), [1.5, -2.0]);
        assert_eq!(input.to_data(), data);
        assert!(input.typed::<[u8; 3]>().is_err());
    }

    #[test]
    fn what_is_not_aligned_is_seen() {
        let bytes = aligned(16).freeze();
        assert!(is_aligned(&bytes, DataType::Fp64));
        assert!(!is_aligned(&bytes[4..], DataType::Fp64));
        assert!(is_aligned(&bytes[4..], DataType::Fp32));
        assert!(!is_aligned(&bytes[1..], DataType::Fp32));
        assert!(is_aligned(&bytes[1..], DataType::Uint8));
        assert!(!is_aligned(&bytes, DataType::Bytes), "strings have no memory in one piece");
    }
}
