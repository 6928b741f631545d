//! Tensors as they travel: bytes in the protocol's order, and columns of typed values that a batch is made of.

use bytes::Bytes;
use half::f16;

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

/// The elements of one input of a batch, typed as the device wants them.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is the Rust type of the DataType of the same name")]
pub enum Column {
    Bool(Vec<bool>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Fp16(Vec<f16>),
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    Bytes(Vec<Bytes>),
}

/// Runs the same expression on whichever vector a [`Column`] holds.
macro_rules! each_column {
    ($column:expr, $values:ident => $body:expr) => {
        match $column {
            $crate::tensor::Column::Bool($values) => $body,
            $crate::tensor::Column::Uint8($values) => $body,
            $crate::tensor::Column::Uint16($values) => $body,
            $crate::tensor::Column::Uint32($values) => $body,
            $crate::tensor::Column::Uint64($values) => $body,
            $crate::tensor::Column::Int8($values) => $body,
            $crate::tensor::Column::Int16($values) => $body,
            $crate::tensor::Column::Int32($values) => $body,
            $crate::tensor::Column::Int64($values) => $body,
            $crate::tensor::Column::Fp16($values) => $body,
            $crate::tensor::Column::Fp32($values) => $body,
            $crate::tensor::Column::Fp64($values) => $body,
            $crate::tensor::Column::Bytes($values) => $body,
        }
    };
}

impl Column {
    /// An empty column with room for `capacity` elements.
    pub fn new(data_type: DataType, capacity: usize) -> Self {
        match data_type {
            DataType::Bool => Self::Bool(Vec::with_capacity(capacity)),
            DataType::Uint8 => Self::Uint8(Vec::with_capacity(capacity)),
            DataType::Uint16 => Self::Uint16(Vec::with_capacity(capacity)),
            DataType::Uint32 => Self::Uint32(Vec::with_capacity(capacity)),
            DataType::Uint64 => Self::Uint64(Vec::with_capacity(capacity)),
            DataType::Int8 => Self::Int8(Vec::with_capacity(capacity)),
            DataType::Int16 => Self::Int16(Vec::with_capacity(capacity)),
            DataType::Int32 => Self::Int32(Vec::with_capacity(capacity)),
            DataType::Int64 => Self::Int64(Vec::with_capacity(capacity)),
            DataType::Fp16 => Self::Fp16(Vec::with_capacity(capacity)),
            DataType::Fp32 => Self::Fp32(Vec::with_capacity(capacity)),
            DataType::Fp64 => Self::Fp64(Vec::with_capacity(capacity)),
            DataType::Bytes => Self::Bytes(Vec::with_capacity(capacity)),
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        each_column!(self, values => values.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the elements and keeps the memory.
    pub fn clear(&mut self) {
        each_column!(self, values => values.clear());
    }

    /// Takes rows `from..to` of `rows` out.
    pub fn remove(&mut self, from: usize, to: usize, rows: usize) {
        let row = self.len() / rows.max(1);
        each_column!(self, values => drop(values.drain(from * row..to * row)));
    }

    /// Appends a tensor's elements. The caller has checked type and size; whole elements are taken, a rest is left out.
    pub fn extend(&mut self, data: &Data) {
        match (self, data) {
            (Self::Bytes(values), Data::Strings(strings)) => values.extend_from_slice(strings),
            (Self::Bool(values), Data::Fixed(bytes)) => values.extend(bytes.iter().map(|byte| *byte != 0)),
            (Self::Uint8(values), Data::Fixed(bytes)) => values.extend_from_slice(bytes),
            (Self::Int8(values), Data::Fixed(bytes)) => values.extend(bytes.iter().map(|byte| byte.cast_signed())),
            (Self::Uint16(values), Data::Fixed(bytes)) => values.extend(elements(bytes).map(u16::from_le_bytes)),
            (Self::Int16(values), Data::Fixed(bytes)) => values.extend(elements(bytes).map(i16::from_le_bytes)),
            (Self::Uint32(values), Data::Fixed(bytes)) => values.extend(elements(bytes).map(u32::from_le_bytes)),
            (Self::Int32(values), Data::Fixed(bytes)) => values.extend(elements(bytes).map(i32::from_le_bytes)),
            (Self::Uint64(values), Data::Fixed(bytes)) => values.extend(elements(bytes).map(u64::from_le_bytes)),
            (Self::Int64(values), Data::Fixed(bytes)) => values.extend(elements(bytes).map(i64::from_le_bytes)),
            (Self::Fp16(values), Data::Fixed(bytes)) => values.extend(elements(bytes).map(f16::from_le_bytes)),
            (Self::Fp32(values), Data::Fixed(bytes)) => values.extend(elements(bytes).map(f32::from_le_bytes)),
            (Self::Fp64(values), Data::Fixed(bytes)) => values.extend(elements(bytes).map(f64::from_le_bytes)),
            (Self::Bytes(_), Data::Fixed(_)) | (_, Data::Strings(_)) => {}
        }
    }

    /// The elements in the protocol's order.
    pub fn to_data(&self) -> Data {
        match self {
            Self::Bytes(values) => Data::Strings(values.clone()),
            Self::Bool(values) => Data::Fixed(values.iter().map(|value| u8::from(*value)).collect()),
            Self::Uint8(values) => Data::Fixed(Bytes::copy_from_slice(values)),
            Self::Int8(values) => Data::Fixed(values.iter().map(|value| value.cast_unsigned()).collect()),
            Self::Uint16(values) => little_endian(values, u16::to_le_bytes),
            Self::Int16(values) => little_endian(values, i16::to_le_bytes),
            Self::Uint32(values) => little_endian(values, u32::to_le_bytes),
            Self::Int32(values) => little_endian(values, i32::to_le_bytes),
            Self::Uint64(values) => little_endian(values, u64::to_le_bytes),
            Self::Int64(values) => little_endian(values, i64::to_le_bytes),
            Self::Fp16(values) => little_endian(values, half::f16::to_le_bytes),
            Self::Fp32(values) => little_endian(values, f32::to_le_bytes),
            Self::Fp64(values) => little_endian(values, f64::to_le_bytes),
        }
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
    fn a_column_gives_back_what_was_put_in() {
        for (data_type, _) in NAMES {
            let data = match data_type.size() {
                Some(size) => Data::Fixed(Bytes::from([1, 0, 0, 0, 0, 0, 0, 0].repeat(3)[..3 * size].to_vec())),
                None => Data::Strings(vec![Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static(b"b")]),
            };
            let mut column = Column::new(data_type, 3);
            column.extend(&data);
            assert_eq!(column.len(), 3, "{data_type:?}");
            assert_eq!(column.to_data(), data, "{data_type:?}");
            column.clear();
            assert!(column.is_empty());
        }
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
