//! The `data` of a JSON tensor: read into a column of eight bytes an element, nested or flat, before its type is known.
//!
//! A tree of JSON values would take many times the body's size; a column takes a few times at most.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, SeqAccess, Visitor},
};

use crate::tensor::{Data, DataType, little_endian};

/// The values of `data`, nested or flat, in the narrowest column that holds what has been read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Flat {
    Empty,
    Bools(Vec<bool>),
    Ints(Vec<i64>),
    Wide(Vec<u64>),
    Floats(Vec<f64>),
    Strings(Vec<String>),
}

impl Flat {
    /// The values as the model's type; a number that does not fit is an error and not another number.
    pub(super) fn into_data(self, data_type: DataType, takes_images: bool) -> Result<Data, String> {
        macro_rules! integers {
            ($type:ty) => {{
                let outside = || format!("a value does not fit into {}", data_type.name());
                let values: Vec<$type> = match self {
                    Self::Empty => Vec::new(),
                    Self::Ints(values) => values
                        .into_iter()
                        .map(|value| <$type>::try_from(value))
                        .collect::<Result<_, _>>()
                        .map_err(|_| outside())?,
                    Self::Wide(values) => values
                        .into_iter()
                        .map(|value| <$type>::try_from(value))
                        .collect::<Result<_, _>>()
                        .map_err(|_| outside())?,
                    _ => return Err(format!("its data must be whole numbers for {}", data_type.name())),
                };
                little_endian(&values, <$type>::to_le_bytes)
            }};
        }
        Ok(match data_type {
            DataType::Uint8 => integers!(u8),
            DataType::Uint16 => integers!(u16),
            DataType::Uint32 => integers!(u32),
            DataType::Uint64 => integers!(u64),
            DataType::Int8 => integers!(i8),
            DataType::Int16 => integers!(i16),
            DataType::Int32 => integers!(i32),
            DataType::Int64 => integers!(i64),
            #[expect(clippy::cast_possible_truncation, reason = "JSON's numbers are doubles; FP32 takes the nearest")]
            DataType::Fp32 => little_endian(&self.into_floats(data_type)?, |value| (value as f32).to_le_bytes()),
            DataType::Fp64 => little_endian(&self.into_floats(data_type)?, f64::to_le_bytes),
            DataType::Fp16 => return Err("FP16 has no form in JSON; send it with 'binary_data_size'".to_owned()),
            DataType::Bool => match self {
                Self::Empty => Data::Fixed(Bytes::new()),
                Self::Bools(values) => little_endian(&values, |value| [u8::from(value)]),
                Self::Ints(values) if values.iter().all(|value| matches!(value, 0 | 1)) => {
                    little_endian(&values, |value| [u8::from(value == 1)])
                }
                _ => return Err("its data must be true and false for BOOL".to_owned()),
            },
            DataType::Bytes => match self {
                Self::Empty => Data::Strings(Vec::new()),
                Self::Strings(strings) => Data::Strings(
                    strings
                        .into_iter()
                        .map(|text| if takes_images { decode_base64(&text) } else { Ok(Bytes::from(text)) })
                        .collect::<Result<_, _>>()?,
                ),
                _ => return Err("its data must be strings for BYTES".to_owned()),
            },
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "JSON's numbers are doubles")]
    fn into_floats(self, data_type: DataType) -> Result<Vec<f64>, String> {
        match self {
            Self::Empty => Ok(Vec::new()),
            Self::Floats(values) => Ok(values),
            Self::Ints(values) => Ok(values.into_iter().map(|value| value as f64).collect()),
            Self::Wide(values) => Ok(values.into_iter().map(|value| value as f64).collect()),
            Self::Bools(_) | Self::Strings(_) => Err(format!("its data must be numbers for {}", data_type.name())),
        }
    }

    fn push_int<E: de::Error>(&mut self, value: i64) -> Result<(), E> {
        match self {
            Self::Empty => *self = Self::Ints(vec![value]),
            Self::Ints(values) => values.push(value),
            #[expect(clippy::cast_precision_loss, reason = "JSON's numbers are doubles")]
            Self::Floats(values) => values.push(value as f64),
            Self::Wide(values) => match u64::try_from(value) {
                Ok(value) => values.push(value),
                Err(_) => return Err(E::custom("data mixes negative numbers and numbers beyond 2^63")),
            },
            Self::Bools(_) | Self::Strings(_) => return Err(mixed()),
        }
        Ok(())
    }

    fn push_wide<E: de::Error>(&mut self, value: u64) -> Result<(), E> {
        if let Ok(value) = i64::try_from(value) {
            return self.push_int(value);
        }
        match self {
            Self::Empty => *self = Self::Wide(vec![value]),
            Self::Wide(values) => values.push(value),
            #[expect(clippy::cast_precision_loss, reason = "JSON's numbers are doubles")]
            Self::Floats(values) => values.push(value as f64),
            Self::Ints(values) => {
                let wide: Result<Vec<u64>, _> = values.iter().map(|value| u64::try_from(*value)).collect();
                let mut wide = wide.map_err(|_| E::custom("data mixes negative numbers and numbers beyond 2^63"))?;
                wide.push(value);
                *self = Self::Wide(wide);
            }
            Self::Bools(_) | Self::Strings(_) => return Err(mixed()),
        }
        Ok(())
    }

    fn push_float<E: de::Error>(&mut self, value: f64) -> Result<(), E> {
        if !matches!(self, Self::Floats(_)) {
            let values = std::mem::replace(self, Self::Empty).into_floats(DataType::Fp64).map_err(|_| mixed())?;
            *self = Self::Floats(values);
        }
        if let Self::Floats(values) = self {
            values.push(value);
        }
        Ok(())
    }

    fn push_bool<E: de::Error>(&mut self, value: bool) -> Result<(), E> {
        match self {
            Self::Empty => *self = Self::Bools(vec![value]),
            Self::Bools(values) => values.push(value),
            _ => return Err(mixed()),
        }
        Ok(())
    }

    fn push_string<E: de::Error>(&mut self, value: String) -> Result<(), E> {
        match self {
            Self::Empty => *self = Self::Strings(vec![value]),
            Self::Strings(values) => values.push(value),
            _ => return Err(mixed()),
        }
        Ok(())
    }
}

fn mixed<E: de::Error>() -> E {
    E::custom("data mixes strings, booleans and numbers")
}

/// An image in a JSON string is base64, because its bytes are no text.
pub(super) fn decode_base64(text: &str) -> Result<Bytes, String> {
    let encoded = text.split_once(";base64,").filter(|_| text.starts_with("data:")).map_or(text, |(_, rest)| rest);
    STANDARD
        .decode(encoded.trim())
        .map(Bytes::from)
        .map_err(|error| format!("an image in JSON must be base64: {error}"))
}

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flat = Self::Empty;
        Collect { flat: &mut flat, is_nested: false }.deserialize(deserializer)?;
        Ok(flat)
    }
}

/// Adds every scalar below one place of the JSON to a column.
struct Collect<'a> {
    flat: &'a mut Flat,
    /// A scalar is a value only inside an array.
    is_nested: bool,
}

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.is_nested { deserializer.deserialize_any(self) } else { deserializer.deserialize_seq(self) }
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers, booleans or strings, nested or flat")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Collect { flat: self.flat, is_nested: true })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.flat.push_bool(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.flat.push_int(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.flat.push_wide(value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.flat.push_float(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.flat.push_string(value.to_owned())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<(), E> {
        self.flat.push_string(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, data_type: DataType) -> Result<Data, String> {
        let flat: Flat = serde_json::from_str(text).map_err(|error| error.to_string())?;
        flat.into_data(data_type, false)
    }

    #[test]
    fn numbers_become_the_model_s_type_or_an_error() {
        let fixed = |bytes: &[u8]| Ok(Data::Fixed(Bytes::copy_from_slice(bytes)));
        for (text, data_type, expected) in [
            ("[1,[2,[3]],[]]", DataType::Uint8, fixed(&[1, 2, 3])),
            ("[]", DataType::Int64, fixed(&[])),
            ("[-1]", DataType::Int16, fixed(&[255, 255])),
            (
                "[18446744073709551615,1]",
                DataType::Uint64,
                fixed(&[255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 0, 0, 0, 0, 0]),
            ),
            ("[1,2.5]", DataType::Fp32, fixed(&[0, 0, 128, 63, 0, 0, 32, 64])),
            ("[1,0]", DataType::Bool, fixed(&[1, 0])),
            ("[256]", DataType::Uint8, Err("a value does not fit into UINT8")),
            ("[-1]", DataType::Uint32, Err("a value does not fit into UINT32")),
            ("[1.5]", DataType::Int32, Err("must be whole numbers for INT32")),
            ("[2]", DataType::Bool, Err("must be true and false")),
            ("[1.5]", DataType::Fp16, Err("has no form in JSON")),
            ("[1]", DataType::Bytes, Err("must be strings")),
            ("[-1,18446744073709551615]", DataType::Fp64, Err("negative numbers and numbers beyond 2^63")),
            ("[null]", DataType::Fp32, Err("invalid type: null")),
            ("7", DataType::Fp32, Err("expected an array")),
        ] {
            match (read(text, data_type), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(found), Err(part)) => assert!(found.contains(part), "{text}: {found:?} should say {part:?}"),
                (found, expected) => panic!("{text}: {found:?} is not {expected:?}"),
            }
        }
    }

    #[test]
    fn an_image_is_base64_with_or_without_its_kind() {
        let strings: Flat = serde_json::from_str(r#"["eHl6","data:image/png;base64,eHl6"]"#).unwrap();
        let file = Bytes::from_static(b"xyz");
        assert_eq!(strings.into_data(DataType::Bytes, true), Ok(Data::Strings(vec![file.clone(), file])));
        let no_base64: Flat = serde_json::from_str(r#"["?"]"#).unwrap();
        assert!(no_base64.into_data(DataType::Bytes, true).unwrap_err().contains("must be base64"));
    }

    proptest! {
        #[test]
        fn floats_arrive_as_written(values in prop::collection::vec(-1e30_f32..1e30, 1..20)) {
            let data = read(&serde_json::to_string(&values).unwrap(), DataType::Fp32);
            prop_assert_eq!(data, Ok(little_endian(&values, f32::to_le_bytes)));
        }

        /// The JSON parser rounds up to three times on the way to a double; who needs the last two bits sends binary data.
        #[test]
        fn doubles_arrive_but_for_the_last_bits(value in -1e300_f64..1e300) {
            let data = read(&format!("[{value:e}]"), DataType::Fp64);
            let Ok(Data::Fixed(bytes)) = data else { panic!("{data:?}") };
            let found = u64::from_le_bytes(*bytes.first_chunk().unwrap());
            prop_assert!(found.abs_diff(value.to_bits()) <= 3);
        }

        #[test]
        fn integers_arrive_as_written(values in prop::collection::vec(any::<i64>(), 1..20)) {
            let data = read(&serde_json::to_string(&values).unwrap(), DataType::Int64);
            prop_assert_eq!(data, Ok(little_endian(&values, i64::to_le_bytes)));
        }
    }
}
