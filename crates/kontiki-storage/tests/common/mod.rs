//! What the storage tests share: both engines behind one handle that can lose power.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod engine_runner;
pub(crate) mod machine_runner;
pub(crate) mod model;

use std::path::Path;
use std::sync::Arc;

use kontiki_storage::engine::{Engine, MemoryEngine, RocksEngine, RocksOptions};
use kontiki_types::Version;

/// Which engine a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Memory,
    Rocks,
}

/// Both, for tests that loop.
pub(crate) const BOTH: [On; 2] = [On::Memory, On::Rocks];

/// One engine and the place that survives it.
pub(crate) enum Place {
    Memory(Arc<MemoryEngine>),
    Rocks { dir: tempfile::TempDir, engine: Option<Arc<RocksEngine>> },
}

impl Place {
    pub(crate) fn new(on: On) -> Self {
        match on {
            On::Memory => Self::Memory(MemoryEngine::new()),
            On::Rocks => {
                let dir = tempfile::tempdir().expect("a directory");
                let engine = open(dir.path());
                Self::Rocks { dir, engine: Some(engine) }
            }
        }
    }

    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        match self {
            Self::Memory(engine) => engine.clone(),
            Self::Rocks { engine, .. } => engine.clone().expect("open"),
        }
    }

    /// A power cut that loses everything not flushed. Nobody else may hold the engine.
    pub(crate) fn crash(&mut self) {
        match self {
            Self::Memory(engine) => {
                engine.crash(0);
            }
            Self::Rocks { dir, engine } => {
                let old = engine.take().expect("open");
                assert_eq!(Arc::strong_count(&old), 1, "somebody still holds the engine, so it would not close");
                drop(old);
                *engine = Some(open(dir.path()));
            }
        }
    }
}

/// Small buffers: tests open many.
pub(crate) fn options() -> RocksOptions {
    RocksOptions { block_cache_bytes: 1024 * 1024, ..RocksOptions::default() }
}

pub(crate) fn open(path: &Path) -> Arc<RocksEngine> {
    RocksEngine::open(path, options()).expect("opens")
}

/// A version as scripts write it: `ms.counter`, or a plain number below 65536.
pub(crate) fn show(version: Version) -> String {
    if version.0 < 1 << 16 { version.0.to_string() } else { format!("{}.{}", version.ms(), version.0 & 0xffff) }
}

/// The other way round; `max` for the newest.
pub(crate) fn parse(text: &str) -> Version {
    if text == "max" {
        return Version::MAX;
    }
    match text.split_once('.') {
        Some((ms, counter)) => Version((ms.parse::<u64>().expect("ms") << 16) + counter.parse::<u64>().expect("counter")),
        None => Version(text.parse().expect("a version")),
    }
}

/// Bytes for a human.
pub(crate) fn text(bytes: &[u8]) -> String {
    kontiki_types::key::display(bytes)
}

/// Bytes from a script, where a quoted `\xNN` is one byte.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for character in text.chars() {
        match u8::try_from(character) {
            Ok(byte) => out.push(byte),
            Err(_) => out.extend(character.to_string().as_bytes()),
        }
    }
    out
}

/// Whether a block's commands are to be repeated in its output: where there are several, one must see whose output is whose.
pub(crate) fn echo(block: &goldenscript::Block) -> bool {
    block.commands.len() > 1
}
