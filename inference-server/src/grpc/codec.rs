//! How messages are read and written. As the crate's own codec, except that bytes which are no message are the client's error.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// Messages of two types, one for each direction.
#[derive(Debug)]
pub struct Messages<T, U>(PhantomData<(T, U)>);

/// Writes messages.
#[derive(Debug)]
pub struct Write<T>(PhantomData<T>);

/// Reads messages.
#[derive(Debug)]
pub struct Read<U>(PhantomData<U>);

impl<T, U> Default for Messages<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Messages<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Write<T>;
    type Decoder = Read<U>;

    fn encoder(&mut self) -> Write<T> {
        Write(PhantomData)
    }

    fn decoder(&mut self) -> Read<U> {
        Read(PhantomData)
    }
}

impl<T: Message> Encoder for Write<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|error| Status::internal(format!("the answer can't be written: {error}")))
    }
}

impl<U: Message + Default> Decoder for Read<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buffer)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("the message can't be read: {error}")))
    }
}
