//! Tensors as bytes, which both protocols have: fixed elements as they are, strings each behind its length.

use bytes::Bytes;

use crate::tensor::{Data, DataType};

/// Takes a tensor's bytes, checked against the number of elements that its shape has.
///
/// # Errors
/// A sentence that says what does not fit.
pub fn read(blob: Bytes, data_type: DataType, count: usize) -> Result<Data, String> {
    let Some(size) = data_type.size() else { return strings(blob, count).map(Data::Strings) };
    match count.checked_mul(size) {
        Some(wanted) if wanted == blob.len() => Ok(Data::Fixed(blob)),
        _ => Err(format!("unexpected size: its {count} elements of {} are not {} bytes", data_type.name(), blob.len())),
    }
}

fn strings(mut rest: Bytes, count: usize) -> Result<Vec<Bytes>, String> {
    let mut strings = Vec::new();
    while !rest.is_empty() {
        let Some(prefix) = rest.first_chunk::<4>().copied() else {
            return Err("a BYTES element lacks its four bytes of length".to_owned());
        };
        let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
        let _prefix = rest.split_to(4);
        if length > rest.len() {
            return Err(format!("a BYTES element of {length} bytes has only {} left", rest.len()));
        }
        if strings.len() == count {
            return Err(format!("unexpected number of string elements: there are more than {count}"));
        }
        strings.push(rest.split_to(length));
    }
    if strings.len() == count {
        Ok(strings)
    } else {
        Err(format!("unexpected number of string elements {}, expecting {count}", strings.len()))
    }
}

/// The number of a tensor's bytes.
pub fn size(data: &Data) -> usize {
    match data {
        Data::Fixed(bytes) => bytes.len(),
        Data::Strings(strings) => strings.iter().map(|string| 4 + string.len()).sum(),
    }
}

/// A tensor's bytes, of which those of a fixed size are not copied.
pub fn write(data: &Data) -> Bytes {
    match data {
        Data::Fixed(bytes) => bytes.clone(),
        Data::Strings(_) => {
            let mut blob = Vec::with_capacity(size(data));
            append(data, &mut blob);
            Bytes::from(blob)
        }
    }
}

/// A tensor's bytes behind others.
pub fn append(data: &Data, to: &mut Vec<u8>) {
    match data {
        Data::Fixed(bytes) => to.extend_from_slice(bytes),
        Data::Strings(strings) => {
            for string in strings {
                to.extend_from_slice(&u32::try_from(string.len()).unwrap_or(u32::MAX).to_le_bytes());
                to.extend_from_slice(string);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_and_lengths_must_fit() {
        assert_eq!(read(Bytes::from_static(b"abcd"), DataType::Int16, 2), Ok(Data::Fixed(Bytes::from_static(b"abcd"))));
        for (blob, data_type, count, part) in [
            (&b"abc"[..], DataType::Int16, 2, "its 2 elements of INT16 are not 3 bytes"),
            (b"", DataType::Fp64, usize::MAX, "are not 0 bytes"),
            (b"\x03\0\0", DataType::Bytes, 1, "lacks its four bytes of length"),
            (b"\x03\0\0\0ab", DataType::Bytes, 1, "of 3 bytes has only 2 left"),
            (b"\xff\xff\xff\xff", DataType::Bytes, 1, "of 4294967295 bytes has only 0 left"),
            (b"\x01\0\0\0a", DataType::Bytes, 2, "unexpected number of string elements 1, expecting 2"),
            (b"\0\0\0\0\0\0\0\0", DataType::Bytes, 1, "there are more than 1"),
        ] {
            let error = read(Bytes::from_static(blob), data_type, count).unwrap_err();
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }

    proptest! {
        #[test]
        fn strings_come_back(strings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20)) {
            let data = Data::Strings(strings.into_iter().map(Bytes::from).collect());
            let Data::Strings(strings) = &data else { panic!("strings") };
            prop_assert_eq!(read(write(&data), DataType::Bytes, strings.len()), Ok(data.clone()));
        }

        #[test]
        fn no_bytes_panic(blob in prop::collection::vec(any::<u8>(), 0..60), count in any::<usize>()) {
            drop(read(Bytes::from(blob), DataType::Bytes, count));
        }
    }
}
