//! The command line, in two steps: `low` is what was typed, `high` is what it means, checked and ready. Commands see only `high`,
//! so a mistake in the last argument is found before the first byte is sent.

pub mod high;
pub mod low;
pub mod server;

pub use high::{BackupTo, Condition, Export, HighArgs, Import, KeySpan, Recover, Restore, Scan, Source, Target, Task};
pub use low::{LogFormat, LowArgs, OutputFormat};
pub use server::ServerArgs;
