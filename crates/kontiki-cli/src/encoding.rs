//! Keys and values between bytes and what people type and read.
//!
//! - **In:** `text` is taken exactly as it was typed: no escapes, so a JSON document or a Windows path arrives as it is.
//! - **Out, JSON:** always exact. The *name* of the field says the encoding: `key` (text), `key_hex`, `key_base64`; bytes that
//!   are not UTF-8 come as base64 also when text was asked. `import` reads all of them.
//! - **Out, tables:** for eyes. Control characters and bytes that are not UTF-8 are shown as `\xNN`.
//! - **Out, `get`:** a script may take it for the value, so what is not text is an error there, never a likeness of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::failure::Failure;

/// How keys and values are typed and shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    // UTF-8 as it is. No doc comments here: they would make clap print every option's help in its long form.
    #[default]
    Text,
    // Two digits for each byte.
    Hex,
    // With padding: RFC 4648, section 4.
    Base64,
}

impl Encoding {
    /// The bytes of what was typed. `what` names it in the error, such as "key".
    pub fn decode(self, what: &str, typed: &str) -> Result<Bytes, Failure> {
        match self {
            Self::Text => Ok(Bytes::copy_from_slice(typed.as_bytes())),
            Self::Hex => hex::decode(typed).map(Bytes::from).map_err(|error| {
                Failure::usage(format!(
                    "the {what} `{typed}` is not hexadecimal ({error}); give two digits for each byte, such as 6b6579"
                ))
            }),
            Self::Base64 => BASE64.decode(typed).map(Bytes::from).map_err(|error| {
                Failure::usage(format!("the {what} `{typed}` is not base64 ({error}); give it with padding, such as a2V5"))
            }),
        }
    }

    /// For a table: one line, nothing that moves the cursor. Exact in hex and base64; in text, `\xNN` stands for what cannot be shown.
    pub fn show(self, bytes: &[u8]) -> String {
        match self {
            Self::Text => show_text(bytes),
            Self::Hex => hex::encode(bytes),
            Self::Base64 => BASE64.encode(bytes),
        }
    }

    /// Exactly, for a program that reads the output of `get`. An error if it is not text and text was asked.
    pub fn exact(self, what: &str, bytes: &[u8]) -> Result<String, Failure> {
        match self {
            Self::Text => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(text.to_owned()),
                Err(error) => Err(Failure::usage(format!(
                    "{what} is not UTF-8 text (at byte {} of {}); add --raw for its bytes as they are, or --output json",
                    error.valid_up_to(),
                    bytes.len()
                ))),
            },
            Self::Hex | Self::Base64 => Ok(self.show(bytes)),
        }
    }

    /// For JSON: adds the field whose name says the encoding.
    pub fn add_field(self, object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
        let (name, text) = match (self, std::str::from_utf8(bytes)) {
            (Self::Text, Ok(text)) => (name.to_owned(), text.to_owned()),
            (Self::Hex, _) => (format!("{name}_hex"), hex::encode(bytes)),
            (Self::Text | Self::Base64, _) => (format!("{name}_base64"), BASE64.encode(bytes)),
        };
        object.insert(name, Value::String(text));
    }

    /// How to type these bytes: the encoding to name and the text. Text where the bytes are text that a shell can hold.
    pub fn to_type(self, bytes: &[u8]) -> (Self, String) {
        match (self, std::str::from_utf8(bytes)) {
            (Self::Text, Ok(text)) if !text.chars().any(char::is_control) => (self, text.to_owned()),
            (Self::Text, _) => (Self::Base64, BASE64.encode(bytes)),
            _ => (self, self.show(bytes)),
        }
    }

    /// The name of it, as it is given to `--encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Hex => "hex",
            Self::Base64 => "base64",
        }
    }
}

/// Takes the field `name`, `name_hex` or `name_base64` out of an object; exactly one of them must be there.
pub fn take_field(object: &mut Map<String, Value>, name: &str) -> Result<Bytes, String> {
    let forms =
        [(name.to_owned(), Encoding::Text), (format!("{name}_hex"), Encoding::Hex), (format!("{name}_base64"), Encoding::Base64)];
    let mut found = None;
    for (field, encoding) in forms {
        let Some(value) = object.remove(&field) else { continue };
        if found.is_some() {
            return Err(format!("it has both `{field}` and another form of `{name}`; give one"));
        }
        let Value::String(text) = value else {
            return Err(format!("`{field}` is not a string; a JSON document as {name} must be given as a string"));
        };
        found = Some(encoding.decode(&field, &text).map_err(|failure| failure.message)?);
    }
    found.ok_or_else(|| format!("it has no `{name}` (nor `{name}_hex` nor `{name}_base64`)"))
}

fn show_text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            // Control characters would move the cursor or change colours.
            if c.is_control() { escape(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()) } else { out.push(c) }
        }
        escape(&mut out, chunk.invalid());
    }
    out
}

fn escape(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        out.push_str("\\x");
        out.push_str(&hex::encode([*byte]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Encoding; 3] = [Encoding::Text, Encoding::Hex, Encoding::Base64];

    #[test]
    fn text_is_taken_as_typed() {
        let typed = r#"{"path":"C:\new\x00"}"#;
        assert_eq!(Encoding::Text.decode("value", typed).expect("text"), typed.as_bytes());
    }

    #[test]
    fn what_does_not_decode_is_named() {
        let error = Encoding::Hex.decode("key", "6g").expect_err("g is no digit");
        assert!(error.message.contains("the key `6g` is not hexadecimal"), "{error}");
        let error = Encoding::Base64.decode("value", "a").expect_err("too short");
        assert!(error.message.contains("the value `a` is not base64"), "{error}");
    }

    #[test]
    fn tables_never_move_the_cursor() {
        assert_eq!(Encoding::Text.show(b"a\x1b[31m\xffb\n"), r"a\x1b[31m\xffb\x0a");
        assert_eq!(Encoding::Text.show("Thor Heyerdahl, Barkåker".as_bytes()), "Thor Heyerdahl, Barkåker");
        assert_eq!(Encoding::Hex.show(b"\x00\xff"), "00ff");
    }

    #[test]
    fn get_gives_the_value_or_an_error() {
        assert_eq!(Encoding::Text.exact("it", b"a\nb").expect("text"), "a\nb");
        let error = Encoding::Text.exact("the value of `k`", b"a\xff").expect_err("not UTF-8");
        assert!(error.message.starts_with("the value of `k` is not UTF-8 text (at byte 1 of 2)"), "{error}");
        assert_eq!(Encoding::Hex.exact("it", b"a\xff").expect("hex"), "61ff");
    }

    #[test]
    fn json_fields_are_exact_and_read_back() {
        for bytes in [b"plain".as_slice(), b"", b"\xff\x00", b"a\nb\\", "å".as_bytes()] {
            for encoding in ALL {
                let mut object = Map::new();
                encoding.add_field(&mut object, "key", bytes);
                assert_eq!(object.len(), 1);
                assert_eq!(take_field(&mut object, "key").expect("reads back"), bytes, "{encoding:?}");
                assert!(object.is_empty());
            }
        }
    }

    #[test]
    fn a_missing_a_double_and_a_non_string_field_are_named() {
        let parse = |text: &str| serde_json::from_str::<Map<String, Value>>(text).expect("JSON");
        assert!(take_field(&mut parse("{}"), "key").expect_err("missing").contains("no `key`"));
        assert!(take_field(&mut parse(r#"{"key":"a","key_hex":"61"}"#), "key").expect_err("double").contains("give one"));
        assert!(take_field(&mut parse(r#"{"value":{"a":1}}"#), "value").expect_err("object").contains("not a string"));
    }

    #[test]
    fn what_is_to_be_typed_again_decodes_to_the_same() {
        for bytes in [b"plain".as_slice(), b"\xff\x00", b"a\nb"] {
            for encoding in ALL {
                let (name, typed) = encoding.to_type(bytes);
                assert_eq!(name.decode("key", &typed).expect("decodes"), bytes);
            }
        }
    }
}
