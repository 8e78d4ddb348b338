//! gRPC with bytes instead of messages: how a broken or hostile caller talks.

use kontiki_types::Bytes;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use bytes::{Buf as _, BufMut as _};

/// Sends the bytes it was made with, whatever it is asked to encode, and gives back what came.
#[derive(Clone, Debug)]
pub struct RawCodec {
    bytes: Bytes,
}

impl RawCodec {
    /// A codec that sends these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self { bytes: Bytes::copy_from_slice(bytes) }
    }
}

impl Codec for RawCodec {
    type Encode = ();
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for RawCodec {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&self.bytes);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// One unary call.
pub async fn unary(channel: Channel, path: &'static str, codec: RawCodec) -> Result<Response<Bytes>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    grpc.unary(Request::new(()), path.parse().expect("a path"), codec).await
}
