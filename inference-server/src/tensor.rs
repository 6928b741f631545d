//! Tensors as they travel: bytes in the protocol's order.

use bytes::Bytes;

/// The element types of KServe v2 that a model may have here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// Half precision; it has no form in JSON.
    Fp16,
    /// Single precision.
    Fp32,
    /// Double precision.
    Fp64,
    /// A string of bytes, each with its own length.
    Bytes,
}

const NAMES: [(DataType, &str); 13] = [
    (DataType::Bool, "BOOL"),
    (DataType::Uint8, "UINT8"),
    (DataType::Uint16, "UINT16"),
    (DataType::Uint32, "UINT32"),
    (DataType::Uint64, "UINT64"),
    (DataType::Int8, "INT8"),
    (DataType::Int16, "INT16"),
    (DataType::Int32, "INT32"),
    (DataType::Int64, "INT64"),
    (DataType::Fp16, "FP16"),
    (DataType::Fp32, "FP32"),
    (DataType::Fp64, "FP64"),
    (DataType::Bytes, "BYTES"),
];

impl DataType {
    /// The protocol's name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(data_type, _)| *data_type == self).map_or("", |(_, name)| name)
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(data_type, _)| *data_type)
    }

    /// The bytes of one element, or none where each element has its own length.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

/// The content of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Elements of a fixed size: little-endian, row major, no padding.
    Fixed(Bytes),
    /// The elements of a BYTES tensor.
    Strings(Vec<Bytes>),
}

/// A tensor of a request or of an answer. A slice of it shares its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The element type.
    pub data_type: DataType,
    /// All dimensions, the batch first where the model has one.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Data,
}

impl Tensor {
    /// Rows `from..from + count` of the first dimension.
    #[must_use]
    pub fn rows(&self, from: usize, count: usize) -> Self {
        let all = self.shape.first().copied().unwrap_or(1).max(1);
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = count;
        }
        let data = match &self.data {
            Data::Fixed(bytes) => {
                let row = bytes.len() / all;
                Data::Fixed(bytes.slice(from * row..(from + count) * row))
            }
            Data::Strings(strings) => {
                let row = strings.len() / all;
                Data::Strings(strings[from * row..(from + count) * row].to_vec())
            }
        };
        Self { data_type: self.data_type, shape, data }
    }
}

/// Elements of a fixed size in the protocol's order.
pub fn little_endian<T: Copy, const N: usize>(values: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Data {
    let mut bytes = Vec::with_capacity(values.len() * N);
    for value in values {
        bytes.extend_from_slice(&to_bytes(*value));
    }
    Data::Fixed(Bytes::from(bytes))
}

/// Whole elements of `N` bytes.
pub fn elements<const N: usize>(bytes: &[u8]) -> impl ExactSizeIterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (data_type, name) in NAMES {
            assert_eq!(data_type.name(), name);
            assert_eq!(DataType::from_name(name), Some(data_type));
        }
        assert_eq!(DataType::from_name("FP8"), None);
    }

    #[test]
    fn rows_are_slices() {
        let tensor = Tensor {
            data_type: DataType::Uint8,
            shape: vec![3, 2],
            data: Data::Fixed(Bytes::from_static(&[1, 2, 3, 4, 5, 6])),
        };
        let rows = tensor.rows(1, 2);
        assert_eq!(rows.shape, [2, 2]);
        assert_eq!(rows.data, Data::Fixed(Bytes::from_static(&[3, 4, 5, 6])));
    }
}
